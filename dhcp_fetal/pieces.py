"""The engine's tiles, computed in other pieces than tiles.

[G5] What the engine finds belongs to its tiles: contexts begin anew with each, and the mirror of
the fully connected layers stands at its border. Its work need not be done tile by tile, though. Of
a tile only the box that is seen in the end is computed: within the region of interest, and not
written over by a later tile. And the normal pathway, which knows nothing of tiles, is computed once
for a block of neighbours, whose margins would otherwise be computed again for each of them.

Coordinates are (x, y, z). A box is given on one of two grids: the tile's, whose voxel 0 is the
first that the normal pathway gives for the tile, or the padded image's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np

from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple
from dhcp_fetal.piece_network import PieceNetwork
from dhcp_fetal.tiles import (
    Apply,
    PaddedCase,
    Prediction,
    cut_segment,
    fill_batches,
    mask_outputs,
    pad_case,
    predicted_shift,
    window_starts,
)

Span = tuple[int, int]
Box = tuple[Span, Span, Span]

TILES_PER_BLOCK = 2
"""Tiles per axis whose normal pathway is computed at once: 8 take 0.3 GiB in the fetal network, and
its convolutions then compute 1.4 times the voxels that are needed; tile by tile it is twice."""


@dataclass(frozen=True)
class Piece:
    """What is computed of one tile."""

    corner: Triple
    """Low corner of the tile in the padded image."""
    seen: Box
    """Voxels of the tile's output that are seen in the result."""
    block: tuple[int, ...]
    """Pieces of one block share the normal pathway."""


@dataclass(frozen=True)
class Needs:
    """What the fully connected layers need for a box of their output, layer by layer."""

    regions: tuple[Box, ...]
    """On the tile's grid: entering each layer, and at last the output."""
    mirrored: tuple[tuple[Span, Span, Span], ...]
    """Voxels to add (before, after) in front of each layer, where the tile ends."""


def is_divisible(config: Config) -> bool:
    """Return whether boxes of a tile can be computed alone: no pathway is padded at its border."""
    padding = (*config.padding, *config.context_padding)
    odd = all(edge % 2 for kernel in config.fc_kernels for edge in kernel)
    return odd and all(mode == "valid" for mode in padding)


