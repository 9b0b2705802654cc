"""Layers of the DeepMedic engine that Keras has no equal of. Tensors are (batch, x, y, z, channel).

Source: layers.py and pathways.py of DeepMedic v0.8.4, layers.py of v0.7.0.
"""

import keras
from keras import ops

from common.network.losses import stable_mean
from common.network.replicas import draw_own_part, mean_over_replicas

SMALLEST_NORMAL_FLOAT32 = 1.1754944e-38


class _OfOneShape(keras.layers.Layer):
    """A layer whose output is as large as its input."""

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("dhcp_fetal")
class ChannelBias(_OfOneShape):
    """Add one trainable number per channel, initially 0."""

    def build(self, input_shape):
        self.bias = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="bias")

    def call(self, x):
        return x + self.bias


@keras.saving.register_keras_serializable("dhcp_fetal")
class RollingBatchNormalisation(_OfOneShape):
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
            x = ops.convert_to_tensor(x)
            self._remember(*batch_moments(ops.stop_gradient(x)))
            return standardise(x) * self.gamma + self.beta
        mean = ops.mean(self.rolling_mean, axis=0)
        variance = ops.mean(self.rolling_variance, axis=0) * self.variance_factor
        # [G20] In effect no epsilon: a constant channel stays finite because x - mean is 0 first.
        scale = self.gamma / ops.sqrt(variance + SMALLEST_NORMAL_FLOAT32)
        return (x - mean) * scale + self.beta

    def _remember(self, mean, variance):
        here = ops.expand_dims(ops.equal(ops.arange(self.rolling_batches), self.row), axis=1)
        for rows, new in ((self.rolling_mean, mean), (self.rolling_variance, variance)):
            # JAX takes no variable for an array here.
            rows.assign(ops.where(here, new, ops.convert_to_tensor(rows)))
        self.row.assign(ops.mod(self.row + 1, self.rolling_batches))

    def get_config(self):
        own = {"rolling_batches": self.rolling_batches, "variance_factor": self.variance_factor}
        return super().get_config() | own


def batch_moments(x):
    """Return mean and biased variance (channels,) of x (..., channels)."""
    axes = tuple(range(len(x.shape) - 1))
    mean = mean_over_replicas(stable_mean(x, axes))
    return mean, mean_over_replicas(stable_mean(ops.square(x - mean), axes))


@ops.custom_gradient
def standardise(x):
    """Give every channel of x (..., channels) float32 mean 0 and variance 1, by this batch.

    The gradient is written out: derived step by step through mean and variance it takes twice as
    many passes over the data.
    """
    mean, variance = batch_moments(x)
    # [G20] In effect no epsilon: a constant channel stays finite because x - mean is 0 first.
    inverse = 1.0 / ops.sqrt(variance + SMALLEST_NORMAL_FLOAT32)
    standardised = (x - mean) * inverse

    def gradient(*arguments, upstream=None):
        dy = arguments[0] if upstream is None else upstream
        axes = tuple(range(len(x.shape) - 1))
        slope = mean_over_replicas(stable_mean(dy * standardised, axes))
        level = mean_over_replicas(stable_mean(dy, axes))
        return (dy - level - standardised * slope) * inverse

    return standardised, gradient


@keras.saving.register_keras_serializable("dhcp_fetal")
class ChannelPReLU(_OfOneShape):
    """max(0, x) + a min(0, x) with one trainable a per channel, initially 0.01.

    Written for the fewest passes over the data. The engine's max(0, x) + a (x - |x|) / 2 is the
    same to the bit; at exactly 0 its gradient is a / 2 where this one's is a.
    """

    def build(self, input_shape):
        self.alpha = self.add_weight(
            shape=input_shape[-1:], initializer=keras.initializers.Constant(0.01), name="alpha"
        )

    def call(self, x):
        positive = ops.relu(x)
        return positive + self.alpha * (x - positive)


@keras.saving.register_keras_serializable("dhcp_fetal")
class UnscaledDropout(_OfOneShape):
    """[G21] Dropout that does not rescale in training and multiplies by 1 - rate at inference."""

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x, training=False):
        if not training:
            return x * (1.0 - self.rate)

        def uniform(shape):
            return keras.random.uniform(shape, dtype=x.dtype, seed=self.seed_generator)

        draw = draw_own_part(uniform, ops.shape(x))
        return x * ops.floor(1.0 - self.rate + draw)

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
        if keras.config.backend() != "torch":
            return ops.pad(x, [(0, 0), *around, (0, 0)], mode="symmetric")
        # PyTorch pads no more than three axes, and none with the edge voxel included.
        for axis, (before, after) in enumerate(around, start=1):
            front = (slice(None),) * axis
            size = x.shape[axis]
            first = ops.flip(x[(*front, slice(0, before))], axis=axis)
            last = ops.flip(x[(*front, slice(size - after, size))], axis=axis)
            x = ops.concatenate([first, x, last], axis=axis)
        return x

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
        start = [(whole[axis] - 1) // 2 - (size[axis] - 1) // 2 for axis in (1, 2, 3)]
        channels = later.shape[-1]
        kept = min(channels, earlier.shape[-1])
        centre = ops.slice(earlier, (0, *start, 0), (size[0], *size[1:4], kept))
        missing = channels - kept
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
        return ops.slice(x, (0,) * 5, (*size[:4], x.shape[-1]))

    def compute_output_shape(self, input_shape):
        x, like = input_shape
        return (*like[:-1], x[-1])

    def get_config(self):
        return super().get_config() | {"factor": self.factor}
