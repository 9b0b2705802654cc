"""The report of a run, from label files whose measures are known."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from common.data.geometry import Geometry
from common.data.volumes import read_volume, write_volume
from common.errors import DataError, OptionError
from common.runs.folder import open_run
from fetal_brain import data, scoring
from fetal_brain.config import CODE, QUICK
from fetal_brain.data import Case
from fetal_brain.evaluate import evaluate
from fetal_brain.scoring import label_names

GRID = Geometry(spacing_mm=(1.0, 2.0, 3.0))
SHAPE = (6, 12, 12)
NOTICE = "Synthetic phantom data: these numbers say nothing about patients."


def box(rows, label=2):
    """Two slices of 4 x 4 voxels, 6 mm3 each, all of them on the surface."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, slice(*rows), 3:7] = label
    return array


LABELS = {"a": box((3, 7)), "b": box((3, 7), label=10), "c": box((0, 0)), "d": box((3, 7))}
PREDICTIONS = {"a": box((4, 8)), "b": box((3, 7)), "c": box((0, 0)), "d": box((0, 0))}
"""Moved by one row; where there is no brain; nothing where nothing is; nothing found."""


@pytest.fixture
def run(tmp_path):
    """A run that held out four cases and trained on the first of them, with its label maps."""
    cases = []
    for name, label in LABELS.items():
        image = np.random.default_rng(0).normal(100, 9, SHAPE).astype(np.float32)
        write_volume(tmp_path / f"{name}_scan.nii.gz", image, GRID)
        write_volume(tmp_path / f"{name}_label.nii.gz", label, GRID)
        case = Case(name, tmp_path / f"{name}_scan.nii.gz", tmp_path / f"{name}_label.nii.gz")
        cases.append(case)
    make_run(tmp_path / "run", cases)
    for name, prediction in PREDICTIONS.items():
        write_volume(tmp_path / "run" / "predictions" / f"{name}.nii.gz", prediction, GRID)
    return tmp_path / "run"


def make_run(path, cases, *, config=QUICK, phantom=True):
    options = {"preset": "quick"}
    with open_run(path, paper="fetal_brain", options=options, config=config, seed=0) as record:
        record.record(phantom=phantom)
        record.write_split({"training": cases[:1], "validation": [], "test": cases})
        (path / "predictions").mkdir()


def read_cases(run):
    with (run / "report" / "cases.csv").open(newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_measures_by_hand(run, capsys):
    """a: 24 of 32 and 32 voxels agree; 8 of 32 surface voxels on either side are 2 mm off."""
    evaluate(run)
    rows = read_cases(run)
    assert float(rows["a"]["dice"]) == 0.75
    assert float(rows["a"]["jaccard"]) == pytest.approx(24 / 40)
    assert float(rows["a"]["hd95_mm"]) == 2.0
    assert float(rows["a"]["assd_mm"]) == pytest.approx((8 * 2 + 8 * 2) / 64)
    assert float(rows["a"]["volume_ml"]) == float(rows["a"]["reference_ml"]) == 0.192
    assert float(rows["b"]["volume_difference_ml"]) == 0.192
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:4]] == ["c", "b", "d", "a"]
    assert said[3].startswith("a  brain  Dice 0.750  Jaccard 0.600  volume difference (ml) 0.000")
    assert said[3].endswith("(also in the training set)")
    mean = "Mean Dice of brain: 0.250 ± 0.433 (n = 3; 0.000, 0.000, 0.750; 1 undefined)"
    assert said[4] == mean
    assert said[5:] == [NOTICE, f"Report: {run / 'report' / 'index.html'}"]


def test_every_file_is_read_once(run, monkeypatch):
    reads = Counter()

    def read_and_count(path, **options):
        reads[path.name] += 1
        return read_volume(path, **options)

    for module in (data, scoring):
        monkeypatch.setattr(module, "read_volume", read_and_count)
    evaluate(run)
    files = [f"{name}{kind}.nii.gz" for name in LABELS for kind in ("", "_label", "_scan")]
    assert reads == dict.fromkeys(files, 1)


def test_empty_masks_are_counted_not_dropped(run):
    """[F19] Overlap is 0 where one mask is empty, undefined where both are; distances in both."""
    evaluate(run)
    rows = read_cases(run)
    assert {name: row["status"] for name, row in rows.items()} == {
        "a": "ok", "b": "reference empty", "c": "both empty", "d": "prediction empty",
    }  # fmt: skip
    assert (rows["b"]["dice"], rows["c"]["dice"], rows["d"]["dice"]) == ("0.0", "", "0.0")
    assert [rows[name]["hd95_mm"] for name in "bcd"] == ["", "", ""]
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["cases"] == 4
    summary = report["labels"]["brain"]
    assert (summary["dice"]["n"], summary["dice"]["n_undefined"]) == (3, 1)
    assert summary["dice"]["mean"] == 0.25
    assert (summary["hd95_mm"]["n"], summary["hd95_mm"]["n_undefined"]) == (1, 3)
    assert summary["hd95_mm"]["mean"] == 2.0


def test_training_cases_are_marked(run):
    """[F12] The original's first deployed subject was trained on."""
    evaluate(run)
    marks = {name: row["in_training_set"] for name, row in read_cases(run).items()}
    assert marks == {"a": "True", "b": "False", "c": "False", "d": "False"}


