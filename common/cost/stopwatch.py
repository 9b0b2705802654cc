"""What benchmarks measure with: wall and CPU seconds."""

import time
from collections.abc import Callable


def time_call(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds, on all cores, of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def show_time(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} s"
