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
from dhcp_fetal.piece_network import PieceNetwork, make_apply
from dhcp_fetal.pieces import (
    TILES_PER_BLOCK,
    Piece,
    bounding_box,
    compute_pieces,
    compute_tiles,
    is_divisible,
    predict_in_pieces,
)
from dhcp_fetal.tiles import (
    Apply,
    PaddedCase,
    Prediction,
    border_means,
    mask_outputs,
    pad_case,
    predict_volume,
)

__all__ = ["PieceNetwork", "lattice_step", "make_apply", "segment_volume"]

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
        apply: a `PieceNetwork`, or what `tiles.make_apply` returns, which computes whole tiles.
        image: (x, y, z, channels), normalised as the network was trained.
        config: uses preparation, network and inference.
        mask: (x, y, z) region of interest; outside it all outputs are 0. None: the whole volume.
        progress: called after every batch with the tiles done and the tiles in all.
    Returns:
        `Prediction` in the grid of the image.
    """
    divided = isinstance(apply, PieceNetwork) and is_divisible(config)
    if config.tiling == "engine":
        predict = predict_in_pieces if divided else predict_volume
        return predict(apply, image, config, mask=mask, progress=progress)
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
    margin = [low for low, _ in geometry.margins(config, segment)]
    case, extra = _widen(case, segment, stride)
    # From a voxel of the image to the corner of the tile that predicts it first.
    back = np.add(before, extra) - margin
    pieces = [
        piece
        for shift in _shifts(config)
        for piece in _plan_pieces(image.shape[:3], stride, shift, wanted, back, spoilt)
    ]
    divided = isinstance(apply, PieceNetwork) and is_divisible(config)
    compute = compute_pieces if divided else compute_tiles
    computed = compute(apply, case, pieces, config, segment=segment)
    for done, (piece, found) in enumerate(computed, start=1):
        low = [
            c - b + first for c, b, (first, _) in zip(piece.corner, back, piece.seen, strict=True)
        ]
        sums[_box(low, found.shape[:3])] += found
        if progress is not None:
            progress(done, len(pieces))
    sums /= config.lattice_shifts
    return mask_outputs(sums, mask, config)


def _shifts(config: Config) -> list[Triple]:
    """Return how far each lattice is moved towards low indices; equally spaced on the diagonal."""
    step, count = lattice_step(config), config.lattice_shifts
    return [tuple(edge * number // count for edge in step) for number in range(count)]


def _plan_pieces(shape, stride: Triple, shift: Triple, wanted, back, spoilt) -> list[Piece]:
    """Return what is used of each tile of one lattice, those of a block one after the other.

    Args:
        shape: (x, y, z) of the image.
        stride: voxels used of a tile.
        shift: how far the lattice is moved towards low indices.
        wanted: (x, y, z) bool, voxels that are looked at; None: all.
        back: what leads from a voxel of the image to the corner of the tile that predicts it first.
        spoilt: voxels of a tile's output before those that are used.
    """
    axes = [enumerate(range(-move, size, edge))
            for size, edge, move in zip(shape, stride, shift, strict=True)]  # fmt: skip
    pieces = []
    for tile in product(*axes):
        numbers, starts = zip(*tile, strict=True)
        place = _clipped(starts, stride, shape)
        box = tuple((0, part.stop - part.start) for part in place)
        if wanted is not None:
            box = bounding_box(wanted[place])
        if box is None:
            continue
        # The first tile of an axis may begin before the image.
        first = [
            part.start - start + s for part, start, s in zip(place, starts, spoilt, strict=True)
        ]
        seen = tuple((a + f, b + f) for (a, b), f in zip(box, first, strict=True))
        corner = tuple(int(n) for n in np.add(starts, back) - spoilt)
        block = (*shift, *(number // TILES_PER_BLOCK for number in numbers))
        pieces.append(Piece(corner, seen, block))
    return sorted(pieces, key=lambda piece: piece.block)


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
