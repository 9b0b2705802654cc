"""The fully convolutional network of the fetal-brain paper and of its released code.

Tensors are (batch, z, y, x, channel). Layer names are the original's scopes with `_` for `/`, which
Keras forbids: `enc_unit_0/conv3d_1` is `enc_unit_0_conv3d_1`.
"""

import keras
import numpy as np
from keras import layers

from common.errors import OptionError
from common.network.pooling import first_max_pool
from fetal_brain.config import input_shape as patch_input

POOL_STRIDE = 2
"""Between two scales, in plane; the depth is kept."""


def build_model(config, input_shape=None) -> keras.Model:
    """Build the encoder with its additive decoder.

    Each decoder level adds a projection of what entered the encoder's scale, so level 0 adds the
    image itself and the last scale is no skip of its own.

    Args:
        config: `Config`; uses filters, kernels, patch_shape, label_ids, slices_as_channels,
            batch_normalisation, dropout and l2_weight.
        input_shape: (z, y, x, channels); z, y and x may be None, z at prediction. By default one
            patch.
    Returns:
        Model from `image` (batch, z, y, x, channels) float32 to logits (batch, z, y, x, classes)
        float32, whatever the precision policy.
    Raises:
        OptionError: filters and kernels differ in number, or rows or columns cannot be halved as
            often as the network does.
    Source: fetal_fcn.py, `fetal_fcn_3d`.
    """
    input_shape = input_shape or patch_input(config)
    _check_sizes(config, input_shape)
    classes = len(config.label_ids)
    x = image = keras.Input(input_shape, name="image")
    entering = []
    for scale, (filters, kernel) in enumerate(zip(config.filters, config.kernels, strict=True)):
        entering.append(x)
        if scale in _pooled_scales(config):
            x = pool(x, flat=config.slices_as_channels, name=f"pool_{scale}")
        x = encode(x, filters, kernel, config=config, scale=scale)
    for scale in reversed(range(len(config.filters))):
        stride = POOL_STRIDE if scale in _pooled_scales(config) else 1
        x = upscore(x, entering[scale], classes, (1, stride, stride), config=config, scale=scale)
    logits = convolve(x, classes, 1, config=config, dtype="float32", name="last_conv3d")
    return keras.Model(image, logits, name="fetal_fcn_3d")


def make_optimizer(config) -> keras.optimizers.Optimizer:
    """Gradient descent with classical momentum and a constant rate, not built yet.

    Keras keeps m = -learning_rate * slot of the original's accumulator; the steps are the same.

    Source: train.py, `MomentumOptimizer`.
    """
    return keras.optimizers.SGD(config.learning_rate, momentum=config.momentum, nesterov=False)


def encode(x, filters: int, kernel: int, *, config, scale: int):
    """Convolve, normalise and clip to 0..6, twice; dropout acts on the last scale alone."""
    unit = f"enc_unit_{scale}"
    for suffix in ("", "_1"):
        x = convolve(x, filters, kernel, config=config, shifted=True, name=f"{unit}_conv3d{suffix}")
        x = normalise(x, config=config, name=f"{unit}_batch_normalization{suffix}")
        x = layers.ReLU(max_value=6, name=f"{unit}_relu6{suffix}")(x)
        if config.dropout and scale == len(config.filters) - 1:
            # [F2] The original's dropout is never told that it is training, so it never acts.
            x = layers.Dropout(config.dropout, name=f"{unit}_dropout{suffix}")(x)
    return x


def pool(x, *, flat: bool = False, name: str | None = None):
    """Halve rows and columns by the maximum over windows of 4 x 4, and of 2 slices unless `flat`.

    Where the number of slices is unknown, the values are the same and the kernel in force decides
    who gets the gradient of a tie, so that such a network is for prediction.

    Source: fetal_fcn.py, `max_pooling3d`.
    """
    # [F4] A window of two slices at stride 1 reaches forward only: features drift to slice 0.
    window = (1 if flat else 2, 2 * POOL_STRIDE, 2 * POOL_STRIDE)
    strides = (1, POOL_STRIDE, POOL_STRIDE)
    if x.shape[1] is None:
        return layers.MaxPooling3D(window, strides=strides, padding="same", name=name)(x)
    # [F30] Plain operations, not a layer of ours: the saved network loads without this package.
    x = first_max_pool(x, window, strides, padding="same")
    return layers.Identity(name=name)(x)  # the operations themselves cannot be named