def predict_in_pieces(
    network: PieceNetwork,
    image: np.ndarray,
    config: Config,
    *,
    mask: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Segment a whole volume as `tiles.predict_volume` does, to rounding, for less work.

    Args:
        network: the network.
        image: see `tiles.predict_volume`, as all others.
        config: see there; `is_divisible` must hold.
        mask: see there.
        progress: see there; it counts pieces.

    Returns:
        `Prediction` in the grid of the image.
    """
    segment = config.inference_segment
    case = pad_case(image, config, segment=segment, mask=mask)
    shift = predicted_shift(case, config, segment)
    probabilities = np.zeros((*image.shape[:3], config.classes), dtype=np.float32)
    pieces = plan_pieces(case, config, limit=image.shape[:3])
    computed = compute_pieces(network, case, pieces, config, segment=segment)
    for done, (piece, found) in enumerate(computed, start=1):
        place = _move(piece.seen, np.add(piece.corner, shift))
        probabilities[_slices(place)] = found
        if progress is not None:
            progress(done, len(pieces))
    weight = None
    if case.mask is not None:
        weight = case.mask[_slices(
            (low, low + n) for (low, _), n in zip(case.pads, image.shape[:3], strict=True)
        )]  # fmt: skip
    return mask_outputs(probabilities, weight, config)


def plan_pieces(case: PaddedCase, config: Config, *, limit: Sequence[int]) -> list[Piece]:
    """Return what must be computed of each tile, the pieces of a block one after the other.

    A later tile writes over an earlier one where the last of an axis is pushed back. What lies
    beyond a small image's far end, or outside the mask, is seen by nobody.

    Args:
        case: the padded image.
        config: uses `inference_segment` and the network's fields.
        limit: (x, y, z) voxels of the image without padding.
    """
    segment = config.inference_segment
    predicted = geometry.output_size(config, segment)
    margin = [low for low, _ in geometry.margins(config, segment)]
    shift = predicted_shift(case, config, segment)
    axes = []
    for axis in range(3):
        starts = window_starts(case.image.shape[axis], segment[axis], predicted[axis])
        ends = [*starts[1:], case.image.shape[axis]]
        axes.append([
            (start, index // TILES_PER_BLOCK,
             min(predicted[axis], end - start, limit[axis] - start - shift[axis]))
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ])  # fmt: skip
    pieces = []
    for tile in product(*axes):
        corner, block, lengths = zip(*tile, strict=True)
        seen = tuple((0, length) for length in lengths)
        if case.mask is not None:
            first = np.add(corner, margin)
            place = [(f, f + n) for f, n in zip(first, lengths, strict=True)]
            seen = bounding_box(case.mask[_slices(place)])
        if seen is not None and min(lengths) > 0:
            pieces.append(Piece(corner, seen, block))
    return sorted(pieces, key=lambda piece: piece.block)


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the smallest box around all voxels other than 0, or None where there is none."""
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (inside,) = np.nonzero(mask.any(axis=others))
        if not len(inside):
            return None
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    return tuple(spans)


def compute_pieces(
    network: PieceNetwork,
    case: PaddedCase,
    pieces: Sequence[Piece],
    config: Config,
    *,
    segment: Triple,
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Yield each piece and its probabilities (x, y, z, classes) float32; one block is held.

    Args:
        network: the network.
        case: the padded image.
        pieces: those of one block follow each other.
        config: uses the network's fields.
        segment: size of the tiles that the pieces belong to.
    """
    reach = [edge - 1 for edge in geometry.receptive_field(config.kernels)]
    for _, block in groupby(pieces, key=lambda piece: piece.block):
        members = [(piece, needed_regions(config, segment, piece.seen)) for piece in block]
        boxes = [_move(needs.regions[0], piece.corner) for piece, needs in members]
        low = np.min([[first for first, _ in box] for box in boxes], axis=0)
        high = np.max([[end for _, end in box] for box in boxes], axis=0)
        source = case.image[_slices(zip(low, high + reach, strict=True))]
        shared = network.pathways[0](source[None])
        for (piece, needs), box in zip(members, boxes, strict=True):
            own = _slices(_move(box, -low))
            contexts = cut_segment(case, piece.corner, segment, config, sampled=False)[1:]
            yield piece, _join(network, shared[(0, *own)], contexts, needs, config)


def compute_tiles(
    apply: Apply,
    case: PaddedCase,
    pieces: Sequence[Piece],
    config: Config,
    *,
    segment: Triple,
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Do as `compute_pieces` with whole tiles, for networks that cannot be divided."""
    size = config.inference_batch_size
    for first in range(0, len(pieces), size):
        chosen = pieces[first : first + size]
        corners = fill_batches(np.array([piece.corner for piece in chosen]), size)
        parts = [cut_segment(case, corner, segment, config, sampled=False) for corner in corners]
        outputs = apply([np.stack(part) for part in zip(*parts, strict=True)])
        for piece, output in zip(chosen, outputs, strict=False):
            yield piece, output[_slices(piece.seen)]


def needed_regions(config: Config, segment: Triple, seen: Box) -> Needs:
    """Walk back through the fully connected layers from a box of their output.

    A mirrored layer needs neighbours on both sides; where the tile ends there are none, and the
    mirror takes their place. A valid one needs kernel - 1 voxels more at the far side.
    """
    size = geometry.shrink(segment, config.kernels, config.padding)
    sizes = [size]
    for kernel, mode in zip(config.fc_kernels, config.fc_padding, strict=True):
        sizes.append(geometry.shrink(sizes[-1], [kernel], [mode]))
    regions, mirrored = [seen], []
    for kernel, mode, size in reversed(
        list(zip(config.fc_kernels, config.fc_padding, sizes, strict=False))
    ):
        region, added = [], []
        for edge, whole, (low, high) in zip(kernel, size, regions[0], strict=True):
            reach = edge // 2
            if mode == "valid":
                region.append((low, high + edge - 1))
                added.append((0, 0))
            else:
                region.append((max(low - reach, 0), min(high + reach, whole)))
                added.append((max(reach - low, 0), max(high + reach - whole, 0)))
        regions.insert(0, tuple(region))
        mirrored.insert(0, tuple(added))
    return Needs(tuple(regions), tuple(mirrored))


def _join(network, normal, contexts, needs: Needs, config: Config) -> np.ndarray:
    """Return the probabilities of one piece from its normal features and its tile's contexts."""
    entering = needs.regions[0]
    features, offsets = [normal[None]], []
    fields = geometry.receptive_field(config.kernels)
    for pathway, context, factor in zip(
        network.pathways[1:], contexts, config.context_factors, strict=True
    ):
        blocks = [(a // f, -(-b // f)) for (a, b), f in zip(entering, factor, strict=True)]
        part = _slices((a, b + edge - 1) for (a, b), edge in zip(blocks, fields, strict=True))
        features.append(pathway(context[part][None]))
        offsets.append([a - first * f for (a, _), (first, _), f
                        in zip(entering, blocks, factor, strict=True)])  # fmt: skip
    centres = [_residual_start(config, layer, needs) for layer in config.fc_residual_layers]
    return network.join(
        features,
        np.array(offsets, np.int32).reshape(-1, 3),
        np.array(needs.mirrored, np.int32),
        np.array(centres, np.int32).reshape(-1, 3),
    )[0].numpy()


def _residual_start(config: Config, layer: int, needs: Needs) -> list[int]:
    """Return where, in what entered the layer before, the voxels of a layer's output begin.

    Twice the reach of valid kernels lies between them, mirrored ones keep the place.
    """
    moved = np.zeros(3, int)
    for index in (layer - 2, layer - 1):
        if config.fc_padding[index] == "valid":
            moved += [edge // 2 for edge in config.fc_kernels[index]]
    earlier, later = needs.regions[layer - 2], needs.regions[layer]
    return [b[0] + m - a[0] for a, b, m in zip(earlier, later, moved, strict=True)]


def _move(box: Box, corner: Sequence[int]) -> Box:
    return tuple((int(a + c), int(b + c)) for (a, b), c in zip(box, corner, strict=True))


def _slices(spans) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in spans)
