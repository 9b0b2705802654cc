"""The three networks of the original: U-Net, two-stage cascade, dilated network.

Tensors are (batch, rows, columns, channels). Layer names are the original's: Keras 2 auto names
for the U-Net, explicit ones for the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import layers

from common.errors import OptionError
from sarcoma.config import LABEL, PATCH
from sarcoma.layers import MaxoutConv2D, bilinear_kernel, identity_kernel

CONTEXT = (("1_1", 1), ("1_2", 1), ("2_1", 2), ("3_1", 4), ("4_1", 8), ("5_1", 16), ("6_1", 32),
           ("7_1", 64))  # fmt: skip
"""Context layers and their dilations; the last two are not in the paper's basic module."""
SMALLEST_DILATED_INPUT = 380
CLASSES = 2


def build_model(config, input_shape=None, *, classes=CLASSES) -> keras.Model:
    """Build the network that the configuration names.

    Args:
        config: `Config`; uses architecture, modalities and the fields of that network.
        input_shape: (rows, columns, channels) of the first input; by default one patch.
        classes: of the dilated network.
    Returns:
        unet2d: `image` (b, 56, 56, C) -> probabilities (b, 28, 28, 1).
        cascade: `first` (b, 56, 56, C), `second` (b, 28, 28, C) -> classes of the centre (b, 2).
        dilated: `image` (b, n, n, C) -> probabilities (b, 8 m, 8 m, classes), m = (n - 372) // 8.
    Raises:
        OptionError: the architecture is unknown, or a size does not fit it.
    Source: models/model.py, `UNET_2D`, `cascade`, `dilated`.
    """
    channels = len(config.modalities)
    if config.architecture == "unet2d":
        return build_unet2d(config, input_shape or (PATCH, PATCH, channels))
    if config.architecture == "cascade":
        return build_cascade(config, input_shape or (PATCH, PATCH, channels))
    if config.architecture == "dilated":
        size = config.dilated_input
        return build_dilated(config, input_shape or (size, size, channels), classes=classes)
    raise OptionError(f"architecture {config.architecture!r}: expected unet2d, cascade or dilated")


def build_for_inference(config) -> keras.Model:
    """Build the network for patches, or as `dilated` for slices of any size."""
    size = (None, None, len(config.modalities)) if config.architecture == "dilated" else None
    return build_model(config, size)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Let networks be built whose variables have shapes but no values, hence take no memory."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    # Keras keeps a list of them, to give them their values when it builds the next network.
    keras.utils.clear_session()


def make_optimizer(config) -> keras.optimizers.Optimizer:
    """Adam with a constant rate; the steps are those of Keras 2. Source: train.py."""
    return keras.optimizers.Adam(config.learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7)


class Keras2Names:
    """Makes layers with the names Keras 2 gives in a fresh process: conv2d_1, conv2d_2, ..."""

    NAMES = {
        layers.Conv2D: "conv2d",
        layers.Conv2DTranspose: "conv2d_transpose",
        layers.MaxPooling2D: "max_pooling2d",
        layers.Concatenate: "concatenate",
        layers.Cropping2D: "cropping2d",
        layers.BatchNormalization: "batch_normalization",
    }

    def __init__(self):
        self.used = {}

    def __call__(self, layer_class, *arguments, **options):
        kind = self.NAMES[layer_class]
        self.used[kind] = self.used.get(kind, 0) + 1
        return layer_class(*arguments, name=f"{kind}_{self.used[kind]}", **options)


