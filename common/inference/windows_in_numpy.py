"""Where windows over a volume lie, for sizes that are known before anything is computed.

`common.inference.windows` has the same as a graph, with the stitching of their outputs.
"""

from collections.abc import Sequence

import numpy as np


def window_starts(size: int, window: int, stride: int) -> tuple[int, ...]:
    """Return the starts of windows along an axis: 0, stride, 2 stride, ..., then size - window.

    Args:
        size: voxels along the axis.
        window: voxels of a window along the axis.
        stride: voxels between successive starts, except before the last.

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
    shape: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> np.ndarray:
    """Return the low corners of all windows, (windows, axes); the first axis varies fastest."""
    starts = [window_starts(*axis) for axis in zip(shape, window, stride, strict=True)]
    grids = np.meshgrid(*starts, indexing="ij")
    return np.stack([grid.ravel(order="F") for grid in grids], axis=-1)
