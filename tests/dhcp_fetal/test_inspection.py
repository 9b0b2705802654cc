"""`prepare --check`: a table with many faults, one in order, real scans."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from common.cli import main
from dhcp_fetal.config import PORT
from dhcp_fetal.inspection import inspect_cases
from dhcp_fetal.phantom import phantom


@pytest.fixture
def folder(tmp_path):
    phantom(tmp_path / "heads", cases=5, shape=(40, 44, 40), spacing_mm=3.0)
    return tmp_path / "heads"


def change(path, new, affine=None):
    image = nibabel.load(path)
    array = new(np.asanyarray(image.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(array, image.affine if affine is None else affine), path)


def with_nan(array):
    array = array.astype(np.float32)
    array[0, 0, 0] = np.nan
    return array


def test_every_case_has_its_own_faults(folder, tmp_path):
    names = [f"PHANTOM{index:04d}.nii.gz" for index in range(5)]
    change(folder / "t2w" / names[0], with_nan)
    change(folder / "cortex" / names[0], lambda array: array * 7)
    change(folder / "brain" / names[0], lambda array: array, np.diag([3, 3, 3, 1.0]))
    (folder / "brain" / names[1]).unlink()
    torn = folder / "t2w" / names[2]
    torn.write_bytes(torn.read_bytes()[:2000])
    for kind in ("t2w", "cortex", "brain"):
        change(folder / kind / names[3], lambda array: array[..., ::2], np.diag([-3, -3, 6, 1.0]))
    change(folder / "cortex" / names[4], np.zeros_like)
    table = folder / "cortex.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[-1] + "\n")
    before = sorted(tmp_path.rglob("*"))
    inspection = inspect_cases(table, PORT, tmp_path / "normalised")
    first, second, third, fourth, fifth, again = inspection.entries
    assert len(first.faults) == 3
    for text in ("NaN or infinite", "found the class 7, expected 0 to 1", "expected one voxel"):
        assert any(text in fault for fault in first.faults), text
    assert "brain/PHANTOM0001.nii.gz: cannot be read" in second.faults[0]
    assert "t2w/PHANTOM0002.nii.gz: cannot be read" in third.faults[0]
    assert fourth.notes == [
        "its voxels are no cubes, for which the network is built",
        "voxels of 3 x 3 x 6, most have 3 x 3 x 3: the network sees voxels, not millimetres",
    ]
    assert "no voxel is labelled" in fifth.notes[0]
    assert "id 'PHANTOM0004' was already used in case 5" in again.faults[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_colours_and_complex_numbers_are_faults_of_their_case(tmp_path):
    """They were tracebacks, and the rest of the folder was not looked at. [row by row]"""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    colours = np.zeros((9, 9, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    grey = np.arange(729, dtype=np.float32).reshape(9, 9, 9)
    for name, array in (("a", colours), ("b", grey.astype(np.complex64)), ("c", grey)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    first, second, third = inspect_cases(tmp_path, PORT, tmp_path / "out").entries
    assert "RGB" in first.faults[0]
    assert "complex64" in second.faults[0]
    assert (third.faults, third.facts["size (x, y, z)"]) == ([], "9 x 9 x 9")


def test_the_command_on_tables_lists_and_folders(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for images in ("heads/cortex.csv", "heads/t2w"):
        assert main("dhcp_fetal", argv=["prepare", "--check", "--images", images]) == 0
        assert "5 cases: 5 in order" in capsys.readouterr().out
    words = ["prepare", "--check", "--images", "heads/brain.csv", "--input_channels", "2"]
    assert main("dhcp_fetal", argv=words) == 2
    said = capsys.readouterr()
    assert said.out.count("found 1 channels, expected 2") == 5
    assert "faults in 5 of 5 cases" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_table(shared, tmp_path):
    """Two channels, mask and tumour classes of two BraTS subjects, 240 x 240 x 155 voxels."""
    rows = ["channel_1,channel_2,ground_truth,roi_mask,prediction_filename"]
    files = ("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "OTMultiClass", "brainmask")
    for subject in sorted((shared / "data" / "brats" / "train").iterdir()):
        cells = [str(subject / f"{name}.nii.gz") for name in files]
        rows.append(",".join([*cells, subject.name]))
    (tmp_path / "tumour.csv").write_text("\n".join(rows) + "\n")
    config = replace(PORT, classes=5, input_channels=2)
    inspection = inspect_cases(tmp_path / "tumour.csv", config, tmp_path)
    assert inspection.faulty == []
    assert {entry.facts["size (x, y, z)"] for entry in inspection.entries} == {"240 x 240 x 155"}
    two_classes = inspect_cases(tmp_path / "tumour.csv", replace(config, classes=2), tmp_path)
    assert all("found the class 4" in entry.faults[0] for entry in two_classes.entries)
