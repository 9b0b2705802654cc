"""Layers of the DeepMedic engine that Keras has no equal of. Tensors are (batch, x, y, z, channel).

Source: layers.py and pathways.py of DeepMedic v0.8.4, layers.py of v0.7.0.
"""

import keras
from keras import ops

from common.losses import stable_mean

SMALLEST_NORMAL_FLOAT32 = 1.1754944e-38


@keras.saving.register_keras_serializable("dhcp_fetal")
class ChannelBias(keras.layers.Layer):
    """Add one trainable number per channel, initially 0."""

    def build(self, input_shape):
        self.bias = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="bias")

    def call(self, x):
        return x + self.bias

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("dhcp_fetal")
class RollingBatchNormalisation(keras.layers.Layer):
    """Batch normalisation whose inference averages the statistics of the last n training steps.

    Training normalises with the batch's mean and biased variance and writes both into row `row` of
    two arrays (n, channels), which begin as 0 and 1. Inference takes the mean over all rows.
    [G10] Rows not yet written take part in it. The engine forgets `row` between processes; here it
    is a variable, so that an interrupted training goes on where it was.

    Args:
        rolling_batches: n.
        variance_factor: [D4] multiplies the averaged variance at inference.
    """

    def __init__(self, rolling_batches, variance_factor=1.0, **kwargs):
        # Variances near the smallest float do not survive half precision.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.rolling_batches = rolling_batches
        self.variance_factor = variance_factor

    def build(self, input_shape):
        channels = input_shape[-1:]
        rows = (self.rolling_batches, *channels)
        self.gamma = self.add_weight(shape=channels, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=channels, initializer="zeros", name="beta")
        self.rolling_mean = self.add_weight(
            shape=rows, initializer="zeros", trainable=False, name="rolling_mean"
        )
        self.rolling_variance = self.add_weight(
            shape=rows, initializer="ones", trainable=False, name="rolling_variance"
        )
        self.row = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="row"
        )

    def call(self, x, training=False):
        if training:
            axes = tuple(range(len(x.shape) - 1))
            mean = stable_mean(x, axes)
            variance = stable_mean(ops.square(x - mean), axes)
            self._remember(mean, variance)
        else:
            mean = ops.mean(self.rolling_mean, axis=0)
            variance = ops.mean(self.rolling_variance, axis=0) * self.variance_factor
        # [G20] In effect no epsilon: a constant channel stays finite because x - mean is 0 first.
        scale = self.gamma / ops.sqrt(variance + SMALLEST_NORMAL_FLOAT32)
        return (x - mean) * scale + self.beta

    def _remember(self, mean, variance):
        here = ops.expand_dims(ops.equal(ops.arange(self.rolling_batches), self.row), axis=1)
        self.rolling_mean.assign(ops.where(here, mean, self.rolling_mean))
        self.rolling_variance.assign(ops.where(here, variance, self.rolling_variance))
        self.row.assign(ops.mod(self.row + 1, self.rolling_batches))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"rolling_batches": self.rolling_batches, "variance_factor": self.variance_factor}
        return super().get_config() | own


@keras.saving.register_keras_serializable("dhcp_fetal")
class ChannelPReLU(keras.layers.Layer):
    """max(0, x) + a (x - |x|) / 2 with one trainable a per channel, initially 0.01."""

    def build(self, input_shape):
        self.alpha = self.add_weight(
            shape=input_shape[-1:], initializer=keras.initializers.Constant(0.01), name="alpha"
        )

    def call(self, x):
        return ops.maximum(0.0, x) + self.alpha * (x - ops.abs(x)) * 0.5

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("dhcp_fetal")
class UnscaledDropout(keras.layers.Layer):
    """[G21] Dropout that does not rescale in training and multiplies by 1 - rate at inference."""

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x, training=False):
        if not training:
            return x * (1.0 - self.rate)
        draw = keras.random.uniform(ops.shape(x), dtype=x.dtype, seed=self.seed_generator)
        return x * ops.floor(1.0 - self.rate + draw)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("dhcp_fetal")
class MirrorPadding(keras.layers.Layer):
    """Mirror the border, edge voxel included, so that a kernel keeps the size.

    [G5] The mirror stands at the border of the tile, wherever that lies in the image.

    Args:
        kernel: (x, y, z); k - 1 voxels are added per axis, (k - 1) // 2 of them in front.
    """

    def __init__(self, kernel, **kwargs):
        super().__init__(**kwargs)
        self.kernel = tuple(kernel)

    def call(self, x):
        around = [((edge - 1) // 2, edge // 2) for edge in self.kernel]
        return ops.pad(x, [(0, 0), *around, (0, 0)], mode="symmetric")

    def compute_output_shape(self, input_shape):
        batch, *size, channels = input_shape
        grown = [v and v + edge - 1 for v, edge in zip(size, self.kernel, strict=True)]
        return (batch, *grown, channels)

    def get_config(self):
        return super().get_config() | {"kernel": self.kernel}


@keras.saving.register_keras_serializable("dhcp_fetal")
class AddCentre(keras.layers.Layer):
    """Residual connection: add the centre of an earlier, larger tensor to a later one.

    An earlier tensor with fewer channels is completed with zeros behind, one with more loses the
    last ones.
    """

    def call(self, inputs):
        later, earlier = inputs
        size, whole = ops.shape(later), ops.shape(earlier)
        window = []
        for axis in (1, 2, 3):
            start = (whole[axis] - 1) // 2 - (size[axis] - 1) // 2
            window.append(slice(start, start + size[axis]))
        channels = later.shape[-1]
        centre = earlier[(slice(None), *window, slice(channels))]
        missing = max(channels - earlier.shape[-1], 0)
        if missing:
            centre = ops.pad(centre, [(0, 0)] * 4 + [(0, missing)])
        return later + centre

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@keras.saving.register_keras_serializable("dhcp_fetal")
class RepeatToSize(keras.layers.Layer):
    """Repeat every voxel and crop the far end to the size of another tensor.

    Args:
        factor: (x, y, z) repetitions.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = tuple(factor)

    def call(self, inputs):
        x, like = inputs
        for axis, times in enumerate(self.factor, start=1):
            x = ops.repeat(x, times, axis=axis)
        size = ops.shape(like)
        return x[:, : size[1], : size[2], : size[3]]

    def compute_output_shape(self, input_shape):
        x, like = input_shape
        return (*like[:-1], x[-1])

    def get_config(self):
        return super().get_config() | {"factor": self.factor}
