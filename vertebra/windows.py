"""Windows that may reach outside of a volume: where they overlap, and what they show.

Arrays are (Z, Y, X).
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import label

Box = tuple[slice, ...]


def overlap(shape: Sequence[int], low: Sequence[int], high: Sequence[int]) -> tuple[Box, Box]:
    """Return where a window and a volume overlap, in coordinates of the one and of the other.

    `low` is the window's first voxel, `high` the one after its last; both may lie outside.
    """
    inside, outside = [], []
    for size, first, last in zip(shape, low, high, strict=True):
        begin, end = max(first, 0), min(last, size)
        outside.append(slice(begin, max(begin, end)))
        inside.append(slice(begin - first, max(begin, end) - first))
    return tuple(inside), tuple(outside)


def cut(volume: np.ndarray, low: Sequence[int], high: Sequence[int], dtype=None) -> np.ndarray:
    """Return a window of a volume, zeros where it leaves the volume; arguments as `overlap`."""
    edges = [last - first for first, last in zip(low, high, strict=True)]
    window = np.zeros(edges, dtype or volume.dtype)
    inside, outside = overlap(volume.shape, low, high)
    window[inside] = volume[outside]
    return window


def round_mask(probabilities):
    """Return the mask of probabilities: foreground strictly above one half, as rounding to even."""
    return probabilities > 0.5


def centroid(mask: np.ndarray) -> np.ndarray:
    """Return the centre of mass of a mask that is not empty, (3,) float64."""
    flat = np.flatnonzero(mask)
    return np.array([index.mean(dtype=np.float64) for index in np.unravel_index(flat, mask.shape)])


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected piece of a mask (voxels that touch, also at corners) [V41]."""
    pieces, count = label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
