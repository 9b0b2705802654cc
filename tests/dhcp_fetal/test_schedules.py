"""Learning rate and momentum at every epoch, as the engine recorded them."""

import json
from dataclasses import replace

import pytest

from dhcp_fetal import schedules
from dhcp_fetal.config import PORT

KINDS = {"stable": "stable", "poly": "poly", "predef": "predefined", "expon": "exponential"}
NAMES = ("stable", "poly35", "poly2", "poly_wait10", "predef", "predef3", "expon", "expon_small")


@pytest.fixture(scope="module")
def entries(golden):
    text = str(golden("losses_schedules_metrics")["schedules_json"])
    return {entry["name"]: entry for entry in json.loads(text)}


def config_of(entry):
    kind = entry["schedule"]["type"]
    details = entry["schedule"].get(kind, {})
    return replace(
        PORT,
        schedule=KINDS.get(kind, kind),
        learning_rate=entry["init_lr"],
        momentum=entry["init_mom"],
        epochs=details.get("final_ep_for_sch", PORT.epochs),
        schedule_wait=details.get("epochs_wait_before_decr"),
        schedule_epochs=tuple(details.get("epochs", ())),
        schedule_divisor=details.get("div_lr_by", 2.0),
        schedule_least_gain=details.get("min_incr_of_val_acc_considered", 0.0),
        schedule_targets=(
            details.get("lr_to_reach_at_last_ep", 1 / 256),
            details.get("mom_to_reach_at_last_ep", 0.9),
        ),
        momentum_overshoots=True,
    )


@pytest.mark.parametrize("name", NAMES)
def test_rates_equal_the_engine(entries, name):
    """[G14] [G13] Relative 1e-5; where the engine's float32 leaves a rest of 0: 1e-6 lr0."""
    config = config_of(entries[name])
    for epoch, expected in enumerate(entries[name]["lr_at_num_epochs_trained"]):
        found = schedules.learning_rate_at(config, epoch)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6 * config.learning_rate), epoch
        expected = entries[name]["mom_at_num_epochs_trained"][epoch]
        assert schedules.momentum_at(config, epoch) == pytest.approx(expected, rel=1e-5)


def test_auto_equals_the_engine(entries):
    """[G11] Recorded with the placeholder's type put right."""
    entry = entries["auto"]
    config = config_of(entry)
    state, rate, rates = schedules.AutoState(), config.learning_rate, [config.learning_rate]
    for epoch, accuracy in enumerate(entry["schedule"]["val_acc_per_epoch"]
                                     if "val_acc_per_epoch" in entry["schedule"]
                                     else entry["val_acc_per_epoch"]):  # fmt: skip
        state, rate = schedules.advance_auto(
            config, state, epochs=epoch, accuracy=accuracy, rate=rate
        )
        rates.append(rate)
    expected = entry["lr_at_num_epochs_trained"]
    assert len(set(expected)) > 2
    assert rates[: len(expected)] == pytest.approx(expected, rel=1e-5)


def test_a_wait_is_a_third_of_the_epochs():
    config = replace(PORT, schedule="poly", epochs=30, learning_rate=1.0)
    assert schedules.learning_rate_at(config, 10) == 1.0
    assert schedules.learning_rate_at(config, 20) == pytest.approx(0.5**0.9)
    assert schedules.learning_rate_at(config, 30) == 0.0


def test_momentum_begins_where_it_is_told_to():
    """[G12] The engine begins at the target .9 and ends at 1.2."""
    ours = replace(PORT, schedule="exponential", epochs=30, momentum=0.6)
    assert schedules.momentum_at(ours, 0) == pytest.approx(0.6)
    assert schedules.momentum_at(ours, 30) == pytest.approx(0.9)
    engine = replace(ours, momentum_overshoots=True)
    assert schedules.momentum_at(engine, 0) == pytest.approx(0.9)
    assert schedules.momentum_at(engine, 30) == pytest.approx(1.2)


def test_a_rising_rate_is_said():
    """[G13]"""
    rising = replace(PORT, schedule="exponential")
    assert "raises" in schedules.warn_of_rising_rate(rising)
    falling = replace(rising, schedule_targets=(1e-5, 0.9))
    assert schedules.warn_of_rising_rate(falling) is None
    assert schedules.learning_rate_at(falling, 35) == pytest.approx(1e-5, rel=2e-3)
