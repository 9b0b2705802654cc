"""Whole volumes through the network, in the engine's tiles or on a lattice.

[G5] The blocks of voxels that share one voxel of context, and the mirror at the border of the first
fully connected layer, begin anew with every tile of the engine. On the lattice blocks keep a phase
for the whole volume and tiles overlap by what the mirror spoils, so that size and place of tiles no
longer matter. Arrays are (x, y, z, channels); whoever predicts comes through `segment`.
"""

from collections.abc import Callable
from dataclasses import replace
from math import lcm

import keras
import numpy as np
import tensorflow as tf

from common.errors import OptionError
from common.inference.compiled import on_arrays
from common.inference.windows import window_starts
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple
from dhcp_fetal.piece_network import PieceNetwork
from dhcp_fetal.tiles import Prediction, as_weights, normalise_as_engine
from dhcp_fetal.tiles_in_graph import (
    Padded,
    Tiles,
    is_divisible,
    pad,
    piece_pass,
    predict_tiles,
    whole_pass,
)

LONGEST_TILE = 32
"""Voxels per axis that a tile on a lattice gives at most: 30 in the fetal network."""
TILES_PER_BLOCK = 2
"""Tiles per axis whose normal pathway is computed at once: 8 take 0.3 GiB in the fetal network, and
its convolutions then compute 1.4 times the voxels that are needed; tile by tile it is twice."""

Progress = Callable[[int, int], None]


def on_volumes(
    network: keras.Model, config: Config, *, progress: Progress | None = None
) -> Callable[..., Prediction]:
    """Return `segment` as a function of arrays: a normalised image, and a mask or None.

    Compiled once for all sizes; later changes of the network's weights are seen.

    Args:
        network: from `build_model(config)`.
        config: uses preparation, network and inference.
        progress: see `segment`.
    Raises:
        OptionError: see `check_lattice`.
    """
    run = on_arrays(graph_of(network, config, progress=progress), *input_specs(config))

    def segment_volume(image: np.ndarray, mask: np.ndarray | None = None) -> Prediction:
        image = normalise_as_engine(image, config, mask=mask)
        region = np.ones(image.shape[:3]) if mask is None else as_weights(mask, config)
        return Prediction(**run(image, region))

    return segment_volume


def graph_of(network: keras.Model, config: Config, *, progress: Progress | None = None) -> Callable:
    """Return `segment` as a TensorFlow function of an image and a mask; see `on_volumes`."""
    check_lattice(config)
    parts = PieceNetwork(network, config)
    return tf.function(
        lambda image, mask: segment(parts, image, mask, config, progress=progress),
        input_signature=input_specs(config),
        autograph=False,
    )


def input_specs(config: Config) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """Return the signatures of an image and of a mask."""
    return (
        tf.TensorSpec((None, None, None, config.input_channels), tf.float32, name="image"),
        tf.TensorSpec((None, None, None), tf.int16, name="mask"),
    )


def segment(
    network: PieceNetwork, image: tf.Tensor, mask: tf.Tensor, config: Config, *,
    longest_tile: int = LONGEST_TILE, progress: Progress | None = None,
) -> dict[str, tf.Tensor]:  # fmt: skip
    """Segment a whole volume as `Config.tiling` says.

    Args:
        network: the network in parts.
        image: (x, y, z, channels) float32, normalised as the network was trained.
        mask: (x, y, z) int16 region of interest, outside which all outputs are 0.
        config: uses preparation, network and inference.
        longest_tile: voxels per axis of a tile on a lattice.
        progress: see `predict_tiles`.
    Returns:
        `labels` (x, y, z) int16, `probabilities` (x, y, z, classes) float32.
    Source: testing.py, `inference_on_whole_volumes`; specification 7.
    """
    wanted = mask > 0
    if config.tiling == "engine":
        found = predict_engine_tiles(network, image, wanted, config, progress=progress)
    else:
        found = predict_lattices(network, image, wanted, config, longest_tile, progress=progress)
    return mask_outputs(found, mask, config)


def mask_outputs(probabilities: tf.Tensor, mask: tf.Tensor, config: Config) -> dict[str, tf.Tensor]:
    """Return labels and probabilities, those outside a region of interest set to 0; see `segment`.

    [G8] The engine multiplies by the mask's values; so does `multiply_by_mask`.
    """
    weight = tf.cast(mask if config.multiply_by_mask else mask > 0, tf.int32)
    labels = tf.argmax(probabilities, axis=-1, output_type=tf.int32) * weight
    probabilities = probabilities * tf.cast(weight, tf.float32)[..., tf.newaxis]
    return {"labels": tf.cast(labels, tf.int16), "probabilities": probabilities}


def predict_engine_tiles(
    network: PieceNetwork, image: tf.Tensor, wanted, config: Config, *, progress=None
) -> tf.Tensor:
    """Return the probabilities that the engine's tiles give; see `segment`."""
    padded = pad(image, config)
    if not is_divisible(config):
        return predict_whole_tiles(
            network.whole, padded, image, wanted, config, channels=config.classes, progress=progress
        )
    compute, axes = piece_pass(network, padded, wanted, config), engine_tiles(padded, image, config)
    found = predict_tiles(
        compute, axes, wanted, channels=config.classes, per_block=TILES_PER_BLOCK, progress=progress
    )
    return surround(found, padded, image, config)


