"""From prepared cases to batches: memory-mapped arrays, keyed random draws, exact restarts.

No batch depends on the one before: it is drawn from its own number, so that a run may begin at any
step. TensorFlow is imported only where batches are made; preparation does without.
"""

import atexit
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import DataError, UserError
from common.files import write_folder_atomically

if TYPE_CHECKING:
    import tensorflow as tf

_draw_failures: deque[UserError] = deque(maxlen=100)
"""TensorFlow turns an exception in a worker into text; the exception itself waits here."""


class CaseArrays(Mapping):
    """Arrays of one prepared case by name, opened as memory maps at every access.

    Nothing is kept open, so that memory does not grow with the number of cases: take what is
    needed and let go. `np.array(arrays["image"][patch])` reads the patch alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        if not path.exists():
            raise KeyError(name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as failure:
            raise DataError(f"{path} is no readable array: {failure}; prepare again") from failure

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self._folder.glob("*.npy")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class PreparedCase:
    """One prepared case in a folder of its own."""

    id: str
    folder: Path

    @property
    def arrays(self) -> CaseArrays:
        """The arrays by name, read-only memory maps, opened when asked for."""
        return CaseArrays(self.folder)


class CaseStore(Mapping):
    """Prepared cases of a folder by id, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __getitem__(self, case_id: str) -> PreparedCase:
        folder = self.folder / case_id
        if case_id.startswith(".") or not folder.is_dir():
            raise KeyError(case_id)
        return PreparedCase(case_id, folder)

    def __iter__(self) -> Iterator[str]:
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return (path.name for path in folders if path.is_dir() and not path.name.startswith("."))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def write_prepared_case(
    folder: Path, case_id: str, arrays: Mapping[str, np.ndarray]
) -> PreparedCase:
    """Write the arrays of one case as <folder>/<case_id>/<name>.npy, all or none of them.

    Args:
        folder: of all prepared cases; made if missing.
        case_id: one path component; an older case of this id is replaced.
        arrays: by name, of any numeric dtype and shape.
    Returns:
        The case as it can now be read.
    Raises:
        DataError: `case_id` cannot be a folder's name, or the disk is full or unwritable.
    """
    if not case_id or case_id.startswith(".") or "/" in case_id or "\0" in case_id:
        raise DataError(f"case id {case_id!r} cannot name a folder; expected no / and no leading .")
    target = Path(folder) / case_id
    with write_folder_atomically(target, replace=True, error=DataError) as unfinished:
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", np.asarray(array), allow_pickle=False)
    return PreparedCase(case_id, target)


def rng_for(seed: int, *key: int) -> np.random.Generator:
    """Return a random generator that depends on nothing but its arguments.

    Args:
        seed: of the run, at least 0.
        key: what is drawn, such as (epoch, index); every entry at least 0.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def make_batches(
    draw: Callable[[int], Any],
    *,
    element_spec: Any,
    batch_size: int,
    first_step: int,
    last_step: int,
    workers: int = 2,
) -> "tf.data.Dataset":
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
        Dataset of `last_step - first_step` batches with a static batch dimension.
    Raises:
        UserError: from `draw`, if the dataset is consumed under `surface_user_errors` (as `fit`
            does).
    """
    import tensorflow as tf

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
        return [
            _checked(array, spec)
            for array, spec in zip(tf.nest.flatten(example), specs, strict=True)
        ]

    @tf.autograph.experimental.do_not_convert
    def draw_tensors(index: "tf.Tensor") -> Any:
        # Under op determinism TensorFlow runs stateful functions one at a time; `draw` has no
        # state, and said so it runs in parallel.
        tensors = tf.numpy_function(
            draw_flat, [index], [spec.dtype for spec in specs], stateful=False
        )
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(element_spec, tensors)

    options = tf.data.Options()
    options.deterministic = True
    # A pool of its own: the global one has a single thread (see `configure_runtime`), which the
    # training step needs.
    options.threading.private_threadpool_size = workers
    options.autotune.enabled = False
    dataset = tf.data.Dataset.range(first_step * batch_size, last_step * batch_size)
    dataset = dataset.map(draw_tensors, num_parallel_calls=workers, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(2)
    return dataset.with_options(options)


@contextmanager
def surface_user_errors() -> Iterator[None]:
    """Raise a `UserError` of a `draw` function as itself, not as TensorFlow's report of it."""
    import tensorflow as tf

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


def _checked(array: Any, spec: "tf.TensorSpec") -> np.ndarray:
    array = np.asarray(array)
    expected = np.dtype(spec.dtype.as_numpy_dtype)
    if array.dtype != expected or not spec.shape.is_compatible_with(array.shape):
        raise ValueError(
            f"draw returned {array.dtype} {array.shape} for {spec.name or 'an array'}; "
            f"expected {expected} {tuple(spec.shape)}"
        )
    return array
