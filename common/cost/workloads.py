"""What a paper's network has to do: one training step, one call, one scan, one run.

Every paper has a `workload.py` that says it (`WorkloadModule`); `plan` and the benchmark on a GPU
work from that. Keras alone, so that it can be asked on every backend.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import keras
import numpy as np

from common.cost.operations import TRAINING_PASSES, Shape, count_operations

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Workload:
    """What a network is given. Shapes have the batch first, one per input of the network."""

    training_shapes: tuple[Shape, ...]
    prediction_shapes: tuple[Shape, ...]
    lower_in_training: str = "--batch_size"
    """Options that make a training step smaller."""
    lower_in_prediction: str = ""
    """Options that make a call smaller."""


@dataclass(frozen=True)
class ScanWork:
    """What a scan asks of the network and of a server."""

    shape: Shape
    calls: int
    """Calls of the network."""
    payload: Mapping[str, int]
    """Bytes of request and responses as binary tensors, by what they hold."""
    note: str = ""
    """What the count of calls leaves out."""


@dataclass(frozen=True)
class UsualData:
    """What is assumed of the data where the user does not say."""

    scan: Shape
    """Voxels of a scan."""
    examples: int | None = None
    """What is trained on; None: not known, or the steps of a run do not depend on it."""


class WorkloadModule(Protocol):
    """What a paper's `workload.py` has; `config` is the paper's own `Config`."""

    def workload_of(self, config: Any, scan: Shape | None = None) -> Workload:
        """Return the shapes of a training step and of a call, for scans of a shape where it counts;
        None: the shape of the paper's data."""

    def build_network(self, config: Any) -> keras.Model:
        """Return the network, for the shapes of both."""

    def compile_network(self, network: keras.Model, config: Any, *, xla: bool) -> keras.Model:
        """Return the compiled model that trains the network; mostly the network itself."""

    def draw_targets(self, config: Any, outputs: Any, rng: np.random.Generator) -> Any:
        """Return random labels of a training step for outputs of these shapes."""

    def make_call(self, network: keras.Model, config: Any) -> Callable[..., Any]:
        """Return how the network is called at prediction: a function of its inputs, on
        TensorFlow."""

    def scan_work(self, shape: Shape, config: Any) -> ScanWork:
        """Return what a scan of a shape asks for."""

    def usual_data(self, preset: str) -> UsualData:
        """Return what is assumed of the data: the paper's, or for `quick` the phantoms."""

    def count_steps(self, config: Any, examples: int | None) -> int | None:
        """Return the optimiser steps of a run; None where the examples decide and are not known."""

    def full_size(self) -> dict[str, Any]:
        """Return the configurations that the benchmark on a GPU times, by name."""

    def small(self) -> dict[str, Any]:
        """Return the same, small enough for a CPU."""


def load_workload(paper: str) -> WorkloadModule:
    """Return a paper's `workload` module."""
    return importlib.import_module(f"{paper}.workload")


def draw(shapes: Sequence[Shape], rng: np.random.Generator) -> list[np.ndarray]:
    """Return normal numbers, float32, in these shapes."""
    return [rng.standard_normal(shape, dtype="float32") for shape in shapes]


def draw_batch(
    module: WorkloadModule,
    network: keras.Model,
    config: Any,
    shapes: Sequence[Shape],
    rng: np.random.Generator,
) -> tuple[Any, Any]:
    """Return random inputs and targets of a training step; several inputs are a tuple."""
    inputs = draw(shapes, rng)
    outputs = network.compute_output_shape(list(shapes) if len(shapes) > 1 else shapes[0])
    targets = module.draw_targets(config, outputs, rng)
    return tuple(inputs) if len(inputs) > 1 else inputs[0], targets


def prepare_step(
    module: WorkloadModule, config: Any, scan: Shape | None, *, xla: bool
) -> Callable[[], object]:
    """Return the function that takes one training step on one random batch."""
    network = module.build_network(config)
    model = module.compile_network(network, config, xla=xla)
    shapes = module.workload_of(config, scan).training_shapes
    inputs, targets = draw_batch(module, network, config, shapes, np.random.default_rng(0))
    return lambda: model.train_on_batch(inputs, targets)


def prepare_call(module: WorkloadModule, config: Any, scan: Shape | None) -> Callable[[], object]:
    """Return the function that calls the network once on random numbers."""
    call = module.make_call(module.build_network(config), config)
    inputs = draw(module.workload_of(config, scan).prediction_shapes, np.random.default_rng(0))
    return lambda: call(*inputs)


def operations_of(
    module: WorkloadModule, network: keras.Model, config: Any, scan: Shape | None
) -> tuple[float, float]:
    """Return the floating-point operations of a training step and of a call."""
    work = module.workload_of(config, scan)
    step = TRAINING_PASSES * count_operations(network, work.training_shapes)
    return step, count_operations(network, work.prediction_shapes)


def call_whole(network: keras.Model) -> Callable[..., Any]:
    """Return a function of a network's inputs that calls it in one piece, with XLA on a GPU."""
    import tensorflow as tf

    @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")))
    def run(*inputs):
        return network(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    def call(*inputs: np.ndarray) -> Any:
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), run(*map(tf.constant, inputs)))

    return call


def payload_of_scan(shape: Shape, *, channels: int = 1, classes: int) -> dict[str, int]:
    """Return the bytes of a whole-scan request, float32, and of its labels and probabilities."""
    voxels = prod(shape)
    return {
        "request": voxels * channels * FLOAT_BYTES,
        "labels": voxels,
        "probabilities": voxels * classes * FLOAT_BYTES,
    }
