"""A callback that prints once what the steps of a training take."""

import time
from collections.abc import Callable, Mapping

import keras

from common.cost.first_step import line_of_steps


class FirstSteps(keras.callbacks.Callback):
    """Says what the steps to be taken will take: after the second, since the first compiles."""

    def __init__(self, steps: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self._steps = steps
        self._say = say
        self._began = 0.0
        self._seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Mapping | None = None) -> None:
        """Read the clock."""
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        """Note what the step took, and say it when it is the second or the only one."""
        enough = min(2, self._steps)
        if len(self._seconds) < enough:
            self._seconds.append(time.monotonic() - self._began)
            if len(self._seconds) == enough:
                self._say(line_of_steps(self._seconds, self._steps))
