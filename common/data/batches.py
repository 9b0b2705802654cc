"""From draws to batches, in parallel and in order, beginning at any step.

Each batch depends on its own number alone, not on the one before.
"""

import atexit
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import tensorflow as tf

from common.errors import OptionError, UserError

_draw_failures: deque[UserError] = deque(maxlen=100)
"""TensorFlow turns an exception in a worker into text; the exception itself waits here."""

_share: ContextVar[tuple[int, int, int]] = ContextVar("share", default=(0, 1, 1))
"""Number of this worker, workers, and replicas of each: who draws which part of a batch."""


@contextmanager
def sharing_batches(worker: int, workers: int, replicas: int) -> Iterator[None]:
    """Let datasets made within this block draw one worker's part of every batch.

    They give it in `replicas` smaller batches, one after the other. All parts together, worker by
    worker and replica by replica, are the batch of one device.
    """
    token = _share.set((worker, workers, replicas))
    try:
        yield
    finally:
        _share.reset(token)


def number_examples(
    batch_size: int, first_step: int, last_step: int
) -> tuple[tf.data.Dataset, int]:
    """Return the numbers of the examples to draw, int64, and how many of them make a batch.

    Example k belongs to step k // batch_size; under `sharing_batches` the numbers are those of this
    worker's part.

    Raises:
        OptionError: the batch cannot be divided among all replicas.
    """
    worker, workers, replicas = _share.get()
    if batch_size % (workers * replicas):
        raise OptionError(
            f"--batch_size is {batch_size}, which {workers * replicas} devices cannot share; "
            f"expected a multiple of {workers * replicas}, or fewer devices (--strategy)"
        )
    part = batch_size // workers
    numbers = tf.data.Dataset.range(first_step * batch_size, last_step * batch_size)
    if workers > 1:
        numbers = numbers.filter(lambda number: number % batch_size // part == worker)
    return numbers, part // replicas


def make_batches(
    draw: Callable[[int], Any],
    *,
    element_spec: Any,
    batch_size: int,
    first_step: int,
    last_step: int,
    workers: int = 2,
) -> tf.data.Dataset:
    """Draw examples in parallel and batch them in order, from any step on.

    Args:
        draw: example index (int) -> arrays in the structure of `element_spec`. It must depend on
            the index alone (see `rng_for`), keep no state that another worker could disturb, and
            use numpy, not TensorFlow. Example k belongs to step k // batch_size.
        element_spec: nested tuple or dict of `tf.TensorSpec` of one example, as Keras takes it:
            (x, y) or (x, y, weight).
        batch_size: examples per step.
        first_step: 0-based step of the first batch.
        last_step: step after the last batch.
        workers: threads that draw.
    Returns:
        Dataset of `last_step - first_step` batches with a static batch dimension (more and smaller
        ones under `sharing_batches`).
    Raises:
        UserError: from `draw`, if the dataset is consumed under `surface_user_errors` (as `fit`
            does).
    """
    specs = tf.nest.flatten(element_spec)
    gate = _worker_gate()

    def draw_flat(index: np.ndarray) -> list[np.ndarray]:
        try:
            with gate:
                example = draw(int(index))
        except UserError as failure:
            _draw_failures.append(failure)
            raise
        tf.nest.assert_same_structure(element_spec, example)
        return list(map(_checked, tf.nest.flatten(example), specs))

    @tf.autograph.experimental.do_not_convert
    def draw_tensors(index: tf.Tensor) -> Any:
        # Under op determinism TensorFlow runs stateful functions one at a time; `draw` has no
        # state, and said so it runs in parallel.
        dtypes = [spec.dtype for spec in specs]
        tensors = tf.numpy_function(draw_flat, [index], dtypes, stateful=False)
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(element_spec, tensors)

    options = tf.data.Options()
    options.deterministic = True
    # A pool of its own: the global one has a single thread (see `configure_runtime`), which the
    # training step needs.
    options.threading.private_threadpool_size = workers
    options.autotune.enabled = False
    dataset, together = number_examples(batch_size, first_step, last_step)
    dataset = dataset.map(draw_tensors, num_parallel_calls=workers, deterministic=True)
    dataset = dataset.batch(together, drop_remainder=True).prefetch(2)
    return dataset.with_options(options)


@contextmanager
def surface_user_errors() -> Iterator[None]:
    """Raise a `UserError` of a `draw` function as itself, not as TensorFlow's report of it."""
    try:
        yield
    except tf.errors.OpError as report:
        for failure in reversed(_draw_failures):
            if str(failure) in report.message:
                raise failure from None
        raise


class _WorkerGate:
    """Lets workers draw until the program ends.

    Workers are TensorFlow's threads: one that is in Python when the interpreter goes away never
    comes back, and TensorFlow waits for it for ever. Datasets outlive training in tracebacks and
    reference cycles, so this cannot be left to their destruction.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._last_use = time.monotonic()
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            self._last_use = time.monotonic()
            if self._closed:
                raise RuntimeError("the program is ending")
            self._inside += 1

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            self._last_use = time.monotonic()
            self._inside -= 1

    def close(self) -> None:
        """Wait for the draws under way, then until the refused workers come no more."""
        self._closed = True
        while self._inside:
            time.sleep(0.01)
        patience = time.monotonic() + 5.0
        while self._last_use > time.monotonic() - 0.1 and time.monotonic() < patience:
            time.sleep(0.01)


@functools.cache
def _worker_gate() -> _WorkerGate:
    gate = _WorkerGate()
    # Registered after TensorFlow's own clean-up, hence run before it.
    atexit.register(gate.close)
    return gate


def _checked(array: Any, spec: tf.TensorSpec) -> np.ndarray:
    array = np.asarray(array)
    expected = np.dtype(spec.dtype.as_numpy_dtype)
    if array.dtype != expected or not spec.shape.is_compatible_with(array.shape):
        raise ValueError(
            f"draw returned {array.dtype} {array.shape} for {spec.name or 'an array'}; "
            f"expected {expected} {tuple(spec.shape)}"
        )
    return array
