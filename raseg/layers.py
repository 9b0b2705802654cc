"""What the network needs and Keras lacks: batch statistics without memory, cutting to a skip."""

import keras
from keras import ops

from common.network.losses import stable_mean
from common.network.replicas import mean_over_replicas

EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="raseg")
class BatchStatistics(keras.layers.Layer):
    """Normalise every channel by the moments of the batch at hand, in training and prediction.

    There are no running averages: with one volume per batch this is a normalisation per volume.

    Source: branch full_image_256, raseg_model.py, `batch_norm`; ledger R22.
    """

    def build(self, input_shape):
        """Make `gamma` (ones) and `beta` (zeros), one number per channel each."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")

    def call(self, x):
        """Return gamma * (x - mean) / sqrt(variance + 1e-5) + beta, same shape as x.

        The moments of (batch, rows, columns, slices, channels) are over all but the channels.
        """
        # [R22] Also at prediction: the original keeps no moving averages.
        axes = tuple(range(len(x.shape) - 1))
        # In float32 and axis by axis: one sum over five million voxels loses digits on a CPU.
        values = ops.cast(x, "float32")
        mean = mean_over_replicas(stable_mean(values, axes))
        variance = mean_over_replicas(stable_mean(ops.square(values - mean), axes))
        scale = ops.cast(self.gamma, "float32") / ops.sqrt(variance + EPSILON)
        return ops.cast((values - mean) * scale + ops.cast(self.beta, "float32"), x.dtype)


@keras.saving.register_keras_serializable(package="raseg")
class CropToSkip(keras.layers.Layer):
    """Drop what an enlarged tensor has too much at the end of every axis, sizes known or not."""

    def call(self, inputs):
        """Of a skip and an enlarged tensor (batch, rows, columns, slices, channels), return the
        latter cut to the skip's size."""
        skip, enlarged = inputs
        rows, columns, slices = ops.shape(skip)[1:4]
        return enlarged[:, :rows, :columns, :slices]

    def compute_output_shape(self, input_shape):
        """The skip's size with the enlarged tensor's channels."""
        skip, enlarged = input_shape
        return (*skip[:-1], enlarged[-1])