def upscore(x, skip, classes: int, stride, *, config, scale: int):
    """Enlarge class scores by `stride` (z, y, x) and add a projection of finer features.

    Source: DLTK networks/segmentation/fcn.py, `upscore_layer_3d`.
    """
    unit = f"upscore_{scale}"
    if x.shape[-1] != classes:
        x = convolve(x, classes, 1, config=config, name=f"{unit}_filter_conversion")
    x = upsample_linearly(x, stride, name=f"{unit}_upsample")
    # [F7] On the image's single channel, normalisation leaves only the sign of the two weights.
    skip = convolve(skip, classes, 1, config=config, shifted=True, name=f"{unit}_conv3d")
    skip = normalise(skip, config=config, name=f"{unit}_batch_normalization")
    return layers.Add(name=f"{unit}_add")([x, skip])


def upsample_linearly(x, stride, *, name: str | None = None):
    """Enlarge by whole factors (z, y, x) with the fixed linear kernel, zero outside the image.

    Source: DLTK core/upsample.py, `linear_upsample_3d`.
    """
    channels = x.shape[-1]
    # [F6] Zero outside dims the border: 0.75 of the edge value at a factor of 2.
    return layers.Conv3DTranspose(
        channels,
        [len(linear_taps(factor)) for factor in stride],
        strides=stride,
        padding="same",
        use_bias=False,
        trainable=False,
        # A built-in initialiser, so that the saved model loads where this package is not installed.
        kernel_initializer=keras.initializers.Constant(linear_kernel(stride, channels)),
        name=name,
    )(x)


def linear_kernel(stride, channels: int) -> list:
    """Return the kernel [kz][ky][kx][out][in] that enlarges every channel by itself."""
    taps = map(linear_taps, stride)
    return np.einsum("z,y,x,oi->zyxoi", *taps, np.eye(channels)).tolist()


def linear_taps(factor: int) -> list[float]:
    """Return the weights of linear enlargement along an axis: [0.25, 0.75, 0.75, 0.25] for 2."""
    if factor == 1:
        return [1.0]
    centre = factor - 0.5
    return [1 - abs(index - centre) / factor for index in range(2 * factor)]


def convolve(x, filters: int, kernel: int, *, config, name: str, shifted=False, dtype=None):
    """Convolve with a cubic kernel (of depth 1 where the slices are channels), size kept.

    `shifted` says that normalisation follows, whose shift a bias replaces where it is off.
    """
    depth = 1 if config.slices_as_channels else kernel
    # [F1] The original collects this term, sum(w**2) / 2, and never adds it to its loss.
    l2 = keras.regularizers.L2(config.l2_weight / 2) if config.l2_weight else None
    return layers.Conv3D(
        filters,
        (depth, kernel, kernel),
        padding="same",
        # [F27] Without normalisation the bias stands where its shift was, and nowhere else.
        use_bias=shifted and not config.batch_normalisation,
        kernel_initializer=keras.initializers.LecunUniform(),
        kernel_regularizer=l2,
        dtype=dtype,
        name=name,
    )(x)


def normalise(x, *, config, name: str):
    """Batch-normalise, or return x where the configuration does not."""
    if not config.batch_normalisation:
        return x
    # [F3] Keras averages the population variance, as TensorFlow 1 did on five axes.
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)


def _pooled_scales(config):
    """Scales that begin at half the size: all but the first and the last."""
    return range(1, len(config.filters) - 1)


def _check_sizes(config, input_shape):
    """Refuse what the additions of the decoder could not join."""
    if len(config.filters) != len(config.kernels) or len(config.filters) < 2:
        raise OptionError(
            f"filters {config.filters} and kernels {config.kernels}: "
            "expected one entry per scale in both, at least two"
        )
    multiple = POOL_STRIDE ** len(_pooled_scales(config))
    if any(size is not None and size % multiple for size in input_shape[1:3]):
        raise OptionError(
            f"a patch or window of {input_shape[1]} x {input_shape[2]} pixels: "
            f"rows and columns must be multiples of {multiple}"
        )
