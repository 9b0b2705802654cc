"""Exported models: compared where Keras cannot be imported, nothing left of one that differs."""

import resource
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import OptionError, RunError
from common.export import (
    Endpoint,
    Example,
    ExportError,
    difference,
    export_saved_model,
    next_version,
    run_elsewhere,
    save_network,
    version_folder,
)
from common.losses import sparse_cross_entropy
from common.meters import LabelDice

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_KERAS = """
import sys
from pathlib import Path
from common.export import run_saved_model

run_saved_model(*map(Path, sys.argv[1:]))
loaded = [name for name, module in sys.modules.items()
          if name.partition(".")[0] in ("keras", "tf_keras") and module is not None]
try:
    import keras
except ImportError:
    print("refused", loaded)
"""


@pytest.fixture(scope="module")
def model():
    """y = 2 x + 1 for each of three numbers."""
    x = keras.Input((3,))
    dense = keras.layers.Dense(3)
    model = keras.Model(x, dense(x))
    dense.set_weights([2 * np.eye(3), np.ones(3)])
    return model


def endpoint(model, name="serving_default"):
    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    return Endpoint(
        name, lambda x: {"y": model(x), "sign": tf.cast(model(x) > 0, tf.int64)}, [spec]
    )


def example(shift=0.0):
    x = np.array([[0.0, 1.0, -3.0]], np.float32)
    return Example({"x": x}, {"y": 2 * x + 1 + np.float32(shift), "sign": np.array([[1, 1, 0]])})


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "net" / "3"
    (folder.parents[1] / "note").write_text("beside")
    differences = export_saved_model(
        folder,
        model=model,
        endpoints=[endpoint(model)],
        examples={"serving_default": example()},
        tolerance=1e-6,
        beside={"note.txt": folder.parents[1] / "note"},
    )
    return folder, differences


@contextmanager
def small_files_only(limit):
    """A disk on which no file grows beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestExport:
    def test_an_equal_model_is_put_in_place(self, exported):
        folder, differences = exported
        assert differences == {"serving_default/y": 0.0, "serving_default/sign": 0.0}
        assert (folder / "saved_model.pb").is_file()
        assert (folder / "note.txt").read_text() == "beside"
        assert [path.name for path in folder.parent.iterdir()] == ["3"]
        assert next_version(folder.parent) == 4

    def test_a_model_that_differs_is_refused_and_leaves_nothing(self, model, tmp_path):
        with pytest.raises(ExportError, match=r"differs by more than 1e-06: .*serving_default/y"):
            export_saved_model(
                tmp_path / "net" / "1",
                model=model,
                endpoints=[endpoint(model)],
                examples={"serving_default": example(shift=1e-4)},
                tolerance=1e-6,
                beside={},
            )
        assert not [path for path in tmp_path.rglob("*") if path.name != "net"]

    def test_an_existing_version_is_left_alone(self, model, exported):
        folder, _ = exported
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(OptionError, match="exists already"):
            export_saved_model(
                folder, model=model, endpoints=[], examples={}, tolerance=0, beside={}
            )
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    def test_a_full_disk_is_one_line_and_leaves_nothing(self, model, tmp_path):
        with small_files_only(3000), pytest.raises(RunError) as refusal:
            export_saved_model(
                tmp_path / "net" / "1",
                model=model,
                endpoints=[endpoint(model)],
                examples={},
                tolerance=0,
                beside={},
            )
        assert str(refusal.value) == f"{tmp_path / 'net' / '1'} cannot be written: File too large"
        assert not list((tmp_path / "net").iterdir())


class TestOtherProcess:
    def test_it_really_has_no_keras(self, exported, tmp_path):
        folder, _ = exported
        np.savez(tmp_path / "in.npz", **{"serving_default/x": np.ones((2, 3), np.float32)})
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_KERAS, folder, tmp_path / "in.npz", tmp_path / "o.npz"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "refused []\n"
        with np.load(tmp_path / "o.npz") as outputs:
            np.testing.assert_array_equal(outputs["serving_default/y"], np.full((2, 3), 3.0))

    def test_what_it_says_is_passed_on(self, tmp_path):
        with pytest.raises(ExportError, match=r"cannot be served: [^$]*does not exist"):
            run_elsewhere(tmp_path, {"serving_default": {"x": np.ones(3)}})


def test_difference_by_hand():
    """Integers by their share, numbers by their largest distance, beyond 1 relative to the size."""
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.25
    assert difference(np.array([0.5, 0.25]), np.array([0.5, 0.75])) == 0.5
    assert difference(np.array([90.0, 1.0]), np.array([100.0, 0.0])) == pytest.approx(0.1)
    assert difference(np.zeros(3), np.zeros(2)) == float("inf")
    assert difference(np.zeros(3, np.float32), np.zeros(3, np.float64)) == float("inf")
    assert np.isnan(difference(np.array([np.nan]), np.array([0.0])))
    assert difference(np.zeros(0), np.zeros(0)) == 0.0


def test_versions_are_counted_as_numbers(tmp_path):
    for name in ("9", "10", "not_a_version", "-3"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11
    assert next_version(tmp_path / "absent") == 1


class TestSaveNetwork:
    def compiled(self):
        x = keras.Input((4, 2))
        model = keras.Model(x, keras.layers.Dropout(0.5)(keras.layers.Dense(3)(x)))
        model.compile("sgd", loss=sparse_cross_entropy, metrics=[LabelDice(1)])
        model.train_on_batch(np.ones((1, 4, 2), np.float32), np.ones((1, 4), np.int32))
        return model

    def test_the_file_names_nothing_of_ours(self, tmp_path):
        model = self.compiled()
        save_network(model, tmp_path / "model.keras")
        with zipfile.ZipFile(tmp_path / "model.keras") as archive:
            text = archive.read("config.json").decode()
        assert "sparse_cross_entropy" not in text
        assert "LabelDice" not in text
        again = keras.models.load_model(tmp_path / "model.keras")
        for one, other in zip(model.weights, again.weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        image = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
        np.testing.assert_array_equal(model(image), again(image))
        assert model.compiled
        assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]

    def test_a_full_disk_spares_the_file_before(self, tmp_path):
        path = tmp_path / "model.keras"
        path.write_bytes(b"the one before")
        with small_files_only(2000), pytest.raises(RunError) as refusal:
            save_network(self.compiled(), path)
        assert str(refusal.value) == f"{path} cannot be written: File too large"
        assert path.read_bytes() == b"the one before"
        assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_folder_of_a_version(tmp_path):
    """The next number after the largest, the number asked for, never one below 1."""
    assert version_folder(tmp_path, "model", None) == tmp_path / "model" / "1"
    (tmp_path / "model" / "9").mkdir(parents=True)
    (tmp_path / "model" / "10").mkdir()
    assert version_folder(tmp_path, "model", None) == tmp_path / "model" / "11"
    assert version_folder(tmp_path, "model", 4) == tmp_path / "model" / "4"
    with pytest.raises(OptionError, match="--version: found 0"):
        version_folder(tmp_path, "model", 0)
