"""What training and prediction take, in one line once the first step or scan has shown it.

`plan` measures it beforehand.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from common.cost.memory import GIB
from common.cost.stopwatch import show_time
from common.runs.failures import Failures

Item = TypeVar("Item")


def line_of_steps(seconds: Sequence[float], steps: int) -> str:
    """Return the line about the steps of a training, from the seconds of the first one or two."""
    first, *second = seconds
    line = f"measured: the first step took {show_time(first)} with compilation"
    if second:
        line += f", the second {show_time(second[0])}"
    if steps > 2:
        line += f"; about {show_time((steps - 2) * second[0])} for {steps - 2} more at this load"
        line += ", without validation"
    return f"{line}; {peak_in_words()}"


def after_first(items: Sequence[Item], failures: Failures) -> Iterator[Item]:
    """Yield items, and print on stderr what the work on the first one took that did not fail."""
    measured = False
    for number, item in enumerate(items):
        began, failed = time.monotonic(), len(failures.names)
        yield item
        if not measured and len(failures.names) == failed:
            measured = True
            seconds, others = time.monotonic() - began, len(items) - 1 - number
            line = f"measured: the first {failures.what} took {show_time(seconds)}"
            if others:
                more = f"about {show_time(others * seconds)} for {others} more of its size"
                line += f"; {more} at this load"
            print(f"{line}; {peak_in_words()}", file=sys.stderr, flush=True)


def peak_in_words() -> str:
    """Return the largest memory that was held so far, in words."""
    from common.cost.device import peak_of_device  # which asks the backend

    size, holder = peak_of_device()
    memory = "GPU memory" if holder == "device" else "memory"
    return f"peak {memory} {size / GIB:.2f} GiB"
