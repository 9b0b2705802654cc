"""Patches of the draft, cut around balanced centres to train on.

Axis order (row, column, slice). Source: commits at 128 x 128 x 16 of branch full_image; ledger R26.
"""

from collections.abc import Sequence

import numpy as np


def draw_centres(label: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the centres of patches: a fair coin decides whether a foreground voxel is one.

    Returns (count, 3) voxel indices; where one of the classes is absent, the other has them all.
    """
    flat = label.ravel()
    foreground = np.flatnonzero(flat)
    centres = np.empty(count, np.int64)
    for index, wanted in enumerate(rng.integers(2, size=count)):
        if not foreground.size or foreground.size == flat.size:
            centres[index] = rng.integers(flat.size)
        elif wanted:
            centres[index] = rng.choice(foreground)
        else:
            # Most voxels are background: a few tries find one.
            candidates = rng.integers(flat.size, size=64)
            background = candidates[flat[candidates] == 0]
            missed = not background.size
            centres[index] = rng.choice(np.flatnonzero(flat == 0)) if missed else background[0]
    return np.stack(np.unravel_index(centres, label.shape), axis=-1)


def cut_patch(array: np.ndarray, centre: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Return the patch from shape // 2 before a voxel on, zero outside the volume."""
    patch = np.zeros((*shape, *array.shape[3:]), array.dtype)
    source, target = [], []
    for middle, edge, size in zip(centre, shape, array.shape, strict=False):
        start = int(middle) - edge // 2
        low, high = max(start, 0), min(start + edge, size)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    patch[tuple(target)] = array[tuple(source)]
    return patch
