"""Folds and seeds as one report: against numbers worked out by hand, and what is refused."""

import json

import pytest

from common.__main__ import main
from common.evaluation.run_report import write_evaluation
from common.report.page import PHANTOM_NOTICE, Figure, read_sections
from common.runs.folder import load_run, open_run
from common.suite.read_runs import read_run
from tests.common.evaluation.test_run_report import row


def measured(
    folder, dice, *, seed=1, phantom=False, cohort=None, paper="sarcoma", batch_dice=None, **options
):
    """A run whose evaluation found these Dice by case."""
    options = {"preset": "port", **options}
    with open_run(folder, paper=paper, options=options, config={"width": 4}, seed=seed) as run:
        run.record(phantom=phantom)
    rows = [row(case, "lesion", value) for case, value in dice.items()]
    write_evaluation(
        load_run(folder), rows, title="A run", curve=[("loss",)], phantom=phantom, cohort=cohort,
        overlays=[Figure(b"png", f"Worst of {folder.name}.")],
        others=batch_dice and {"patches": {"batch_dice": {"mean": batch_dice, "n": 70}}},
    )  # fmt: skip
    return folder


def pool(*words):
    return main(["pool-runs", *map(str, words)])


def test_folds_are_one_experiment(tmp_path, capsys):
    """Each case once: their mean, no word of seeds, and what differed between the runs."""
    one = measured(tmp_path / "one", {"c": 0.9}, test_patients=["c"])
    two = measured(tmp_path / "two", {"a": 0.5, "b": 0.7}, test_patients=["a", "b"])
    assert pool(one, two, "--to", tmp_path / "both") == 0
    assert (
        "Mean Dice of lesion: 0.700 ± 0.200 (n = 3; 0.500, 0.700, 0.900)" in capsys.readouterr().out
    )
    result, _ = read_run(tmp_path / "both")
    assert (result.cases, result.preset, result.paper) == (3, "port", "sarcoma")
    assert "seeds" not in result.outcome.measures["lesion"]["dice"]
    sections = {each.title: each for each in read_sections(tmp_path / "both/report/sections.json")}
    assert "test_patients" in sections["What was pooled"].text
    captions = [figure.caption for figure in sections["Overlays"].figures]
    assert captions == ["Worst of two.", "Worst of one."]
    assert load_report(tmp_path / "both")["others"] == {}
    assert "test_patients" not in load_run(tmp_path / "both").config


def test_seeds_are_no_cases(tmp_path):
    """Two seeds on two cases are two cases: means .6 and .8, seeds .75 and .65."""
    one = measured(tmp_path / "one", {"a": 0.6, "b": 0.9}, seed=1, batch_dice=0.5)
    two = measured(tmp_path / "two", {"a": 0.6, "b": 0.7}, seed=2, batch_dice=0.75)
    assert pool(one, two, "--to", tmp_path / "both") == 0
    (dice,) = [load_report(tmp_path / "both")["labels"]["lesion"]["dice"]]
    assert dice["n"] == 2
    assert dice["values"] == pytest.approx([0.6, 0.8])
    assert dice["seeds"] == pytest.approx([0.75, 0.65])
    assert load_run(tmp_path / "both").manifest["seed"] == [1, 2]
    others = load_report(tmp_path / "both")["others"]["patches"]["batch_dice"]
    assert others == {"n": 70, "mean": 0.625, "seeds": [0.5, 0.75]}


def load_report(folder):
    return json.loads((folder / "report" / "report.json").read_text())


def test_kind_of_data_and_measures_of_phantoms_are_kept(tmp_path, capsys):
    cohort = "tcia-sts-7: cropped"
    one = measured(tmp_path / "one", {"a": 0.6}, cohort=cohort)
    assert pool(one, "--to", tmp_path / "same") == 0
    assert load_report(tmp_path / "same")["data"]["preparation"] == "cropped"
    two = measured(tmp_path / "two", {"a": 0.6}, phantom=True)
    capsys.readouterr()
    assert pool(two, "--to", tmp_path / "phantom") == 0
    assert PHANTOM_NOTICE in capsys.readouterr().out
    assert pool(one, two, "--to", tmp_path / "mixed") == 2
    assert "its data is phantoms; expected the same patients" in capsys.readouterr().err
    assert not (tmp_path / "mixed").exists()


def test_what_belongs_not_together_is_refused(tmp_path, capsys):
    one = measured(tmp_path / "one", {"a": 0.6})
    again = measured(tmp_path / "again", {"a": 0.7})
    other = measured(tmp_path / "other", {"b": 0.7}, paper="raseg")
    assert pool(one, again, "--to", tmp_path / "x") == 2
    assert "both measured case a with seed 1; expected each case once" in capsys.readouterr().err
    assert pool(one, other, "--to", tmp_path / "x") == 2
    assert "its paper is raseg; expected sarcoma" in capsys.readouterr().err
    assert pool(one, "--to", one) == 2
    assert "exists; expected a new folder" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_measures_are_drawn_over_a_column(tmp_path, capsys):
    one = measured(tmp_path / "one", {"a": 0.6, "b": 0.7})
    ages = tmp_path / "ages.csv"
    ages.write_text("id,age_weeks\nb,30\na,22.5\n")
    assert pool(one, "--to", tmp_path / "drawn", "--over", ages) == 0
    sections = {each.title: each for each in read_sections(tmp_path / "drawn/report/sections.json")}
    assert sections["Over age weeks"].figures[0].png.startswith(b"\x89PNG")
    ages.write_text("id,age_weeks\nb,30\n")
    assert pool(one, "--to", tmp_path / "x", "--over", ages) == 2
    assert "ages.csv: case a is missing" in capsys.readouterr().err
    ages.write_text("id,age_weeks\nb,30\na,old\n")
    assert pool(one, "--to", tmp_path / "x", "--over", ages) == 2
    assert "ages.csv, line 3: could not convert" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
