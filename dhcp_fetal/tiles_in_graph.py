"""Tiles of a volume as a TensorFlow graph: padded, cut, computed and put together.

[G5] What the engine finds belongs to its tiles, whose work need not be done tile by tile: only what
is seen of one is computed, and the normal pathway, which does not depend on tiles, once for a block
of neighbours. Arrays are (x, y, z, channels), coordinates those of the image unless a name tells.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common.inference.borders import reflect
from common.inference.loops import join_tiles
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple
from dhcp_fetal.piece_network import PieceNetwork, crop
from dhcp_fetal.tiles import context_start


class Padded(NamedTuple):
    """A normalised scan as tiles are cut from it."""

    image: tf.Tensor
    border: tf.Tensor
    """(channels,), what lies outside."""
    before: tuple[int, ...]
    """Voxels that were added in front of each axis."""


class Tiles(NamedTuple):
    """Tiles along one axis, (tiles,) int32 each; or one tile along all, (3,) each."""

    low: tf.Tensor
    """First voxel that each gives."""
    high: tf.Tensor
    """The voxel after its last."""
    start: tf.Tensor
    """Voxel of the padded image at which its input begins."""
    length: tf.Tensor
    """Voxels of its input."""
    skip: tf.Tensor
    """Voxels of its output before the first that it gives."""


def pack(tiles: Tiles) -> tf.Tensor:
    """Return tiles as one tensor (..., 5): a graph with loops grows with every tensor it takes."""
    return tf.stack(tiles, axis=-1)


def unpack(table: tf.Tensor) -> Tiles:
    """Return what `pack` made one tensor of."""
    return Tiles(*tf.unstack(table, num=len(Tiles._fields), axis=-1))


class Needs(NamedTuple):
    """What the fully connected layers need for what tiles give, int32."""

    first: tf.Tensor
    """(..., 3) of what the pathways give for each tile, the first voxel that is needed."""
    last: tf.Tensor
    """(..., 3), the voxel after the last."""
    mirrored: tf.Tensor
    """(layers, ..., 3, 2), voxels to add before and after what enters a layer at a tile's end."""
    residual: tf.Tensor
    """(residual layers, ..., 3), where what is added begins in what entered the layer before."""


Pass = Callable[[list[Tiles]], tf.Tensor]
"""Neighbouring tiles along x, y, z -> what they give, (x, y, z, channels) float32."""


def pad(image: tf.Tensor, config: Config) -> Padded:
    """Reflect a scan and take its border's intensity, as `tiles.pad_case`."""
    segment = config.inference_segment
    margins = geometry.margins(config, segment) if config.pad_inputs else ((0, 0),) * 3
    for axis, (before, after) in enumerate(margins):
        beyond = tf.maximum(after, segment[axis] - tf.shape(image)[axis] - before)
        image = reflect(image, axis, before, beyond)
    corners = [image[x, y, z] for x in (0, -1) for y in (0, -1) for z in (0, -1)]
    border = tf.reduce_mean(tf.cast(tf.stack(corners), tf.float64), axis=0)
    return Padded(image, tf.cast(border, tf.float32), tuple(low for low, _ in margins))


def is_divisible(config: Config) -> bool:
    """Return whether boxes of a tile can be computed alone: no pathway is padded at its border."""
    padding = (*config.padding, *config.context_padding)
    odd = all(edge % 2 for kernel in config.fc_kernels for edge in kernel)
    return odd and all(mode == "valid" for mode in padding)


