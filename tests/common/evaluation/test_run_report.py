"""From scored cases to files, page and terminal."""

import csv
import json
import re
import resource

import numpy as np
import pytest

from common.errors import OptionError, RunError
from common.evaluation.run_report import (
    MEASURES,
    prediction_path,
    summarise_rows,
    worst_first,
    write_evaluation,
)
from common.report.page import PHANTOM_NOTICE, Figure, read_sections
from common.runs.folder import load_run, open_run
from common.runs.log import write_log

NAN = float("nan")
LOG = [{"epoch": 1, "step": 5, "loss": 2.0}, {"epoch": 2, "step": 10, "loss": 1.0}]


def row(case, label, dice, **measures):
    """A row as `score_case` gives it."""
    values = dict.fromkeys(MEASURES, 1.0) | {"dice": dice, **measures}
    return {"id": case, "in_training_set": case == "b", "label": label, **values, "status": "ok"}


ROWS = [
    row("a", "brain", 0.9, hd95_mm=2.0),
    row("a", "cord", NAN, hd95_mm=NAN, status="both empty"),
    row("b", "brain", 0.5, hd95_mm=4.0),
    row("b", "cord", 0.7, hd95_mm=NAN),
]


@pytest.fixture
def record(tmp_path):
    return make_record(tmp_path / "run")


def make_record(path, *, phantom=False, log=LOG):
    options = {"preset": "port"}
    with open_run(path, paper="example", options=options, config={"width": 4}, seed=7) as run:
        run.record(phantom=phantom)
        if log:
            write_log(path, log)
    return load_run(path)


def write(record, *, rows=ROWS, phantom=False):
    overlays = [Figure(b"png", "Case b.")]
    write_evaluation(
        record, rows, title="Example", curve=[("loss",)], overlays=overlays, phantom=phantom
    )
    return (record.path / "report" / "index.html").read_text()


def test_summaries_are_per_label_and_count_what_is_undefined():
    summaries = summarise_rows(ROWS)
    assert list(summaries) == ["brain", "cord"]
    assert summaries["brain"]["dice"]["mean"] == pytest.approx(0.7)
    assert summaries["brain"]["hd95_mm"]["mean"] == 3.0
    assert (summaries["cord"]["dice"]["n"], summaries["cord"]["dice"]["n_undefined"]) == (1, 1)
    assert (summaries["cord"]["hd95_mm"]["n"], summaries["cord"]["hd95_mm"]["n_undefined"]) == (
        0,
        2,
    )
    assert np.isnan(summaries["cord"]["hd95_mm"]["mean"])


def test_worst_come_first_and_the_undefined_before_them():
    order = [(r["id"], r["label"]) for r in worst_first(ROWS)]
    assert order == [("a", "cord"), ("b", "brain"), ("b", "cord"), ("a", "brain")]


def test_files(record):
    text = write(record)
    folder = record.path / "report"
    assert {path.name for path in folder.iterdir()} == {
        "cases.csv", "report.json", "index.html", "sections.json",
    }  # fmt: skip
    with (folder / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["id"], r["label"], r["dice"]) for r in rows] == [
        ("a", "brain", "0.9"), ("a", "cord", ""), ("b", "brain", "0.5"), ("b", "cord", "0.7"),
    ]  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert (report["paper"], report["phantom"], report["cases"]) == ("example", False, 2)
    assert report["data"] == {"kind": "stand-in", "cohort": None, "preparation": ""}
    assert report["cases_trained_on"] == 1
    assert report["labels"]["cord"]["hd95_mm"]["mean"] is None
    assert "stand-in patients; 2 cases, preset port." in text
    tables = [re.findall(r"<t[dh]>(.*?)</t[dh]>", t) for t in text.split("<table")[1:]]
    summary = ["brain", "Dice", "0.700", "0.283", "0.500, 0.900", "2", "0"]
    assert tables[0][7:14] == summary
    assert tables[0][-21:-14] == ["cord", "HD95 (mm)", "–", "–", "–", "0", "2"]
    assert tables[1][10:12] == ["a", "cord"]
    assert dict(zip(tables[2][::2], tables[2][1::2], strict=True))["width"] == "4"
    assert text.count("<img ") == 2


