"""The iterative network: patch and memory in, mask of the next vertebra and completeness out.

Tensors are (batch, z, y, x, channel). Four blocks are made once and applied repeatedly; their names
are the original's.
"""

import keras
from keras import layers

from common.errors import OptionError
from vertebra.layers import Block, FirstMaxPool

SCALES = 4
"""Resolutions of the encoder-decoder path."""
MULTIPLE = 2 ** (SCALES - 1)


def build_model(config, input_shape=None) -> keras.Model:
    """Build the network.

    Args:
        config: uses `channels`, `patch_size`, `inference_statistics`.
        input_shape: (z, y, x, 2); None: (patch_size, patch_size, patch_size, 2). Each axis a
            multiple of 8 that is at least `patch_size` and below twice that.
    Returns:
        Model from `patch` (batch, z, y, x, 2), image and memory, to {"mask": probabilities
        (batch, z, y, x, 1), "completeness": probability (batch, 1)}, float32 [V4].
    Raises:
        OptionError: a size that the original's network could not take either.
    Source: iterativeFCN.py; the initialisers are the original framework's defaults.
    """
    edge = config.patch_size
    input_shape = tuple(input_shape or (edge, edge, edge, 2))
    check_sizes(config, input_shape)
    patch = keras.Input(input_shape, name="patch")
    tensors = connect(patch, config)
    outputs = {name: tensors[name] for name in ("mask", "completeness")}
    return keras.Model(patch, outputs, name="iterative_fcn")


def connect(patch, config) -> dict:
    """Lay the network over a symbolic input (batch, z, y, x, 2) and return its tensors by name.

    `conv_rest@64` and the like are the applications of a block, by the edge they have in a patch of
    `patch_size`, in the original's order; then features, logit, mask, completeness.
    """
    blocks = make_blocks(config)
    edges = [config.patch_size >> level for level in range(SCALES)]
    rest = []  # applications of conv_rest so far, whose count is the next site
    tensors = {}

    def apply_rest(x, edge):
        name = f"conv_rest@{edge}"
        tensors[name] = blocks["conv_rest"](x, site=len(rest))
        rest.append(name)
        return tensors[name]

    def pool(x, edge):
        return FirstMaxPool(name=f"pool_{edge}")(x)

    x = tensors[f"conv_initial@{edges[0]}"] = blocks["conv_initial"](patch, site=0)
    skips = [apply_rest(x, edges[0])]
    for edge in edges[1:]:
        skips.append(apply_rest(pool(skips[-1], edge), edge))
    x = skips[-1]
    for site, (skip, edge) in enumerate(zip(skips[-2::-1], edges[-2::-1], strict=True)):
        x = layers.UpSampling3D(2, name=f"enlarge_{edge}")(x)
        x = layers.Concatenate(name=f"join_{edge}")([skip, x])
        x = tensors[f"conv_up@{edge}"] = blocks["conv_up"](x, site=site)
    x = tensors[f"conv_final@{edges[0]}"] = blocks["conv_final"](x, site=0)
    tensors["mask"] = layers.Activation("sigmoid", dtype="float32", name="mask")(x)

    x, edge = skips[-1], edges[-1] // 2
    while edge > 1:
        x = apply_rest(pool(x, edge), edge)
        edge //= 2
    # A single voxel is left: pooling over it flattens and keeps the batch axis apart [V4].
    x = layers.GlobalMaxPooling3D(name="features", dtype="float32")(pool(x, 1))
    tensors["features"] = x
    tensors["logit"] = blocks["dense"](x)
    tensors["completeness"] = layers.Activation("sigmoid", dtype="float32", name="completeness")(
        tensors["logit"]
    )
    return tensors


def make_blocks(config) -> dict:
    """Make the shared layers once, by the original's names [V5]."""
    channels, statistics = config.channels, config.inference_statistics
    bound = channels**-0.5
    return {
        "conv_initial": Block(channels, 1, statistics, name="conv_initial"),
        "conv_rest": Block(channels, depth_of(config), statistics, name="conv_rest"),
        "conv_up": Block(channels, SCALES - 1, statistics, name="conv_up"),
        # The mask's logits stay in float32 whatever the policy.
        "conv_final": Block(1, 1, statistics, name="conv_final", dtype="float32"),
        "dense": layers.Dense(
            1,
            kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
            dtype="float32",
            name="dense",
        ),
    }


def depth_of(config) -> int:
    """Return how often conv_rest is applied: at every halving from the patch's edge down to 2."""
    return config.patch_size.bit_length() - 1


def normalisations(model: keras.Model) -> list:
    """Return the normalisation layers of a model with the names they have in the original."""
    return [
        (f"{block}.{position}", getattr(model.get_layer(block), f"norm_{position}"))
        for block in ("conv_initial", "conv_final", "conv_rest", "conv_up")
        for position in (2, 5)
    ]


def set_statistics(model: keras.Model, statistics: str) -> None:
    """Choose where the statistics at inference come from; affects functions traced later [V1]."""
    for _, layer in normalisations(model):
        layer.statistics = statistics


def make_optimizer(config) -> keras.optimizers.Optimizer:
    """Return Adam; after each of `learning_rate_steps` the rate is a tenth of what it was."""
    rate = config.learning_rate
    if config.learning_rate_steps:
        values = [rate * 0.1**i for i in range(len(config.learning_rate_steps) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            list(config.learning_rate_steps), values
        )
    return keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8)


def check_sizes(config, input_shape) -> None:
    """Raise `OptionError` for a size that the decoder or the last pooling cannot take."""
    edge = config.patch_size
    if edge < 2 * MULTIPLE or edge & (edge - 1):
        raise OptionError(f"--patch_size is {edge}; expected a power of two from {2 * MULTIPLE}")
    for size in input_shape[:3]:
        if size is not None and (size % MULTIPLE or not edge <= size < 2 * edge):
            raise OptionError(
                f"a patch of {input_shape[:3]} voxels: every axis must be a multiple of {MULTIPLE}"
                f" from {edge} to {2 * edge - MULTIPLE}"
            )
