"""The floating-point operations of a network, counted on its functional graph without running it.

Keras alone, so that it answers on every backend. Sizes are those of the given inputs, also for a
network that takes any size.
"""

from collections.abc import Sequence
from math import prod

import keras

Shape = tuple[int, ...]

TRAINING_PASSES = 3
"""A training step does about three times the arithmetic of a forward pass."""


def count_operations(network: keras.Model, shapes: Sequence[Shape]) -> float:
    """Return the operations of a forward pass of a functional network: two per multiply-add."""
    return 2.0 * sum(count_multiply_adds(network, shapes).values())


def count_multiply_adds(network: keras.Model, shapes: Sequence[Shape]) -> dict[str, int]:
    """Return the multiply-adds of a network's kernels by layer; shapes have the batch first."""
    if len(shapes) != len(network.inputs):
        raise ValueError(f"{len(shapes)} shapes for {len(network.inputs)} inputs")
    counted: dict[str, int] = {}

    def visit(layer):
        def apply(*arguments, **options):
            leaving = layer.compute_output_spec(*arguments, **options)
            first = _first_shape((arguments, options))
            count = multiply_adds_of(layer, first, _first_shape(leaving))
            counted[layer.name] = counted.get(layer.name, 0) + count
            return leaving

        return apply

    inputs = [keras.KerasTensor(shape, dtype=tensor.dtype)
              for shape, tensor in zip(shapes, network.inputs, strict=True)]  # fmt: skip
    # Keras' own way of cloning a model; calling the layers instead would give them second nodes.
    network._run_through_graph(inputs, operation_fn=visit)
    return counted


def multiply_adds_of(layer: keras.layers.Layer, entering: Shape, leaving: Shape) -> int:
    """Return the multiply-adds of a layer's kernels from its input's and output's shape, products
    with the zeros of a padded border included; a layer of several convolutions is taken to keep the
    size of its output throughout, which all layers of this project do."""
    kernels = [v for v in getattr(layer, "variables", ()) if v.name == "kernel"]
    # A transposed convolution spreads every voxel that enters.
    positions = entering if "Transpose" in type(layer).__name__ else leaving
    return prod(positions[:-1]) * sum(prod(kernel.shape) for kernel in kernels)


def _first_shape(tensors) -> Shape:
    found = keras.tree.flatten(tensors)
    return next(tuple(tensor.shape) for tensor in found if isinstance(tensor, keras.KerasTensor))