def predict_tiles(
    compute: Pass, axes: Sequence[Tiles], wanted: tf.Tensor, *, channels: int, per_block: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tf.Tensor:  # fmt: skip
    """Predict a grid of tiles and put together what they give; one block at a time is in memory.

    `compute` is of `whole_pass` or `piece_pass`; along each axis of `axes` tiles begin where the
    one before ends, and `per_block` are computed at once. Blocks without a voxel of `wanted`,
    (x, y, z) bool, are left out and are 0; of others only a box around it is computed. `progress`
    is told the blocks done and all blocks; it is Python, so a graph with it cannot be exported.
    """
    sizes = [block_sizes(axis, per_block) for axis in axes]
    tables = [pack(axis) for axis in axes]

    def predict_block(*numbers):
        block = [
            unpack(table[number * per_block : (number + 1) * per_block])
            for table, number in zip(tables, numbers, strict=True)
        ]

        def compute_box(low, high):
            spans = zip(block, tf.unstack(low), tf.unstack(high), strict=True)
            return compute([without_empty(narrow(*span)) for span in spans])

        corner = tf.stack([axis.low[0] for axis in block])
        end = tf.stack([axis.high[-1] for axis in block])
        found = where_wanted(compute_box, corner, end, wanted, channels=channels)
        if progress is not None:
            _, rows, columns = counts = [tf.size(axis) for axis in sizes]
            done = (numbers[0] * rows + numbers[1]) * columns + numbers[2] + 1
            with tf.control_dependencies([found]):
                told = tf.py_function(progress, [done, tf.reduce_prod(counts)], [])
            with tf.control_dependencies([told]):
                found = tf.identity(found)
        return found

    return join_tiles(predict_block, sizes, channels=channels)


def block_sizes(tiles: Tiles, per_block: int) -> tf.Tensor:
    """Return the voxels that each block of neighbouring tiles gives."""
    last = tf.minimum(tf.range(tf.size(tiles.low), delta=per_block) + per_block, tf.size(tiles.low))
    return tf.gather(tiles.high, last - 1) - tiles.low[::per_block]


def where_wanted(
    compute: Callable, corner: tf.Tensor, end: tf.Tensor, wanted: tf.Tensor, *, channels: int
) -> tf.Tensor:
    """Compute of a box of the image the smaller box around what is wanted; around it are zeros.

    `compute`, first voxel and voxel after the last, (3,) each as the box's own `corner` and `end`,
    gives what lies between.
    """
    size = end - corner
    looked_at = tf.slice(wanted, corner, size)

    def box():
        inside = tf.cast(tf.where(looked_at), tf.int32)
        low, high = tf.reduce_min(inside, axis=0), tf.reduce_max(inside, axis=0) + 1
        around = tf.stack([low, size - high], axis=1)
        return tf.pad(compute(corner + low, corner + high), tf.pad(around, [[0, 1], [0, 0]]))

    def nothing():
        return tf.zeros(tf.concat([size, [channels]], axis=0))

    return tf.cond(tf.reduce_any(looked_at), box, nothing)


def narrow(tiles: Tiles, low: tf.Tensor, high: tf.Tensor) -> Tiles:
    """Let tiles give nothing before voxel low and nothing from voxel high on."""
    first, last = tf.maximum(tiles.low, low), tf.minimum(tiles.high, high)
    return tiles._replace(low=first, high=last, skip=tiles.skip + first - tiles.low)


def without_empty(tiles: Tiles) -> Tiles:
    """Leave out the tiles along one axis that give nothing."""
    return unpack(tf.gather(pack(tiles), tf.where(tiles.low < tiles.high)[:, 0]))


def whole_pass(apply: Callable, padded: Padded, config: Config) -> Pass:
    """Return the pass through whole tiles, padding within the network included; a tile at a time.

    `apply` takes a segment and its contexts, in batches of one, to (1, x, y, z, channels).
    """

    def compute(block):
        tile = [Tiles(*(part[0] for part in axis)) for axis in block]
        start, length = [axis.start for axis in tile], [axis.length for axis in tile]
        parts = [cut(padded, start, length)]
        parts += [cut_context(padded, start, length, f, config) for f in config.context_factors]
        found = apply([part[tf.newaxis] for part in parts])[0]
        size = [axis.high - axis.low for axis in tile]
        return tf.slice(found, [*(axis.skip for axis in tile), 0], [*size, -1])

    return compute


def piece_pass(network: PieceNetwork, padded: Padded, wanted: tf.Tensor, config: Config) -> Pass:
    """Return the pass that computes of each tile what is wanted; `is_divisible` must hold."""
    field = geometry.receptive_field(config.kernels)
    reach = [edge - 1 for edge in field]

    def compute(block):
        tables = [pack(axis) for axis in block]
        ends = unpack(tf.stack([[table[end] for table in tables] for end in (0, -1)]))
        needs = find_needs(ends, config)
        begin, end = ends.start[0] + needs.first[0], ends.start[1] + needs.last[1]
        shared = network.pathways[0](cut(padded, begin, end - begin + reach)[tf.newaxis])

        def compute_tile(tile):
            needs = find_needs(tile, config)
            first, last = needs.first, needs.last
            features, offsets = [crop(shared, tile.start + first - begin, last - first)], []
            for pathway, factor in zip(network.pathways[1:], config.context_factors, strict=True):
                start, length = tf.unstack(tile.start), tf.unstack(tile.length)
                context = cut_context(padded, start, length, factor, config)[tf.newaxis]
                low, high = first // factor, -(-last // factor)
                features.append(pathway(crop(context, low, high - low + reach)))
                offsets.append(first - low * factor)
            dropped = tf.stack(offsets) if offsets else tf.zeros((0, 3), tf.int32)
            return network.join(features, dropped, needs.mirrored, needs.residual)[0]

        def predict_tile(*numbers):
            numbered = zip(tables, numbers, strict=True)
            tile = unpack(tf.stack([table[number] for table, number in numbered]))
            return where_wanted(
                lambda low, high: compute_tile(narrow(tile, low, high)),
                tile.low, tile.high, wanted, channels=config.classes,
            )  # fmt: skip

        sizes = [axis.high - axis.low for axis in block]
        return join_tiles(predict_tile, sizes, channels=config.classes)

    return compute


def find_needs(tiles: Tiles, config: Config) -> Needs:
    """Walk back through the fully connected layers from what tiles, fields (..., 3), give.

    A mirrored layer needs neighbours on both sides; where the tile ends there are none, and the
    mirror takes their place. A valid one needs kernel - 1 voxels more at the far side. Between the
    voxels of a layer's output and those of what entered it lies the reach of a valid kernel.
    """
    edges = np.array(config.fc_kernels)
    is_valid = [mode == "valid" for mode in config.fc_padding]
    sizes = [tiles.length - np.array(geometry.receptive_field(config.kernels)) + 1]
    for edge, valid in zip(edges, is_valid, strict=True):
        sizes.append(sizes[-1] - (edge - 1) if valid else sizes[-1])
    lows, highs = [tiles.skip], [tiles.skip + tiles.high - tiles.low]
    mirrored = []
    for edge, valid, size in list(zip(edges, is_valid, sizes[:-1], strict=True))[::-1]:
        low, high = (0, edge - 1) if valid else (-(edge // 2), edge // 2)
        low, high = lows[0] + low, highs[0] + high
        lows.insert(0, low if valid else tf.maximum(low, 0))
        highs.insert(0, high if valid else tf.minimum(high, size))
        mirrored.insert(0, tf.stack([lows[0] - low, high - highs[0]], axis=-1))
    residual = [
        lows[layer] - lows[layer - 2]
        + sum(edges[n] // 2 for n in (layer - 2, layer - 1) if is_valid[n])
        for layer in config.fc_residual_layers
    ]  # fmt: skip
    none = tf.zeros(tf.concat([[0], tf.shape(tiles.low)], 0), tf.int32)
    return Needs(lows[0], highs[0], tf.stack(mirrored), tf.stack(residual) if residual else none)


def cut(padded: Padded, start, size, factor: Triple = (1, 1, 1), restart: bool = False):
    """Cut every n-th voxel of a box that may leave the padded image.

    `factor` are the voxels of the image per voxel of the result; `restart` lets the grid start anew
    at voxel 0 where it begins before [G4].
    """
    piece, known = padded.image, tf.ones((1, 1, 1, 1), tf.bool)
    for axis in range(3):
        low, step, limit = start[axis], factor[axis], tf.shape(padded.image)[axis]
        place = tf.range(size[axis])
        index = low + place * step
        if restart:
            skipped = tf.where(low < 0, -low // step, 0)
            index = tf.where(low < 0, (place - skipped) * step, index)
            index = tf.where(index < low + size[axis] * step, index, limit)
        valid = (index >= 0) & (index < limit)
        piece = tf.gather(piece, tf.clip_by_value(index, 0, limit - 1), axis=axis)
        known &= tf.reshape(valid, [-1 if other == axis else 1 for other in range(4)])
    piece = tf.where(known, piece, padded.border)
    return tf.ensure_shape(piece, (None, None, None, padded.image.shape[-1]))


def cut_context(padded: Padded, start, length, factor: Triple, config: Config) -> tf.Tensor:
    """Cut one low-resolution context of a tile, as `tiles.cut_context`."""
    field = geometry.receptive_field(config.kernels)
    low = [
        first + context_start(edge, step, centred=config.centred_context)
        for first, edge, step in zip(start, field, factor, strict=True)
    ]
    size = [
        edge - 1 - (-(voxels - edge + 1) // step)
        for voxels, edge, step in zip(length, field, factor, strict=True)
    ]
    return cut(padded, low, size, factor, restart=not config.align_context_at_border)
