"""The verb `plan`: its table, its JSON, and what it does not begin."""

import json
from dataclasses import replace

import pytest

from common.cli import main
from common.cost import plan as planning
from common.cost.budget import Budget
from common.cost.plan import describe_kind, has_room, print_plan
from common.cost.probe import Measured
from common.errors import OptionError
from fetal_brain.config import QUICK
from fetal_brain.workload import describe
from sarcoma.config import PORT

SMALL = replace(QUICK, filters=(2, 2, 4), kernels=(3, 3, 1), patch_shape=(3, 16, 16))


def test_table_and_json(tmp_path, capsys):
    print_plan("fetal_brain", SMALL, scan=(5, 40, 50), probe=False, out=tmp_path / "plan.json")
    lines = capsys.readouterr().out.splitlines()
    rows = dict(line.strip().split("  ", 1) for line in lines)
    assert "training" in rows
    assert rows["prediction"].strip() == "4 x 3 x 40 x 56 x 1"  # rounded up to multiples of 8
    assert "memory, measured" not in rows
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["training"]["count"] == 300
    assert found["prediction"]["count"] == 1  # three windows, four at a time
    assert found["scan"]["payload"] == {"request": 40000, "labels": 10000, "probabilities": 80000}
    assert found["training"]["measured"] is None
    assert found["training"]["estimate"]["parameters"] > 0


def test_steps_that_depend_on_the_data_are_asked_for(capsys):
    print_plan("sarcoma", replace(PORT, filters=(2, 4)), probe=False)
    assert "give --examples" in capsys.readouterr().out
    print_plan("sarcoma", replace(PORT, filters=(2, 4)), examples=180, probe=False)
    assert "  50 steps, " in capsys.readouterr().out  # 5 epochs of 180 / 18


def test_run_takes_the_measured_seconds():
    budget = Budget(1, operations=3e9, tensors=0, workspace=0)
    measured = Measured(seconds=1.5, first_seconds=9.0, start_bytes=0, peak_bytes=3 * 2**30)
    rows = dict(describe_kind("training", budget, measured, describe(SMALL), count=240))
    assert rows["  the run"] == "240 steps, 6.0 min"
    assert rows["  memory, measured"] == "3.00 GiB"
    assert rows["  step, measured"].startswith("1.5 s (2 GFLOP/s)")


def test_what_does_not_fit_is_not_measured(capsys, monkeypatch):
    monkeypatch.setattr(planning, "measure", None)  # would be called
    assert not has_room(Budget(1, 1.0, tensors=2**50, workspace=0), "training")
    assert "training is not measured: about 10485" in capsys.readouterr().out


@pytest.mark.parametrize("paper", ["raseg", "vertebra"])
def test_a_scan_without_voxels_is_refused(paper):
    with pytest.raises(OptionError, match=r"--scan: found \(0, 5, 5\)"):
        print_plan(paper, None, scan=(0, 5, 5))


def test_the_command(capsys):
    words = ["plan", "--preset", "quick", "--scan", "3,32,32", "--probe", "false"]
    assert main("fetal_brain", argv=words) == 0
    assert capsys.readouterr().out.startswith("parameters ")
    assert main("fetal_brain", argv=["plan", "--scan", "3,0,32"]) == 2
