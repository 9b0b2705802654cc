"""Exported models: compared where Keras cannot be imported, nothing left of one that differs."""

import resource
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import DataError, OptionError, RunError
from common.export.elsewhere import run_elsewhere
from common.export.parity import Example, ExportError, difference
from common.export.passport import Description, Provenance, read_passport
from common.export.write import (
    Endpoint,
    HeldOutCase,
    Member,
    Recordings,
    cut_case,
    export_model,
    find_case,
    make_recordings,
)
from common.network.losses import sparse_cross_entropy
from common.network.meters import LabelDice
from common.network.trained import save_network

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_KERAS = """
import sys
from pathlib import Path
from common.export.elsewhere import run_saved_model

run_saved_model(*map(Path, sys.argv[1:]))
loaded = [name for name, module in sys.modules.items()
          if name.partition(".")[0] in ("keras", "tf_keras") and module is not None]
try:
    import keras
except ImportError:
    print("refused", loaded)
"""
PROVENANCE = Provenance("paper", {"seed": 1}, {"kind": "phantom"}, {"labels": {}})


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


def export(model, folder, *, shift=0.0, **recorded):
    """Export y = 2 x + 1 with a Keras file of another content."""
    (folder.parents[1] / "note").write_text("beside")
    return export_model(
        folder,
        members=[Member(model, folder.parents[1] / "note", PROVENANCE)],
        endpoints=[endpoint(model)],
        recordings=Recordings("a row", {"serving_default": example(shift)}, **recorded),
        description=Description({}, [], {0: "all"}, {"y": "2 x + 1"}, ["It is a line."]),
        tolerance=1e-6,
    )


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "net" / "3"
    whole = {"serving_default": example()}
    return folder, export(model, folder, whole_case="all rows", whole=whole)


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
    @pytest.mark.slow
    def test_an_equal_model_is_put_in_place(self, exported):
        folder, parity = exported
        whole = {"whole_case": "all rows", "largest_difference_whole": 0.0}
        assert parity == {
            "serving_default/y": {
                "largest_difference": 0.0, "tolerance": 1e-6, "case": "a row", **whole,
            },
            "serving_default/sign": {
                "largest_difference": 0.0, "tolerance": 1e-4, "case": "a row", **whole,
            },
        }  # fmt: skip
        assert (folder / "saved_model.pb").is_file()
        assert (folder / "model.keras").read_text() == "beside"
        assert [path.name for path in folder.parent.iterdir()] == ["3"]
        passport = read_passport(folder)
        assert (passport["name"], passport["version"]) == ("net", 3)
        assert passport["weights"]["parameters"] == 12
        assert passport["intended_use"][0].startswith("Trained on phantoms")

    @pytest.mark.slow
    def test_a_model_that_differs_is_refused_and_leaves_nothing(self, model, tmp_path):
        with pytest.raises(ExportError, match=r"differs by more than is accepted: .*/y"):
            export(model, tmp_path / "net" / "1", shift=1e-4)
        assert not list((tmp_path / "net").iterdir())

    @pytest.mark.slow
    def test_so_is_one_that_differs_on_the_whole_case_alone(self, model, tmp_path):
        whole = {"serving_default": example(1e-4)}
        with pytest.raises(ExportError, match=r"differs"):
            export(model, tmp_path / "net" / "1", whole_case="all rows", whole=whole)
        assert not list((tmp_path / "net").iterdir())

    def test_an_existing_version_is_left_alone(self, model, exported):
        folder, _ = exported
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(OptionError, match="exists already"):
            export(model, folder)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    def test_a_full_disk_is_one_line_and_leaves_nothing(self, model, tmp_path):
        with small_files_only(3000), pytest.raises(RunError) as refusal:
            export(model, tmp_path / "net" / "1")
        assert str(refusal.value) == f"{tmp_path / 'net' / '1'} cannot be written: File too large"
        assert not list((tmp_path / "net").iterdir())

    def test_a_folder_below_a_file_is_one_line(self, model, tmp_path):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "file.d").mkdir()
        with pytest.raises(RunError, match=r"cannot be written: Not a directory"):
            export_model(
                tmp_path / "file" / "net" / "1", members=[], endpoints=[],
                recordings=Recordings("", {}), description=None, tolerance=0,
            )  # fmt: skip


class TestCases:
    def scan(self, **more):
        values = np.arange(8 * 10 * 12, dtype=np.float32).reshape(8, 10, 12)
        return HeldOutCase("scan", {"image": values[..., None], "mask": values > 3}, **more)

    def test_a_small_case_is_kept_whole(self):
        case = self.scan()
        assert cut_case(case, least=(1, 1, 1), voxels=960) is case
        recordings = make_recordings(case, lambda part: {"volume": part}, least=(1, 1, 1))
        assert (recordings.case, recordings.whole) == ("scan", {})
        assert recordings.kept["volume"] is case

    def test_a_large_one_is_halved_along_its_longest_axis(self):
        """960 -> (8, 10, 6) -> (8, 5, 6) = 240, around the middle."""
        part = cut_case(self.scan(), least=(1, 1, 1), voxels=300)
        assert part.arrays["image"].shape == (8, 5, 6, 1)
        assert part.name == "scan, 8 x 5 x 6 of its 8 x 10 x 12 voxels"
        values = np.arange(960).reshape(8, 10, 12)
        np.testing.assert_array_equal(part.arrays["image"][..., 0], values[:, 3:8, 3:9])
        np.testing.assert_array_equal(part.arrays["mask"], values[:, 3:8, 3:9] > 3)

    def test_it_keeps_the_least_and_stays_inside(self):
        part = cut_case(self.scan(centre=(7, 9, 0)), least=(8, 7, 4), voxels=1)
        values = np.arange(960).reshape(8, 10, 12)
        np.testing.assert_array_equal(part.arrays["image"][..., 0], values[:, 3:, :4])

    def test_both_are_compared_where_it_was_cut(self):
        recordings = make_recordings(
            self.scan(), lambda part: {"volume": part.name, "x": 0}, least=(1, 1, 1), voxels=300
        )
        assert recordings.whole == {"volume": "scan"}
        assert recordings.kept["volume"] == recordings.case != recordings.whole_case == "scan"

    def test_a_case_that_cannot_be_read_is_made_up_and_said(self, capsys):
        def load(record, network, config):
            raise DataError("scan.nii is gone")

        def make_up(config):
            return HeldOutCase("noise", {})

        serving = SimpleNamespace(load_test_case=load, make_up_case=make_up)
        assert find_case(serving, None, None, None).name == "noise"
        assert "so noise was used: scan.nii is gone" in capsys.readouterr().out


class TestOtherProcess:
    @pytest.mark.slow
    def test_it_really_has_no_keras(self, exported, tmp_path):
        folder, _ = exported
        np.savez(tmp_path / "in.npz", **{"0/serving_default/x": np.ones((2, 3), np.float32)})
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
            np.testing.assert_array_equal(outputs["0/serving_default/y"], np.full((2, 3), 3.0))

    @pytest.mark.slow
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