@pytest.mark.parametrize("phantom", [True, False])
def test_page_draws_the_worst_cases_and_says_phantom(run, tmp_path, phantom):
    cases = [Case(n, tmp_path / f"{n}_scan.nii.gz", tmp_path / f"{n}_label.nii.gz") for n in "abcd"]
    make_run(tmp_path / "real", cases, phantom=phantom)
    evaluate(tmp_path / "real", predictions=run / "predictions")
    page = (tmp_path / "real" / "report" / "index.html").read_text()
    figures = page.split("<figcaption>")[1:]
    assert [text.partition(",")[0] for text in figures] == ["c", "b", "d", "a"]
    assert figures[3].startswith("a, slice 2 of 6: scan, reference and prediction.")
    assert [NOTICE in text.partition("</figcaption>")[0] for text in figures] == [phantom] * 4
    assert (NOTICE in page) is phantom


def test_a_list_of_ones_own(run, tmp_path, capsys):
    """It lies beside no phantom's marker: no phantoms, though the run was trained on some."""
    rows = [f"{name},{name}_scan.nii.gz,{name}_label.nii.gz" for name in "abd"]
    listing = tmp_path / "list.csv"
    listing.write_text("\n".join(["id,image,label", *rows]))
    evaluate(run, listing)
    assert list(read_cases(run)) == ["a", "b", "d"]
    assert NOTICE not in capsys.readouterr().out


def test_maps_of_the_code_are_read_like_those_of_the_port(run, tmp_path):
    """[F8] 0 and 1 or 0 and 2: the same report, whatever the run's own way is."""
    evaluate(run)
    expected = (run / "report" / "cases.csv").read_text()
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    for name, prediction in PREDICTIONS.items():
        write_volume(numbers / f"{name}.nii.gz", prediction // 2, GRID)
    evaluate(run, predictions=numbers)
    assert (run / "report" / "cases.csv").read_text() == expected


def spoil_missing(run):
    (run / "predictions" / "b.nii.gz").unlink()
    return r"predictions/b\.nii\.gz: cannot be read \(No such file"


def spoil_grid(run):
    grid = replace(GRID, spacing_mm=(1.0, 2.0, 4.0))
    write_volume(run / "predictions" / "b.nii.gz", PREDICTIONS["b"], grid)
    return r"predictions/b\.nii\.gz and .*b_label\.nii\.gz: expected one voxel grid, found spacing"


def spoil_shape(run):
    write_volume(run / "predictions" / "b.nii.gz", PREDICTIONS["b"][:5], GRID)
    return r"b\.nii\.gz and .*b_label\.nii\.gz: .* shape \(z, y, x\) \(5, 12, 12\) and \(6, 12"


def spoil_labels(run):
    write_volume(run / "predictions" / "b.nii.gz", box((3, 7), label=7), GRID)
    return r"predictions/b\.nii\.gz: found the label 7; expected 0, 2"


def spoil_scan(run):
    scan = np.ones((5, 12, 12), np.float32)
    write_volume(run.parent / "b_scan.nii.gz", scan, GRID)
    return r"b_scan\.nii\.gz and .*b_label\.nii\.gz: expected one voxel grid"


@pytest.mark.parametrize(
    "spoil", [spoil_missing, spoil_grid, spoil_shape, spoil_labels, spoil_scan]
)
def test_one_bad_case_does_not_stop_the_others(run, spoil, capsys):
    """The report says which is not usable; where the scan alone is bad, the label map is not."""
    expected = spoil(run)
    with pytest.raises(DataError, match="no usable result for 1 of 4 cases: b; the"):
        evaluate(run)
    assert re.search(f"b: .*{expected}", capsys.readouterr().err)
    report = json.loads((run / "report" / "report.json").read_text())
    measured = ["a", "b", "c", "d"] if spoil is spoil_scan else ["a", "c", "d"]
    assert (report["cases"], report["unusable"]) == (len(measured), ["b"])
    assert "Not usable: b." in (run / "report" / "index.html").read_text()
    assert sorted(pd.read_csv(run / "report" / "cases.csv")["id"]) == measured


@pytest.mark.parametrize("spoil", [spoil_missing, spoil_labels])
def test_what_cannot_be_measured_leaves_no_report(run, spoil, capsys):
    expected = spoil(run)
    split = json.loads((run / "split.json").read_text())
    split["test"] = [case for case in split["test"] if case["id"] == "b"]
    (run / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=expected):
        evaluate(run)
    assert capsys.readouterr().out == ""
    assert not (run / "report").exists()
    assert not list(run.glob("*.tmp"))


def test_a_run_without_held_out_cases_is_refused(tmp_path):
    make_run(tmp_path / "run", [])
    with pytest.raises(OptionError, match="no held-out cases"):
        evaluate(tmp_path / "run")
    assert not (tmp_path / "run" / "report").exists()


def test_names_of_the_classes():
    assert label_names(CODE) == {"brain": 1}
    assert label_names(replace(QUICK, label_ids=(0, (1, 2, 3, 4)))) == {"foreground": 1}
    assert label_names(replace(QUICK, label_ids=(0, 2, 9))) == {"class 1": 1, "class 2": 2}
    assert label_names(replace(QUICK, label_ids=(0, 1)), "brain") == {"brain": 1}
    with pytest.raises(OptionError, match="--structure brain: found 2 classes; expected one"):
        label_names(replace(QUICK, label_ids=(0, 2, 9)), "brain")