def predict_whole_tiles(
    apply: Callable, padded: Padded, image, wanted, config: Config, *, channels: int, progress=None
) -> tf.Tensor:
    """Return what a function of whole tiles gives for a volume; see `tiles_in_graph.whole_pass`."""
    compute = whole_pass(apply, padded, config)
    axes = engine_tiles(padded, image, config)
    found = predict_tiles(compute, axes, wanted, channels=channels, progress=progress)
    return surround(found, padded, image, config)


def engine_tiles(padded: Padded, image: tf.Tensor, config: Config) -> list[Tiles]:
    """Lay the engine's tiles: a stride apart, the last of an axis pushed back to end with it.

    A later tile writes over an earlier one; what lies beyond a small image's far end nobody sees.
    """
    segment, shape = config.inference_segment, tf.shape(image)
    predicted = geometry.output_size(config, segment)
    margins = geometry.margins(config, segment)
    axes = []
    for axis in range(3):
        size = tf.shape(padded.image)[axis]
        start = window_starts(size, segment[axis], predicted[axis])
        low = start + margins[axis][0] - padded.before[axis]
        ends = tf.concat([low[1:], low[-1:] + predicted[axis]], axis=0)
        high = tf.minimum(ends, shape[axis])
        length, skip = tf.fill(tf.shape(start), segment[axis]), tf.zeros_like(start)
        parts = (low, high, start, length, skip)
        axes.append(Tiles(*(tf.boolean_mask(part, low < shape[axis]) for part in parts)))
    return axes


def surround(found: tf.Tensor, padded: Padded, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Put zeros where no tile of the engine reaches: a margin without `pad_inputs` [G26]."""
    axes = engine_tiles(padded, image, config)
    around = [[axis.low[0], tf.shape(image)[n] - axis.high[-1]] for n, axis in enumerate(axes)]
    return tf.pad(found, [*around, [0, 0]])


def predict_lattices(
    network: PieceNetwork, image: tf.Tensor, wanted, config: Config, longest_tile: int, *,
    progress=None,
) -> tf.Tensor:  # fmt: skip
    """Average the probabilities on one lattice or on several, displaced along the diagonal.

    The image is reflected by the network's reach, as by the engine; beyond that lies its border's
    intensity. Contexts keep their grid at the border, too [G4].
    """
    config = replace(config, align_context_at_border=True)
    padded = pad(image, config)
    if is_divisible(config):
        compute, per_block = piece_pass(network, padded, wanted, config), TILES_PER_BLOCK
    else:
        compute, per_block = whole_pass(network.whole, padded, config), 1
    step, count, total = lattice_step(config), config.lattice_shifts, 0.0
    for number in range(count):
        axes = [
            lattice_tiles(tf.shape(image)[axis], axis, step[axis] * number // count, padded, config,
                          longest_tile)
            for axis in range(3)
        ]  # fmt: skip
        total += predict_tiles(
            compute, axes, wanted, channels=config.classes, per_block=per_block, progress=progress
        )
    return total / count if count > 1 else total


def lattice_tiles(
    size: tf.Tensor, axis: int, shift: int, padded: Padded, config: Config, longest_tile: int
) -> Tiles:
    """Cover one axis of the image, of `size` voxels, by few tiles that begin on a lattice.

    The lattice is moved by `shift` towards low indices; a tile gives at most `longest_tile` voxels
    where a step of the lattice is no longer.
    """
    spoilt, step = spoilt_voxels(config, axis), lattice_step(config)[axis]
    margins = geometry.margins(config, config.inference_segment)[axis]
    longest = max(longest_tile // step, 1) * step
    count = -(-(size + shift) // longest)
    used = -(-(size + shift) // (count * step)) * step
    begin = tf.range(-(-(size + shift) // used)) * used - shift
    low, high = tf.maximum(begin, 0), tf.minimum(begin + used, size)
    start = begin + padded.before[axis] - margins[0] - spoilt
    length = high - begin + 2 * spoilt + sum(margins)
    return Tiles(low, high, start, length, low - begin + spoilt)


def lattice_step(config: Config) -> Triple:
    """Return the voxels per axis after which blocks of all contexts begin together."""
    return tuple(lcm(1, *(factor[axis] for factor in config.context_factors)) for axis in range(3))


def check_lattice(config: Config) -> None:
    """Raise `OptionError` for more lattices than there are places for."""
    most = min(lattice_step(config))
    if config.tiling == "lattice" and not 1 <= config.lattice_shifts <= most:
        raise OptionError(f"--lattice_shifts: found {config.lattice_shifts}, expected 1 to {most}")


def spoilt_voxels(config: Config, axis: int) -> int:
    """Return how far, on one axis, padding inside the network reaches into its output."""

    def reach(kernels, padding):
        pairs = zip(kernels, padding, strict=True)
        return sum(kernel[axis] // 2 for kernel, mode in pairs if mode != "valid")

    context = reach(config.context_kernels, config.context_padding)
    factors = [factor[axis] * context for factor in config.context_factors]
    pathways = max(reach(config.kernels, config.padding), *factors, 0)
    return pathways + reach(config.fc_kernels, config.fc_padding)
