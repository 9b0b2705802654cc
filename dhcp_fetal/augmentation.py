"""Changes of training data: whole cases turned and scaled, segments shifted, flipped and turned.

Arrays are (x, y, z[, channels]). Whoever calls gives the random generator, so that draws can be
keyed to a place in the training.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from dhcp_fetal.config import Config
from dhcp_fetal.data import Case

PLANES = ((0, 1), (1, 2), (0, 2))
"""xy, yz, xz: the axes of `Config.turn_probabilities`, in the order of drawing."""


def draw_affine(rng, config: Config) -> np.ndarray | None:
    """Draw a rotation with scaling, or None where the case stays as it is.

    Returns (3, 3) float64 M: the image at x becomes the image at M^T (x - c) + c.
    Source: augment_imgs.py of DeepMedic; specification 3.6.
    """
    if not rng.uniform(0.0, 1.0) <= config.affine_probability:
        return None
    angles = [np.deg2rad(rng.uniform(-limit, limit)) for limit in config.affine_rotation_deg]
    scale = rng.uniform(1.0 - config.affine_scaling, 1.0 + config.affine_scaling)
    cosine, sine = np.cos(angles), np.sin(angles)
    first = np.array([[cosine[0], -sine[0], 0], [sine[0], cosine[0], 0], [0, 0, 1]])
    second = np.array([[cosine[1], 0, sine[1]], [0, 1, 0], [-sine[1], 0, cosine[1]]])
    third = np.array([[1, 0, 0], [0, cosine[2], -sine[2]], [0, sine[2], cosine[2]]])
    return scale * third @ (first @ second)


def apply_affine(
    volume: np.ndarray, matrix: np.ndarray, *, order: int, boundary: str, fill: float = 0.0
) -> np.ndarray:
    """Resample one volume (x, y, z) about its centre, which is rounded down to a voxel.

    The boundary is a mode of scipy, or "min" for the image's minimum; shape and dtype stay.
    """
    centre = np.floor(np.array(volume.shape) / 2.0)
    if boundary == "min":
        boundary, fill = "constant", float(volume.min())
    return ndimage.affine_transform(
        volume, matrix.T, offset=centre - centre @ matrix, order=order, mode=boundary, cval=fill
    )


def augment_case(case: Case, config: Config, rng) -> Case:
    """Turn, scale or flip a padded case whole, as the engine does once per subepoch.

    [G19] With `affine_seed` the transform is the same each time. [D11] v0.7.0 flips here and not
    each segment.
    """
    source = rng if config.affine_seed is None else np.random.RandomState(config.affine_seed)
    matrix = draw_affine(source, config)
    if matrix is not None:
        case = _map_case(case, lambda volume, order: apply_affine(
            volume, matrix, order=order, boundary=config.affine_boundary, fill=config.affine_fill
        ), config.affine_orders)  # fmt: skip
    if config.compat == "v0.7.0" and config.flip_probabilities is not None:
        axes = [axis for axis in range(3) if rng.uniform() < config.flip_probabilities[axis]]
        if axes:
            case = _map_case(case, lambda volume, order: np.flip(volume, axes), (0, 0, 0, 0))
    return case


def _map_case(case: Case, change, orders: Sequence[int]) -> Case:
    """Change every volume of a case; `change` takes a volume and its order of interpolation."""
    image = np.empty_like(case.image)
    for channel in range(image.shape[-1]):
        # A copy: scipy takes a third longer for voxels that do not lie side by side.
        image[..., channel] = change(case.image[..., channel].copy(), orders[0])
    labels, mask, maps = case.labels, case.mask, case.weight_maps
    if labels is not None and mask is not None and orders[1] == orders[2] == 0:
        # Nearest neighbours of both in one pass.
        packed = change(mask.astype(np.int32) * 256 + labels, 0)
        labels, mask = (packed & 255).astype(labels.dtype), (packed >> 8).astype(mask.dtype)
    else:
        labels = None if labels is None else change(labels, orders[1])
        mask = None if mask is None else change(mask, orders[2])
    maps = None if maps is None else np.stack([change(m, orders[3]) for m in maps])
    return replace(case, image=image, labels=labels, mask=mask, weight_maps=maps)


def augment_segment(
    parts: list[np.ndarray], labels: np.ndarray, config: Config, rng
) -> tuple[list[np.ndarray], np.ndarray]:
    """Change one segment, its contexts and its labels: intensity, flips, quarter turns.

    Parts are [segment, context, ...] (x, y, z, channels), labels (x, y, z). [D11] v0.7.0: no flips.
    """
    parts = _change_intensity(parts, config, rng)
    if config.flip_probabilities is not None and config.compat != "v0.7.0":
        axes = [axis for axis in range(3) if rng.uniform() < config.flip_probabilities[axis]]
        parts = [np.flip(part, axes) for part in parts]
        labels = np.flip(labels, axes)
    for plane, weights in zip(PLANES, config.turn_probabilities or (), strict=False):
        total = sum(weights)
        if total > 0:
            turns = int(rng.choice(4, p=np.array(weights) / total))
            parts = [np.rot90(part, turns, plane) for part in parts]
            labels = np.rot90(labels, turns, plane)
    return parts, labels


def _change_intensity(parts: list[np.ndarray], config: Config, rng) -> list[np.ndarray]:
    """(x + shift) * scale, one draw per channel for the segment and all its contexts."""
    if config.intensity_shift is None and config.intensity_scale is None:
        return parts
    channels = parts[0].shape[-1]
    shift = _draw_normal(config.intensity_shift, 0.0, channels, rng)
    scale = _draw_normal(config.intensity_scale, 1.0, channels, rng)
    shift, scale = shift.astype(np.float32), scale.astype(np.float32)
    changed = [np.empty(part.shape, np.result_type(part, np.float32)) for part in parts]
    for part, target in zip(parts, changed, strict=True):
        # Channel by channel: numpy's loop over the last axis, of two or so, would cost more.
        for channel in range(channels):
            np.add(part[..., channel], shift[channel], out=target[..., channel])
            target[..., channel] *= scale[channel]
    return changed


def _draw_normal(mean_std, default: float, channels: int, rng) -> np.ndarray:
    if mean_std is None:
        return np.full(channels, default)
    mean, deviation = mean_std
    return rng.normal(mean, deviation, channels) if deviation > 0 else np.full(channels, mean)
