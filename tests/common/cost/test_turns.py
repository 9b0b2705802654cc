"""Sides in processes of their own: who is timed, with what result, and who is not and why."""

import numpy as np
import pytest

from common.cost.turns import ContenderError, Contest, Side, compare, run_contest
from common.papers import ROOT

SIDES = """
import os, time
import numpy as np
from common.cost.turns import Contender

def make(sizes, folder):
    value, naps = sizes["value"], iter(sizes.get("naps", [0.0] * 9))
    def work():
        block = np.ones(sizes.get("mebibytes", 0) << 20, np.uint8)
        time.sleep(next(naps))
        return [np.full(3, value, np.float32)]
    return Contender(work, work, sizes.get("units", 1))

def leave(sizes, folder):
    (folder / "left").write_text("7")
    print("a library may say what it likes")
    return make({"value": 7.0}, folder)

def take(sizes, folder):
    return make({"value": float((folder / "left").read_text())}, folder)

def fail(sizes, folder):
    raise ValueError("no such thing")

def die(sizes, folder):
    os.kill(os.getpid(), 9)

def tell(sizes, folder):
    return make({"value": float(os.environ["TOLD"])}, folder)
"""


@pytest.fixture
def contest(tmp_path):
    """Return a function that lets sides compete, whose functions are those above."""
    (tmp_path / "sides_for_test.py").write_text(SIDES)

    def run(*sides, turns=1, environment=None, **sizes):
        given = {"PYTHONPATH": f"{tmp_path}:{ROOT}", **(environment or {})}
        return run_contest(Contest("work", "", sides, sizes), turns=turns, environment=given)

    return run


def side(name, function="make", **fields):
    return Side(name, f"sides_for_test:{function}", **fields)


def test_the_least_of_all_turns_counts_and_per_step(contest):
    """The first nap is the proof's, which is not timed."""
    found, other = contest(
        side("a", options={"naps": [0.0, 0.3, 0.1, 0.2], "units": 2}),
        side("b", options={"naps": [0.0, 0.02, 0.02, 0.02]}),
        turns=3, value=1.0,
    )  # fmt: skip
    assert 0.05 <= found.wall_s < 0.1
    assert 0.02 <= other.wall_s < 0.1
    assert found.cpu_s < found.wall_s
    assert (found.side, found.options["units"], found.difference) == ("a", 2, 0.0)


def test_memory_above_the_start(contest):
    small, large = contest(side("small"), side("large", options={"mebibytes": 200}), value=1.0)
    assert small.peak_bytes < 50 << 20
    assert 190 << 20 < large.peak_bytes < 260 << 20


def test_what_the_first_leaves_the_others_take(contest):
    timings = contest(side("first", "leave"), side("second", "take"))
    assert [timing.difference for timing in timings] == [0.0, 0.0]
    assert not any(timing.note for timing in timings)


def test_another_result_is_not_timed(contest):
    """By 0.2 of 10; where the work need not be the same, the difference is told."""
    first, wrong, free = contest(
        side("first", options={"value": 10.0}),
        side("wrong", options={"value": 10.2}),
        side("free", options={"value": 10.2}, is_same=False),
    )
    assert first.cpu_s is not None
    assert wrong.cpu_s is None
    assert wrong.failed
    assert wrong.note == "differs by 2.0e-02 of the largest value; not timed"
    assert free.difference == pytest.approx(0.02, rel=1e-3)
    assert free.cpu_s is not None


def test_failures_leave_the_others_alone(contest):
    first, missing, failed, died = contest(
        side("first"),
        side("missing", packages=("no_such_package",)),
        side("failed", "fail"),
        side("died", "die"),
        value=1.0,
    )
    assert first.cpu_s is not None
    assert missing.note == "no_such_package is not installed: pip install '.[bench]'"
    assert not missing.failed
    assert failed.note == "failed: ValueError: no such thing"
    assert failed.failed
    assert died.note.startswith("ended by signal 9")


def test_environment_of_the_side_comes_before_that_of_all(contest):
    _, own = contest(
        side("all", "tell"),
        side("own", "tell", environment={"TOLD": "3"}, is_same=False),
        environment={"TOLD": "2"},
    )
    assert own.difference == pytest.approx(0.5)


def test_not_a_number_is_another_result():
    with pytest.raises(ContenderError, match="not timed"):
        compare([np.array([np.nan])], [np.array([1.0])], side("nan"))
