"""The multi-scale network of DeepMedic, for any configuration of its family.

Names of layers tell pathway and layer: `normal_4_conv`, `context_2_1_bias`, `fc_3_prelu`,
`softmax_bias`. The original numbers its variables in the same order (see convert.py).
"""

from dataclasses import dataclass
from math import prod

import keras

from dhcp_fetal import geometry, layers
from dhcp_fetal.config import Config
from dhcp_fetal.geometry import Triple

LEAST_DROPOUT = 0.001  # Up to this rate the engine leaves dropout out.


@dataclass(frozen=True)
class Block:
    """One layer of a pathway: (batch norm or bias) -> activation -> dropout -> convolution."""

    name: str
    filters: int
    kernel: Triple
    padding: str
    activation: str
    dropout: float
    normalised: bool
    residual: bool
    padded_first: bool
    """[D3] The mirror stands in front of the batch norm instead of the convolution."""
    training_count: int
    """Values per channel behind one batch statistic in training, for [D4]."""


def build_model(config: Config, input_shape: tuple[int | None, ...] | None = None) -> keras.Model:
    """Build the network with fresh weights.

    One model serves training, validation and inference segments: weights do not depend on sizes.

    Args:
        config: uses the network's fields, `batch_size` and `train_segment`.
        input_shape: full-resolution segment (x, y, z), with or without channels behind; None: any
            size, the contexts' sizes being those of `geometry.context_sizes`.
    Returns:
        Model from [normal (b, x, y, z, channels), context_1, context_2, ...] float32 to softmax
        probabilities (b, x', y', z', classes) float32, x' = x - 16 in the fetal network.
        The input is a single tensor where there is no context.
    Source: cnn3d.py, modelParams.py; specification 4.
    """
    segment = tuple(input_shape[:3]) if input_shape else (None, None, None)
    sizes = [segment] * (1 + len(config.context_factors))
    if None not in segment:
        sizes[1:] = geometry.context_sizes(config, segment)
    names = ["normal", *(f"context_{n}" for n in range(1, len(sizes)))]
    inputs = [
        keras.Input((*size, config.input_channels), name=name)
        for name, size in zip(names, sizes, strict=True)
    ]
    normal = _plan_pathway(
        "normal", config, size=config.train_segment, filters=config.filters, kernels=config.kernels,
        padding=config.padding, residual=config.residual_layers, dropout=config.dropout,
    )  # fmt: skip
    features = [_pathway(inputs[0], normal, config)]
    for number, factor in enumerate(config.context_factors, start=1):
        x = _pathway(inputs[number], _plan_context(config, number), config)
        enlarge = layers.RepeatToSize(factor, name=f"context_{number}_repeat")
        features.append(enlarge([x, features[0]]))
    x = keras.layers.Concatenate(name="scales")(features) if len(features) > 1 else features[0]
    x = _pathway(x, plan_fc(config), config)
    x = layers.ChannelBias(name="softmax_bias")(x)
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], probabilities, name="deepmedic")


def _pathway(x: keras.KerasTensor, blocks: list[Block], config: Config) -> keras.KerasTensor:
    earlier = None
    for block in blocks:
        if block.padded_first:
            x = layers.MirrorPadding(block.kernel, name=f"{block.name}_mirror")(x)
        entering = x
        x = _convolve(_activate(x, block, config), block, config)
        if block.residual:
            x = layers.AddCentre(name=f"{block.name}_sum")([x, earlier])
        earlier = entering
    return x


def _activate(x: keras.KerasTensor, block: Block, config: Config) -> keras.KerasTensor:
    if block.normalised:
        factor = 1.0
        if config.compat == "v0.7.0":
            factor = block.training_count / (block.training_count - 1)  # [D4]
        x = layers.RollingBatchNormalisation(
            config.rolling_batches, factor, name=f"{block.name}_norm"
        )(x)
    else:
        x = layers.ChannelBias(name=f"{block.name}_bias")(x)
    if block.activation == "prelu":
        x = layers.ChannelPReLU(name=f"{block.name}_prelu")(x)
    elif block.activation != "linear":
        x = keras.layers.Activation(block.activation, name=f"{block.name}_{block.activation}")(x)
    if block.dropout > LEAST_DROPOUT:
        x = layers.UnscaledDropout(block.dropout, name=f"{block.name}_dropout")(x)
    return x


def _convolve(x: keras.KerasTensor, block: Block, config: Config) -> keras.KerasTensor:
    if block.padding == "mirror" and not block.padded_first:
        x = layers.MirrorPadding(block.kernel, name=f"{block.name}_mirror")(x)
    deviation = config.initialisation_scale
    if config.initialisation == "fan_in":
        deviation = (config.initialisation_scale / (x.shape[-1] * prod(block.kernel))) ** 0.5
    # [D12] [G18] Drawn from the run's seed; the engine draws from one fixed seed or from none.
    padding = "same" if block.padding == "zero" else "valid"
    return keras.layers.Conv3D(
        block.filters, block.kernel, padding=padding, use_bias=False, name=f"{block.name}_conv",
        kernel_initializer=keras.initializers.RandomNormal(stddev=deviation),
    )(x)  # fmt: skip


def _plan_context(config: Config, number: int) -> list[Block]:
    return _plan_pathway(
        f"context_{number}", config, filters=config.context_filters[number - 1],
        size=geometry.context_sizes(config, config.train_segment)[number - 1],
        kernels=config.context_kernels, padding=config.context_padding,
        residual=config.context_residual_layers, dropout=config.context_dropout,
    )  # fmt: skip


def plan_fc(config: Config) -> list[Block]:
    """List the fully connected layers, the last one of which gives the classes."""
    return _plan_pathway(
        "fc", config, size=geometry.shrink(config.train_segment, config.kernels, config.padding),
        filters=(*config.fc_filters, config.classes), kernels=config.fc_kernels,
        padding=config.fc_padding, residual=config.fc_residual_layers, dropout=config.fc_dropout,
    )  # fmt: skip


def _plan_pathway(name, config, *, size, filters, kernels, padding, residual, dropout):
    """List the blocks of one pathway; `size` is that of its input in training."""
    blocks = []
    rates = dropout or (0.0,) * len(filters)
    for index, (count, kernel, mode) in enumerate(zip(filters, kernels, padding, strict=True)):
        on_image = index == 0 and name != "fc"
        padded_first = config.compat == "v0.7.0" and mode == "mirror"  # [D3]
        seen = [v + padded_first * (edge - 1) for v, edge in zip(size, kernel, strict=True)]
        blocks.append(Block(
            name=f"{name}_{index + 1}", filters=count, kernel=kernel, padding=mode,
            activation="linear" if on_image else config.activation, dropout=rates[index],
            normalised=not on_image and config.rolling_batches > 0,
            residual=index + 1 in residual, padded_first=padded_first,
            training_count=config.batch_size * prod(seen),
        ))  # fmt: skip
        size = geometry.shrink(size, [kernel], [mode])
    return blocks
