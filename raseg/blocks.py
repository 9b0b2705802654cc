"""The network's layers in blocks, for passes that must not keep all activations at once.

A block is a few layers of one scope after another, on the way up after an enlarged tensor was
joined to its skip. `raseg.rematerialise` trains by blocks, `raseg.streaming` predicts by them.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

Layers = Mapping[str, keras.layers.Layer]


def layers_by_name(network: keras.Model) -> Layers:
    """Return the layers of a network of `build_model` by the original's scopes."""
    return {layer.name: layer for layer in network.layers}


def run_block(
    layers: Layers,
    names: Sequence[str],
    x: tf.Tensor,
    skip: tf.Tensor | None = None,
    *,
    enlarged_by: str | None = None,
) -> tf.Tensor:
    """Apply layers one after the other.

    On the way up x is enlarged by the layer `enlarged_by` first and joined to `skip`.
    """
    if enlarged_by:
        x = layers[enlarged_by](x)
        size = tf.shape(skip)
        x = tf.concat([skip, x[:, : size[1], : size[2], : size[3]]], axis=-1)  # [R16]
        x = normalise(layers, x, enlarged_by)
    for name in names:
        x = normalise(layers, layers[name](x), name)
    return x


def normalise(layers: Layers, x: tf.Tensor, name: str) -> tf.Tensor:
    """Apply a scope's batch statistics where the network has them."""
    layer = layers.get(f"{name}_norm")
    return x if layer is None else layer(x)
