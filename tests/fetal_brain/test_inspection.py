"""`prepare --check`: a list in which nearly everything is wrong, and one that is in order."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from common.cli import main
from common.data.volumes import read_volume, write_volume
from fetal_brain.config import QUICK
from fetal_brain.inspection import inspect_list
from fetal_brain.phantom import phantom

CONFIG = replace(QUICK, held_out_cases=1, validation_cases=1, patch_shape=(3, 32, 32))
OPTIONS = ["--preset", "quick", "--held_out_cases", "1", "--validation_cases", "1"]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Eight small stacks and their list."""
    folder = tmp_path_factory.mktemp("healthy") / "data"
    phantom(folder, cases=8, shape=(3, 64, 64))
    return folder


@pytest.fixture
def rows(healthy):
    """The rows of the list, their paths absolute."""
    with (healthy / "phantom.csv").open(newline="") as stream:
        _, *rows = csv.reader(stream)
    return [[row[0], *(str(healthy / cell) for cell in row[1:])] for row in rows]


def write_list(path, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "image", "segmentation"], *rows])
    return path


def changed(path, folder, change, **geometry):
    """Write a changed copy of a volume and return its path."""
    volume = read_volume(path)
    copy = folder / f"{change.__name__}-{len(list(folder.iterdir()))}.nii.gz"
    write_volume(copy, change(volume.array), replace(volume.geometry, **geometry))
    return str(copy)


def same(array):
    return array


def with_nan(array):
    array = array.astype(np.float32)
    array[0, 0, 0] = np.nan
    return array


def other_ids(array):
    return np.where(array == 2, 7, 0).astype(np.uint8)


def strange_id_too(array):
    array[0, 0, 0] = 5
    return array


def test_every_fault_of_every_case_is_found_in_one_pass(rows, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    image, label = rows[0][1:]
    (files / "torn.nii.gz").write_bytes(open(image, "rb").read()[:900])
    rows[0][1] = str(files / "absent.nii.gz")
    rows[1][1] = changed(image, files, with_nan)
    rows[1][2] = changed(label, files, same, origin_mm=(50.0, 0.0, 0.0))  # and a second fault
    rows[2][1] = str(files / "torn.nii.gz")
    rows[2][2] = changed(label, files, other_ids)
    rows[3][0] = rows[4][0]
    rows[5][0] = "../away"
    rows[6] = rows[6][:2]
    rows[7][2] = changed(rows[7][2], files, strange_id_too)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    inspection = inspect_list(write_list(tmp_path / "list.csv", rows), CONFIG, tmp_path / "out")
    assert [entry.verdict for entry in inspection.entries] == [
        "FAULT", "FAULT", "FAULT", "ok", "FAULT", "FAULT", "FAULT", "note",
    ]  # fmt: skip
    expected = [
        ["line 2: the image of 'PHANTOM0000' does not exist"],
        ["NaN or infinite voxels", "expected one voxel grid, found origin"],
        ["torn.nii.gz: cannot be read", "found the label ids 0, 7; expected foreground 2"],
        [],
        ["id 'PHANTOM0004' was already used in line 5"],
        ["id '../away' cannot name a file"],
        ["found 2 columns; expected at least 3"],
        [],
    ]
    for entry, texts in zip(inspection.entries, expected, strict=True):
        assert len(entry.faults) == len(texts), entry
        for text in texts:
            assert any(text in fault for fault in entry.faults), (text, entry.faults)
    assert inspection.entries[7].notes == ["labels 5 count as background (--label_ids)"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*before, "list.csv"])


def test_a_list_in_order(healthy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "--train_csv", str(healthy / "phantom.csv"), "--check", *OPTIONS]
    assert main("fetal_brain", argv=words) == 0
    said = capsys.readouterr().out
    assert "PHANTOM0007  ok       3 x 64 x 64" in said
    assert "8 cases: 8 in order" in said
    assert not list(tmp_path.iterdir())


def test_status_2_and_one_line_where_data_cannot_be_used(rows, tmp_path, capsys):
    words = ["prepare", "--train_csv", str(write_list(tmp_path / "list.csv", rows[:2])), "--check"]
    assert main("fetal_brain", argv=[*words, *OPTIONS]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if "%|" not in line]) == 1
    assert "list.csv cannot be used: faults in split" in errors[-1]
    assert main("fetal_brain", argv=["prepare", "--train_csv", "nowhere.csv", "--check"]) == 2
    assert "does not exist; expected a CSV list" in capsys.readouterr().out


def test_small_and_lying_stacks(rows, tmp_path):
    x_first = changed(rows[0][1], tmp_path, same, spacing_mm=(4.0, 1.0, 1.0))
    label = changed(rows[0][2], tmp_path, same, spacing_mm=(4.0, 1.0, 1.0))
    path = write_list(tmp_path / "list.csv", [["a", x_first, label], rows[1], [*rows[2]]])
    config = replace(CONFIG, patch_shape=(5, 32, 32), pad_small_volumes=False)
    lying, *others = inspect_list(path, config, tmp_path).entries
    assert "thickest axis is not the first" in lying.notes[0]
    for entry in (lying, *others):
        assert any("found 3 x 64 x 64 slices, rows, columns" in fault for fault in entry.faults)


def test_room_for_padded_cases_is_counted(healthy, tmp_path):
    config = replace(CONFIG, patch_shape=(8, 32, 32))
    inspection = inspect_list(healthy / "phantom.csv", config, tmp_path)
    voxels = 8 * 8 * 64 * 64
    assert inspection.whole[-1].facts["needed"] == f"{voxels * 5 / 1e6:.3g} MB"
