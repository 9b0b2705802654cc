"""Label maps of any origin against references: folders, files, contours of DICOM."""

import csv

import numpy as np
import pytest

from common.__main__ import main
from common.data.dicom_seg import write_segmentation
from common.data.geometry import Geometry
from common.data.volumes import write_volume
from tests.common.data.test_dicom import square, write_contours, write_series
from tests.common.data.test_dicom_seg import complete

GRID = Geometry((1.0, 2.0, 3.0), (10.0, 20.0, 30.0))


def write(path, *boxes):
    """Labels 1, 2, ... in boxes of columns of one slice."""
    path.parent.mkdir(exist_ok=True)
    array = np.zeros((3, 8, 20), np.uint8)
    for number, (begin, end) in enumerate(boxes, start=1):
        array[1, 2:6, begin:end] = number
    write_volume(path, array, GRID)


def score(*words):
    return main(["score", *map(str, words)])


def test_folders_are_paired_by_name_and_every_label_counts(tmp_path, capsys):
    """10 of 12 and 14 columns overlap: 2 x 10 / (12 + 14); the second label is found once."""
    write(tmp_path / "found" / "a.nii.gz", (2, 14))
    write(tmp_path / "truth" / "a.mha", (4, 18))
    write(tmp_path / "found" / "b.nii.gz", (0, 4), (6, 10))
    write(tmp_path / "truth" / "b.nii.gz", (0, 4), (6, 10))
    write(tmp_path / "found" / "more.nii.gz", (0, 4))
    assert score(tmp_path / "found", tmp_path / "truth", "--out", tmp_path / "o.csv") == 0
    with (tmp_path / "o.csv").open(newline="") as stream:
        rows = {(row["id"], row["label"]): float(row["dice"]) for row in csv.DictReader(stream)}
    assert rows == {
        ("a", "label 1"): pytest.approx(20 / 26), ("b", "label 1"): 1, ("b", "label 2"): 1,
    }  # fmt: skip
    assert "Mean Dice of label 2: 1.000 (n = 1)" in capsys.readouterr().out


def test_dice_counts_as_nnunet_counts_it(tmp_path):
    """2 TP / (2 TP + FP + FN) of each label: 0 where one map lacks it, no row where both do."""
    rng = np.random.default_rng(5)
    found, truth = rng.integers(0, 4, (2, 3, 8, 20)).astype(np.uint8)
    found[found == 2], truth[truth == 3] = 0, 0
    for folder, array in (("found", found), ("truth", truth)):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / "a.nii.gz", array, GRID)
    score(tmp_path / "found", tmp_path / "truth", "--out", tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(newline="") as stream:
        rows = {row["label"]: float(row["dice"]) for row in csv.DictReader(stream)}
    tp = ((found == 1) & (truth == 1)).sum()
    fp, fn = ((found == 1) & (truth != 1)).sum(), ((found != 1) & (truth == 1)).sum()
    assert rows == {"label 1": 2 * tp / (2 * tp + fp + fn), "label 2": 0, "label 3": 0}


def test_contours_are_a_reference(tmp_path, capsys):
    """A square of 3 x 3 voxels on slice 2 of a series, of which 6 were found."""
    grid = Geometry((0.5, 2.0, 3.0), (10.0, 20.0, 30.0))
    write_series(tmp_path / "ct", voxels=np.zeros((4, 8, 20), int), grid=grid, change_all=complete)
    contours = write_contours(tmp_path / "rs.dcm", [("GTV_Mass_1", [square(5, 2, 3, 2)])])
    found = np.zeros((4, 8, 20), np.uint8)
    found[2, 2:4, 5:8] = 1
    write_volume(tmp_path / "found.nii.gz", found, grid)
    words = (tmp_path / "found.nii.gz", contours, "--structure", "GTV_Mass")
    assert score(*words, "--scan", tmp_path / "ct") == 0
    assert f"Dice {2 * 6 / 15:.3f}" in capsys.readouterr().out
    write_segmentation(
        tmp_path / "seg.dcm", found, tmp_path / "ct", names={}, algorithm="a", version="1"
    )
    words = (tmp_path / "seg.dcm", *words[1:])
    assert score(*words, "--scan", tmp_path / "ct") == 0
    assert f"seg  label 1  Dice {2 * 6 / 15:.3f}" in capsys.readouterr().out
    assert score(*words) == 2
    assert "--structure and --scan belong to an RTSTRUCT file" in capsys.readouterr().err


def test_mistakes(tmp_path, capsys):
    write(tmp_path / "found" / "a.nii.gz", (2, 14))
    write(tmp_path / "truth" / "b.nii.gz", (2, 14))
    assert score(tmp_path / "found", tmp_path / "truth") == 2
    assert "found no label map of b" in capsys.readouterr().err
    assert score(tmp_path / "found", tmp_path / "truth" / "b.nii.gz") == 2
    assert "expected two alike" in capsys.readouterr().err
    write_volume(tmp_path / "truth" / "b.nii.gz", np.ones((3, 8, 19), np.uint8), GRID)
    assert score(tmp_path / "found" / "a.nii.gz", tmp_path / "truth" / "b.nii.gz") == 2
    assert "expected one voxel grid" in capsys.readouterr().err
