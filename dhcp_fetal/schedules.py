"""Learning rate and momentum as functions of the epochs trained.

Source: learning_rate_schedules.py of DeepMedic; specification 6.3.
"""

from dataclasses import dataclass

from dhcp_fetal.config import Config

AUTO_WAIT = 5
"""Epochs without a gain before `auto` lowers the rate, where the configuration names none."""
POLY_POWER = 0.9


@dataclass(frozen=True)
class AutoState:
    """What the schedule `auto` remembers between epochs."""

    best: float = 0.0
    """Best validation accuracy so far."""
    best_epoch: int = 0
    lowered_epoch: int = 0


def learning_rate_at(config: Config, epochs: int) -> float:
    """Return the learning rate after some epochs; for `auto` see `advance_auto`."""
    rate = config.learning_rate
    if config.schedule == "predefined":
        # [G14] The listed epoch itself still has the old rate.
        passed = sum(epoch < epochs for epoch in config.schedule_epochs)
        return rate / config.schedule_divisor**passed
    if config.schedule == "poly":
        return rate * max(0.0, 1.0 - _progress(config, epochs)) ** POLY_POWER
    if config.schedule == "exponential":
        # [G13] The target is absolute: above the first rate, the rate rises.
        target = config.schedule_targets[0]
        return rate * ((target + 1e-8) / rate) ** _progress(config, epochs)
    return rate


def momentum_at(config: Config, epochs: int) -> float:
    """Return the momentum after some epochs; only the exponential schedule moves it.

    [G12] The engine begins at the target and goes beyond it.
    """
    if config.schedule != "exponential":
        return config.momentum
    target = config.schedule_targets[1]
    start = target if config.momentum_overshoots else config.momentum
    # [G12] v0.7.0 takes the first learning rate for the first momentum.
    mistaken = config.momentum_overshoots and config.compat == "v0.7.0"
    rise = target - (config.learning_rate if mistaken else config.momentum)
    return start + _progress(config, epochs) * rise


def advance_auto(
    config: Config, state: AutoState, *, epochs: int, accuracy: float, rate: float
) -> tuple[AutoState, float]:
    """Take one epoch of the schedule `auto`. [G11] The engine cannot build it.

    From epochs trained, this one not counted, the mean accuracy on its validation samples and its
    learning rate follow state and learning rate of the next.
    """
    if accuracy > state.best + config.schedule_least_gain:
        state = AutoState(accuracy, epochs, state.lowered_epoch)
    wait = AUTO_WAIT if config.schedule_wait is None else config.schedule_wait
    if epochs >= state.best_epoch + wait and epochs >= state.lowered_epoch + wait:
        state = AutoState(state.best, state.best_epoch, epochs)
        rate /= config.schedule_divisor
    return state, rate


def warn_of_rising_rate(config: Config) -> str | None:
    """Return a warning where the exponential schedule raises the rate instead of lowering it."""
    if config.schedule == "exponential" and config.schedule_targets[0] > config.learning_rate:
        return (
            f"the exponential schedule raises the learning rate from {config.learning_rate:g} to "
            f"{config.schedule_targets[0]:g}: --schedule_targets is absolute"  # [G13]
        )
    return None


def _progress(config: Config, epochs: int) -> float:
    """Return how far a falling schedule is, from 0 until its wait is over to 1 at the end."""
    wait = config.epochs / 3 if config.schedule_wait is None else config.schedule_wait
    length = config.epochs - wait
    return min(max(epochs - wait, 0.0), length) / length if length > 0 else float(epochs > wait)
