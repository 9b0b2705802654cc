"""`prepare --check`: a folder with many faults, one in order, one in VerSe's layout."""

from dataclasses import replace

import numpy as np
import pytest

from common.cli import main
from common.data.volumes import read_volume, write_volume
from common.errors import DataError
from vertebra.config import QUICK
from vertebra.data import load_labels
from vertebra.inspection import inspect_dataset
from vertebra.phantom import phantom
from vertebra.preparation import check_room, crop_range, make_isotropic_mask

SHAPE, SPACING = (40, 60, 50), (2.0, 2.0, 2.0)


@pytest.fixture
def folder(tmp_path):
    phantom(tmp_path / "spines", cases=6, shape=SHAPE, spacing_mm=SPACING)
    return tmp_path / "spines"


def change(path, new, **geometry):
    volume = read_volume(path)
    write_volume(path, new(volume.array), replace(volume.geometry, **geometry))


def test_every_scan_has_its_own_faults(folder, tmp_path):
    change(folder / "case1.mhd", lambda array: np.full_like(array, 3))
    change(folder / "case1_label.mhd", lambda array: array, origin_mm=(9.0, 0.0, 0.0))
    change(folder / "case2_label.mhd", lambda array: array.max() - array)  # downwards
    (folder / "case3_label.mhd").unlink()
    (folder / "case4.raw").write_bytes((folder / "case4.raw").read_bytes()[:1000])
    (folder / "case5.mhd").unlink()
    change(folder / "case6_label.mhd", lambda array: np.zeros_like(array))
    before = sorted(tmp_path.rglob("*"))
    inspection = inspect_dataset(folder, QUICK, tmp_path / "cropped")
    faults = {entry.name: " | ".join(entry.faults) for entry in inspection.entries}
    assert "every voxel is 3; expected a scan" in faults["case1"]
    assert "expected one voxel grid, found origin" in faults["case1"]
    assert "found labels that grow downwards" in faults["case2"]
    assert "--layout verse" in faults["case2"]
    assert "has no labels; expected case3_label beside it" in faults["case3"]
    assert "case4.mhd: cannot be read" in faults["case4"]
    assert "has no scan; expected case5" in faults["case5_label"]
    assert "no vertebra is labelled" in faults["case6"]
    assert len(faults) == 6
    assert sorted(tmp_path.rglob("*")) == before


def test_scans_that_patches_of_the_code_leave_are_a_fault(folder, tmp_path):
    """[V7] `--check --preset code` passed, and training then refused the first patch."""
    config = replace(QUICK, window_limits="x_size")
    inspection = inspect_dataset(folder, config, tmp_path / "cropped")
    assert len(inspection.faulty) == 6
    labels = make_isotropic_mask(load_labels(folder / "case1_label.mhd"), config).array
    low, high = crop_range(labels, name="case1")
    assert inspection.entries[0].faults == [
        f"{folder / 'case1_label.mhd'}: {high - low} x 40 x 34 voxels are left after cropping, "
        "which patches of 32 leave; expected x of at least 32 and no larger than y and z, or "
        "--window_limits per_axis"
    ]
    check_room((40, 40, 34), config, name="case1")
    for shape in ((33, 40, 34), (40, 33, 34), (40, 40, 31)):
        with pytest.raises(DataError, match="left after cropping"):
            check_room(shape, config, name="case1")


def test_names_that_occur_twice_hide_nothing_else(folder, tmp_path):
    volume = read_volume(folder / "case2.mhd")
    write_volume(folder / "case2.nii.gz", volume.array, volume.geometry)
    (folder / "case3_label.mhd").unlink()
    faulty = {entry.name: entry.faults for entry in inspect_dataset(folder, QUICK, tmp_path).faulty}
    assert sorted(faulty) == ["case2.nii.gz", "case3"]
    assert "and case2.mhd have one name" in faulty["case2.nii.gz"][0]


def test_numbers_that_occur_twice(folder, tmp_path):
    for old in ("case3", "case3_label"):
        volume = read_volume(folder / f"{old}.mhd")
        write_volume(folder / f"{old.replace('case3', 'other1')}.mhd", *vars(volume).values())
    inspection = inspect_dataset(folder, QUICK, tmp_path)
    assert {entry.name for entry in inspection.faulty} == {"case1", "other1"}


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "--check", "--preset", "quick", "--dataset"]
    assert main("vertebra", argv=[*words, "spines"]) == 0
    said = capsys.readouterr().out
    assert "6 scans: 6 in order" in said
    assert "split       ok     4 train, 2 test" in said
    assert [path.name for path in tmp_path.iterdir()] == ["spines"]
    assert main("vertebra", argv=[*words, "nowhere"]) == 2
    assert "is no folder; expected one with scans" in capsys.readouterr().out


def test_thick_slices_are_noted_and_room_is_counted(tmp_path):
    phantom(tmp_path / "thick", cases=1, shape=(20, 60, 50), spacing_mm=(4.0, 2.0, 2.0))
    inspection = inspect_dataset(tmp_path / "thick", replace(QUICK, spacing_mm=2.0), tmp_path)
    (entry,) = inspection.entries
    assert entry.notes == ["voxels of up to 4 mm: vertebrae may merge"]
    voxels = 40 * 60 * 50
    assert inspection.whole[-1].facts["needed"] == f"{voxels * 8 * 2 / 1e6:.3g} MB"


def test_a_single_scan_without_labels_is_not_called_none(folder, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    volume = read_volume(folder / "case1.mhd")
    write_volume(alone / "case1.mhd", *vars(volume).values())
    inspection = inspect_dataset(alone, QUICK, tmp_path)
    (entry,) = inspection.entries
    assert "case1.mhd has no labels" in entry.faults[0]
    assert not any("no scans" in fault for line in inspection.whole for fault in line.faults)