def test_what_is_printed(record, capsys):
    write(record, phantom=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("a  cord  Dice –  Jaccard 1.000")
    assert said[1].startswith("b  brain  Dice 0.500")
    assert said[1].endswith(
        "ASSD (mm) 1.000  surface Dice (2 mm) 1.000  (also in the training set)"
    )
    assert said[4] == "Mean Dice of brain: 0.700 ± 0.283 (n = 2; 0.500, 0.900)"
    assert said[5] == "Mean Dice of cord: 0.700 (n = 1; 1 undefined)"
    assert said[6] == PHANTOM_NOTICE
    assert said[7:] == [f"Report: {record.path / 'report' / 'index.html'}"]


def test_a_curve_learnt_on_phantoms_is_marked_whatever_is_measured(tmp_path):
    """The mark is in the picture itself: it is another one than that of real data."""
    pages = [
        write(make_record(tmp_path / str(index), phantom=phantom))
        for index, phantom in enumerate((False, True))
    ]
    curves = [re.findall(r"base64,([^\"]+)", page)[0] for page in pages]
    assert curves[0] != curves[1]
    assert PHANTOM_NOTICE not in pages[1]


def test_weights_that_were_not_trained_here_have_no_curve(tmp_path):
    text = write(make_record(tmp_path / "run", log=[]))
    assert "The weights of this run were not trained here." in text
    assert text.count("<img ") == 1


def test_a_report_replaces_the_one_before_whole_or_not_at_all(record):
    """On a full disk the two small files would still fit, the page does not."""
    write(record)
    (record.path / "report" / "old_picture.png").write_bytes(b"old")
    before = {path.name: path.read_bytes() for path in (record.path / "report").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"index\.html cannot be written: File too large"):
            write(record, rows=ROWS[:1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in (record.path / "report").iterdir()} == before
    assert not list(record.path.glob(".*.tmp"))
    write(record, rows=ROWS[:1])
    names = {path.name for path in (record.path / "report").iterdir()}
    assert names == {"cases.csv", "report.json", "index.html", "sections.json"}


def test_label_maps_are_named_by_the_case(tmp_path):
    assert prediction_path(tmp_path, "a.b") == tmp_path / "a.b.nii.gz"


def test_a_paper_may_add_a_measure(record):
    rows = [{**each, "dice_smoothed": 0.25} for each in ROWS]
    measures = {**MEASURES, "dice_smoothed": "Dice (smoothed)"}
    write_evaluation(
        record, rows, title="Example", curve=[("loss",)], overlays=[], phantom=False,
        measures=measures,
    )  # fmt: skip
    page = (record.path / "report" / "index.html").read_text()
    assert "Dice (smoothed)" in page
    summary = json.loads((record.path / "report" / "report.json").read_text())
    assert summary["labels"]["brain"]["dice_smoothed"]["mean"] == 0.25


def test_what_is_no_mean_over_cases_stands_beside(record):
    others = {"patches": {"batch_dice": {"mean": 0.25, "n": 70}}}
    write_evaluation(
        record, ROWS, title="Example", curve=[("loss",)], overlays=[], phantom=True, others=others
    )
    report = json.loads((record.path / "report" / "report.json").read_text())
    assert report["others"] == others
    assert report["data"]["kind"] == "phantom"


def test_the_parts_of_the_page_are_kept_as_data(record):
    write(record)
    parts = read_sections(record.path / "report" / "sections.json")
    assert [part.title for part in parts] == [
        "Results", "Learning curve", "Cases, worst first", "Overlays", "Run",
    ]  # fmt: skip
    assert parts[3].figures[0].png == b"png"


def test_a_phantom_is_nobodys_data(record):
    with pytest.raises(OptionError, match="these data are phantoms"):
        write_evaluation(
            record, ROWS, title="Example", curve=[("loss",)], overlays=[], phantom=True,
            cohort="somebody",
        )  # fmt: skip
    assert not (record.path / "report").exists()


def test_a_spreadsheet_takes_no_id_for_a_formula(record):
    write(record, rows=[row("=1+1", "brain", 0.5), row("@x", "brain", -0.5)])
    lines = (record.path / "report" / "cases.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["'=1+1", "'@x"]
    assert "-0.5" in lines[2].split(",")  # numbers stay numbers
