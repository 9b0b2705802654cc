"""What a network costs, read off its functional graph: multiply-adds, and tensors held in memory.

Keras alone, so that it answers on every backend and without running anything. The sizes are those
of the given inputs, also for a network that takes any size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import keras

Shape = tuple[int, ...]


class LayerMemory(NamedTuple):
    """What a layer holds beside what enters and leaves it; counts are in sizes of its output."""

    input: bool = True
    """Its gradient needs what enters."""
    output: bool = True
    """Its gradient needs what leaves."""
    hidden: float = 0.0
    """Tensors within it that its gradient needs."""
    way_back: float = 0.0
    """Tensors that its gradient makes for a moment."""
    way_there: float = 0.0
    """Tensors that it makes for a moment at prediction."""


LAYERS = {
    **{name: LayerMemory(output=False) for name in ("Conv2D", "Conv3D", "Dense")},
    **{name: LayerMemory(output=False, way_there=2.0) for name in (
        "Conv2DTranspose", "Conv3DTranspose")},
    "BatchNormalization": LayerMemory(output=False, way_back=7.0),
    **{name: LayerMemory(input=False) for name in ("ReLU", "Activation", "Softmax")},
    **{name: LayerMemory(input=False, output=False) for name in (
        "Add", "Concatenate", "Cropping2D", "Cropping3D", "UpSampling2D", "UpSampling3D",
        "Flatten")},
    "Dropout": LayerMemory(input=False, output=False, hidden=1.0),
}  # fmt: skip
"""By class of layer; of others input and output. A layer with an activation of its own keeps its
output as well."""


COPIES_OF_LAYER = 1.5
"""Of the largest layer's tensors on the way back: gradients, reordered copies."""


@dataclass(frozen=True)
class Step:
    """One application of a layer: tensors by number, those that enter the network first."""

    layer: keras.layers.Layer
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    multiply_adds: int


