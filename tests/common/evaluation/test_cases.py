"""The loop over the cases of an evaluation: how often files are read, which cases are drawn."""

import math
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import read_volume, write_volume
from common.errors import DataError
from common.evaluation.cases import PICTURES, Plane, ScoredCase, score_cases
from common.evaluation.metrics import score_case

GRID = Geometry((1.0, 2.0, 3.0))
SHAPE = (3, 8, 6)


@pytest.fixture
def folder(tmp_path):
    """Six cases in files: of the reference's 4 voxels the n-th label map has n - 1."""
    for number in range(1, 7):
        scan = np.random.default_rng(number).normal(size=SHAPE).astype(np.float32)
        reference, found = np.zeros((2, *SHAPE), np.uint8)
        reference[1, 2:4, 2:4] = 1
        for voxel in range(number - 1):
            found[1, 2 + voxel // 2, 2 + voxel % 2] = 1
        for name, array in (("scan", scan), ("reference", reference), ("found", found)):
            write_volume(tmp_path / f"case{number}_{name}.nii.gz", array, GRID)
    return tmp_path


def score(folder, reads, name):
    """Read and measure a case, counting what is read."""

    def read(kind):
        reads[f"{name}_{kind}"] += 1
        return read_volume(folder / f"{name}_{kind}.nii.gz")

    found, reference = read("found"), read("reference")
    rows = score_case(found.array, reference.array, labels={"lesion": 1},
                      spacing_mm=reference.spacing_zyx_mm)  # fmt: skip
    return ScoredCase(name, rows, found.array, reference.array, reference.geometry,
                      lambda: read("scan").array)  # fmt: skip


def test_each_file_is_read_once_and_scans_of_the_worst_alone(folder):
    reads = Counter()
    names = [f"case{number}" for number in (6, 3, 1, 5, 2, 4)]
    scores = score_cases([(name, partial(score, folder, reads, name)) for name in names], ["case5"])
    pictures = scores.shown(Plane(), phantom=False)
    assert set(reads.values()) == {1}
    assert sorted(reads) == sorted(
        [f"{name}_{kind}" for name in names for kind in ("found", "reference")]
        + [f"case{number}_scan" for number in (1, 2, 3, 4)]
    )
    assert [row["id"] for row in scores.rows] == names
    assert [row["id"] for row in scores.rows if row["in_training_set"]] == ["case5"]
    assert list(scores.rows[0])[:4] == ["id", "in_training_set", "label", "dice"]
    captions = [figure.caption.partition(",")[0] for figure in pictures["overlays"]]
    assert captions == ["case1", "case2", "case3", "case4"]
    assert len(captions) == PICTURES
    assert pictures["viewed"].id == "case1"


def test_a_case_that_cannot_be_read_is_named_and_the_others_are_measured(folder, capsys):
    (folder / "case2_found.nii.gz").unlink()
    names = ["case1", "case2", "case3"]
    measures = [(name, partial(score, folder, Counter(), name)) for name in names]
    scores = score_cases(measures, [])
    assert [row["id"] for row in scores.rows] == ["case1", "case3"]
    assert scores.shown(Plane(), phantom=False)["unusable"] == ["case2"]
    assert re.match(r"case2: .*case2_found\.nii\.gz: cannot be read", capsys.readouterr().err)
    with pytest.raises(DataError, match="no usable result for 1 of 3 cases: case2; the others"):
        scores.failures.conclude()
    with pytest.raises(DataError, match=r"case2_found\.nii\.gz: cannot be read"):
        score_cases(measures[1:2], [])


def made(name, *dice, scan=True):
    """A case with the given Dice per label, its arrays counting up."""
    volume = np.arange(24).reshape(2, 3, 4)
    rows = [{"label": f"part {number}", "dice": value} for number, value in enumerate(dice)]
    return ScoredCase(name, rows, volume % 2, volume % 3, GRID, (lambda: volume) if scan else None)


def ready(*cases):
    """Cases as `score_cases` takes them."""
    return [(case.id, partial(lambda each: each, case)) for case in cases]


def test_worst_are_by_their_lowest_dice_first_those_where_it_is_not_defined():
    cases = [made("a", 0.9), made("b", 1.0, 0.2), made("c", 0.5), made("d", math.nan, 1.0),
             made("e", 0.2), made("none"), made("f", 0.95)]  # fmt: skip
    scores = score_cases(ready(*cases), [])
    assert [case.id for case in scores.worst] == ["d", "b", "e", "c"]


def test_cases_without_a_scan_are_measured_but_not_drawn():
    scores = score_cases(ready(made("a", 0.1, scan=False), made("b", 0.2)), [])
    pictures = scores.shown(Plane(), phantom=True)
    assert [row["id"] for row in scores.rows] == ["a", "b"]
    assert [figure.caption for figure in pictures["overlays"]] == [
        "b, slice 0 of 2: scan, reference and prediction."
    ]
    assert pictures["viewed"].id == "b"
    nothing = score_cases(ready(made("a", 0.1, scan=False)), []).shown(Plane(), phantom=True)
    assert nothing == {"overlays": [], "viewed": None, "unusable": []}


@pytest.mark.parametrize(
    ("plane", "title", "pixel_mm", "corner"),
    [
        # Every plane holds as many voxels that are no multiple of 3 as the others: the first.
        (Plane(), "a, slice 0 of 2", (2.0, 1.0), 0),
        (Plane(flipped=True), "a, slice 0 of 2", (2.0, 1.0), 8),
        (Plane(axis=2, flipped=True, word="column"), "a, column 0 of 4", (3.0, 2.0), 12),
    ],
)
def test_the_plane_with_the_largest_reference_is_drawn(monkeypatch, plane, title, pixel_mm, corner):
    calls = []

    def draw(*arrays, **words):
        calls.append((arrays, words))
        return b"png"

    monkeypatch.setattr("common.evaluation.cases.draw_overlay", draw)
    figure = made("a", 1.0).draw(plane, phantom=True)
    (arrays, words), = calls  # fmt: skip
    assert figure.caption == f"{title}: scan, reference and prediction."
    assert words == {"title": title, "pixel_mm": pixel_mm, "phantom": True}
    assert arrays[0][0, 0] == corner
    assert [array[0, 0] for array in arrays[1:]] == [corner % 3, corner % 2]
