"""`prepare --check`: arrays with faults in files and in volumes, and arrays in order."""

from dataclasses import replace

import numpy as np
import pytest

from common.cli import main
from raseg.config import DRAFT, PORT
from raseg.data import PAIRS, PRE
from raseg.inspection import inspect_arrays
from raseg.phantom import phantom

PATH = PAIRS["synovitis"]


@pytest.fixture
def folder(tmp_path):
    phantom(tmp_path / "datasets", cases=5, shape=(32, 32, 6))
    return tmp_path / "datasets"


def spoil(folder, name, change):
    """Rewrite an array after a change."""
    array = np.load(folder / name)
    np.save(folder / name, change(array))


def test_every_volume_has_its_own_faults(folder, tmp_path):
    def change(array):
        array = array.astype(np.float32)
        array[0, 0, 0, 0, 0], array[0, 1, 0, 0, 0] = np.nan, 3
        array[1, 0, 1, 1, 1] = -7
        array[2, 1] = 0
        return array

    spoil(folder, PATH, change)
    inspection = inspect_arrays(folder, PORT, tmp_path / "bins", held_out=1)
    found = [entry.faults for entry in inspection.entries]
    assert [len(faults) for faults in found] == [2, 1, 0, 0, 0]
    assert "volume 0: found NaN or infinite intensities" in found[0][0]
    assert "volume 0: found the label 3; expected 0 and 1" in found[0][1]
    assert "found the value -7.0, which 16 bits cannot hold" in found[1][0]
    assert "its label is empty" in inspection.entries[2].notes[0]
    wrapping = inspect_arrays(folder, replace(PORT, wrap_intensities=True), tmp_path)
    assert wrapping.entries[1].faults == []
    assert not (tmp_path / "bins").exists()


def test_faults_of_files_are_found_beside_those_of_volumes(folder, tmp_path):
    spoil(folder, PRE, lambda array: array[:4])
    spoil(folder, PATH, lambda array: array + 2)
    (folder / "geometry.json").write_text("{}")
    inspection = inspect_arrays(folder, PORT, tmp_path, held_out=4)
    assert [entry.name for entry in inspection.whole if entry.faults] == [
        PRE, "geometry.json", "split",
    ]  # fmt: skip
    assert all("expected 0 and 1" in entry.faults[0] for entry in inspection.entries)


def test_torn_and_missing_files(folder, tmp_path):
    whole = (folder / PATH).read_bytes()
    (folder / PATH).write_bytes(whole[: len(whole) // 2])
    (folder / PRE).unlink()
    inspection = inspect_arrays(folder, PORT, tmp_path)
    first, second, *_ = inspection.whole
    assert "is no readable .npy array" in first.faults[0]
    assert "does not exist; expected an array" in second.faults[0]
    assert inspection.entries == []


def test_a_header_that_numpys_parser_stumbles_over_is_one_line(folder, tmp_path):
    (folder / PATH).write_bytes(b"\x93NUMPY\x01\x00\x0a\x00{'shape':(")  # a TokenError
    fault, *_ = inspect_arrays(folder, PORT, tmp_path).whole[0].faults
    assert fault.startswith(f"{folder / PATH} is no readable .npy array: ")


def test_the_command_needs_no_tag_and_writes_nothing(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.parent.rglob("*"))
    assert main("raseg", argv=["prepare", "--check", "--val", "1"]) == 0
    assert "5 volumes: 5 in order" in capsys.readouterr().out
    spoil(folder, PATH, lambda array: array - 1)
    assert main("raseg", argv=["prepare", "--check"]) == 2
    assert "faults in 5 of 5 volumes" in capsys.readouterr().err
    assert sorted(folder.parent.rglob("*")) == before
    assert main("raseg", argv=["prepare", "--val", "1"]) == 2
    assert "--tag: expected a name" in capsys.readouterr().err
    assert main("raseg", argv=["prepare", "--tag", "t"]) == 2
    assert "--val: expected the number" in capsys.readouterr().err


def test_room_for_the_binaries(folder, tmp_path):
    """A record of two channels: label and images of 16-bit words."""
    record = 2 * 3 * 32 * 32 * 6
    whole = inspect_arrays(folder, PORT, tmp_path, held_out=1).whole[-1]
    assert whole.facts["needed"] == f"{4 * record / 1e3:.3g} kB"
    draft = replace(DRAFT, task="synovitis", patch_shape=(16, 16, 4), patches_per_volume=3)
    patches = inspect_arrays(folder, draft, tmp_path, held_out=1).whole[-1]
    assert patches.facts["needed"] == f"{4 * 3 * 2 * 3 * 16 * 16 * 4 / 1e3:.3g} kB"
