"""What training or prediction will take, said before it is begun: memory, arithmetic, time.

The estimate is read off the network's functional graph (`common.cost.layer_memory`), for
TensorFlow on a CPU; what XLA takes on a GPU was not measured. How far a process grew was, by
`common.cost.probe` on two cores with nine networks of the five papers: the estimate is 0.84 to
1.07 of it for a training step and 0.81 to 1.05 for a call. Its time is rougher: 0.5 to 2 of a
step's, up to 2.6 of a call's.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from common.cost.layer_memory import (
    bytes_kept_for_gradient,
    bytes_of_dtype,
    trace_network,
    workspace_of_training,
)
from common.cost.memory import GIB, available_memory, gpu_memory, memory_held
from common.cost.workloads import Workload

if TYPE_CHECKING:
    import keras

TRAINING_PASSES = 3
"""A step does about three times the arithmetic of a forward pass."""
BASE_OF_TRAINING = 70 * 2**20
BASE_OF_PREDICTION = 40 * 2**20
"""Bytes that TensorFlow's own graphs and kernels take, whatever the network."""
GRADIENT_COPIES = 2
"""Of every weight's gradient: itself, and what the optimiser makes of it."""
RATE_PROBE_SIZE = 1024
MOST_PRODUCTS, ENOUGH_SECONDS = 20, 0.4


@dataclass(frozen=True)
class Budget:
    """An estimate for one training step or one call, of what it adds to the process; bytes."""

    parameters: int
    operations: float
    """Floating-point operations, two per multiply-add."""
    tensors: int
    """Activations alive at once, or kept for the gradient."""
    workspace: int
    gradients: int = 0
    optimiser: int = 0

    @property
    def growth(self) -> int:
        """All of it."""
        return self.tensors + self.workspace + self.gradients + self.optimiser


def budget_of_training(model: "keras.Model", workload: Workload) -> Budget:
    """Estimate one training step.

    Args:
        model: compiled; its optimiser is built here if it was not, as `fit` would.
        workload: what it trains on.
    """
    network = network_of(model)
    trace = trace_network(network, workload.training_shapes)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    memory = workload.memory
    return Budget(
        parameters=network.count_params(),
        operations=2.0 * TRAINING_PASSES * trace.multiply_adds,
        tensors=bytes_kept_for_gradient(trace, memory=memory, block_of=workload.block_of),
        workspace=BASE_OF_TRAINING + workspace_of_training(trace, memory=memory),
        gradients=GRADIENT_COPIES * _bytes_of(model.trainable_variables),
        optimiser=_bytes_of(model.optimizer.variables),
    )


def budget_of_prediction(network: "keras.Model", workload: Workload) -> Budget:
    """Estimate one call at prediction."""
    shapes = workload.prediction_shapes
    return Budget(
        parameters=network.count_params(),
        operations=2.0 * trace_network(network, shapes).multiply_adds,
        tensors=workload.peak_at_prediction(network, shapes),
        workspace=BASE_OF_PREDICTION,
    )


def announce_training(model: "keras.Model", workload: Workload, *, steps: int) -> None:
    """Say on stderr, in one line, what the training that follows will take; warn if too much.

    Args:
        model: compiled.
        workload: what it trains on.
        steps: of the whole run.
    """
    budget = budget_of_training(model, workload)
    seconds = steps * budget.operations / usual_rate()
    say(
        budget,
        f"{steps} steps of {show_operations(budget.operations)}, about {show_time(seconds)}",
        lower=workload.lower_in_training,
    )


def announce_prediction(*networks: "tuple[keras.Model, Workload]") -> None:
    """Say on stderr, in one line, what the calls of the networks that follow will take.

    Args:
        networks: each with what it is called on; they are called one after the other.
    """
    budgets = [budget_of_prediction(network, workload) for network, workload in networks]
    number = max(range(len(budgets)), key=lambda index: budgets[index].growth)
    largest = budgets[number]
    seconds = largest.operations / usual_rate()
    say(
        replace(largest, parameters=sum(budget.parameters for budget in budgets)),
        f"calls of up to {show_operations(largest.operations)}, about {show_time(seconds)}",
        lower=networks[number][1].lower_in_prediction,
    )


def announce_at_first_call(
    function: Callable, network: "keras.Model", workload: Workload
) -> Callable:
    """Return a function that does as `announce_prediction` before its first call.

    Then the first scan has been read, so that a mistake in it is said alone.

    Args:
        function: calls the network.
        network: which.
        workload: what it is called on.
    """
    said = []

    def announced(*arguments: Any, **options: Any) -> Any:
        if not said:
            said.append(True)
            announce_prediction((network, workload))
        return function(*arguments, **options)

    return announced


def say(budget: Budget, work: str, *, lower: str) -> None:
    """Print the line of a budget on stderr, and a warning where memory will not suffice."""
    needed, available, where = compare_memory(budget)
    print(
        f"plan: {budget.parameters:,} parameters; about {needed / GIB:.2f} GiB of {where}, "
        f"{available / GIB:.1f} GiB available; {work} (estimated from the network's graph)",
        file=sys.stderr,
        flush=True,
    )
    if needed > available:
        print(
            f"warning: about {needed / GIB:.1f} GiB of {where} are needed (estimate), "
            f"{available / GIB:.1f} GiB are available: the system may end this process"
            + (f"; lower {lower}" if lower else ""),
            file=sys.stderr,
            flush=True,
        )


def compare_memory(budget: Budget) -> tuple[int, int, str]:
    """Return needed and available bytes, and the name of the memory that is meant."""
    on_gpu = gpu_memory() if uses_gpu() else None
    if on_gpu is not None:
        return budget.growth, on_gpu, "GPU memory"
    held = memory_held()
    return held + budget.growth, held + available_memory(), "memory"


def uses_gpu() -> bool:
    """Say whether TensorFlow, where it is the backend, has a GPU."""
    import keras

    if keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def usual_rate() -> float:
    """Return the floating-point operations per second that the networks usually reach here.

    A matrix product is timed for a few tenths of a second at most; convolutions reach a part of it.
    On a busy machine the fastest of several tells most of what an idle one would do.
    """
    import numpy as np

    square = np.ones((RATE_PROBE_SIZE, RATE_PROBE_SIZE), np.float32)
    times = []
    while len(times) < MOST_PRODUCTS and sum(times) < ENOUGH_SECONDS:
        begin = time.perf_counter()
        square @ square
        times.append(time.perf_counter() - begin)
    return SHARE_OF_MATMUL * 2 * RATE_PROBE_SIZE**3 / min(times)


SHARE_OF_MATMUL = 0.4
"""Of a matrix product's rate that steps and calls reach."""


def network_of(model: "keras.Model") -> "keras.Model":
    """Return the functional network of a model that trains it; mostly the model itself."""
    return getattr(model, "network", model)


def show_operations(count: float) -> str:
    """Return a number of operations with a prefix, such as 1.26 TFLOP."""
    for factor, name in ((1e12, "TFLOP"), (1e9, "GFLOP")):
        if count >= factor:
            return f"{count / factor:.3g} {name}"
    return f"{count / 1e6:.3g} MFLOP"


def show_time(seconds: float) -> str:
    """Return seconds as a person would say them."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} s"


def _bytes_of(variables) -> int:
    return sum(prod(variable.shape) * bytes_of_dtype(variable.dtype) for variable in variables)
