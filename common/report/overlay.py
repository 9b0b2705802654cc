"""One slice with the outlines of reference and prediction on it, as an array."""

import numpy as np

REFERENCE_COLOUR = "#00b4d8"
PREDICTION_COLOUR = "#ff6b35"


def picture_of_overlay(
    image: np.ndarray, reference: np.ndarray | None, prediction: np.ndarray
) -> np.ndarray:
    """Return one slice with both outlines as an RGB picture, for TensorBoard.

    Args:
        image: (rows, columns) intensities.
        reference: (rows, columns) integer labels, or None.
        prediction: (rows, columns) integer labels.

    Returns:
        (rows, columns, 3) uint8.
    """
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    for labels, colour in ((reference, REFERENCE_COLOUR), (prediction, PREDICTION_COLOUR)):
        if labels is not None:
            picture[outline(labels > 0)] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return picture


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a 2-D mask that one outside it is above, below or beside."""
    around = np.pad(mask, 1, constant_values=True)
    rows, columns = around[:, 1:-1], around[1:-1]
    return mask & ~(rows[:-2] & rows[2:] & columns[:, :-2] & columns[:, 2:])
