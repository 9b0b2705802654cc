"""Changes of a training patch: elastic deformation, blur, noise, a stretched crop along z.

Arrays are (Z, Y, X) patches: image, memory, target, weight. The deformation is the original's in
distribution, several times faster: one set of coordinates serves all four arrays, and the Gaussian
filter of its fields is three matrix products.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from vertebra.config import Config

REACH = 4.0
"""Filters are cut off after so many standard deviations (scipy's rule)."""
COLUMNS = 16
"""Lines that are filtered in one product."""
SLAB = 2
"""Slices deformed at a time, so that the working memory stays in the cache."""


@lru_cache(maxsize=8)
def smoothing_matrix(size: int, sigma: float) -> np.ndarray:
    """Return the Gaussian filter of an axis, zeros outside, as a (size, size) float32 matrix."""
    radius = int(REACH * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    inside = np.abs(distance) <= radius
    matrix = np.where(inside, kernel[np.clip(distance + radius, 0, 2 * radius)], 0)
    return matrix.astype(np.float32)


def displacement_fields(
    rng: np.random.Generator, shape: Sequence[int], *, alpha: float, sigma: float
) -> np.ndarray:
    """Draw displacements (3, Z, Y, X) float32 in voxels: filtered uniform noise times alpha [V9].

    The filter is Gaussian with standard deviation sigma, in voxels; a component moves along its
    axis. Source: data/data_augmentation.py, elastic transform.
    """
    noise = rng.random((3, *shape), dtype=np.float32)
    noise -= np.float32(0.5)
    noise *= np.float32(2 * alpha)
    for axis, size in enumerate(shape, start=1):
        noise = filter_axis(noise, smoothing_matrix(size, sigma), axis)
    return noise


def filter_axis(fields: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Multiply a symmetric matrix to one axis of an array, a few columns at a time.

    Small products stay in the calling thread; larger ones occupy all cores, beside a training step.
    """
    size, after = len(matrix), int(np.prod(fields.shape[axis + 1 :]))
    if after == 1:
        few = math.gcd(fields.size // size, COLUMNS)
        return (fields.reshape(-1, few, size) @ matrix).reshape(fields.shape)
    few = math.gcd(after, COLUMNS)
    shape = (-1, size, after // few, few)
    filtered = np.empty_like(fields)
    lines, target = (np.swapaxes(array.reshape(shape), 1, 2) for array in (fields, filtered))
    np.matmul(matrix, lines, out=target)
    return filtered


def deform(arrays: Sequence[np.ndarray], fields: np.ndarray) -> np.ndarray:
    """Sample k arrays (Z, Y, X) at displaced places, trilinear, mirrored at the faces.

    Takes fields (3, Z, Y, X) of `displacement_fields`; returns (k, Z, Y, X) float32.
    """
    shape = fields.shape[1:]
    stacked = np.stack([np.asarray(a, np.float32).ravel() for a in arrays], axis=-1)
    strides = (shape[1] * shape[2], shape[2], 1)
    deformed = np.empty((*shape, len(arrays)), np.float32)
    for first in range(0, shape[0], SLAB):
        slab = slice(first, min(first + SLAB, shape[0]))
        corners = [
            _corners_along(fields[axis, slab], axis, shape[axis], first=first if axis == 0 else 0)
            for axis in range(3)
        ]
        deformed[slab] = _interpolate(stacked, corners, strides)
    return np.moveaxis(deformed, -1, 0)


def _corners_along(field: np.ndarray, axis: int, size: int, *, first: int):
    """Return the two neighbouring indices along an axis and the weight of the second."""
    steps = np.arange(first, first + field.shape[axis], dtype=np.float32)
    place = field + steps.reshape([-1 if a == axis else 1 for a in range(3)])
    low = np.floor(place)
    fraction = place - low
    low = low.astype(np.int32)
    return _mirrored(low, size), _mirrored(low + 1, size), fraction


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Reflect indices at the outer faces of the first and last voxel."""
    if index.min() < -size or index.max() >= 2 * size:  # rare, and a division per voxel
        index = np.mod(index, 2 * size)
    return np.minimum(np.maximum(index, ~index), 2 * size - 1 - index)


def _interpolate(stacked: np.ndarray, corners, strides) -> np.ndarray:
    """Return the weighted sum of the eight voxels around each place."""
    (z, y, x) = [(low * step, high * step) for (low, high, _), step
                 in zip(corners, strides, strict=True)]  # fmt: skip
    shares = [(1 - fraction, fraction) for *_, fraction in corners]
    total = np.zeros((z[0].size, stacked.shape[1]), np.float32)
    for a in (0, 1):
        for b in (0, 1):
            row, share = z[a] + y[b], shares[0][a] * shares[1][b]
            for c in (0, 1):
                values = stacked.take((row + x[c]).ravel(), axis=0)
                values *= (share * shares[2][c]).reshape(-1, 1)
                total += values
    return total.reshape(*z[0].shape, stacked.shape[1])


def blur(image: np.ndarray, config: Config) -> np.ndarray:
    """Blur (Z, Y, X) with a Gaussian of one voxel.

    [V27] With `integer_blur`, integer images are truncated after each axis, which darkens them by
    1.5 on average.
    """
    return gaussian_filter(image if config.integer_blur else image.astype(np.float32), 1)


def stretch_coordinates(kept: int, size: int) -> np.ndarray:
    """Return where in `kept` slices each of `size` slices lies, (size,) float64."""
    return (np.arange(size) + 0.5) * kept / size - 0.5


def stretch_nearest(array: np.ndarray, size: int) -> np.ndarray:
    """Stretch along z by copying the nearest slice."""
    index = np.floor(stretch_coordinates(len(array), size) + 0.5).astype(int)
    return array[np.clip(index, 0, len(array) - 1)]


def stretch_linear(array: np.ndarray, size: int) -> np.ndarray:
    """Stretch along z by linear interpolation; mirrored about the centres of the outer slices.

    Float32 stays float32, all else becomes float64. Source: data/data_augmentation.py (scikit-
    image's resize).
    """
    dtype = np.float32 if array.dtype == np.float32 else np.float64
    last = len(array) - 1
    place = np.abs(stretch_coordinates(len(array), size))
    place = np.where(place > last, 2 * last - place, place)
    low = np.minimum(np.floor(place).astype(int), max(last - 1, 0))
    share = (place - low).astype(dtype)[:, None, None]
    return array[low] * (1 - share) + array[np.minimum(low + 1, last)] * share
