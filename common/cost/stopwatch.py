"""What benchmarks measure with: wall and CPU seconds, and the rate of a matrix product."""

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


def fastest(work: Callable[[], object], repeats: int) -> Clock:
    """Return what the fastest of some calls takes."""
    return min(time_call(work) for _ in range(repeats))


def matmul_rate(edge: int = 3072) -> float:
    """Return the floating-point operations per second of TensorFlow's float32 matrix product.

    Args:
        edge: rows and columns of both factors.
    """
    import tensorflow as tf

    square = tf.random.stateless_normal((edge, edge), (0, 0))
    tf.linalg.matmul(square, square)
    return 2 * edge**3 / fastest(lambda: tf.linalg.matmul(square, square).numpy(), 4)[0]


def show_time(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} s"
