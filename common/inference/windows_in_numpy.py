"""Sliding windows over a volume: where they lie, and stitching their outputs by averaging.

Arrays are (Z, Y, X, channels). The windows of a volume form a grid: along every axis they start at
0, stride, 2 stride, ... and the one that reaches the end is pushed back to end with the volume.

Source: DLTK dltk/utils.py, SlidingWindow and sliding_window_segmentation_inference, which hold the
whole volume in double precision; here the sums of a few slices are held at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np


def window_starts(size: int, window: int, stride: int) -> tuple[int, ...]:
    """Starts of the windows along one axis.

    Args:
        size: voxels along the axis.
        window: voxels of a window along the axis.
        stride: voxels between successive starts, except before the last.

    Returns:
        0, stride, 2 stride, ... while the window ends before the axis does, then size - window.

    Raises:
        ValueError: the window is longer than the axis, or one of the numbers is below 1.

    Source: DLTK dltk/utils.py, SlidingWindow.
    """
    if window < 1 or stride < 1:
        raise ValueError(f"window {window} and stride {stride} must be at least 1")
    if window > size:
        raise ValueError(f"a window of {window} voxels does not fit into {size} voxels")
    return (*range(0, size - window, stride), size - window)


def window_corners(
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    *,
    fastest: Literal["last", "first"] = "last",
) -> np.ndarray:
    """Low corners of all windows of a volume, in order.

    Args:
        shape: voxels per axis.
        window: voxels of a window per axis.
        stride: voxels between windows per axis.
        fastest: the axis that varies fastest; DLTK's own order is "first".

    Returns:
        Integer array (number of windows, number of axes).

    Raises:
        ValueError: lengths differ, a window does not fit, or `fastest` is neither word.
    """
    if fastest not in ("last", "first"):
        raise ValueError(f"fastest must be 'last' or 'first', not {fastest!r}")
    starts = [window_starts(*axis) for axis in zip(shape, window, stride, strict=True)]
    if fastest == "first":
        return _product(starts[::-1])[:, ::-1]
    return _product(starts)


def stitch_windows(
    volume,
    apply: Callable[[np.ndarray], np.ndarray],
    *,
    window: Sequence[int],
    stride: Sequence[int],
    batch_size: int,
    output_window: Sequence[int] | None = None,
    count_last_window_twice: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Apply a function to all windows of a volume and average its outputs where they overlap.

    Windows are taken by their start along the first axis, and a slice is handed out as soon as no
    later window touches it. Beside one batch, only as many slices as an output window is deep are
    held, whatever the depth of the volume.

    Args:
        volume: (Z, Y, X, channels), any real dtype; anything with `shape` that can be sliced (an
            array, a memory map).
        apply: (batch_size, *window, channels) float32 -> (batch_size, *output_window, C). The batch
            always has this shape: the last one is filled by repeating a window, the results of the
            repetitions are dropped.
        window: voxels of a window per axis (z, y, x).
        stride: voxels between windows per axis, the same in the volume and in the output.
        batch_size: windows per call of `apply`.
        output_window: voxels of the output per axis, `window` if None. Where it is smaller by d,
            the volume is continued with zeros, d // 2 voxels before it and d - d // 2 after it.
        count_last_window_twice: the last window has twice the weight of the others, as in DLTK,
            whose loop evaluates it twice.
        progress: called after every batch with the windows done and the windows in all.

    Returns:
        Iterator of (first slice, slab), in order and without gaps; slab (n, Y, X, C) float32 is
        final: the mean, taken in float64, over all windows that cover a voxel.

    Raises:
        ValueError: the volume is smaller than the output window, a stride leaves voxels out, or an
            argument has the wrong length or sign (all at the call); `apply` returns another shape
            (at the batch concerned).

    Source: DLTK dltk/utils.py, sliding_window_segmentation_inference.
    """
    output_window = tuple(window if output_window is None else output_window)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len(volume.shape) != len(window) + 1:
        raise ValueError(f"volume of shape {volume.shape} has no channel axis after {window=}")
    margin = np.subtract(window, output_window)
    if (margin < 0).any():
        raise ValueError(f"output window {output_window} is larger than the window {tuple(window)}")
    corners = window_corners(volume.shape[:-1], output_window, stride)
    for axis, length in enumerate(output_window):
        if np.diff(np.unique(corners[:, axis])).max(initial=0) > length:
            raise ValueError(f"a stride of {stride[axis]} leaves out voxels along axis {axis}")
    outputs = _apply_batchwise(
        _WindowReader(volume, tuple(window), margin // 2),
        apply,
        corners=corners,
        batch_size=batch_size,
        output_window=output_window,
        progress=progress,
    )
    sums = _RunningMean(tuple(volume.shape[:-1]), output_window)
    return _accumulate(sums, outputs, last_weight=2 if count_last_window_twice else 1)


def stitch_volume(
    volume,
    apply: Callable[[np.ndarray], np.ndarray],
    *,
    window: Sequence[int],
    stride: Sequence[int],
    batch_size: int,
    output_window: Sequence[int] | None = None,
    count_last_window_twice: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Do as `stitch_windows` and collect the slabs.

    Args:
        volume: see `stitch_windows`, as all others.
        apply: see there.
        window: see there.
        stride: see there.
        batch_size: see there.
        output_window: see there.
        count_last_window_twice: see there.
        progress: see there.

    Returns:
        (Z, Y, X, C) float32.

    Raises:
        ValueError: see there.
    """
    slabs = stitch_windows(
        volume,
        apply,
        window=window,
        stride=stride,
        batch_size=batch_size,
        output_window=output_window,
        count_last_window_twice=count_last_window_twice,
        progress=progress,
    )
    whole = None
    for first, slab in slabs:
        if whole is None:
            whole = np.empty((volume.shape[0], *slab.shape[1:]), dtype=np.float32)
        whole[first : first + len(slab)] = slab
    return whole


def _product(starts: Sequence[Sequence[int]]) -> np.ndarray:
    grids = np.meshgrid(*(np.asarray(axis) for axis in starts), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=-1)


class _WindowReader:
    """Copies windows out of a volume, with zeros where a window reaches outside."""

    def __init__(self, volume, window: tuple[int, ...], before: np.ndarray):
        self.volume = volume
        self.shape = (*window, volume.shape[-1])
        self._window = window
        self._before = before

    def read_into(self, target: np.ndarray, corner: np.ndarray) -> None:
        start = corner - self._before
        low = np.maximum(start, 0)
        high = np.minimum(start + self._window, self.volume.shape[:-1])
        target[...] = 0
        target[_box(low - start, high - start)] = self.volume[_box(low, high)]


def _box(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _apply_batchwise(
    reader: _WindowReader, apply, *, corners, batch_size, output_window, progress
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Yield (corner, output, whether it is the last) window by window."""
    for first in range(0, len(corners), batch_size):
        chosen = corners[first : first + batch_size]
        # A new array each time: a framework may go on using the memory it was given.
        batch = np.empty((batch_size, *reader.shape), dtype=np.float32)
        for target, corner in zip(batch, chosen, strict=False):
            reader.read_into(target, corner)
        batch[len(chosen) :] = batch[len(chosen) - 1]
        outputs = np.asarray(apply(batch))
        if outputs.shape[:-1] != (batch_size, *output_window):
            expected = (batch_size, *output_window, "C")
            raise ValueError(f"apply returned shape {outputs.shape}, expected {expected}")
        done = first + len(chosen)
        for position, (corner, output) in enumerate(
            zip(chosen, outputs, strict=False), start=first
        ):
            yield corner, output, position == len(corners) - 1
        if progress is not None:
            progress(done, len(corners))


def _accumulate(mean: "_RunningMean", outputs, *, last_weight: int):
    for corner, output, is_last in outputs:
        if corner[0] > mean.first_slice:
            yield mean.release(int(corner[0]))
        mean.add(output, corner, weight=last_weight if is_last else 1)
    yield mean.release(mean.shape[0])


class _RunningMean:
    """Float64 sums and counts of the slices that coming windows may still touch."""

    def __init__(self, shape: tuple[int, ...], output_window: tuple[int, ...]):
        self.shape = shape
        self.first_slice = 0
        self._window = output_window
        self._counts = np.zeros((output_window[0], *shape[1:], 1), dtype=np.int32)
        self._sums = None

    def add(self, output: np.ndarray, corner: np.ndarray, *, weight: int) -> None:
        if self._sums is None:
            self._sums = np.zeros((*self._counts.shape[:-1], output.shape[-1]), dtype=np.float64)
        low = corner - (self.first_slice, *(0 for _ in self.shape[1:]))
        box = _box(low, low + self._window)
        self._sums[box] += output if weight == 1 else weight * output.astype(np.float64)
        self._counts[box] += weight

    def release(self, stop: int) -> tuple[int, np.ndarray]:
        """Hand out the slices before `stop` and make room for as many behind them."""
        n, first = stop - self.first_slice, self.first_slice
        slab = np.empty(self._sums[:n].shape, dtype=np.float32)
        np.divide(self._sums[:n], self._counts[:n], out=slab, casting="same_kind")
        for held in (self._sums, self._counts):
            held[: len(held) - n] = held[n:]
            held[len(held) - n :] = 0
        self.first_slice = stop
        return first, slab
