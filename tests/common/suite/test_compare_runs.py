"""Two runs compared case by case: against numbers worked out by hand, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from common.__main__ import main
from common.evaluation.paired import compare_cases, read_cases

DIFFERENCES = [0.1, 0.2, -0.1, 0.3, 0.4, 0.2]


def write_run(folder, dice, *, ids=None, phantom=False, **columns):
    (folder / "report").mkdir(parents=True)
    ids = ids or [f"case{number}" for number in range(len(dice))]
    table = pd.DataFrame({"id": ids, "label": "brain", "dice": dice, "status": "ok", **columns})
    table.to_csv(folder / "report" / "cases.csv", index=False)
    (folder / "report" / "report.json").write_text(json.dumps({"phantom": phantom}))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "a", [0.5] * 6),
        write_run(tmp_path / "b", [0.5 + d for d in DIFFERENCES]),
    ]


def test_by_hand(runs):
    """Mean 1.1 / 6, variance (0.35 - 1.21 / 6) / 5; t = mean / sqrt(variance / 6) = 2.6087; of the
    ranks 1.5, 3.5, 1.5, 5, 6, 3.5 the third alone counts against."""
    (row,) = compare_cases(*(read_cases(run, "dice") for run in runs))
    mean, sd = 1.1 / 6, np.sqrt((0.35 - 1.21 / 6) / 5)
    assert (row["label"], row["n"], row["undefined"]) == ("brain", 6, 0)
    assert row["difference"]["mean"] == pytest.approx(mean)
    assert row["effect"] == pytest.approx(mean / sd)
    half = 2.570582 * sd / np.sqrt(6)
    assert row["difference"]["ci95_low"] == pytest.approx(mean - half, abs=1e-6)
    # Student's distribution function for 5 degrees of freedom, from its closed form.
    x = mean / (sd / np.sqrt(6)) / np.sqrt(5)
    tail = 0.5 - (x / (1 + x**2) * (1 + 2 / (3 * (1 + x**2))) + np.arctan(x)) / np.pi
    assert row["p_t"] == pytest.approx(2 * tail, abs=1e-9)
    assert 0.03 < row["p_wilcoxon"] < 0.11


def test_only_cases_of_both_count_and_are_averaged(runs, tmp_path, capsys):
    other = write_run(tmp_path / "c", [0.9, 0.7, np.nan, 0.3], ids=["case0", "case0", "case1", "x"])
    assert main(["compare-runs", str(runs[0]), str(other), "--out", str(tmp_path / "o.json")]) == 0
    said = capsys.readouterr().out
    assert "only in" in said
    assert f"only in {other}: x" in said
    (row,) = json.loads((tmp_path / "o.json").read_text())["labels"]
    assert (row["n"], row["undefined"], row["p_t"]) == (1, 1, None)
    assert row["difference"]["mean"] == pytest.approx(0.3)


def test_phantoms_are_named(runs, tmp_path, capsys):
    phantom = write_run(tmp_path / "p", [0.5] * 6, phantom=True)
    assert main(["compare-runs", str(runs[0]), str(phantom)]) == 0
    assert "Synthetic phantom data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--measure", "dise"], "--measure dise: "),
        (["--measure", "status"], "has no such numbers"),
    ],
)
def test_mistakes(runs, words, expected, capsys):
    assert main(["compare-runs", *map(str, runs), *words]) == 2
    assert expected in capsys.readouterr().err


def test_other_cases_and_runs_without_report(runs, tmp_path, capsys):
    other = write_run(tmp_path / "d", [0.5], ids=["y"])
    assert main(["compare-runs", str(runs[0]), str(other)]) == 2
    assert main(["compare-runs", str(runs[0]), str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0] == "common compare-runs: found no case and label that both runs have; expected some"
    )
    assert said[1].endswith("cases.csv is missing; expected a run that evaluate has measured")


def test_a_run_against_a_baseline_of_its_own(tmp_path, capsys):
    run = write_run(tmp_path / "a", [0.5, 0.7], dice_of_crop=[0.6, 0.6])
    words = ["compare-runs", str(run), str(run), "--against", "dice_of_crop"]
    assert main([*words, "--out", str(tmp_path / "o.json")]) == 0
    (row,) = json.loads((tmp_path / "o.json").read_text())["labels"]
    assert (row["mean_a"], row["mean_b"]) == pytest.approx((0.6, 0.6))
    assert row["difference"]["values"] == pytest.approx([-0.1, 0.1])
    assert main([*words[:-1], "dice_of_corp"]) == 2
    assert "--against dice_of_corp" in capsys.readouterr().err
