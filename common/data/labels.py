"""Labels and masks of any stored type: integers are checked, what is not zero is inside."""

from collections.abc import Sequence

import numpy as np

from common.errors import DataError, OptionError

ROUNDING = 1e-3
"""How far a stored label may be from the integer it means. Scale factors and resampling leave
0.99999988 for 1; anything further off is not a label."""
LARGEST = np.iinfo(np.int32).max
MOST_CLASSES = 256


def integer_labels(
    array: np.ndarray, name: str, *, least: int = -LARGEST, most: int = LARGEST
) -> np.ndarray:
    """Return labels as integers.

    Args:
        array: any shape and real dtype.
        name: of the file, for the message.
        least, most: limits of the labels.

    Returns:
        The array itself if it holds integers; booleans as uint8, else rounded as int32.

    Raises:
        DataError: a value is not within `ROUNDING` of an integer (NaN never is), or beyond the
            limits.
    """
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            nearest = np.rint(array)
            wrong = array[~(np.abs(array - nearest) < ROUNDING)]
        if wrong.size:
            raise DataError(f"{name}: found the label value {wrong[0]}; expected integer ids")
        array = nearest
    for value in (array.min(), array.max()):
        if not least <= value <= most:
            raise DataError(f"{name}: found the label {int(value)}; expected {_range(least, most)}")
    return array.astype(np.int32) if array.dtype.kind == "f" else array


def inside(array: np.ndarray, name: str) -> np.ndarray:
    """Return where a mask or region of interest is: wherever it is not zero.

    Args:
        array: any shape and real dtype: 0 and 1, 0 and 255, 0 and 0.5.
        name: of the file, for the message.

    Returns:
        bool, of the same shape. Of floats, what is below `ROUNDING` of the largest value counts as
        zero: resampling leaves such traces.

    Raises:
        DataError: a value is NaN or infinite.
    """
    if array.dtype.kind != "f":
        return array != 0
    if not np.isfinite(array).all():
        raise DataError(f"{name}: found NaN or infinite voxels in a mask; expected finite values")
    size = np.abs(array)
    return size > ROUNDING * size.max()


def join_labels(labels: np.ndarray, label_ids: Sequence[int | Sequence[int]]) -> np.ndarray:
    """Turn the ids of a label file into class numbers, uint8 of the same shape.

    Args:
        labels: any shape, integer ids.
        label_ids: one entry per class: an id, or several ids that are one class. A voxel's class is
            the position of its id, 0 where it is in none of them.

    Raises:
        OptionError: there are fewer than two classes, more than 256, or an id is in two classes.
    """
    groups = [entry if isinstance(entry, tuple | list) else (entry,) for entry in label_ids]
    ids = [number for group in groups for number in group]
    if not 2 <= len(groups) <= MOST_CLASSES or len(set(ids)) < len(ids):
        raise OptionError(
            f"label_ids: found {label_ids}; expected an entry for each of 2 to {MOST_CLASSES} "
            "classes, no id twice"
        )
    classes = np.zeros(labels.shape, np.uint8)
    for index, group in enumerate(groups[1:], start=1):
        for number in group:
            classes[labels == number] = index
    return classes


def check_classes(labels: np.ndarray, name: str, count: int) -> None:
    """Raise `DataError` for class numbers (integers from 0) beyond the `count` of a network."""
    if labels.max() >= count:
        raise DataError(
            f"{name}: found the class {labels.max()}, expected 0 to {count - 1} (--classes {count})"
        )


def _range(least: int, most: int) -> str:
    if most == LARGEST:
        return f"labels from {least}" if least == 0 else "integer ids of 32 bits"
    return f"{least} and {most}" if most - least == 1 else f"{least} to {most}"
