"""`prepare --check` and `data_gen --check`: a file with many faults, one in order, a torn one."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from common.cli import main
from sarcoma.__main__ import COMMAND_ALIASES
from sarcoma.config import PORT
from sarcoma.inspection import inspect_file

CONFIG = replace(PORT, pad_small_slices=True)


@pytest.fixture
def file(petct, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copyfile(petct, tmp_path / "petct.h5")


def rewrite(file, name, array):
    del file[name]
    file[name] = array


def test_every_patient_has_its_own_faults(file, tmp_path):
    with h5py.File(file, "r+") as content:
        image = content["ct_data/STS_002"][()].astype(np.float32)
        image[0, 0, 0] = np.inf
        rewrite(content, "ct_data/STS_002", image[:, :-1])
        del content["pet_data/STS_003"]
        content["label_data/STS_012"][0, 0, 0] = 9
        for group in ("ct_data", "pet_data", "label_data"):
            content.move(f"{group}/STS_021", f"{group}/unknown")
        content["label_data/unknown"][...] = 0
    before = sorted(tmp_path.iterdir())
    inspection = inspect_file(file, CONFIG, tmp_path / "prepared")
    lines = {entry.name: entry for entry in inspection.entries}
    first = lines["STS_002"].faults
    assert len(first) == 2
    assert "voxels in pet_data but" in first[0]
    assert "ct_data/STS_002 holds NaN or infinity" in first[1]
    assert ["missing in the group pet_data" in fault for fault in lines["STS_003"].faults] == [True]
    assert "label values 9" in lines["STS_012"].notes[0]
    assert "no lesion voxels to compute a window from" in lines["unknown"].faults[0]
    assert lines["STS_005"].verdict == "ok"
    (subsets,) = [entry for entry in inspection.whole if entry.name == "subsets"]
    assert ["patient STS_021 of training_patients" in fault for fault in subsets.faults] == [True]
    assert sorted(tmp_path.iterdir()) == before


def test_the_originals_name_checks_too(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["data_gen", "--data", "petct.h5", "--check", "--pad_small_slices", "true"]
    assert main("sarcoma", argv=words, command_aliases=COMMAND_ALIASES) == 0
    assert "7 patients: 7 in order" in capsys.readouterr().out
    assert main("sarcoma", argv=words[:-2], command_aliases=COMMAND_ALIASES) == 2
    said = capsys.readouterr()
    assert said.out.count("smaller than the patch of") == 7
    assert "faults in 7 of 7 patients" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["petct.h5"]


@pytest.mark.parametrize("part", [0, 100, 3000])
def test_a_torn_file_is_a_fault_and_no_traceback(file, tmp_path, part):
    whole = file.read_bytes()
    file.write_bytes(whole[: part or len(whole) * 2 // 3])
    (line,) = inspect_file(file, CONFIG, tmp_path).faulty
    assert line.name == "file"
    assert "cannot be read" in line.faults[0] or "is damaged" in line.faults[0]


def test_missing_groups_and_files(file, tmp_path):
    with h5py.File(file, "r+") as content:
        del content["label_data"]
    faults = [entry.name for entry in inspect_file(file, CONFIG, tmp_path).faulty]
    assert faults == ["label_data"]
    (line,) = inspect_file(tmp_path / "absent.h5", CONFIG, tmp_path).faulty
    assert "does not exist; expected an HDF5 file" in line.faults[0]
