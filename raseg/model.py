"""The encoder-decoder of the synovitis paper and of its released code.

Tensors are (batch, row, column, slice, channel). Layer names are the original's scopes.
"""

import keras
from keras import layers, ops

from common.errors import OptionError
from common.network.losses import soft_dice, stable_mean
from raseg.config import CHANNELS, VOLUME_SHAPE, count_decay_steps
from raseg.layers import BatchStatistics, CropToSkip

KERNEL = 3
"""Edge of the kernels below full resolution (raseg_model.py, `inference`)."""


def build_model(config, input_shape=None) -> keras.Model:
    """Build the network: two convolutions per level on the way down and on the way up.

    Args:
        config: `Config`; uses filters, top_kernels, relu_logits, batch_statistics, task and, for
            the default shape, patch_shape.
        input_shape: (rows, columns, slices, channels); all but the channels may be None.
    Returns:
        Model from `image` (batch, rows, columns, slices, channels) float32 to logits (batch, rows,
        columns, slices, 2) float32, whatever the precision policy. Any size will do: halving rounds
        up, and what doubling has too much is cut off at the end.
    Raises:
        OptionError: there are fewer than two levels.
    Source: raseg_model.py, `inference`; ledger R2, R16, R34.
    """
    if len(config.filters) < 2:
        raise OptionError(f"--filters {config.filters}: expected two levels or more")
    default = (*(config.patch_shape or VOLUME_SHAPE), len(CHANNELS[config.task]))
    image = keras.Input(input_shape or default, name="image")
    bottom = len(config.filters) - 1
    # [R34] Twenty-seven convolutions with the logits; the paper counts them without.
    x, skips = image, []
    for level, filters in enumerate(config.filters):
        if level:
            x = convolve(x, x.shape[-1], 2, strides=2, config=config, name=f"down{level}")
        kernel = config.top_kernels[0] if level == 0 else KERNEL
        for number in (1, 2):
            x = convolve(x, filters, kernel, config=config, name=f"h{level}_conv{number}")
        skips.append(x)
    for level in reversed(range(bottom)):
        x = enlarge(x, skips[level], config=config, name=f"up{bottom - level}")
        kernel = config.top_kernels[1] if level == 0 else KERNEL
        for number in (3, 4):
            filters = config.filters[level]
            x = convolve(x, filters, kernel, config=config, name=f"h{level}_conv{number}")
    # [R2] [R35] The original's ReLU acts on the logits too.
    activation = "relu" if config.relu_logits else None
    logits = layers.Conv3D(2, 1, **as_original(activation), dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name="raseg")


def build_for_any_size(config) -> keras.Model:
    """Build the network for any number of rows, columns and slices."""
    return build_model(config, (None, None, None, len(CHANNELS[config.task])))


def convolve(x, filters: int, kernel: int, *, strides: int = 1, config, name: str):
    """Convolve, add a bias, clip at zero, perhaps normalise; `strides` of 2 halve every axis.

    With an odd size and stride 2, the last output reads the last element and a zero after it.

    Source: raseg_model.py, `inference`.
    """
    x = layers.Conv3D(filters, kernel, strides=strides, **as_original(), name=name)(x)
    return normalise(x, config=config, name=name)


def enlarge(x, skip, *, config, name: str):
    """Double every axis, cut to the skip's size, and put the skip's channels in front.

    Source: raseg_model.py, `inference` (the original's output shapes are numbers).
    """
    x = layers.Conv3DTranspose(skip.shape[-1], 2, strides=2, **as_original(), name=name)(x)
    x = cut_to(x, skip, name=f"{name}_cut")
    x = layers.Concatenate(name=f"{name}_join")([skip, x])
    # The moments are those of the joined channels, the skip's included.
    return normalise(x, config=config, name=name)


def cut_to(x, skip, *, name: str):
    """Drop the last element of every axis that is longer than the skip's."""
    sizes, wanted = x.shape[1:4], skip.shape[1:4]
    if None in (*sizes, *wanted):
        return CropToSkip(name=name)([skip, x])
    # [R16] The last element goes, not the first: the argmax would hardly show the difference.
    extra = [(0, size - want) for size, want in zip(sizes, wanted, strict=True)]
    return layers.Cropping3D(extra, name=name)(x) if any(after for _, after in extra) else x


def normalise(x, *, config, name: str):
    """Normalise by the batch's moments, or return x where the configuration does not."""
    # [R29] Written after every layer in the paper, commented out in the code.
    return BatchStatistics(name=f"{name}_norm")(x) if config.batch_statistics else x


def as_original(activation: str | None = "relu") -> dict:
    """Return what all convolutions share; weights begin as TensorFlow 1 draws them, normal numbers
    of deviation 0.05 cut at two deviations."""
    weights = keras.initializers.TruncatedNormal(stddev=0.05)
    return {"padding": "same", "activation": activation, "kernel_initializer": weights}


class DiceLoss(keras.losses.Loss):
    """Negative overlap of the foreground's probability with the label, averaged over the batch.

    Args:
        config: uses dice_smooth_numerator and dice_smooth_denominator.
    Source: raseg_model.py, `dice_coeff` and its loss; ledger R18, R33.
    """

    def __init__(self, config):
        super().__init__(name="dice_loss", reduction=None)
        self.smooth = {
            "smooth_numerator": config.dice_smooth_numerator,
            "smooth_denominator": config.dice_smooth_denominator,
        }

    def call(self, y_true, y_pred):
        """Return the loss, -1 (perfect) to 0.

        Args:
            y_true: (batch, rows, columns, slices) labels, used as weights.
            y_pred: (batch, rows, columns, slices, 2) logits.
        """
        # [R18] The original adds a penalty on the weights with the factor 0.
        probability = ops.softmax(ops.cast(y_pred, "float32"), axis=-1)[..., 1]
        overlaps = soft_dice(
            ops.cast(y_true, "float32"), probability, axes=(1, 2, 3), **self.smooth
        )
        return -stable_mean(overlaps)


def make_schedule(config, examples: int):
    """Return the learning rate by the step from 0: a staircase. Source: raseg_model.py, `train`."""
    return keras.optimizers.schedules.ExponentialDecay(
        config.learning_rate,
        decay_steps=count_decay_steps(config, examples),
        decay_rate=config.decay_factor,
        staircase=True,
    )


def make_optimizer(config, examples: int) -> keras.optimizers.Optimizer:
    """Return Adam with a large epsilon, which keeps small gradients small.

    Args:
        config: uses adam_epsilon and what `make_schedule` uses.
        examples: records of the training binaries, by which the rate falls.
    Returns:
        Keras' Adam, not built yet; its epsilon stands where TensorFlow 1 has it.
    Raises:
        OptionError: `drops` is set, but neither `epochs` nor `max_steps`.
    Source: raseg_model.py, `train`; ledger R32.
    """
    # [R32] Larger than most gradients: the place of epsilon changes steps up to thirtyfold.
    return keras.optimizers.Adam(
        make_schedule(config, examples), beta_1=0.9, beta_2=0.999, epsilon=config.adam_epsilon
    )
