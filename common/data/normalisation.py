"""Intensity normalisation that more than one paper uses.

Statistics are taken in float64: float32 sums over a whole volume lose digits.
"""

import numpy as np


def whiten(image: np.ndarray) -> np.ndarray:
    """Shift and scale an image to zero mean and unit variance over all its voxels.

    Works slice by slice along the first axis, so that only one slice is ever held in float64.

    Args:
        image: any shape with at least one axis and one voxel, any real dtype, scanner units.

    Returns:
        Array of the same shape, float32: (image - mean) / population standard deviation; zeros
        where the image is constant.

    Raises:
        ValueError: the image has no voxel.

    Source: DLTK dltk/io/preprocessing.py, whitening.
    """
    image = np.asarray(image)
    if image.size == 0 or image.ndim == 0:
        raise ValueError(f"cannot whiten an image of shape {image.shape}: it has no voxels")
    whitened = np.zeros(image.shape, dtype=np.float32)
    # Not `deviation == 0`: the mean of equal floats may be off by one rounding, and the quotient
    # of that rounding error and its own standard deviation is 1.
    if image.min() == image.max():
        return whitened
    mean = image.mean(dtype=np.float64)
    squares = sum(np.square(part - mean, dtype=np.float64).sum() for part in image)
    deviation = np.sqrt(squares / image.size)
    for part, target in zip(image, whitened, strict=True):
        target[...] = (part - mean) / deviation
    return whitened
