"""Tiles: padding a case, cutting segments with their contexts.

Arrays are (x, y, z, channels), x, y, z being the axes of the NIfTI file in its own order; labels
and masks are (x, y, z). Corners and sizes are in voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple
from dhcp_fetal.normalisation import zscore

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PaddedCase:
    """One case as segments are cut from it."""

    image: np.ndarray
    """(x, y, z, channels) float32, padded and normalised."""
    mask: np.ndarray | None
    """(x, y, z) int16 padded region of interest, values other than 0 and 1 kept; or None."""
    border: np.ndarray
    """(channels,) float32: what lies outside the image."""
    pads: Pads
    """Voxels added (before, after) on each axis."""


@dataclass(frozen=True)
class Prediction:
    """What the network says of a whole volume, in the grid of the image."""

    labels: np.ndarray
    """(x, y, z) int16 classes; 0 outside the mask."""
    probabilities: np.ndarray
    """(x, y, z, classes) float32. [G9] All classes, background too, are 0 outside the mask and in
    tiles that were left out."""


def pad_case(
    image: np.ndarray, config: Config, *, segment: Triple, mask: np.ndarray | None = None
) -> PaddedCase:
    """Pad, normalise and find the border's intensity, as the engine does before it cuts.

    Image (x, y, z, channels) of any real dtype; mask (x, y, z) region of interest, or None.
    Source: preprocessing.py of DeepMedic; specification 3.3.
    """
    pads = plan_padding(image.shape[:3], config, segment)
    padded = reflect(image, pads)
    padded_mask = None if mask is None else reflect(as_weights(mask, config), pads)
    # [G29] After padding: mirrored voxels count twice in the mean and the deviation.
    padded = zscore(padded, config, mask=padded_mask)
    border = border_means(padded).astype(np.float32)
    return PaddedCase(padded.astype(np.float32, copy=False), padded_mask, border, pads)


def normalise_as_engine(
    image: np.ndarray, config: Config, *, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return a volume (x, y, z, channels) with the engine's own normalisation, where it is on.

    [G29] Its statistics are those of the padded volume.
    """
    if config.zscore_channels == "none":
        return image
    case = pad_case(image, config, segment=config.inference_segment, mask=mask)
    return case.image[box([before for before, _ in case.pads], image.shape[:3])]


def as_weights(mask: np.ndarray, config: Config) -> np.ndarray:
    """Return what results are multiplied by, int16: 1 wherever a region of interest is not 0.

    [G8] The engine multiplies by the mask's own numbers, rounded, with `multiply_by_mask`.
    """
    return (np.rint(mask) if config.multiply_by_mask else mask != 0).astype(np.int16)


def plan_padding(shape: Sequence[int], config: Config, segment: Triple) -> Pads:
    """Return the voxels to add (before, after) on each axis.

    [G26] Without `pad_inputs` none, so that a margin stays unpredicted. [D6] [G7] An image still
    smaller than the segment grows at the far end; v0.8.4 fails there.
    """
    margins = geometry.margins(config, segment) if config.pad_inputs else ((0, 0),) * 3
    return tuple(
        (before, max(after, length - voxels - before))
        for voxels, length, (before, after) in zip(shape, segment, margins, strict=True)
    )


def reflect(array: np.ndarray, pads: Pads) -> np.ndarray:
    """Reflect the first three axes at their borders, the edge voxels not repeated."""
    if not any(map(any, pads)):
        return array
    return np.pad(array, (*pads, *((0, 0),) * (array.ndim - 3)), mode="reflect")


def border_means(image: np.ndarray) -> np.ndarray:
    """Return each channel's mean over the eight corner voxels, (channels,) float64."""
    corners = [image[place] for place in product((0, -1), repeat=3)]
    return np.mean(corners, axis=0, dtype=np.float64)


def cut_segment(
    case: PaddedCase, corner: Sequence[int], segment: Triple, config: Config, *, sampled: bool
) -> list[np.ndarray]:
    """Cut a segment, given by its low corner in the padded image, and its low-resolution contexts.

    `sampled` is one for training or validation; [D5] [G27] v0.7.0 leaves the far end of their
    contexts at the border's intensity.
    Returns [segment (x, y, z, channels), one context per factor] float32.
    """
    field = geometry.receptive_field(config.kernels)
    contexts = [
        cut_context(
            case.image, corner, segment, field=field, factor=factor, border=case.border,
            centred=config.centred_context, aligned=config.align_context_at_border,
            truncated=sampled and config.compat == "v0.7.0",
        )
        for factor in config.context_factors
    ]  # fmt: skip
    return [case.image[box(corner, segment)], *contexts]


def cut_context(
    image: np.ndarray, corner: Sequence[int], segment: Triple, *, field: Triple, factor: Triple,
    border: np.ndarray, centred: bool = False, aligned: bool = False, truncated: bool = False,
) -> np.ndarray:  # fmt: skip
    """Cut the low-resolution surroundings (x', y', z', channels) of one segment of a padded image.

    [G6] Voxels are taken every `factor` without smoothing; outside the image lies the border's
    intensity (channels,). For `field` and the size see `geometry.context_size`, for the switches
    `Config.centred_context`, `Config.align_context_at_border` and, of `truncated`, `cut_segment`.
    Source: sampling.py, `sampl_subs_segm`; specification 3.4.
    """
    size = geometry.context_size(segment, field, factor)
    context = np.full((*size, image.shape[-1]), border, dtype=image.dtype)
    spans = [
        _context_span(start, length, limit=limit, field=edge, factor=step, centred=centred,
                      aligned=aligned, truncated=truncated)
        for start, length, limit, edge, step in zip(
            corner, size, image.shape[:3], field, factor, strict=True)
    ]  # fmt: skip
    context[tuple(placed for _, placed in spans)] = image[tuple(taken for taken, _ in spans)]
    return context


def context_start(field: int, factor: int, *, centred: bool) -> int:
    """Return where, on one axis, a context begins against the segment it belongs to."""
    if factor % 2:
        back = (factor - 1) // 2 * field - factor // 2
    else:
        back = (factor - 2) // 2 * field + field // 2 - (factor // 2 - 1)
    return (factor - 1) // 2 * centred - back  # [G3]


def _context_span(start, size, *, limit, field, factor, centred, aligned, truncated):
    """Return, for one axis, what is read of the image and where it goes in the context."""
    low = start + context_start(field, factor, centred=centred)
    filled = size
    if truncated:
        filled = field - 1 + -(-(size - field + 1) // factor)  # [D5] [G27]
    high = min(low + filled * factor, limit)
    first, place = low, 0
    if low < 0 and aligned:
        place = -(low // factor)
        first = low + place * factor
    elif low < 0:
        first, place = 0, -low // factor  # [G4] the grid starts anew at voxel 0
    count = max(0, -(-(high - first) // factor))
    return slice(first, max(first, high), factor), slice(place, place + count)


def box(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of a box, given by its low corner."""
    return tuple(slice(int(a), int(a) + int(b)) for a, b in zip(corner, size, strict=True))
