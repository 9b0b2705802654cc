"""The effects of the quirks: every switch of every paper is measured and tied to its ledger."""

import importlib
import re
from pathlib import Path

import pytest

from common.study.effects import check_complete

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/effects.py") if path.parent.name !=
                "common")  # fmt: skip
NOT_NAMED = {
    "fetal_brain": {"validation_cases", "windows_per_batch"},
    "raseg": {"examples_per_epoch"},
    "sarcoma": {"training_patients"},
    "dhcp_fetal": {"model_name"},
}
"""Switches that no row of a ledger names: counts that follow from others, or without effect."""


def ledger(paper):
    """Rows of a paper card's ledger by id."""
    text = (ROOT / paper / "README.md").read_text(encoding="utf-8")
    return {found[1]: found[0] for found in re.finditer(r"^\| ([A-Z]\d+) \|.*$", text, re.M)}


def ids_of(words):
    """`V10-V12 V2` -> V10, V11, V12, V2."""
    for word in words.split():
        first, _, last = word.partition("-")
        numbers = range(int(first[1:]), int((last or first)[1:]) + 1)
        yield from (f"{first[0]}{number}" for number in numbers)


def test_every_paper_has_effects():
    assert len(PAPERS) == 5


@pytest.mark.parametrize("paper", PAPERS)
def test_every_switch_is_measured(paper):
    config = importlib.import_module(f"{paper}.config")
    probes = importlib.import_module(f"{paper}.effects").EffectBench().probes()
    assert check_complete(probes, config.CODE, config.PORT) == []


@pytest.mark.parametrize("paper", PAPERS)
def test_rows_are_those_of_the_ledger(paper):
    """Each probe names rows that exist, and each switch is named by one of its probe's rows."""
    rows = ledger(paper)
    for probe in importlib.import_module(f"{paper}.effects").EffectBench().probes():
        lines = [rows[each] for each in ids_of(probe.ledger)]
        for switch in set(probe.switches) - NOT_NAMED.get(paper, set()):
            assert any(re.search(rf"`{switch}[`=]", line) for line in lines), (probe.ledger, switch)
