"""What a paper's network has to do, as data: one training step, one call, one scan, one run.

Every paper has a `workload.py` that describes it; budgets and GPU benchmarks are made from that.
Keras alone, so that it can be asked on every backend.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any

from common.cost.layer_memory import LayerMemory, Shape, Trace, peak_of_prediction, trace_network

if TYPE_CHECKING:
    import keras
    import numpy as np

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Workload:
    """One network at work. Shapes have the batch first, one per input of the network."""

    build: Callable[[], "keras.Model"]
    """Network that takes the shapes of both."""
    compile: Callable[["keras.Model", bool], "keras.Model"]
    """Network, whether to use XLA -> the compiled model that trains it."""
    make_targets: Callable[["np.random.Generator", Any], Any]
    """Random numbers, shapes of the outputs -> labels of a training step."""
    training_shapes: tuple[Shape, ...]
    prediction_shapes: tuple[Shape, ...]
    memory: Mapping[str, LayerMemory] = field(default_factory=dict)
    """Of the paper's own layers, by class."""
    block_of: Callable[[str], str] | None = None
    """Block of a layer where training computes activations again; None: it keeps them."""
    peak_of_call: Callable[["keras.Model", tuple[Shape, ...]], int] | None = None
    """Bytes of tensors at prediction where the network is not called in one piece."""
    make_call: Callable[["keras.Model"], Callable] | None = None
    """Network -> function of the inputs, on TensorFlow, where it is not called in one piece."""
    lower_in_training: str = "--batch_size"
    """Options that make a training step smaller."""
    lower_in_prediction: str = ""
    """Options that make a call smaller."""

    def draw_batch(self, network: "keras.Model", rng: "np.random.Generator") -> tuple[Any, Any]:
        """Return random inputs and targets of a training step; several inputs are a tuple."""
        inputs = draw(self.training_shapes, rng)
        shapes = list(self.training_shapes)
        outputs = network.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
        return tuple(inputs) if len(inputs) > 1 else inputs[0], self.make_targets(rng, outputs)

    def peak_at_prediction(self, network: "keras.Model", shapes: tuple[Shape, ...]) -> int:
        """Return the bytes of tensors that a call holds at once."""
        if self.peak_of_call is not None:
            return self.peak_of_call(network, shapes)
        return peak_of_prediction(trace_network(network, shapes), memory=self.memory)


@dataclass(frozen=True)
class Scan:
    """What a scan of a given size asks of the network and of a server."""

    shape: Shape
    calls: int
    """Calls of the network."""
    payload: Mapping[str, int]
    """Bytes of request and responses as binary tensors, by what they hold."""
    note: str = ""
    """What the count of calls leaves out."""


def draw(shapes: Sequence[Shape], rng: "np.random.Generator") -> "list[np.ndarray]":
    """Return normal numbers, float32, in these shapes."""
    return [rng.standard_normal(shape, dtype="float32") for shape in shapes]


def load_description(paper: str) -> ModuleType:
    """Return a paper's `workload` module.

    It has `describe(config, scan=None) -> Workload`, `describe_scan(shape, config) -> Scan`, `SCAN`
    (the shape of a usual scan), `count_steps(config, examples) -> int | None` (optimiser steps of a
    run; None where they depend on the data), and `full_size()` and `small()`, which return
    {name: Config} for the benchmark on a GPU.
    """
    return importlib.import_module(f"{paper}.workload")


def payload_of_scan(shape: Shape, *, channels: int = 1, classes: int) -> dict[str, int]:
    """Return the bytes of a whole-scan request and its responses.

    Args:
        shape: voxels.
        channels: of the image, float32.
        classes: maps of the response `probabilities`, float32; labels are uint8.
    """
    voxels = prod(shape)
    return {
        "request": voxels * channels * FLOAT_BYTES,
        "labels": voxels,
        "probabilities": voxels * classes * FLOAT_BYTES,
    }


def steps_of(trace: Trace, wanted: Callable[[str], bool]) -> Trace:
    """Return a trace of the layers whose names are wanted, for `peak_of_prediction`."""
    steps = tuple(step for step in trace.steps if wanted(step.layer.name))
    return Trace(steps, trace.shapes, trace.bytes, trace.results)
