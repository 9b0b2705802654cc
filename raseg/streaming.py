"""The network on volumes whose layers at full resolution do not fit into memory.

Axis order (row, column, slice, channel). At full resolution a layer's output is 0.67 GB, so these
layers run slab by slab along the rows, each slab with as many rows around it as the kernels reach;
the levels below fit into memory at once. The result is the plain pass's up to rounding.
"""

import keras
import tensorflow as tf

from common.inference.loops import one_by_one
from raseg.blocks import Layers, layers_by_name, run_block
from raseg.config import Config

SLAB_ROWS = 128
"""More rows repeat fewer of them at the slabs' borders and take more memory."""


def stream(
    network: keras.Model, image: tf.Tensor, config: Config, *, slab_rows: int = SLAB_ROWS
) -> tf.Tensor:
    """Return the logits of a normalised volume, the layers at full resolution slab by slab.

    Args:
        network: of `build_for_any_size(config)`, without batch statistics.
        image: (rows, columns, slices, channels) float32.
        config: uses filters and top_kernels.
        slab_rows: rows per slab, even.
    Returns:
        (rows, columns, slices, 2) float32.
    """
    layers = layers_by_name(network)
    bottom, top = len(config.filters) - 1, config.filters[0]
    rows = tf.shape(image)[0]
    slabs = -(-rows // slab_rows)

    def slab_of(number):
        """Return the first row of a slab and of what is read of it on the way up, and both ends."""
        low = number * slab_rows
        high = tf.minimum(low + slab_rows, rows)
        return low, high, *widen(low, high, rows, config.top_kernels[1])

    def descend(number, skips, halves):
        low, high, start, stop = slab_of(number)
        first, last = widen(start, stop, rows, config.top_kernels[0])
        x = run_block(layers, ["h0_conv1", "h0_conv2"], image[tf.newaxis, first:last])
        skip = x[:, start - first : stop - first]
        half = layers["down1"](skip[:, low - start : high - start])
        return skips.write(number, skip[0]), halves.write(number, half[0])

    def ascend(number, logits):
        low, high, start, stop = slab_of(number)
        skip = tf.ensure_shape(skips.read(number)[tf.newaxis], (1, None, None, None, top))
        names, half = ["h0_conv3", "h0_conv4", "logits"], below[:, start // 2 : -(-stop // 2)]
        x = run_block(layers, names, half, skip, enlarged_by=f"up{bottom}")
        return (logits.write(number, x[0, low - start : high - start]),)

    skips, halves = one_by_one(slabs, descend, array_of(slabs, top), array_of(slabs, top))
    below = run_below(layers, halves.concat()[tf.newaxis], bottom=bottom)
    (logits,) = one_by_one(slabs, ascend, array_of(slabs, 2))
    return tf.ensure_shape(logits.concat(), (None, None, None, 2))


def array_of(slabs: tf.Tensor, channels: int) -> tf.TensorArray:
    """Return an array for slabs (rows, columns, slices, channels) of any size."""
    return tf.TensorArray(
        tf.float32, size=slabs, infer_shape=False, element_shape=(None, None, None, channels)
    )


def widen(low, high, rows, kernel: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Add to the rows from `low` up to `high` those that two convolutions reach beyond them.

    Where `low` is even, the first row is, so that halves of rows fit.
    """
    reach = 2 * (kernel // 2)
    return tf.maximum(low - reach, 0), tf.minimum(high + reach, rows)


def run_below(layers: Layers, x: tf.Tensor, *, bottom: int) -> tf.Tensor:
    """Run the levels below full resolution on the input of level 1.

    With slices first, the innermost axis of the deep levels is long enough for the convolution
    kernels: 64 columns instead of 3 slices.
    """
    x = run_level(layers, tf.transpose(x, (0, 3, 1, 2, 4)), level=1, bottom=bottom)
    return tf.transpose(x, (0, 2, 3, 1, 4))


def run_level(layers: Layers, x: tf.Tensor, *, level: int, bottom: int) -> tf.Tensor:
    """Run one level and all below it on (1, slices, rows, columns, channels)."""
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
    shape = tf.concat([[1], 2 * tf.shape(x)[1:-1], [layer.filters]], axis=0)
    x = tf.nn.conv3d_transpose(x, kernel, shape, (1, 2, 2, 2, 1), "SAME")
    x = tf.ensure_shape(x, (1, None, None, None, layer.filters))
    x = x[:, : skip_shape[1], : skip_shape[2], : skip_shape[3]]
    return tf.nn.relu(x + layer.bias)
