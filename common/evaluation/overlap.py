"""Overlap and volume of one mask and another; `common.evaluation.metrics` says what is undefined.

Numpy alone, so that a prediction that prints its Dice need not load what surfaces take.
"""

from collections.abc import Sequence

import numpy as np

CUBIC_MM_PER_ML = 1000.0


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient 2 |P and R| / (|P| + |R|), without smoothing.

    Args:
        prediction: mask, any shape; every non-zero voxel belongs to it.
        reference: mask of the same shape.

    Returns:
        0 to 1; NaN where both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, reference = as_masks(prediction, reference)
    sizes = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return _quotient(2 * np.count_nonzero(prediction & reference), sizes)


def jaccard(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Jaccard index |P and R| / |P or R|.

    Args:
        prediction: mask, any shape; every non-zero voxel belongs to it.
        reference: mask of the same shape.

    Returns:
        0 to 1; NaN where both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, reference = as_masks(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    return _quotient(np.count_nonzero(prediction & reference), union)


def volume_ml(mask: np.ndarray, *, spacing_mm: Sequence[float]) -> float:
    """Volume of a mask.

    Args:
        mask: any shape; every non-zero voxel belongs to it.
        spacing_mm: voxel size per axis, in the array's axis order.

    Returns:
        Millilitres.

    Raises:
        ValueError: the number of spacings is not the number of axes, or one is not positive.
    """
    voxel_mm3 = float(np.prod(checked_spacing(spacing_mm, np.ndim(mask))))
    return float(np.count_nonzero(mask) * voxel_mm3 / CUBIC_MM_PER_ML)


def relative_volume_difference(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Difference of the volumes as a fraction of the reference's.

    Args:
        prediction: mask, any shape; every non-zero voxel belongs to it.
        reference: mask of the same shape.

    Returns:
        (|P| - |R|) / |R|, negative where the prediction is smaller; NaN if the reference is empty.

    Raises:
        ValueError: the shapes differ.
    """
    prediction, reference = as_masks(prediction, reference)
    size = np.count_nonzero(reference)
    return _quotient(np.count_nonzero(prediction) - size, size)


def as_masks(prediction, reference) -> tuple[np.ndarray, np.ndarray]:
    """Return both as bool arrays; raise `ValueError` if their shapes differ."""
    prediction, reference = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ")
    return prediction, reference


def checked_spacing(spacing_mm: Sequence[float], axes: int) -> tuple[float, ...]:
    """Return a voxel size; raise `ValueError` unless it has a positive value for each axis."""
    spacing = tuple(float(value) for value in spacing_mm)
    if len(spacing) != axes or not all(value > 0 for value in spacing):
        raise ValueError(f"expected {axes} positive spacings in mm, one per axis, found {spacing}")
    return spacing


def _quotient(numerator: int, denominator: int) -> float:
    return float(numerator / denominator) if denominator else np.nan
