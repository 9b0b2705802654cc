"""A killed run, started again, ends as if nothing had happened: every bit of every variable."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.training.loop import CHECKPOINT

JOB = Path(__file__).with_name("resume_job.py")
EDGE, STEPS = 32, 20


def start(run: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(JOB), str(run), str(EDGE), str(STEPS)],
        stdout=subprocess.PIPE,
        stderr=open(run.with_suffix(".err"), "a"),
        text=True,
    )


def finish(run: Path) -> None:
    job = start(run)
    job.communicate(timeout=600)
    assert job.returncode == 0, run.with_suffix(".err").read_text()[-3000:]


def kill_after_step(run: Path, step: int, delay: float) -> None:
    """Kill between two steps, or within one: wherever `delay` seconds after a step leads."""
    job = start(run)
    for line in job.stdout:
        if int(line) >= step:
            break
    time.sleep(delay)
    end(job)


def kill_while_writing(run: Path, step: int) -> bool:
    """Kill while the temporary file of a checkpoint exists; tell whether it was left behind."""
    job = start(run)
    for line in job.stdout:
        if int(line) >= step:
            break
    name = f".{CHECKPOINT}.{job.pid}-*.tmp"
    while job.poll() is None and not any((run / "checkpoints").glob(name)):
        pass
    end(job)
    return any((run / "checkpoints").glob(name))


def end(job: subprocess.Popen) -> None:
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    assert job.returncode == -signal.SIGKILL, "the job ended before it was killed"


def step_of_checkpoint(run: Path) -> int:
    with np.load(run / "checkpoints" / CHECKPOINT) as stored:
        return json.loads(str(stored["header"]))["position"]["step"]


@pytest.mark.slow
def test_killed_run_ends_bit_for_bit_like_an_unbroken_one(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(unbroken)

    kill_after_step(broken, 5, delay=0.07)
    assert json.loads((broken / "manifest.json").read_text())["status"] == "running"
    assert step_of_checkpoint(broken) in (3, 6), "expected to be in the middle of the first epoch"
    left_behind = kill_while_writing(broken, 10)
    assert left_behind, "the kill did not hit the writing of a checkpoint"
    assert step_of_checkpoint(broken) in (9, 12)
    finish(broken)

    with np.load(unbroken / "final.npz") as one, np.load(broken / "final.npz") as other:
        assert one.files == other.files
        different = [name for name in one.files if one[name].tobytes() != other[name].tobytes()]
    assert not different
    assert (unbroken / "log.csv").read_bytes() == (broken / "log.csv").read_bytes()
    assert len((broken / "log.csv").read_text().splitlines()) == 1 + 3
    assert not list((broken / "checkpoints").glob(".*.tmp"))
    attempts = json.loads((broken / "manifest.json").read_text())["attempts"]
    assert [attempt["status"] for attempt in attempts] == ["running", "running", "finished"]