@dataclass(frozen=True)
class Trace:
    """A network applied to inputs of known sizes, in the order of its layers."""

    steps: tuple[Step, ...]
    shapes: tuple[Shape, ...]
    """Of every tensor by number, the batch first."""
    bytes: tuple[int, ...]
    """Of every tensor by number, in the dtype of the layer that made it."""
    results: frozenset[int] = field(default_factory=frozenset)
    """Tensors that leave the network."""

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass."""
        return sum(step.multiply_adds for step in self.steps)


def trace_network(model: keras.Model, shapes: Sequence[Shape]) -> Trace:
    """Follow a functional model for inputs of given sizes, without computing anything.

    Args:
        model: functional; its layers are left as they are.
        shapes: of every input, the batch first.
    Returns:
        `Trace`.
    Raises:
        ValueError: the number of shapes is not that of the inputs.
    """
    if len(shapes) != len(model.inputs):
        raise ValueError(f"{len(shapes)} shapes for {len(model.inputs)} inputs")
    steps, kept, numbers = [], [], {}

    def number_of(tensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(kept)
            kept.append(tensor)  # alive, so that no other tensor gets its id
        return numbers[id(tensor)]

    def visit(layer):
        def record(*arguments, **options):
            found = layer.compute_output_spec(*arguments, **options)
            entering = keras.tree.flatten((arguments, options))
            inputs = [tensor for tensor in entering if isinstance(tensor, keras.KerasTensor)]
            outputs = keras.tree.flatten(found)
            steps.append(
                Step(
                    layer,
                    tuple(map(number_of, inputs)),
                    tuple(map(number_of, outputs)),
                    count_multiply_adds(layer, inputs[0].shape, outputs[0].shape),
                )
            )
            return found

        return record

    inputs = [keras.KerasTensor(shape, dtype=tensor.dtype)
              for shape, tensor in zip(shapes, model.inputs, strict=True)]  # fmt: skip
    for tensor in inputs:
        number_of(tensor)
    # Keras' own way of cloning a model; calling the layers instead would give them second nodes.
    results = model._run_through_graph(inputs, operation_fn=visit)
    return Trace(
        tuple(steps),
        tuple(tuple(tensor.shape) for tensor in kept),
        tuple(prod(tensor.shape) * bytes_of_dtype(tensor.dtype) for tensor in kept),
        frozenset(map(number_of, keras.tree.flatten(results))),
    )


def count_multiply_adds(layer: keras.layers.Layer, entering: Shape, leaving: Shape) -> int:
    """Return the multiply-adds of the kernels of a layer; other arithmetic is not counted.

    A layer made of several convolutions is taken to keep the size of its output throughout, which
    all layers of this project do. Zeros around an image are multiplied, too.

    Args:
        layer: with kernels, or without.
        entering: shape of its input, the batch first.
        leaving: shape of its output.
    """
    kernels = [v for v in getattr(layer, "variables", ()) if v.name == "kernel"]
    # A transposed convolution spreads every voxel that enters.
    positions = entering if "Transpose" in type(layer).__name__ else leaving
    return prod(positions[:-1]) * sum(prod(kernel.shape) for kernel in kernels)


def bytes_kept_for_gradient(
    trace: Trace,
    *,
    memory: Mapping[str, LayerMemory] | None = None,
    block_of: Callable[[str], str] | None = None,
) -> int:
    """Return the bytes of all tensors that the way back needs from the way there.

    Args:
        trace: of a training step.
        memory: of the paper's own layers, by class.
        block_of: block of a layer's name where blocks forget all but what they hand on and compute
            it again (rematerialisation); the largest block's tensors come on top.
    """
    block_of = block_of or (lambda name: "")
    needed: dict[str, set[int]] = {}
    hidden: dict[str, float] = {}
    for step in trace.steps:
        own = _memory_of(step, memory)
        tensors = (step.inputs if own.input else ()) + (
            step.outputs if own.output or _activates(step.layer) else ()
        )
        block = block_of(step.layer.name)
        needed.setdefault(block, set()).update(tensors)
        hidden[block] = hidden.get(block, 0.0) + own.hidden * trace.bytes[step.outputs[0]]
    makers = {number: block_of(step.layer.name) for step in trace.steps for number in step.outputs}
    handed_on = {number for step in trace.steps for number in step.inputs
                 if makers.get(number) != block_of(step.layer.name)}  # fmt: skip
    largest = max(_bytes_of(trace, tensors - handed_on) + hidden[block]
                  for block, tensors in needed.items())  # fmt: skip
    return int(_bytes_of(trace, handed_on) + largest)


def peak_of_prediction(trace: Trace, *, memory: Mapping[str, LayerMemory] | None = None) -> int:
    """Return the largest sum of tensors alive at once in a forward pass.

    A tensor lives from the layer that makes it to the last one that reads it; a layer's output lies
    beside its inputs.

    Args:
        trace: of one call, or of a part of its steps.
        memory: of the paper's own layers, by class.
    """
    last = {number: position for position, step in enumerate(trace.steps)
            for number in step.inputs}  # fmt: skip
    made = {number for step in trace.steps for number in step.outputs}
    alive = set(last) - made
    last |= {number: len(trace.steps) for number in trace.results}
    peak = 0.0
    for position, step in enumerate(trace.steps):
        alive.update(step.outputs)
        beside = _memory_of(step, memory).way_there * trace.bytes[step.outputs[0]]
        peak = max(peak, _bytes_of(trace, alive) + beside)
        alive = {number for number in alive if last.get(number, -1) > position}
    return int(peak)


def workspace_of_training(trace: Trace, *, memory: Mapping[str, LayerMemory] | None = None) -> int:
    """Return the bytes that the way back takes beside what is kept and the gradients of weights.

    Copies of the tensors of the largest layer with kernels, and what the gradient of a
    normalisation makes.

    Args:
        trace: of a training step.
        memory: of the paper's own layers, by class.
    """
    kernels, others = 0.0, 0.0
    for step in trace.steps:
        own, size = _memory_of(step, memory), trace.bytes[step.outputs[0]]
        others = max(others, own.way_back * size)
        if step.multiply_adds:
            kernels = max(kernels, _bytes_of(trace, {*step.inputs, *step.outputs}))
    return int(COPIES_OF_LAYER * kernels + others)


def bytes_of_dtype(dtype: str) -> int:
    """Return the bytes of one number of a dtype by name, such as 4 for float32; 1 for bool."""
    bits = "".join(character for character in str(dtype) if character.isdigit())
    return int(bits or 8) // 8


def _memory_of(step: Step, memory: Mapping[str, LayerMemory] | None) -> LayerMemory:
    name = type(step.layer).__name__
    return (memory or {}).get(name) or LAYERS.get(name) or LayerMemory()


def _bytes_of(trace: Trace, numbers) -> int:
    return sum(trace.bytes[number] for number in numbers)


def _activates(layer) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear
