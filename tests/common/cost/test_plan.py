"""The verb `plan`: its table, its JSON, what it measures, and what it assumes."""

import json
import os
from dataclasses import replace

import pytest

from common.cli import main
from common.cost.plan import Work, plan, rows_of_work, show_operations
from common.cost.probe import Measured, measure
from common.cost.stopwatch import show_time
from common.errors import OptionError
from fetal_brain.config import QUICK
from sarcoma.config import PORT

SMALL = replace(QUICK, filters=(2, 2, 4), kernels=(3, 3, 1), patch_shape=(3, 16, 16))
STEP = Work("training", [(4, 3, 16, 16, 1)], operations=3e9, count=240, lower="--batch_size")


def rows_of(text):
    """Return the printed rows by name; those of a step and a call have different names."""
    return dict(line.strip().split("  ", 1) for line in text.splitlines())


def test_table_and_json(tmp_path, capsys):
    plan("fetal_brain", config=SMALL, scan=(5, 40, 50), probe=False, out=tmp_path / "plan.json")
    rows = rows_of(capsys.readouterr().out)
    assert "training" in rows
    assert rows["prediction"].strip() == "4 x 3 x 40 x 56 x 1"  # rounded up to multiples of 8
    assert not any("measured" in name for name in rows)
    assert "load" not in rows
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["training"]["count"] == 300
    assert found["prediction"]["count"] == 1  # three windows, four at a time
    assert found["scan"]["payload"] == {"request": 40000, "labels": 10000, "probabilities": 80000}
    assert found["training"]["measured"] is None
    assert found["parameters"] > 0


def test_steps_that_depend_on_the_data_are_asked_for(capsys):
    small = replace(PORT, filters=(2, 4))
    plan("sarcoma", config=small, probe=False)
    assert "give --examples" in capsys.readouterr().out
    plan("sarcoma", config=small, examples=180, probe=False)
    assert "  50 steps for 180 examples\n" in capsys.readouterr().out  # 5 epochs of 180 / 18


def test_run_takes_the_measured_seconds():
    measured = Measured(1.5, first_seconds=9.0, start_bytes=0, peak_bytes=3 * 2**30,
                        memory="process")  # fmt: skip
    rows = dict(rows_of_work(replace(STEP, measured=measured), examples=None))
    assert rows["  step"] == "3 GFLOP"
    assert rows["  the run"] == "240 steps, 6.0 min"
    assert rows["  memory, measured"].startswith("3.00 GiB; ")
    assert rows["  step, measured"].startswith("1.5 s (2 GFLOP/s); the first, with compilation, 9")
    assert rows["  to take less"] == "lower --batch_size"


def test_what_does_not_fit_is_a_finding():
    rows = dict(rows_of_work(replace(STEP, too_large=True), examples=8))
    assert rows["  memory, measured"].startswith("more than the ")
    assert rows["  the run"] == "240 steps for 8 examples"


class TestProbe:
    @pytest.mark.slow
    def test_a_step_and_the_table_of_it(self, capsys):
        """What a step takes beyond its start, and that the table says for which load it holds."""
        plan("fetal_brain", config=SMALL, scan=(5, 40, 50))
        rows = rows_of(capsys.readouterr().out)
        for name in ("memory, measured", "step, measured", "call, measured"):
            assert name in rows
        assert f" processes for {len(os.sched_getaffinity(0))} cores when this" in rows["load"]

    @pytest.mark.slow
    @pytest.mark.full_size
    def test_a_larger_step_takes_more(self):
        """Several times the voxels and the kernels of the small network."""
        large = replace(SMALL, filters=(12, 12, 12), patch_shape=(3, 48, 48))
        small, large = (measure("fetal_brain", config, "training") for config in (SMALL, large))
        assert 0 < small.seconds < small.first_seconds
        assert small.seconds < large.seconds
        grown = [found.peak_bytes - found.start_bytes for found in (small, large)]
        assert 0 < grown[0] < grown[1]
        assert small.memory == "process"

    @pytest.mark.parametrize(
        "death",
        [
            "import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)",
            "raise SystemExit('ResourceExhaustedError: OOM when allocating tensor')",
        ],
    )
    def test_memory_that_does_not_suffice(self, tmp_path, monkeypatch, death):
        """The kernel ends the process, or TensorFlow refuses: here both on their own accord."""
        start = f"import sys\nif 'common.cost.probe' in sys.orig_argv:\n    {death}\n"
        (tmp_path / "sitecustomize.py").write_text(start)
        monkeypatch.setenv(
            "PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        )
        assert measure("fetal_brain", SMALL, "training") is None

    @pytest.mark.slow
    def test_another_failure_is_one_line(self):
        told = "the measurement of training failed: .*'no_paper' .--probe false does without it"
        with pytest.raises(OptionError, match=told):
            measure("no_paper", SMALL, "training")


@pytest.mark.parametrize("paper", ["raseg", "vertebra"])
def test_a_scan_without_voxels_is_refused(paper):
    with pytest.raises(OptionError, match=r"--scan: found \(0, 5, 5\)"):
        plan(paper, config=None, scan=(0, 5, 5))


def test_the_command(capsys):
    words = ["plan", "--preset", "quick", "--scan", "3,32,32", "--probe", "false"]
    assert main("fetal_brain", argv=words) == 0
    assert capsys.readouterr().out.startswith("parameters ")
    assert main("fetal_brain", argv=["plan", "--scan", "3,0,32"]) == 2
    assert main("fetal_brain", argv=["plan", "--preset", "draft"]) == 2
    assert "--preset: expected one of 'paper'" in capsys.readouterr().err.splitlines()[-1]


def test_the_quick_preset_is_planned_for_phantoms(capsys):
    """A volume of 512 x 512 x 20 was assumed once, and days for a run of minutes."""
    assert main("raseg", argv=["plan", "--preset", "quick", "--probe", "false"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["training"].strip() == "1 x 96 x 96 x 20 x 2"
    assert rows["the run"].strip() == "240 steps for 8 examples"


def test_operations_in_words():
    assert show_operations(1.2634e12) == "1.26 TFLOP"
    assert show_operations(5e6) == "5 MFLOP"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0421, "0.042 s"), (80, "80 s"), (90, "1.5 min"), (7200, "2.0 h"), (4e5, "4.6 days")],
)
def test_seconds_in_words(seconds, shown):
    assert show_time(seconds) == shown
