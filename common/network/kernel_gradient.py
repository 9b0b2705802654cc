"""The gradient of large 3-D kernels, plane by plane, where oneDNN has no kernel of its own for it.

Tensors are (batch, z, y, x, channel).
"""

import keras
import tensorflow as tf

from common.runtime import has_avx512, onednn_in_force

LEAST_EDGE = 5
"""Smaller kernels' gradients are faster in one piece: 3 x 3 x 3 takes 0.7 of the time."""


def speed_up_kernel_gradients(network: keras.Model) -> int:
    """Let large kernels be trained plane by plane where that is faster, and return their number.

    Below AVX-512, and with it where a kernel has more planes than its input, oneDNN takes the
    gradient of a 3-D kernel by matrix products: several times as long as the convolution. That of a
    2-D kernel is fast. The gradient is the same up to the order of additions; nothing that is
    stored changes.

    Args:
        network: its convolutions with stride 1 and "same" padding are changed in place.
    """
    if not onednn_in_force() or tf.config.list_physical_devices("GPU"):
        return 0
    slow = [layer for layer in network.layers if _is_large(layer) and _is_slow(layer)]
    for layer in slow:
        layer.convolution_op = conv3d
    return len(slow)


def _is_large(layer: keras.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.Conv3D)
        and min(layer.kernel_size) >= LEAST_EDGE
        and set(layer.strides) == set(layer.dilation_rate) == {1}
        and layer.padding == "same"
        and layer.groups == 1
        and layer.compute_dtype == "float32"
    )


def _is_slow(layer: keras.layers.Conv3D) -> bool:
    planes = layer.input.shape[1]
    return not has_avx512() or (planes is not None and planes < layer.kernel_size[0])


def conv3d(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve float32 by a kernel (z, y, x, channels, filters) of odd edges, stride 1, "same"."""
    return _conv3d(tf.convert_to_tensor(x), tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _conv3d(x: tf.Tensor, kernel: tf.Tensor):
    strides = [1] * 5

    def gradient(upstream):
        of_input = tf.raw_ops.Conv3DBackpropInputV2(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream,
            strides=strides, padding="SAME",
        )  # fmt: skip
        planes = [_plane_gradient(x, upstream, kernel, plane) for plane in range(kernel.shape[0])]
        return of_input, tf.stack(planes)

    return tf.nn.conv3d(x, kernel, strides, "SAME"), gradient


def _plane_gradient(x, upstream, kernel, plane: int) -> tf.Tensor:
    """Return the gradient (y, x, channels, filters) of one plane, a 2-D kernel over all slices."""
    offset, size = plane - kernel.shape[0] // 2, tf.shape(x)[1]
    low, high = max(-offset, 0), tf.minimum(size, size - offset)
    high = tf.maximum(high, low)  # volumes of fewer slices than the kernel reaches

    def as_images(tensor, start):
        part = tensor[:, start : start + high - low]
        return tf.reshape(part, tf.concat([[-1], tf.shape(tensor)[2:]], axis=0))

    return tf.raw_ops.Conv2DBackpropFilter(
        input=as_images(x, low + offset), filter_sizes=kernel.shape[1:],
        out_backprop=as_images(upstream, low), strides=[1] * 4, padding="SAME",
    )  # fmt: skip
