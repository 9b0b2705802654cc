"""Whole volumes through the network in bounded memory; every verb that predicts comes through here.

Axis order (row, column, slice, channel). At full resolution a layer's output is 0.67 GB, so these
layers run slab by slab along the rows, each slab with as many rows around it as the kernels reach;
the levels below fit into memory at once. The result is the plain pass's up to rounding.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.network.trained import load_trained
from common.runs.folder import load_config
from raseg.config import CHANNELS, Config
from raseg.data import normalise, prepare_volume
from raseg.model import build_model
from raseg.patches import predict_tiles

STREAMED_VOXELS = 2**20
"""Volumes from this size on are streamed on a CPU; smaller ones are faster in one piece."""
SLAB_ROWS = 128
"""More rows repeat fewer of them at the slabs' borders and take more memory."""


def build_for_any_size(config: Config) -> keras.Model:
    """Build the network for any number of rows, columns and slices."""
    return build_model(config, (None, None, None, len(CHANNELS[config.task])))


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run and hold it to the run's configuration.

    Args:
        run: run folder with `model.keras`, which holds the running means of the weights [R36].
        config: the run's configuration.

    Raises:
        RunError: there is no trained network, it cannot be read, or it is another architecture.
    """
    return load_trained(build_for_any_size(config), run)


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`."""
    config = load_config(run, Config)
    return load_network(run, config), config


def make_predict(network: keras.Model, config: Config) -> Callable[..., np.ndarray]:
    """Return the function that turns a raw volume into logits.

    Args:
        network: of `build_for_any_size(config)`; later changes of its weights are seen.
        config: uses patch_shape, batch_statistics and what `prepare_volume` uses.

    Returns:
        Function of a raw image (rows, columns, slices, channels), and optionally the `name` an
        error calls it, to logits (rows, columns, slices, 2) float32.

    Source: raseg_predict.py; for patches branch full_image, fullconv (each normalised on its own).
    """
    whole = make_whole_pass(network, config)

    def predict(image: np.ndarray, name: str = "the volume") -> np.ndarray:
        if config.patch_shape is None:
            return whole(prepare_volume(image, config, name=name))
        if config.predict_from_stored:
            prepare_volume(image, config, name=name)  # refuses what binaries could not hold
            image = np.trunc(image)
        return predict_tiles(image, config.patch_shape, lambda patch: whole(normalise(patch)))

    return predict


