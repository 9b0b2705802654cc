"""What the network is made of: exact batch statistics, first-maximum pooling, the shared blocks.

Tensors are (batch, z, y, x, channel). A block is one set of weights that the network applies at
several places, its *sites*; each site has statistics of its own beside those all sites share.
"""

import keras
from keras import ops

from common.network.pooling import first_max_pool

EPSILON = 1e-5
"""Added to the variance (the original's framework default)."""
MOMENTUM = 0.9
"""Of the moving statistics; 0.1 in the original's sense."""
SITE_MOMENTUM = 0.98
"""Of the statistics of the sites while training; slower, since inference rests on them."""
STATISTICS = ("batch", "moving", "per_site")


def exact_moments(x):
    """Mean and population variance per channel, (channel) float32, reduced axis by axis.

    [V39] One float32 reduction over 128^3 voxels on a CPU is wrong by up to 0.8%, which shifts
    probabilities by 0.1; axis by axis the error is 7e-7.
    """
    # Rows first: each sum then has at most a few hundred terms, and what is left is small.
    mean, variance = ops.moments(ops.cast(x, "float32"), axes=[3])
    for axis in (2, 1, 0):
        merged = ops.mean(mean, axis=axis)
        between = ops.square(mean - ops.expand_dims(merged, axis))
        mean, variance = merged, ops.mean(variance + between, axis=axis)
    return mean, variance


@keras.saving.register_keras_serializable(package="vertebra")
class SiteNormalisation(keras.layers.Layer):
    """Batch normalisation whose statistics at inference come from one of three places.

    Args:
        sites: places in the network where the layer is applied.
        statistics: at inference: "batch", those of the input itself, as the released code does
            [V1]; "moving", one moving average over all sites [V3]; "per_site", one fixed set for
            each site [V2].
    """

    def __init__(self, sites: int = 1, statistics: str = "batch", **kwargs):
        super().__init__(**kwargs)
        if statistics not in STATISTICS:
            raise ValueError(f"statistics is {statistics!r}; expected one of {STATISTICS}")
        self.sites = sites
        self.statistics = statistics
        self.sink = None  # takes (layer, site, mean, variance) while `calibration` traces

    def build(self, input_shape):
        """Make scale, shift, the moving statistics and those of every site."""

        def state(name, initializer, shape=(input_shape[-1],), trainable=False):
            # All of it stays in float32, also where the arithmetic around it is bfloat16.
            return self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=trainable,
                dtype="float32", autocast=False,
            )  # fmt: skip

        self.gamma = state("gamma", "ones", trainable=True)
        self.beta = state("beta", "zeros", trainable=True)
        self.moving_mean = state("moving_mean", "zeros")
        self.moving_variance = state("moving_variance", "ones")
        self.fixed = state("fixed", "zeros", ())
        self.site_means = [state(f"site_mean_{i}", "zeros") for i in range(self.sites)]
        self.site_variances = [state(f"site_variance_{i}", "ones") for i in range(self.sites)]

    def call(self, x, site=0, training=False):
        """Normalise (batch, z, y, x, channel) at one of the sites.

        Training uses the input's statistics and moves the averages. `fixed` is the share of the
        site's in them; at 1 nothing moves any more [V2].
        """
        mean, variance = self._statistics_for(x, site, training)
        gain = self.gamma * ops.rsqrt(variance + EPSILON)
        shift = self.beta - mean * gain
        return ops.cast(ops.cast(x, "float32") * gain + shift, x.dtype)

    def _statistics_for(self, x, site, training):
        if not training and self.statistics == "moving":
            return ops.convert_to_tensor(self.moving_mean), self.moving_variance
        if not training and self.statistics == "per_site":
            return ops.convert_to_tensor(self.site_means[site]), self.site_variances[site]
        mean, variance = exact_moments(x)
        if self.sink is not None:
            self.sink((self, site, mean, variance))
        if not training:
            return mean, variance
        self._move(site, ops.stop_gradient(mean), ops.stop_gradient(variance), x)
        own = 1.0 - self.fixed
        return (
            own * mean + self.fixed * self.site_means[site],
            own * variance + self.fixed * self.site_variances[site],
        )

    def _move(self, site, mean, variance, x):
        """Move the averages, in the order of the calls; none once the statistics are fixed."""
        still = ops.cast(ops.greater_equal(self.fixed, 1.0), "float32")
        count = ops.cast(ops.prod(ops.convert_to_tensor(ops.shape(x)[:-1])), "float32")
        unbiased = variance * count / ops.maximum(count - 1.0, 1.0)
        # Of a site all values count alike, whichever patch they are from.
        spread = variance + ops.square(mean - self.site_means[site])
        for average, value, momentum in (
            (self.moving_mean, mean, MOMENTUM),
            (self.moving_variance, unbiased, MOMENTUM),
            (self.site_variances[site], spread, SITE_MOMENTUM),
            (self.site_means[site], mean, SITE_MOMENTUM),
        ):
            moved = average * momentum + value * (1.0 - momentum)
            average.assign(still * average + (1.0 - still) * moved)

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self):
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "sites": self.sites, "statistics": self.statistics}


