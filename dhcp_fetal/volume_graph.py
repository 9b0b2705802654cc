"""Whole volumes as a TensorFlow graph, in the engine's tiles or on a lattice, as configured.

What `dhcp_fetal.inference` does in numpy: reflection, contexts with the border's intensity, one
network pass a tile. On a lattice the outcome does not depend on the tiles' size, so that here they
are larger where the volume is; the last of an axis ends with the volume. Arrays are
(x, y, z, channels), coordinates those of the image unless a name says padded.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import keras
import tensorflow as tf

from common.inference.loops import join_tiles
from common.inference.windows import window_starts
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.inference import PieceNetwork, lattice_step, plan_lattice
from dhcp_fetal.pieces import is_divisible
from dhcp_fetal.tiles import context_start

Pass = Callable[..., tf.Tensor]
"""Corner in the padded image and lengths of a tile's input -> probabilities (x, y, z, classes)."""

LONGEST_TILE = 48
"""Voxels per axis that one pass predicts on a lattice: 45 in the fetal network, whose widest layer
then holds 0.1 GiB."""


class Padded(NamedTuple):
    """A normalised scan as tiles are cut from it."""

    image: tf.Tensor
    border: tf.Tensor
    """(channels,), what lies outside."""
    before: tuple[int, ...]
    """Voxels that were added in front of each axis."""


class Tiles(NamedTuple):
    """The tiles along one axis."""

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


def segment_in_graph(network: keras.Model, image, mask, config: Config) -> tf.Tensor:
    """Return the probabilities (x, y, z, classes) of a scan as a graph of TensorFlow operations.

    Args:
        network: from `build_model(config)`.
        image: (x, y, z, channels) float32, as read.
        mask: (x, y, z) int16, or None. Where a tile sees none of it, the result may be 0.
        config: uses preparation, network and inference.
    """
    shape = tf.shape(image)[:3]
    padded = pad_in_graph(normalise_in_graph(image, mask, config), config)
    wanted = None if mask is None else mask > 0
    if config.tiling == "engine":
        found = tiles_in_graph(network, padded, shape, wanted, config)
    else:
        found = lattices_in_graph(network, padded, shape, wanted, config)
    return tf.ensure_shape(found, (None, None, None, config.classes))


def normalise_in_graph(image, mask, config: Config) -> tf.Tensor:
    """Do as `data.normalise`, statistics in float64."""
    if config.normalisation == "none":
        return image
    counted = tf.ones(tf.shape(image)[:3], tf.bool)
    if mask is not None and config.normalisation == "brain":
        inside = mask > 0
        counted = tf.where(tf.reduce_any(inside), inside, counted)
    channels = []
    for channel in range(config.input_channels):
        values = image[..., channel]
        chosen = tf.cast(tf.boolean_mask(values, counted), tf.float64)
        mean = tf.reduce_mean(chosen)
        deviation = tf.sqrt(tf.reduce_mean(tf.square(chosen - mean)))
        constant = tf.equal(tf.reduce_min(chosen), tf.reduce_max(chosen))
        scaled = tf.math.divide_no_nan(tf.cast(values, tf.float64) - mean, deviation)
        channels.append(tf.where(constant, 0.0, tf.cast(scaled, tf.float32)))
    return tf.stack(channels, axis=-1)


def pad_in_graph(image: tf.Tensor, config: Config) -> Padded:
    """Reflect a scan and take its border's intensity, as `tiles.pad_case`."""
    segment = config.inference_segment
    margins = geometry.margins(config, segment) if config.pad_inputs else ((0, 0),) * 3
    for axis, (before, after) in enumerate(margins):
        beyond = tf.maximum(after, segment[axis] - tf.shape(image)[axis] - before)
        image = _reflect(image, axis, before, beyond)
    corners = [image[x, y, z] for x in (0, -1) for y in (0, -1) for z in (0, -1)]
    border = tf.reduce_mean(tf.cast(tf.stack(corners), tf.float64), axis=0)
    return Padded(image, tf.cast(border, tf.float32), tuple(low for low, _ in margins))


