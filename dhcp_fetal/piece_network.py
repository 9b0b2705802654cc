"""The network in parts that take boxes of any size: pathways, and the layers that join them."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from dhcp_fetal.config import Config
from dhcp_fetal.model import Block, plan_fc


class PieceNetwork:
    """A network of `build_model` that computes any box of a tile's output, by its current weights.

    For boxes `tiles_in_graph.is_divisible` must hold.
    """

    def __init__(self, model: keras.Model, config: Config):
        self.whole = tf.function(
            lambda batch: model(batch if len(batch) > 1 else batch[0], training=False),
            reduce_retracing=True,
            autograph=False,
        )
        """A segment and its contexts, in batches of one -> probabilities."""
        plans = [("normal", config.filters, config.residual_layers)]
        for number, filters in enumerate(config.context_filters, start=1):
            plans.append((f"context_{number}", filters, config.context_residual_layers))
        ends = [_last(model, name, len(filters), added) for name, filters, added in plans]
        self.pathways = [
            _compile_pathway(keras.Model(source, end))
            for source, end in zip(model.inputs, ends, strict=True)
        ]
        """Per pathway, inputs (1, x, y, z, channels) float32 -> features."""
        self.join = _compile_join(model, config, ends)
        """See `_compile_join`."""


def _last(model: keras.Model, name: str, count: int, residual: Sequence[int]) -> keras.KerasTensor:
    """Return the output of a pathway."""
    return model.get_layer(f"{name}_{count}_{'sum' if count in residual else 'conv'}").output


def _compile_pathway(pathway: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    channels = pathway.input_shape[-1]
    signature = [tf.TensorSpec((1, None, None, None, channels), tf.float32)]
    return tf.function(
        lambda x: pathway(x, training=False), input_signature=signature, autograph=False
    )


def _compile_join(model: keras.Model, config: Config, ends: Sequence[keras.KerasTensor]):
    """Return the layers after the pathways, as a function of the features of one piece.

    Its arguments: the features of every pathway (1, x, y, z, channels), those of contexts at their
    own resolution; `offsets` (contexts, 3), voxels to drop in front of the repeated contexts;
    `mirrored` (layers, 3, 2) and `starts` (residual layers, 3), see `tiles_in_graph.Needs`.
    """
    layers = {layer.name: layer for layer in model.layers}
    blocks = plan_fc(config)

    def join(features, offsets, mirrored, starts):
        x, earlier, sums = _merge(features, offsets, config), None, 0
        for index, block in enumerate(blocks):
            entering = x
            x = _surround(_activate(x, block, layers), block, mirrored[index])
            x = _convolve(x, layers[f"{block.name}_conv"])
            if block.residual:
                x += _centre(earlier, starts[sums], like=x)
                sums += 1
            earlier = entering
        return layers["probabilities"](layers["softmax_bias"](x))

    shapes = [(1, None, None, None, end.shape[-1]) for end in ends]
    signature = [
        [tf.TensorSpec(shape, end.dtype) for shape, end in zip(shapes, ends, strict=True)],
        tf.TensorSpec((None, 3), tf.int32),
        tf.TensorSpec((len(blocks), 3, 2), tf.int32),
        tf.TensorSpec((None, 3), tf.int32),
    ]
    return tf.function(join, input_signature=signature, autograph=False)


def _merge(features, offsets, config: Config) -> tf.Tensor:
    """Bring the contexts to full resolution and join all channels."""
    size = tf.shape(features[0])[1:4]
    merged = [features[0]]
    for index, factor in enumerate(config.context_factors):
        x = features[index + 1]
        for axis, times in enumerate(factor, start=1):
            x = tf.repeat(x, times, axis=axis)
        merged.append(crop(x, offsets[index], size))
    return tf.concat(merged, axis=-1)


def _activate(x, block: Block, layers) -> tf.Tensor:
    """Apply what stands before a convolution; a mirror commutes with all of it."""
    for name in ("norm" if block.normalised else "bias", block.activation, "dropout"):
        layer = layers.get(f"{block.name}_{name}")
        if layer is not None:
            x = layer(x)
    return x


def _surround(x, block: Block, added) -> tf.Tensor:
    if max(block.kernel) == 1:
        return x
    around = tf.concat([[[0, 0]], added, [[0, 0]]], axis=0)
    return tf.pad(x, around, "CONSTANT" if block.padding == "zero" else "SYMMETRIC")


def _convolve(x, layer: keras.layers.Conv3D) -> tf.Tensor:
    kernel = tf.cast(tf.convert_to_tensor(layer.kernel), layer.compute_dtype)
    return tf.nn.conv3d(tf.cast(x, layer.compute_dtype), kernel, [1] * 5, "VALID")


def _centre(earlier, start, *, like) -> tf.Tensor:
    """Return the part of an earlier tensor that is added to a later one; see `layers.AddCentre`."""
    centre = crop(earlier, start, tf.shape(like)[1:4])[..., : like.shape[-1]]
    missing = like.shape[-1] - centre.shape[-1]
    return tf.cast(tf.pad(centre, [[0, 0]] * 4 + [[0, missing]]), like.dtype)


def crop(x, start, size) -> tf.Tensor:
    """Return a box of a batch of one."""
    begin, length = tf.concat([[0], start, [0]], 0), tf.concat([[1], size, [-1]], 0)
    cropped = tf.slice(x, begin, length)
    return tf.ensure_shape(cropped, (1, None, None, None, x.shape[-1]))