def make_whole_pass(network: keras.Model, config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from a normalised volume to logits that suits its size.

    With batch statistics [R22] every layer needs the moments of the whole volume: one plain pass.
    """
    gpu = bool(tf.config.list_physical_devices("GPU"))
    plain = make_plain_pass(network)
    streamed = None if gpu or config.batch_statistics else make_streamed_pass(network, config)

    def whole(image: np.ndarray) -> np.ndarray:
        large = image.shape[0] * image.shape[1] * image.shape[2] >= STREAMED_VOXELS
        return streamed(image) if streamed and large else plain(image)

    return whole


def make_plain_pass(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return the pass that keeps whole layers, compiled once for all sizes."""

    @tf.function(reduce_retracing=True, jit_compile=False, autograph=False)
    def run(images):
        return network(images, training=False)

    return lambda image: run(tf.constant(image[None])).numpy()[0]


def make_streamed_pass(
    network: keras.Model, config: Config, *, slab_rows: int = SLAB_ROWS
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the pass that runs the full-resolution layers slab by slab.

    Args:
        network: of `build_model(config)`, without batch statistics.
        config: uses filters and top_kernels.
        slab_rows: rows per slab, even.

    Returns:
        Function of a normalised image (rows, columns, slices, channels) float32 to logits.
    """
    layers = {layer.name: layer for layer in network.layers}
    bottom = len(config.filters) - 1
    channels, top = len(CHANNELS[config.task]), config.filters[0]

    @tf.function(input_signature=[any_size(channels)], autograph=False)
    def descend(slab):
        return layers["h0_conv2"](layers["h0_conv1"](slab))

    @tf.function(input_signature=[any_size(top)], autograph=False)
    def halve(slab):
        return layers["down1"](slab)

    @tf.function(input_signature=[any_size(top)], autograph=False)
    def middle(x):
        # With slices first, the innermost axis of the deep levels is long enough for the
        # convolution kernels: 64 columns instead of 3 slices.
        x = tf.transpose(x, (0, 3, 1, 2, 4))
        x = run_level(layers, x, level=1, bottom=bottom)
        return tf.transpose(x, (0, 2, 3, 1, 4))

    @tf.function(input_signature=[any_size(config.filters[1]), any_size(top)], autograph=False)
    def ascend(below, skip):
        size = tf.shape(skip)
        up = layers[f"up{bottom}"](below)[:, : size[1], : size[2], : size[3]]
        x = tf.concat([skip, up], axis=-1)
        return layers["logits"](layers["h0_conv4"](layers["h0_conv3"](x)))

    def run(image: np.ndarray) -> np.ndarray:
        rows = len(image)
        spans = [(low, min(low + slab_rows, rows)) for low in range(0, rows, slab_rows)]
        skip = np.empty((*image.shape[:3], config.filters[0]), np.float32)
        halved = []
        for low, high in spans:
            start, stop, core = widen(low, high, rows, config.top_kernels[0])
            slab = descend(tf.constant(image[None, start:stop]))[:, core]
            skip[low:high] = slab[0].numpy()
            halved.append(halve(slab))
        below = middle(tf.concat(halved, axis=1))
        del halved, slab
        logits = np.empty((*image.shape[:3], 2), np.float32)
        for low, high in spans:
            start, stop, core = widen(low, high, rows, config.top_kernels[1])
            part = ascend(below[:, start // 2 : -(-stop // 2)], tf.constant(skip[None, start:stop]))
            logits[low:high] = part[0, core].numpy()
        return logits

    return run


def any_size(channels: int) -> tf.TensorSpec:
    """Return the signature of one volume; with channels unknown Keras convolves with XLA, which on
    a CPU is ten times slower."""
    return tf.TensorSpec((1, None, None, None, channels), tf.float32)


def widen(low: int, high: int, rows: int, kernel: int) -> tuple[int, int, slice]:
    """Add to a slab the rows that two convolutions reach beyond it.

    Args:
        low, high: first row of the slab (even) and the row after its last.
        rows: of the volume.
        kernel: edge of both kernels.

    Returns:
        First row and the row after the last of the wider slab, and where the slab lies in it. The
        first row is even, so that halves of rows fit.
    """
    reach = 2 * (kernel // 2)
    start, stop = max(low - reach, 0), min(high + reach, rows)
    return start, stop, slice(low - start, high - start)


def run_level(layers: dict, x: tf.Tensor, *, level: int, bottom: int) -> tf.Tensor:
    """Run one level and all below it, slices first.

    Args:
        layers: of the network by name.
        x: (1, slices, rows, columns, channels), the level's input.
        level: number of the level.
        bottom: number of the lowest.

    Returns:
        The level's output.
    """
    for number in (1, 2):
        x = convolve_slices_first(layers[f"h{level}_conv{number}"], x)
    if level == bottom:
        return x
    below = convolve_slices_first(layers[f"down{level + 1}"], x)
    below = run_level(layers, below, level=level + 1, bottom=bottom)
    below = enlarge_slices_first(layers[f"up{bottom - level}"], below, tf.shape(x))
    x = tf.concat([x, below], axis=-1)
    for number in (3, 4):
        x = convolve_slices_first(layers[f"h{level}_conv{number}"], x)
    return x


def convolve_slices_first(layer: keras.layers.Conv3D, x: tf.Tensor) -> tf.Tensor:
    """Apply a convolution and its ReLU to a tensor whose slices are the first spatial axis."""
    kernel = tf.transpose(layer.kernel, (2, 0, 1, 3, 4))
    strides = (1, *layer.strides, 1)
    return tf.nn.relu(tf.nn.conv3d(x, kernel, strides, "SAME") + layer.bias)


def enlarge_slices_first(layer, x: tf.Tensor, skip_shape: tf.Tensor) -> tf.Tensor:
    """Apply a transposed convolution and its ReLU, cut at the end to the skip's size [R16]."""
    kernel = tf.transpose(layer.kernel, (2, 0, 1, 3, 4))
    shape = tf.concat([2 * tf.shape(x)[:-1], [layer.filters]], axis=0)
    shape = tf.concat([[1], shape[1:]], axis=0)
    x = tf.nn.conv3d_transpose(x, kernel, shape, (1, 2, 2, 2, 1), "SAME")
    x = tf.ensure_shape(x, (1, None, None, None, layer.filters))
    x = x[:, : skip_shape[1], : skip_shape[2], : skip_shape[3]]
    return tf.nn.relu(x + layer.bias)
