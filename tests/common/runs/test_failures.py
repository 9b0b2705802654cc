"""Cases that cannot be used: the others are done, and the end names those that failed."""

import pytest

from common.errors import DataError, RunError, WriteError
from common.runs.failures import Failures


def work(names, bad):
    failures, done = Failures(len(names), "scan"), []
    for name in names:
        with failures.of(name):
            if name in bad:
                raise DataError("cannot be\nread" if name == "d" else f"{name}.nii.gz: no scan")
            done.append(name)
    return failures, done


def test_the_others_are_done_and_the_last_line_names_those_that_failed(capsys):
    failures, done = work("abcd", "bd")
    assert done == ["a", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["b: b.nii.gz: no scan", "d: cannot be read"]
    with pytest.raises(DataError) as refusal:
        failures.conclude()
    assert str(refusal.value) == "no usable result for 2 of 4 scans: b, d; the others are done"
    with pytest.raises(DataError, match=r"2 of 4 scans: b, d; nothing is left$"):
        failures.conclude(also="nothing is left")


def test_of_none_the_others_are_not_said_to_be_done():
    failures, _ = work("ab", "ab")
    with pytest.raises(DataError, match=r"no usable result for 2 of 2 scans: a, b$"):
        failures.conclude()


def test_nothing_failed():
    failures, done = work("ab", "")
    failures.conclude()
    assert done == ["a", "b"]


def test_the_only_case_and_other_errors_are_raised_at_once(capsys):
    with pytest.raises(DataError, match=r"^d: cannot be read$"):
        work("d", "d")
    for error in (RunError, WriteError):
        with pytest.raises(error, match=r"^the disk is full$"), Failures(2, "scan").of("a"):
            raise error("the disk is full")
    assert not capsys.readouterr().err
