"""The estimate of what is left, by hand."""

import json

import pytest

from common.suite import times as suite_times
from common.suite.read_runs import STAGES
from common.suite.times import (
    count_occurrences,
    estimate_left,
    in_words,
    timed_before,
    total_before,
)

VERBS = ["prepare", "train", "train", "export"]
BEFORE = {("prepare", 0): 10.0, ("train", 0): 100.0, ("train", 1): 50.0, ("export", 0): 5.0}


def test_a_verb_that_comes_twice_is_timed_twice():
    times = [("prepare", 10.0), ("train", 100.0), ("train", 50.0), ("export", 5.0)]
    assert count_occurrences(times) == BEFORE


@pytest.mark.parametrize(
    ("done", "later", "expected"),
    [
        ([], 0.0, 165.0),
        ([], 300.0, 465.0),
        ([20.0], 0.0, 155.0),  # 10 s were too short to tell the pace
        ([20.0, 200.0], 0.0, 110.0),  # half as fast: 2 x (50 + 5)
        ([10.0, 45.0], 45.0, 50.0),  # twice as fast: (50 + 5 + 45) / 2
        ([10.0, 100.0, 50.0, 5.0], 0.0, 0.0),
        ([], None, None),
    ],
)
def test_by_hand(done, later, expected):
    assert estimate_left(VERBS, done, BEFORE, later) == expected


def test_what_was_never_timed_is_not_guessed():
    known = {key: time for key, time in BEFORE.items() if key[0] != "export"}
    assert estimate_left(VERBS, [10.0], known, 0.0) is None
    assert "unknown" in in_words(None)
    # A stage that is new but done does no harm: 2 x 55.
    assert estimate_left(["phantom", *VERBS], [3.0, 20.0, 200.0], BEFORE, 0.0) == 110.0


def test_an_estimate_is_said_to_be_one():
    assert in_words(44.0) == "about 40 s left, an estimate from earlier runs"
    assert in_words(601.0) == "about 10 min left, an estimate from earlier runs"


def test_times_of_this_machine_come_before_those_in_the_tree(tmp_path, monkeypatch):
    state = {"paper": "a", "preset": "quick", "run": "run", "status": "finished"}
    out = tmp_path / "a-quick"
    out.mkdir()
    (out / STAGES).write_text(json.dumps({**state, "seconds": [["train", 7.0]]}))
    monkeypatch.setattr(suite_times, "RESULTS", tmp_path / "results")
    assert timed_before("a", "quick", out) == {("train", 0): 7.0}
    assert timed_before("a", "paper", out) == {}
    assert total_before(["a"], "quick", tmp_path) == 7.0
    assert total_before(["a", "b"], "quick", tmp_path) is None
    (out / STAGES).write_text(json.dumps({**state, "status": "failed", "seconds": [["x", 1.0]]}))
    assert timed_before("a", "quick", out) == {}
