"""What benchmarks measure with: wall and CPU seconds."""

import time
from collections.abc import Callable

Clock = tuple[float, float]
"""Wall seconds, and CPU seconds of this process on all its cores."""


def clock() -> Clock:
    """Return the time now; only differences mean something."""
    return time.perf_counter(), time.process_time()


def since(start: Clock) -> Clock:
    """Return what has passed since `clock` was read."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def time_call(work: Callable[[], object]) -> Clock:
    """Return what one call takes."""
    start = clock()
    work()
    return since(start)


def show_time(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} s"
