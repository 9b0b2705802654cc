"""Maxout convolution, and kernels of fixed layers. Keras alone: runs on every backend."""

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="sarcoma")
class MaxoutConv2D(layers.Layer):
    """Convolution, batch normalisation, and the largest of every few maps.

    The original makes both inner layers anew at each call, so that they are neither trained nor
    saved [S10]; here they belong to the layer.

    Args:
        kernel_size: (rows, columns).
        output_dim: maps that come out.
        nb_features: maps of which the largest is taken.
        padding: "valid" or "same".
    Source: models/model.py, `MaxoutConv2D`.
    """

    def __init__(self, kernel_size, output_dim, nb_features=4, padding="valid", **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = tuple(kernel_size)
        self.output_dim = output_dim
        self.nb_features = nb_features
        self.padding = padding
        # [S10] Made once, so that the model knows, trains and saves them.
        self.conv = layers.Conv2D(
            output_dim * nb_features, self.kernel_size, padding=padding, name="conv"
        )
        self.bn = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name="bn")

    def build(self, input_shape):
        """Make the variables of both inner layers."""
        self.conv.build(input_shape)
        self.bn.build(self.conv.compute_output_shape(input_shape))

    def call(self, inputs, training=None):
        """Map (batch, rows, columns, channels) to (batch, rows', columns', output_dim)."""
        maps = self.bn(self.conv(inputs), training=training)
        # Candidates of map d are d, d + D, d + 2 D, ...: strided groups, not neighbours.
        shape = (-1, *ops.shape(maps)[1:3], self.nb_features, self.output_dim)
        return ops.max(ops.reshape(maps, shape), axis=3)

    def compute_output_shape(self, input_shape):
        """Return the shape that `call` gives."""
        return (*self.conv.compute_output_shape(input_shape)[:-1], self.output_dim)

    def get_config(self):
        """Return the arguments that rebuild this layer."""
        own = {
            "kernel_size": self.kernel_size,
            "output_dim": self.output_dim,
            "nb_features": self.nb_features,
            "padding": self.padding,
        }
        return {**super().get_config(), **own}


def identity_kernel(size: int, channels: int) -> list:
    """Return the kernel [row][column][in][out] of odd size that hands every channel on unchanged.

    Source: Yu and Koltun, arXiv:1511.07122, section 3.
    """
    return separable_kernel(np.eye(size)[size // 2], channels)


def bilinear_kernel(channels: int) -> list:
    """Return the 16 x 16 kernel [row][column][in][out] that makes a repetition bilinear.

    It turns an eightfold repetition into the papers' transposed convolution, with zeros outside the
    image.
    """
    taps = [0.0] * 3 + [1 / 16] + [1 / 8] * 7 + [1 / 16] + [0.0] * 4
    return separable_kernel(taps, channels)


def separable_kernel(taps, channels: int) -> list:
    """Return the outer product of taps with themselves on the diagonal of the channels."""
    return np.multiply.outer(np.outer(taps, taps), np.eye(channels)).tolist()
