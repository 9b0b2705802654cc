"""A run repeated from its own folder: identical, different and why, or refused in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common.__main__ import main
from common.errors import OptionError, RunError
from common.network.keras_file import read_arrays
from common.runs.folder import load_run
from common.runs.replay import (
    check_code,
    check_data,
    compare_weights,
    hash_arrays,
    hash_of_all,
    replay,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TINY = ("--preset", "quick", "--filters", "2,2,4", "--kernels", "3,3,1", "--patch_shape", "3,16,16",
        "--max_steps", "3", "--steps_per_evaluation", "3", "--batch_size", "2",
        "--held_out_cases", "1", "--run_validation", "false")  # fmt: skip


def run(*words):
    """Run a module as a user would."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A real run of three steps, with its data beside it."""
    folder = tmp_path_factory.mktemp("replay")
    data = folder / "data"
    size = ("--cases", 3, "--shape", "3,64,64", "--out", data)
    assert run("fetal_brain", "phantom", *size).returncode == 0
    words = ("--train_csv", data / "phantom.csv", "--run", folder / "run", *TINY)
    done = run("fetal_brain", "train", *words)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def copy(original, tmp_path):
    """The run folder again, to be spoilt."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def change_manifest(path, **facts):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | facts))


def test_a_run_is_repeated_to_the_bit(original, tmp_path):
    done = run("common", "replay", original, "--to", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("identical: all ")
    assert load_run(tmp_path / "again").status == "finished"


def test_manifest_tells_what_decides_the_bits(original):
    manifest = load_run(original).manifest
    assert manifest["folder"] == str(ROOT)
    assert manifest["seed"] == manifest["runtime"]["seed"] == 42
    assert {"deterministic", "precision", "xla", "onednn"} <= set(manifest["runtime"])
    assert all(len(entry["sha256"]) == 64 for entry in manifest["data_files"].values())
    assert len(manifest["data_files"]) == 7  # the list, three scans, three segmentations
    assert {"command", "git", "packages", "cores", "cpu", "cpu_flags"} <= set(manifest)


def test_another_network_is_told_with_what_differs(original, copy, capsys):
    network = keras.models.load_model(copy / "model.keras", compile=False)
    kernel = network.get_layer("last_conv3d").kernel
    kernel.assign(np.asarray(kernel) + 0.5)
    network.save(copy / "model.keras")
    change_manifest(copy, cores=99)
    assert compare_weights(load_run(original), load_run(copy)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("different: 1 of ")
    assert "largest difference 0.5 in " in said[0]
    assert said[1] == f"  cores: {load_run(original).manifest['cores']} then, 99 now"
    assert len(said) == 2


def test_arrays_are_named_and_hashed_whatever_the_files_bytes(original, copy):
    """A file written again has other bytes (times in the archive) and the same arrays."""
    network = keras.models.load_model(copy / "model.keras", compile=False)
    network.save(copy / "again.keras")
    hashes = hash_arrays(read_arrays(original / "model.keras"))
    assert hash_arrays(read_arrays(copy / "again.keras")) == hashes
    assert len(hashes) == len(network.weights)
    assert hash_of_all(hashes) == hash_of_all(dict(reversed(hashes.items())))
    assert hash_of_all(hashes) != hash_of_all(dict(list(hashes.items())[1:]))


def test_changed_data_and_code_are_told(original, copy, tmp_path):
    file = tmp_path / "scan"
    file.write_text("now")
    change_manifest(
        copy,
        data_files={str(file): {"bytes": 4, "sha256": "0" * 64}},
        git={"commit": "f" * 40, "dirty": True},
    )
    record = load_run(copy)
    (line,) = check_data(record, tmp_path)
    assert line.startswith(f"{file} has changed: sha256 000000000000 then, ")
    said = list(check_code(record))
    assert (
        said[0] == "the run was made from commit ffffffffffff with uncommitted changes, now unknown"
    )
    assert "the run was made at ffffffffffff" in said[1]


class TestMistakes:
    """Status 2 and one line."""

    def refused(self, capsys, *words):
        assert main(["replay", *map(str, words)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines()
                   if not line.startswith("note: ")]  # fmt: skip
        assert line.startswith("common replay: ")
        return line

    def test_no_run(self, tmp_path, capsys):
        assert "is not a run folder" in self.refused(capsys, tmp_path)

    def test_unfinished_run(self, copy, capsys):
        change_manifest(copy, status="interrupted")
        assert "is interrupted; expected a finished run" in self.refused(capsys, copy)

    def test_missing_data(self, copy, tmp_path, capsys):
        absent = tmp_path / "absent.nii"
        change_manifest(copy, data_files={str(absent): {"bytes": 1, "sha256": "0" * 64}})
        line = self.refused(capsys, copy, "--to", tmp_path / "again")
        assert f"{absent} is missing" in line
        assert not (tmp_path / "again").exists()

    def test_folder_with_content(self, copy, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OptionError, match=r"--to .* has content"):
            replay(copy, tmp_path)

    def test_no_network(self, copy, capsys):
        (copy / "model.keras").write_text("nothing")
        with pytest.raises(RunError, match="cannot be read as a Keras model"):
            read_arrays(copy / "model.keras")