def tiles_in_graph(network, padded: Padded, shape, wanted, config: Config) -> tf.Tensor:
    """Predict in the engine's tiles; the margin that none of them gives is 0 [G26]."""
    segment = config.inference_segment
    predicted = geometry.output_size(config, segment)
    margins = geometry.margins(config, segment)
    axes, around = [], []
    for axis in range(3):
        size = tf.shape(padded.image)[axis]
        start = window_starts(size, segment[axis], predicted[axis])
        low = start + margins[axis][0] - padded.before[axis]
        # A later tile writes over an earlier one; beyond the image nobody looks.
        ends = tf.concat([low[1:], low[-1:] + predicted[axis]], axis=0)
        high = tf.minimum(ends, shape[axis])
        kept = low < shape[axis]  # of a small image the first tile alone
        low, high, start = (tf.boolean_mask(part, kept) for part in (low, high, start))
        length = tf.fill(tf.shape(start), segment[axis])
        axes.append(Tiles(low, high, start, length, tf.zeros_like(start)))
        around.append([low[0], shape[axis] - high[-1]])
    found = predict_tiles(whole_pass(network, padded, config), axes, wanted, config)
    return tf.pad(found, [*around, [0, 0]])


def lattices_in_graph(network, padded: Padded, shape, wanted, config: Config) -> tf.Tensor:
    """Predict on every lattice and average; 0 outside the box around the region."""
    config = replace(config, align_context_at_border=True)
    make = inner_pass if is_divisible(config) else whole_pass
    compute = make(network, padded, config)
    if wanted is None:
        box = tf.zeros_like(shape), shape
        return average_lattices(compute, padded, box, wanted, config)
    something = tf.reduce_any(wanted)
    low, high = bounding_box(wanted)
    low, high = tf.where(something, low, 0), tf.where(something, high, tf.minimum(shape, 1))
    found = average_lattices(compute, padded, (low, high), wanted, config)
    around = tf.stack([low, shape - high], axis=1)
    return tf.pad(found, tf.concat([around, [[0, 0]]], axis=0))


def average_lattices(compute: Pass, padded: Padded, box, wanted, config: Config) -> tf.Tensor:
    """Average the lattices, displaced along the diagonal, within a box (low, high)."""
    step, count = lattice_step(config), config.lattice_shifts
    total = 0.0
    for number in range(count):
        axes = [
            lay_tiles(
                box[0][axis], box[1][axis], axis, step[axis] * number // count, padded, config
            )
            for axis in range(3)
        ]
        total += predict_tiles(compute, axes, wanted, config)
    return total / count if count > 1 else total


def whole_pass(network, padded: Padded, config: Config) -> Pass:
    """Return the network's pass over whole tiles, the mirror at their borders included."""

    def compute(corner, length):
        batch = [part[tf.newaxis] for part in cut_parts(padded, corner, length, config)]
        return network(batch if len(batch) > 1 else batch[0], training=False)[0]

    return compute


