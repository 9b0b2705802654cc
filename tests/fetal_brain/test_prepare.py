"""Stored cases: what is stored, when it is reused, what an interruption leaves."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError
from fetal_brain.config import PORT
from fetal_brain.data import find_cases, load_case, prepare_case
from fetal_brain.prepare import prepare
from fetal_brain.prepared import prepare_cases

GRID = Geometry(spacing_mm=(1.0, 1.0, 2.0))
SMALL = replace(PORT, patch_shape=(3, 8, 8))


def write_scan(folder, index, seed):
    rng = np.random.default_rng(seed)
    write_volume(folder / f"i{index}.nii.gz", rng.integers(0, 99, (4, 9, 9)).astype("i2"), GRID)
    label = (rng.random((4, 9, 9)) < 0.2).astype(np.uint8) * 2
    write_volume(folder / f"s{index}.nii.gz", label, GRID)


@pytest.fixture
def csv(tmp_path):
    (tmp_path / "data").mkdir()
    lines = ["id,image,segmentation"]
    for index in range(3):
        write_scan(tmp_path / "data", index, seed=index)
        lines.append(f"c{index},i{index}.nii.gz,s{index}.nii.gz")
    path = tmp_path / "data" / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def stamps(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*.npy")
    }


def test_what_is_stored_is_what_was_prepared(csv, tmp_path):
    cases = find_cases(csv)
    stored = prepare_cases(cases, tmp_path / "prepared", SMALL)
    assert [case.id for case in stored] == ["c0", "c1", "c2"]
    for case, kept in zip(cases, stored, strict=True):
        image, label = prepare_case(load_case(case, SMALL), SMALL)
        np.testing.assert_array_equal(kept.arrays["image"], image)
        np.testing.assert_array_equal(kept.arrays["label"], label)
        np.testing.assert_array_equal(
            kept.arrays["slice_counts"], [(label == k).sum(axis=(1, 2)) for k in range(2)]
        )
        assert (kept.arrays["image"].dtype, kept.arrays["label"].dtype) == (np.float32, np.uint8)
        assert isinstance(kept.arrays["image"], np.memmap)


def test_the_index_says_from_what_and_how(csv, tmp_path, capsys):
    prepare(csv, tmp_path / "prepared", config=SMALL)
    assert "Prepared cases: 3" in capsys.readouterr().out
    index = json.loads((tmp_path / "prepared" / "prepared.json").read_text())
    assert index["paper"] == "fetal_brain"
    assert index["preparation"] == {
        "label_ids": [0, 2],
        "patch_shape": [3, 8, 8],
        "pad_small_volumes": True,
    }
    entry = index["cases"]["c1"]
    assert entry["image"] == str(csv.parent / "i1.nii.gz")
    assert len(entry["image_sha256"]) == len(entry["segmentation_sha256"]) == 64
    assert entry["shape"] == entry["source_shape"] == [4, 9, 9]
    assert entry["geometry"]["spacing_mm"] == [1, 1, 2]
    assert sum(entry["voxels_per_class"]) == 4 * 9 * 9


def test_small_volumes_are_stored_padded(csv, tmp_path):
    config = replace(SMALL, patch_shape=(6, 8, 8))
    (case, *_) = prepare_cases(find_cases(csv), tmp_path / "prepared", config)
    assert case.arrays["image"].shape == (6, 9, 9, 1)
    assert case.arrays["slice_counts"].sum() == 6 * 9 * 9


def test_unchanged_cases_are_reused(csv, tmp_path):
    folder = tmp_path / "prepared"
    prepare_cases(find_cases(csv), folder, SMALL)
    before = stamps(folder)
    assert len(before) == 9
    write_scan(csv.parent, 1, seed=77)
    again = prepare_cases(find_cases(csv), folder, SMALL)
    after = stamps(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"c1/image.npy", "c1/label.npy", "c1/slice_counts.npy"}
    image, _ = prepare_case(load_case(find_cases(csv)[1], SMALL), SMALL)
    np.testing.assert_array_equal(again[1].arrays["image"], image)


def test_another_label_file_prepares_anew(csv, tmp_path):
    folder = tmp_path / "prepared"
    prepare_cases(find_cases(csv), folder, SMALL)
    label = np.full((4, 9, 9), 2, np.uint8)
    write_volume(csv.parent / "s2.nii.gz", label, GRID)
    assert prepare_cases(find_cases(csv), folder, SMALL)[2].arrays["label"].all()


def test_corrected_voxels_beside_an_old_header_prepare_anew(csv, tmp_path):
    """Of a .mhd the label lies in the .raw: the header, which alone was looked at, stays."""
    folder = tmp_path / "prepared"
    write_volume(csv.parent / "s2.mhd", np.eye(9, dtype=np.uint8)[None].repeat(4, 0) * 2, GRID)
    csv.write_text(csv.read_text().replace("s2.nii.gz", "s2.mhd"))
    prepare_cases(find_cases(csv), folder, SMALL)
    corrected = np.full((4, 9, 9), 2, np.uint8)
    corrected.tofile(csv.parent / "s2.raw")
    assert prepare_cases(find_cases(csv), folder, SMALL)[2].arrays["label"].all()


def test_another_configuration_prepares_anew(csv, tmp_path):
    folder = tmp_path / "prepared"
    prepare_cases(find_cases(csv), folder, SMALL)
    (case, *_) = prepare_cases(find_cases(csv), folder, replace(SMALL, label_ids=(0, 5, 2)))
    assert case.arrays["slice_counts"].shape == (3, 4)
    assert set(np.unique(case.arrays["label"])) == {0, 2}


def test_subsets_share_a_folder(csv, tmp_path):
    cases, folder = find_cases(csv), tmp_path / "prepared"
    prepare_cases(cases[:2], folder, SMALL)
    before = stamps(folder)
    prepare_cases(cases[2:], folder, SMALL)
    prepare_cases(cases, folder, SMALL)
    assert before.items() <= stamps(folder).items()
    assert len(stamps(folder)) == 9


def test_a_bad_case_leaves_the_whole_ones(csv, tmp_path, capsys):
    folder = tmp_path / "prepared"
    write_volume(csv.parent / "i1.nii.gz", np.ones((4, 9, 9), np.int16), GRID)
    with pytest.raises(DataError, match="no usable result for 1 of 3 cases: c1; the others"):
        prepare_cases(find_cases(csv), folder, SMALL)
    assert "i1.nii.gz: every voxel is 1" in capsys.readouterr().err
    assert {name.partition("/")[0] for name in stamps(folder)} == {"c0", "c2"}
    assert list(json.loads((folder / "prepared.json").read_text())["cases"]) == ["c0", "c2"]
    before = stamps(folder)
    write_scan(csv.parent, 1, seed=1)
    prepare_cases(find_cases(csv), folder, SMALL)
    assert before.items() <= stamps(folder).items()


def test_a_damaged_array_is_stored_again(csv, tmp_path):
    folder = tmp_path / "prepared"
    (case, *_) = prepare_cases(find_cases(csv), folder, SMALL)
    expected = np.array(case.arrays["image"])
    os.truncate(folder / "c0" / "image.npy", 200)
    (folder / "c2" / "label.npy").unlink()
    (case, _, last) = prepare_cases(find_cases(csv), folder, SMALL)
    np.testing.assert_array_equal(case.arrays["image"], expected)
    assert last.arrays["label"].shape == (4, 9, 9)


def test_a_complete_folder_may_be_read_only(csv, tmp_path, monkeypatch):
    """Nothing is written, not even a lock, where everything is there."""
    folder = tmp_path / "prepared"
    prepare_cases(find_cases(csv), folder, SMALL)
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    prepare_cases(find_cases(csv), folder, SMALL)
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_a_folder_of_something_else_is_refused(csv, tmp_path):
    (tmp_path / "mine" / "c0").mkdir(parents=True)
    (tmp_path / "mine" / "c0" / "precious.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds c0 but no prepared\.json; expected"):
        prepare_cases(find_cases(csv), tmp_path / "mine", SMALL)
    assert (tmp_path / "mine" / "c0" / "precious.txt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"paper": "raseg", "preparation": {}, "cases": {}}', "was prepared for raseg"),
    ],
)
def test_a_foreign_index_is_refused(csv, tmp_path, content, message):
    (tmp_path / "prepared.json").write_text(content)
    with pytest.raises(DataError, match=message):
        prepare_cases(find_cases(csv), tmp_path, SMALL)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_unwritable_folder_is_one_line(csv, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"{place}.*(is a file|cannot be written)") as refusal:
        prepare_cases(find_cases(csv), tmp_path / place, SMALL)
    assert "\n" not in str(refusal.value)


def test_a_case_without_label_cannot_be_prepared(csv, tmp_path):
    with pytest.raises(DataError, match="case c0 has no segmentation"):
        prepare_cases(find_cases(csv, labels_required=False)[:1], tmp_path / "prepared", SMALL)


def test_what_a_killed_process_left_is_removed(csv, tmp_path):
    folder = tmp_path / "prepared"
    (folder / ".c0.4711.tmp").mkdir(parents=True)
    (folder / ".c0.4711.tmp" / "image.npy").write_bytes(b"half")
    prepare_cases(find_cases(csv), folder, SMALL)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "c0", "c1", "c2", "prepared.json",
    ]  # fmt: skip
