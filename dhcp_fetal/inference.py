"""Whole volumes through the network, in the engine's tiles or on a lattice.

[G5] In the engine's tiles two things begin anew with every tile: the blocks of voxels that share
one voxel of context, and the mirror at the border of the first fully connected layer. On the
lattice the blocks keep one phase for the whole volume and tiles overlap by what the mirror spoils,
so that size and place of tiles no longer matter. Arrays are (x, y, z, channels).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from math import lcm

import numpy as np

from common.errors import OptionError
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple
from dhcp_fetal.tiles import (
    Apply,
    PaddedCase,
    Prediction,
    border_means,
    cut_segment,
    fill_batches,
    make_apply,
    mask_outputs,
    pad_case,
    predict_volume,
)

__all__ = ["lattice_step", "make_apply", "segment_volume"]

Progress = Callable[[int, int], None]


def segment_volume(
    apply: Apply,
    image: np.ndarray,
    config: Config,
    *,
    mask: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Segment a whole volume as `Config.tiling` says.

    Args:
        apply: from `make_apply`.
        image: (x, y, z, channels), normalised as the network was trained.
        config: uses preparation, network and inference.
        mask: (x, y, z) region of interest; outside it all outputs are 0. None: the whole volume.
        progress: called after every batch with the tiles done and the tiles in all.
    Returns:
        `Prediction` in the grid of the image.
    """
    if config.tiling == "engine":
        return predict_volume(apply, image, config, mask=mask, progress=progress)
    return predict_on_lattice(apply, image, config, mask=mask, progress=progress)


def lattice_step(config: Config) -> Triple:
    """Return the voxels per axis after which blocks of all contexts begin together."""
    return tuple(lcm(1, *(factor[axis] for factor in config.context_factors)) for axis in range(3))


def plan_lattice(config: Config) -> tuple[Triple, Triple, Triple]:
    """Return segment, stride and the voxels at each border of a tile that are not used.

    The segment is that of the configuration, enlarged until what is used of its output is a whole
    number of lattice steps.
    """
    step = lattice_step(config)
    spoilt = tuple(_spoilt(config, axis) for axis in range(3))
    predicted = geometry.output_size(config, config.inference_segment)
    used = [-(-max(n - 2 * s, 1) // w) * w for n, s, w in zip(predicted, spoilt, step, strict=True)]
    segment = tuple(
        whole + u + 2 * s - n
        for whole, u, s, n in zip(config.inference_segment, used, spoilt, predicted, strict=True)
    )
    return segment, tuple(used), spoilt


def _spoilt(config: Config, axis: int) -> int:
    """Return how far, on one axis, padding inside the network reaches into its output."""

    def reach(kernels, padding):
        pairs = zip(kernels, padding, strict=True)
        return sum(kernel[axis] // 2 for kernel, mode in pairs if mode != "valid")

    context = reach(config.context_kernels, config.context_padding)
    factors = [factor[axis] * context for factor in config.context_factors]
    pathways = max(reach(config.kernels, config.padding), *factors, 0)
    return pathways + reach(config.fc_kernels, config.fc_padding)


def predict_on_lattice(
    apply: Apply,
    image: np.ndarray,
    config: Config,
    *,
    mask: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Segment a volume on one lattice or on several, displaced along the diagonal and averaged.

    The image is reflected by the network's reach, as by the engine; beyond that lies its border's
    intensity. Contexts keep their grid at the border, too [G4].

    Args:
        apply: see `segment_volume`, as all others.
        image: see there.
        config: see there; uses `lattice_shifts`.
        mask: see there.
        progress: see there.
    """
    if not 1 <= config.lattice_shifts <= min(lattice_step(config)):
        raise OptionError(
            f"--lattice_shifts: found {config.lattice_shifts}, expected 1 to "
            f"{min(lattice_step(config))}"
        )
    config = replace(config, align_context_at_border=True)
    segment, stride, spoilt = plan_lattice(config)
    # Padded for the configuration's segment whatever the tile's size: the border must not move.
    case = pad_case(image, config, segment=config.inference_segment, mask=mask)
    before = [low for low, _ in case.pads]
    wanted = None
    if case.mask is not None:
        wanted = case.mask[_box(before, image.shape[:3])] != 0
    sums = np.zeros((*image.shape[:3], config.classes), np.float32)
    jobs = [
        corner
        for shift in _shifts(config)
        for corner in _corners(image.shape[:3], stride, shift)
        if wanted is None or wanted[_clipped(corner, stride, image.shape[:3])].any()
    ]
    margin = [low for low, _ in geometry.margins(config, segment)]
    case, extra = _widen(case, segment, stride)
    size = config.inference_batch_size
    for first in range(0, len(jobs), size):
        chosen = fill_batches(np.array(jobs[first : first + size]), size)
        starts = chosen + np.subtract(np.add(before, extra), np.add(margin, spoilt))
        tiles = [cut_segment(case, corner, segment, config, sampled=False) for corner in starts]
        outputs = apply([np.stack(parts) for parts in zip(*tiles, strict=True)])
        for corner, output in zip(jobs[first : first + size], outputs, strict=False):
            place = _clipped(corner, stride, image.shape[:3])
            source = tuple(
                slice(p.start - c + s, p.stop - c + s)
                for p, c, s in zip(place, corner, spoilt, strict=True)
            )
            sums[place] += output[source]
        if progress is not None:
            progress(min(first + size, len(jobs)), len(jobs))
    sums /= config.lattice_shifts
    return mask_outputs(sums, None if mask is None else np.rint(mask).astype(np.int16), config)


def _shifts(config: Config) -> list[Triple]:
    """Return how far each lattice is moved towards low indices; equally spaced on the diagonal."""
    step, count = lattice_step(config), config.lattice_shifts
    return [tuple(edge * number // count for edge in step) for number in range(count)]


def _corners(shape: Sequence[int], stride: Triple, shift: Triple) -> list[Triple]:
    """Return where, in the image, the used parts of tiles begin; the first may lie before it."""
    starts = [range(-move, size, edge)
              for size, edge, move in zip(shape, stride, shift, strict=True)]  # fmt: skip
    return [(x, y, z) for z, y, x in product(*starts[::-1])]


def _clipped(corner: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(max(c, 0), min(c + n, limit)) for c, n, limit in zip(corner, size, shape, strict=True)
    )


def _widen(case: PaddedCase, segment: Triple, stride: Triple) -> tuple[PaddedCase, Triple]:
    """Surround a padded image by its border's intensity, so that any tile fits in.

    Contexts read the same there, inside the array or beyond it.
    """
    extra = tuple(length + step for length, step in zip(segment, stride, strict=True))
    shape = [n + 2 * e for n, e in zip(case.image.shape[:3], extra, strict=True)]
    image = np.empty((*shape, case.image.shape[-1]), np.float32)
    border = border_means(case.image).astype(np.float32)
    image[...] = border
    image[_box(extra, case.image.shape[:3])] = case.image
    return PaddedCase(image, None, border, case.pads), extra


def _box(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a) + int(b)) for a, b in zip(corner, size, strict=True))