def inner_pass(network, padded: Padded, config: Config) -> Pass:
    """Return the pass that gives of a tile what no mirror has touched, and computes no more.

    The fully connected layers take their neighbours from the tile itself; see `pieces`.
    """
    parts = PieceNetwork(network, config)
    reach = [[edge // 2 for edge in kernel] for kernel in config.fc_kernels]
    # What is added to a layer's output lies as far inside of what entered the layer before.
    starts = [[a + b for a, b in zip(reach[layer - 2], reach[layer - 1], strict=True)]
              for layer in config.fc_residual_layers]  # fmt: skip
    starts = tf.constant(starts, tf.int32, (len(starts), 3))
    mirrored = tf.zeros((len(reach), 3, 2), tf.int32)
    offsets = tf.zeros((len(config.context_factors), 3), tf.int32)

    def compute(corner, length):
        inputs = cut_parts(padded, corner, length, config)
        features = [
            pathway(part[tf.newaxis]) for pathway, part in zip(parts.pathways, inputs, strict=True)
        ]
        return parts.join(features, offsets, mirrored, starts)[0]

    return compute


def cut_parts(padded: Padded, corner, length, config: Config) -> list[tf.Tensor]:
    """Cut the input of a tile and its contexts."""
    parts = [cut_in_graph(padded, corner, length, (1, 1, 1))]
    parts += [_context(padded, corner, length, factor, config) for factor in config.context_factors]
    return parts


def lay_tiles(low, high, axis: int, shift: int, padded: Padded, config: Config) -> Tiles:
    """Cover voxels low to high of one axis by few tiles that begin on a lattice.

    Args:
        low: first voxel, scalar tensor.
        high: the voxel after the last.
        axis: of the image.
        shift: how far the lattice is moved towards low indices.
        padded: the image.
        config: uses the network's fields.
    """
    _, stride, spoilt = (part[axis] for part in plan_lattice(config))
    margins = geometry.margins(config, config.inference_segment)[axis]
    step = lattice_step(config)[axis]
    longest = max(LONGEST_TILE // step * step, stride)
    first = (low + shift) // step * step - shift
    count = -(-(high - first) // longest)
    used = -(-(high - first) // (count * step)) * step
    begin = first + tf.range(-(-(high - first) // used)) * used
    ends = tf.minimum(begin + used, high)
    start = begin + padded.before[axis] - margins[0] - spoilt
    length = ends - begin + 2 * spoilt + sum(margins)
    begins = tf.maximum(begin, low)
    mirrored = 0 if is_divisible(config) else spoilt  # see `inner_pass`
    return Tiles(begins, ends, start, length, begins - begin + mirrored)


def predict_tiles(compute: Pass, axes: list[Tiles], wanted, config: Config) -> tf.Tensor:
    """Predict a grid of tiles and put together what they give.

    Args:
        compute: of `whole_pass` or `inner_pass`.
        axes: tiles along x, y, z.
        wanted: (x, y, z) bool; a tile that gives none of it is left out, 0. None: all.
        config: uses `classes`.
    """

    def predict_tile(*numbers):
        tile = [Tiles(*(part[n] for part in axis)) for axis, n in zip(axes, numbers, strict=True)]
        size = [axis.high - axis.low for axis in tile]

        def predict():
            found = compute([a.start for a in tile], [a.length for a in tile])
            return tf.slice(found, [*(a.skip for a in tile), 0], [*size, config.classes])

        if wanted is None:
            return predict()
        looked_at = tf.slice(wanted, [a.low for a in tile], size)
        nothing = tf.zeros([*size, config.classes])
        return tf.cond(tf.reduce_any(looked_at), predict, lambda: nothing)

    counts = [tf.shape(axis.low)[0] for axis in axes]
    return join_tiles(predict_tile, counts, channels=config.classes)


def cut_in_graph(padded: Padded, start, size, factor, restart=(False,) * 3) -> tf.Tensor:
    """Cut every n-th voxel of a box that may leave the padded image.

    Args:
        padded: the image.
        start: first voxel per axis, scalar tensors.
        size: voxels of the result per axis.
        factor: voxels of the image per voxel of the result.
        restart: axes on which the grid starts anew at voxel 0 where it begins before [G4].
    """
    piece, known = padded.image, tf.ones((1, 1, 1, 1), tf.bool)
    for axis in range(3):
        low, step, limit = start[axis], factor[axis], tf.shape(padded.image)[axis]
        place = tf.range(size[axis])
        index = low + place * step
        if restart[axis]:
            skipped = tf.where(low < 0, -low // step, 0)
            again = (place - skipped) * step
            index = tf.where(low < 0, again, index)
            index = tf.where(index < low + size[axis] * step, index, limit)
        valid = (index >= 0) & (index < limit)
        piece = tf.gather(piece, tf.clip_by_value(index, 0, limit - 1), axis=axis)
        known &= tf.reshape(valid, [-1 if other == axis else 1 for other in range(4)])
    piece = tf.where(known, piece, padded.border)
    return tf.ensure_shape(piece, (None, None, None, padded.image.shape[-1]))


def bounding_box(wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first voxel of a region per axis and the voxel after its last."""
    low, high = [], []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        inside = tf.cast(tf.where(tf.reduce_any(wanted, axis=others))[:, 0], tf.int32)
        low.append(tf.reduce_min(inside))
        high.append(tf.reduce_max(inside) + 1)
    return tf.stack(low), tf.stack(high)


def _context(padded: Padded, corner, length, factor, config: Config) -> tf.Tensor:
    """Cut one low-resolution context of a segment, as `tiles.cut_context`."""
    field = geometry.receptive_field(config.kernels)
    start = [
        low + context_start(edge, step, centred=config.centred_context)
        for low, edge, step in zip(corner, field, factor, strict=True)
    ]
    size = [
        edge - 1 - (-(voxels - edge + 1) // step)
        for voxels, edge, step in zip(length, field, factor, strict=True)
    ]
    restart = (not config.align_context_at_border,) * 3
    return cut_in_graph(padded, start, size, factor, restart)


def _reflect(x, axis: int, before, after):
    """Reflect one axis by any number of voxels, as numpy does."""
    size = tf.shape(x)[axis]
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(tf.range(-before, size + after), period)
    return tf.gather(x, tf.where(index < size, index, period - index), axis=axis)
