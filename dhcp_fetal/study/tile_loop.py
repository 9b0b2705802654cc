"""Whole volumes tile by tile, as the engine goes through them: what `inference` is measured by."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple
from dhcp_fetal.tiles import Prediction, as_weights, box, cut_segment, pad_case

Apply = Callable[[list[np.ndarray]], np.ndarray]
"""Batches of segments and of contexts -> probabilities (batch, x, y, z, classes)."""


def make_apply(model: keras.Model) -> Apply:
    """Return a function that runs a model on batches of one shape, compiled at its first call."""

    @tf.function(reduce_retracing=True, autograph=False)
    def run(inputs):
        return model(inputs if len(inputs) > 1 else inputs[0], training=False)

    return lambda batch: run([tf.convert_to_tensor(part) for part in batch]).numpy()


def window_starts(size: int, window: int, stride: int) -> tuple[int, ...]:
    """Return the starts of windows along an axis: 0, stride, 2 stride, ..., then size - window."""
    if window < 1 or stride < 1:
        raise ValueError(f"window {window} and stride {stride} must be at least 1")
    if window > size:
        raise ValueError(f"a window of {window} voxels does not fit into {size} voxels")
    return (*range(0, size - window, stride), size - window)


def tile_corners(
    shape: Sequence[int], segment: Triple, stride: Triple, *, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return where the engine puts its tiles, (tiles, 3) low corners, x fastest and z slowest.

    Tiles lie a stride apart; the last of an axis is pushed back to end with the image. [G5] The
    outcome depends on this grid. Tiles whose whole input has no voxel of the mask are left out.
    Source: sampling.py, `get_slice_coords_of_all_img_tiles`; specification 7.
    """
    starts = [window_starts(*axis) for axis in zip(shape, segment, stride, strict=True)]
    grids = np.meshgrid(*starts, indexing="ij")
    corners = np.stack([grid.ravel(order="F") for grid in grids], axis=-1)
    if mask is None:
        return corners
    kept = [mask[box(corner, segment)].any() for corner in corners]
    return corners[np.asarray(kept, dtype=bool)]


def fill_batches(corners: np.ndarray, batch_size: int) -> np.ndarray:
    """Repeat the last tile until their number is a multiple of the batch."""
    missing = -len(corners) % batch_size
    return np.concatenate([corners, np.repeat(corners[-1:], missing, axis=0)])


def predict_volume(
    apply: Apply, image: np.ndarray, config: Config, *, mask: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:  # fmt: skip
    """Segment a whole normalised volume (x, y, z, channels) tile by tile.

    Beside the padded image and the result, one batch is held. Later tiles overwrite earlier ones.
    `apply` is from `make_apply`; the mask (x, y, z) is the region of interest, None the whole.
    Source: testing.py, `inference_on_whole_volumes`; specification 7.
    """
    segment = config.inference_segment
    case = pad_case(image, config, segment=segment, mask=mask)
    predicted = geometry.output_size(config, segment)
    probabilities = np.zeros((*image.shape[:3], config.classes), dtype=np.float32)
    margin = [low for low, _ in geometry.margins(config, segment)]
    # Where, in the image, the output of the tile at the padded image's corner begins.
    shift = [low - before for low, (before, _) in zip(margin, case.pads, strict=True)]
    corners = tile_corners(case.image.shape[:3], segment, predicted, mask=case.mask)
    if case.mask is not None:
        # The engine predicts these too, and multiplies all of it by 0.
        kept = [case.mask[box(corner + margin, predicted)].any() for corner in corners]
        corners = corners[np.asarray(kept, dtype=bool)]
    size = config.inference_batch_size
    for first in range(0, len(corners), size):
        chosen = fill_batches(corners[first : first + size], size)
        tiles = [cut_segment(case, corner, segment, config, sampled=False) for corner in chosen]
        outputs = apply([np.stack(parts) for parts in zip(*tiles, strict=True)])
        for corner, output in zip(chosen, outputs, strict=True):
            target = probabilities[box(corner + shift, predicted)]
            # Voxels added beyond a small image's far end have no place in the result.
            target[...] = output[box((0, 0, 0), target.shape[:3])]
        if progress is not None:
            progress(min(first + size, len(corners)), len(corners))
    weight = None
    if case.mask is not None:
        weight = case.mask[box([before for before, _ in case.pads], image.shape[:3])]
    return mask_outputs(probabilities, weight, config)


def mask_outputs(
    probabilities: np.ndarray, weight: np.ndarray | None, config: Config
) -> Prediction:
    """Return labels, and probabilities changed in place, 0 outside a region of interest."""
    labels = np.argmax(probabilities, axis=-1).astype(np.int16)
    if weight is not None:
        weight = as_weights(weight, config)
        labels *= weight
        probabilities *= weight[..., None]
    return Prediction(labels, probabilities)
