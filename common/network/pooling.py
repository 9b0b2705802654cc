"""Maximum pooling with one gradient, whatever kernel the framework picks.

Tensors are (batch, z, y, x, channel). Keras' operations alone: the function serves a functional
graph, whose file then loads in plain Keras, as well as a layer's `call`.
"""

from collections.abc import Sequence
from functools import reduce

from keras import ops


def first_max_pool(x, window: Sequence[int], strides: Sequence[int], *, padding: str):
    """Return the maxima of windows; of tied voxels the first in (z, y, x) order gets the gradient.

    TensorFlow's 3-D kernels disagree about ties: its own gives every tied voxel the whole gradient,
    oneDNN's the first one. Its 2-D kernels all take the first, so every slice is pooled by itself
    and the slices are compared, which takes less time than its own 3-D kernel and about that of
    oneDNN's.

    Args:
        x: (batch, z, y, x, channel), z known, any float type.
        window: its size along z, y, x.
        strides: steps between windows along z, y, x.
        padding: "valid", windows that lie in the volume, or "same", one window per stride, those at
            the border reaching out of the volume. What is outside is never a maximum.
    Returns:
        (batch, z', y', x', channel), the dtype of x.
    """
    size, step = _in_plane(window), _in_plane(strides)
    slices = [ops.max_pool(voxels, size, step, padding) for voxels in ops.unstack(x, axis=1)]
    spans = _windows_along(len(slices), window[0], strides[0], padding)
    return ops.stack([reduce(_first_maximum, slices[span]) for span in spans], axis=1)


def _in_plane(sizes: Sequence[int]) -> int | tuple[int, ...]:
    """Return (y, x), as one number where both are the same: a file gives a tuple back as a list,
    which Keras 3.15 cannot take on JAX."""
    return sizes[1] if sizes[1] == sizes[2] else tuple(sizes[1:])


def _first_maximum(first, second):
    """Return the larger of two tensors, voxel by voxel; the gradient of a tie goes to the first."""
    return ops.where(first >= second, first, second)


def _windows_along(size: int, window: int, stride: int, padding: str) -> list[slice]:
    """Return what the windows along one axis hold of it."""
    if padding == "valid":
        return [slice(low, low + window) for low in range(0, size - window + 1, stride)]
    count = -(-size // stride)
    before = max((count - 1) * stride + window - size, 0) // 2
    lows = (number * stride - before for number in range(count))
    return [slice(max(low, 0), low + window) for low in lows]
