"""What training and prediction take, said in one line once the first step or scan has shown it.

Before that only a lack of memory for arrays that are certain to be made is warned of. How much all
of it takes, `plan` measures beforehand.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import keras
import numpy as np

from common.cost.device import peak_of_device
from common.cost.memory import GIB
from common.cost.stopwatch import show_time

Item = TypeVar("Item")


class FirstSteps(keras.callbacks.Callback):
    """Says once what the steps of a training take: after the second, since the first compiles.

    Args:
        steps: that this process is to take.
        say: prints a line.
    """

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
        if len(self._seconds) == enough:
            return
        self._seconds.append(time.monotonic() - self._began)
        if len(self._seconds) == enough:
            self._say(line_of_steps(self._seconds, self._steps))


def line_of_steps(seconds: Sequence[float], steps: int) -> str:
    """Return the line about the steps of a training.

    Args:
        seconds: of the first step and, where there is one, of the second.
        steps: in all.
    """
    first, *second = seconds
    line = f"measured: the first step took {show_time(first)} with compilation"
    if second:
        line += f", the second {show_time(second[0])}"
    if steps > 2:
        line += f"; about {show_time((steps - 2) * second[0])} for {steps - 2} more at this load"
        line += ", without validation"
    return f"{line}; {peak_in_words()}"


def after_first(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield items, and say on stderr what the work on the first one took.

    Args:
        items: that are worked on one after the other.
        what: one of them is, such as "scan".
    """
    for number, item in enumerate(items):
        began = time.monotonic()
        yield item
        if number == 0:
            seconds, others = time.monotonic() - began, len(items) - 1
            line = f"measured: the first {what} took {show_time(seconds)}"
            if others:
                line += f"; about {show_time(others * seconds)} for {others} more of its size"
                line += " at this load"
            print(f"{line}; {peak_in_words()}", file=sys.stderr, flush=True)


def bytes_of(variables: Sequence[Any]) -> int:
    """Return the bytes of variables."""
    return sum(prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)


def peak_in_words() -> str:
    """Return the largest memory that was held so far, in words."""
    size, holder = peak_of_device()
    memory = "GPU memory" if holder == "device" else "memory"
    return f"peak {memory} {size / GIB:.2f} GiB"
