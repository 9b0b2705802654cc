"""Switches flipped one by one, on a paper of two fields."""

from dataclasses import dataclass

import numpy as np
import pytest

from common.errors import OptionError
from common.study.effects import (
    EffectProbe,
    MeasuredEffect,
    check_complete,
    describe_labels,
    effects_table,
    find_switches,
    format_share,
    measure_effects,
    share_changed,
)


@dataclass(frozen=True)
class Config:
    shift: int = 0
    name: str = "port"
    least: int = 1
    same: float = 0.5


PORT, CODE = Config(), Config(shift=1, name="code", least=-1)
CALLS = []


def row_of(config):
    CALLS.append(config)
    return MeasuredEffect(np.roll([1, 2, 3, 3], config.shift), f"shifted by {config.shift}")


def refuse(config):
    if config.least < 0:
        raise OptionError("--least: found -1; expected 0 or more")
    return MeasuredEffect([config.least], f"least {config.least}")


PROBES = [
    EffectProbe(("shift",), "X1", "row", row_of),
    EffectProbe(("name",), "X2", "row", row_of),
    EffectProbe(("least",), "X3", "check", refuse),
    EffectProbe(("shift", "name"), "X1", "row", row_of),
]


def test_one_switch_at_a_time():
    """[1 2 3 3] against [3 1 2 3]: three of four places differ."""
    CALLS.clear()
    rows = measure_effects(PROBES, base=PORT, code=CODE)
    assert [row["changed"] for row in rows] == ["75.00 %", "0 %", "–", "75.00 %"]
    assert [row["flip"] for row in rows] == ["0 -> 1", "port -> code", "1 -> -1",
                                             "0 -> 1, port -> code"]  # fmt: skip
    assert rows[0]["port"] == "shifted by 0"
    assert rows[0]["code"] == "shifted by 1"
    assert rows[2]["code"] == "refused: --least: found -1; expected 0 or more"
    # The port's outcome is computed once for a stage, and each flip leaves all else alone.
    assert CALLS == [PORT, Config(shift=1), Config(name="code"), Config(shift=1, name="code")]


def test_a_long_reason_is_cut_where_one_sees_it():
    def talk(config):
        raise OptionError(" ".join(["word"] * 40))

    (row,) = measure_effects([EffectProbe(("least",), "X3", "check", talk)], base=PORT, code=CODE)
    assert row["code"] == "refused: " + " ".join(["word"] * 17) + " ..."


def test_switches_are_the_fields_that_differ():
    assert find_switches(CODE, PORT) == ["shift", "name", "least"]
    assert check_complete(PROBES, CODE, PORT) == []
    assert check_complete(PROBES[:1], CODE, PORT) == ["name", "least"]


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ([1, 2], [1, 3], 0.5),
        (["a", "b"], ["a", "b"], 0.0),
        ([1.0, 2.0], [1.0, 2.0 + 1e-7], 0.0),
        ([1.0, 2.0], [1.0, 2.1], 0.5),
        ([1, 2], [1, 2, 3], None),
        (None, [1], None),
    ],
)
def test_share_of_what_changes(before, after, share):
    assert share_changed(before, after) == share


def test_shares_in_words():
    assert [format_share(share) for share in (None, 0.0, 0.5, 1e-6)] == [
        "–", "0 %", "50.00 %", "1.0e-04 %",
    ]  # fmt: skip


def test_label_maps_carry_the_phantoms_dice():
    outcome = describe_labels(np.array([1, 1, 0]), np.array([1, 0, 0]))
    assert outcome.words == "phantom's Dice 0.667, 2 voxels"


def test_the_part_is_marked_as_phantom():
    rows = measure_effects(PROBES, base=PORT, code=CODE)
    table = effects_table(rows, note="Network: none.")
    assert table.phantom
    assert table.text.endswith("Network: none.")
    assert table.figures[0].png.startswith(b"\x89PNG")