def build_unet2d(config, input_shape) -> keras.Model:
    """Build the U-Net: two convolutions per level, four at the bottom; the output is half as large.

    Source: models/model.py, `UNET_2D`; for "pooled" and normalisation the notebook
    `PET_Segmentation_[Refactoring].ipynb` of the branch `refactoring`.
    """
    levels = len(config.filters)
    multiple = 2 ** (levels - 1)
    if levels < 2:
        raise OptionError(f"filters {config.filters}: expected at least two levels")
    if any(size is None or size % multiple for size in input_shape[:2]):
        raise OptionError(
            f"a patch of {input_shape[0]} x {input_shape[1]} pixels: rows and columns must be "
            f"multiples of {multiple}"
        )
    make, normalised = Keras2Names(), config.batch_normalisation
    image = x = keras.Input(input_shape, name="image")
    skips = []
    for filters in config.filters[:-1]:
        x = convolve(make, x, filters, normalised=normalised)
        skips.append(x)
        x = make(layers.MaxPooling2D, 2)(x)
    x = convolve(make, x, config.filters[-1], times=4, normalised=normalised)
    full = config.label_geometry != "half"
    # [S15] The original's decoder ends one level early: the finest skip is never used.
    for level in reversed(range(0 if full else 1, levels - 1)):
        filters = config.filters[level]
        x = make(layers.Conv2DTranspose, filters, 2, strides=2, padding="same")(x)
        x = make(layers.Concatenate)([x, skips[level]])
        x = convolve(make, x, filters, normalised=normalised)
    if config.label_geometry == "centre":
        # [S4] The central labels at their own resolution, where the original halves the patch.
        x = make(layers.Cropping2D, (input_shape[0] // 4, input_shape[1] // 4))(x)
    x = make(layers.Conv2D, config.filters[0], 1, activation="relu")(x)
    if config.label_geometry == "pooled":
        x = make(layers.MaxPooling2D, 2)(x)
    x = make(layers.Conv2D, 1, 1, activation="sigmoid", dtype="float32")(x)
    return keras.Model(image, x, name="unet2d")


def convolve(make, x, filters, *, times=2, normalised=False):
    """3 x 3 convolutions of the same size, each with ReLU and perhaps normalisation after it."""
    for _ in range(times):
        x = make(layers.Conv2D, filters, 3, padding="same", activation="relu")(x)
        if normalised:
            x = make(layers.BatchNormalization, momentum=0.99, epsilon=1e-3)(x)
    return x


def build_cascade(config, input_shape) -> keras.Model:
    """Build the two-stage maxout network that classifies the centre of a patch of 56 x 56.

    Source: models/model.py, `cascade`; Havaei et al., arXiv:1505.03540.
    """
    if tuple(input_shape[:2]) != (PATCH, PATCH):
        raise OptionError(
            f"a patch of {input_shape[0]} x {input_shape[1]} pixels: the cascade takes "
            f"{PATCH} x {PATCH} alone"
        )
    first = keras.Input(input_shape, name="first")
    second = keras.Input((LABEL, LABEL, input_shape[2]), name="second")
    scores = _stage(first, config, last_kernel=17, prefix="")
    probabilities = layers.Softmax(name="softmax", dtype="float32")(scores)
    joined = layers.Concatenate(name="input_concat")([second, probabilities])
    scores = _stage(joined, config, last_kernel=16, prefix="2_")
    probabilities = layers.Softmax(name="2_softmax", dtype="float32")(scores)
    return keras.Model(
        [first, second], layers.Flatten(name="flatten")(probabilities), name="cascade"
    )


def _stage(x, config, *, last_kernel, prefix):
    """One stage: a local path of two maxouts, a wide one, and a large final kernel."""
    narrow, middle, wide = config.cascade_filters

    def maxout(kernel, filters, name, padding="valid"):
        return MaxoutConv2D(
            (kernel, kernel), filters, config.maxout_pieces, padding, name=prefix + name
        )

    local = maxout(7, narrow, "conv_1")(x)
    local = layers.MaxPooling2D(4, strides=1, name=f"{prefix}local_pool1")(local)
    local = maxout(3, middle, "conv_2")(local)
    local = layers.MaxPooling2D(2, strides=1, name=f"{prefix}local_pool2")(local)
    # [S11] In the paper the wide kernel sees the input; in the code it comes after the local path.
    if config.two_path:
        around = maxout(13, wide, "global")(x)
    else:
        around = maxout(13, wide, "global", "same")(local)
    joined = layers.Concatenate(name=f"{prefix}concat")([local, around])
    return layers.Conv2D(CLASSES, last_kernel, name=f"{prefix}conv_last")(joined)


def build_dilated(config, input_shape, *, classes=CLASSES) -> keras.Model:
    """Build the VGG front end, the context module and the fixed enlargement, from 380 pixels [S12].

    The output covers the input but a margin of 186 pixels and a remainder. Source: models/model.py,
    `dilated`; Yu and Koltun, arXiv:1511.07122.
    """
    if any(size is not None and size < SMALLEST_DILATED_INPUT for size in input_shape[:2]):
        raise OptionError(
            f"an input of {input_shape[0]} x {input_shape[1]} pixels: the dilated network needs "
            f"at least {SMALLEST_DILATED_INPUT} x {SMALLEST_DILATED_INPUT}"
        )
    if len(config.dilated_filters) != 6:
        raise OptionError(f"dilated_filters {config.dilated_filters}: expected six numbers")
    image = x = keras.Input(input_shape, name="image")
    *blocks, wide = config.dilated_filters
    for block, (filters, count) in enumerate(zip(blocks, (2, 2, 3, 3, 3), strict=True), start=1):
        for number in range(1, count + 1):
            x = layers.Conv2D(filters, 3, dilation_rate=2 if block == 5 else 1,
                              activation="relu", name=f"conv{block}_{number}")(x)  # fmt: skip
        if block < 4:
            x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = layers.Conv2D(wide, 7, dilation_rate=4, activation="relu", name="fc6")(x)
    x = layers.Dropout(config.dropout, name="drop6")(x)
    x = layers.Conv2D(wide, 1, activation="relu", name="fc7")(x)
    x = layers.Dropout(config.dropout, name="drop7")(x)
    x = layers.Conv2D(classes, 1, name="final")(x)
    for name, dilation in CONTEXT:
        x = _context(x, config, 3, f"ctx_conv{name}", dilation_rate=dilation, activation="relu")
    x = _context(x, config, 3, "ctx_fc1", activation="relu")
    x = _context(x, config, 1, "ctx_final")
    x = layers.UpSampling2D(8, name="up_sampling2d_1")(x)
    # [S13] Repetition and this kernel are the papers' bilinear transposed convolution.
    kernel = "glorot_uniform"
    if config.context_upsampling == "bilinear":
        kernel = keras.initializers.Constant(bilinear_kernel(classes))
    x = layers.Conv2D(classes, 16, padding="same", use_bias=False, trainable=False,
                      kernel_initializer=kernel, name="ctx_upsample")(x)  # fmt: skip
    x = layers.Softmax(name="softmax", dtype="float32")(x)
    return keras.Model(image, x, name="dilated")


def _context(x, config, kernel, name, **options):
    """One context layer; it begins as the identity [S14] unless the original's start is asked."""
    initial = "glorot_uniform"
    if config.context_init == "identity":
        initial = keras.initializers.Constant(identity_kernel(kernel, x.shape[-1]))
    return layers.Conv2D(x.shape[-1], kernel, padding="same", kernel_initializer=initial,
                         name=name, **options)(x)  # fmt: skip