@keras.saving.register_keras_serializable(package="vertebra")
class Block(keras.layers.Layer):
    """Twice 3x3x3 convolution, ReLU, normalisation [V6], with one set of weights for all sites.

    Args:
        filters: channels of both convolutions.
        sites: places in the network where the block is applied.
        statistics: see `SiteNormalisation`.
    """

    def __init__(self, filters: int, sites: int = 1, statistics: str = "batch", **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.sites = sites
        self.statistics = statistics

    def build(self, input_shape):
        """Make the four members; their names are the original's positions in the block."""
        shape = tuple(input_shape)
        for position, norm in ((0, 2), (3, 5)):
            bound = (27 * shape[-1]) ** -0.5
            conv = keras.layers.Conv3D(
                self.filters, 3, padding="same", activation="relu", dtype=self.dtype_policy,
                kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
                bias_initializer=keras.initializers.RandomUniform(-bound, bound),
                name=f"conv_{position}",
            )  # fmt: skip
            normalise = SiteNormalisation(
                self.sites, self.statistics, dtype=self.dtype_policy, name=f"norm_{norm}"
            )
            conv.build(shape)
            shape = (*shape[:-1], self.filters)
            normalise.build(shape)
            # Attributes, so that Keras saves them under these names.
            setattr(self, conv.name, conv)
            setattr(self, normalise.name, normalise)

    def call(self, x, site=0, training=False):
        """Apply the block at one of its sites; arguments as `SiteNormalisation.call`."""
        x = self.norm_2(self.conv_0(x), site=site, training=training)
        return self.norm_5(self.conv_3(x), site=site, training=training)

    def compute_output_shape(self, input_shape):
        """Return the input's shape with the block's channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """Return the arguments that rebuild this layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "sites": self.sites,
            "statistics": self.statistics,
        }


@keras.saving.register_keras_serializable(package="vertebra")
class FirstMaxPool(keras.layers.Layer):
    """Halve each axis by the maximum of 2x2x2 voxels; a last odd voxel is left out.

    [V40] Where voxels tie, the first in (z, y, x) order gets the gradient, as in the original's
    framework; see `first_max_pool`. After a ReLU ties are the rule: with the whole gradient for
    every tied voxel, those of the first blocks were off by up to 470%.
    """

    def call(self, x, training=False):
        """Pool (batch, z, y, x, channel)."""
        if not training:
            return ops.max_pool(x, 2, strides=2, padding="valid")
        return first_max_pool(x, (2, 2, 2), (2, 2, 2), padding="valid")

    def compute_output_shape(self, input_shape):
        """Return the shape with halved z, y and x."""
        halves = [None if size is None else size // 2 for size in input_shape[1:4]]
        return (input_shape[0], *halves, input_shape[-1])
