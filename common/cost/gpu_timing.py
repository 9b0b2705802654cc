"""The timed work of `bench-gpu`: a training step, a forward pass, a matrix product, under XLA."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from common.cost.device import BACKEND, device_name, peak_of_device
from common.cost.operations import TRAINING_PASSES, count_operations
from common.cost.stopwatch import time_call
from common.cost.workloads import WorkloadModule, draw, draw_batch, load_workload
from common.errors import OptionError

if BACKEND == "jax":
    import jax
else:
    import tensorflow as tf

KINDS = ("training", "inference")
MATMUL_SIZES = {False: 8192, True: 256}
"""Edge of the matrix product by whether the run is a small one."""
SECONDS = {False: 2.0, True: 0.05}
"""That the timed calls last at least."""


def list_requests(
    papers: Sequence[str], *, small: bool, precisions: Sequence[str], devices: int = 1
) -> list[dict]:
    """Return what is to be measured: networks, kinds and precisions, as arguments of `measure`.

    Of several devices, what they share: training.
    """
    return [
        {"paper": paper, "name": name, "kind": kind, "precision": precision, "small": small,
         "devices": devices}
        for paper in papers
        for name in configurations(load_workload(paper), small)
        for kind in KINDS[: 1 if devices > 1 else None]
        for precision in precisions
    ]  # fmt: skip


def configurations(module: WorkloadModule, small: bool) -> dict[str, Any]:
    """Return the configurations of a paper that are timed, by name."""
    return module.small() if small else module.full_size()


def measure(
    paper: str, name: str, kind: str, precision: str, small: bool, devices: int = 1
) -> dict[str, Any]:
    """Time a network, of the paper's `small()` or `full_size()` configurations, in this process.

    Several devices share a batch that many times as large, and the share is of all their products.

    Returns:
        ms, peak_gib, memory (whose), operations, tflops, matmul_tflops, share, backend, device,
        devices and shapes.
    Raises:
        OptionError: there are fewer devices.
    """
    if devices > 1:
        share_among(devices)
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    module = load_workload(paper)
    config = configurations(module, small)[name]
    workload = module.workload_of(config)
    if kind == "training":
        shapes, time_work = workload.training_shapes, time_training
    else:
        shapes, time_work = workload.prediction_shapes, time_inference
    shapes = [(devices * shape[0], *shape[1:]) for shape in shapes]
    seconds, operations = time_work(module, config, shapes, small=small)
    peak, memory = peak_of_device()
    matmul = matmul_rate(precision, small=small)
    return {
        "ms": 1e3 * seconds,
        "peak_gib": peak / 2**30,
        "memory": memory,
        "operations": operations,
        "tflops": operations / seconds / 1e12,
        "matmul_tflops": matmul / 1e12,
        "share": operations / seconds / matmul / devices,
        "backend": keras.config.backend(),
        "device": device_name(),
        "devices": devices,
        "shapes": [list(shape) for shape in shapes],
    }


def share_among(devices: int) -> None:
    """Let JAX' devices share every batch from here on, by Keras' own data parallelism."""
    found = keras.distribution.list_devices()
    if len(found) < devices:
        raise OptionError(f"--devices is {devices}; found {len(found)} here")
    parallel = keras.distribution.DataParallel(devices=found[:devices])
    keras.distribution.set_distribution(parallel)


def time_training(
    module: WorkloadModule, config: Any, shapes: Sequence[Sequence[int]], *, small: bool
) -> tuple[float, float]:
    """Return seconds and floating-point operations of a step of Keras' own `fit`, with XLA."""
    network = module.build_network(config)
    model = module.compile_network(network, config, xla=True)
    batch = draw_batch(module, network, config, shapes, np.random.default_rng(0))
    # On the device once and for all: what is timed is the step, not the way there.
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)

    def take_steps(count: int) -> None:
        def batches():
            while True:
                yield batch

        model.fit(batches(), steps_per_epoch=count, epochs=1, shuffle=False, verbose=0)

    operations = TRAINING_PASSES * count_operations(network, shapes)
    return time_repeats(take_steps, SECONDS[small]), operations


def time_inference(
    module: WorkloadModule, config: Any, shapes: Sequence[Sequence[int]], *, small: bool
) -> tuple[float, float]:
    """Return seconds and floating-point operations of a forward pass, with XLA."""
    network = module.build_network(config)
    inputs = list(map(keras.ops.convert_to_tensor, draw(shapes, np.random.default_rng(0))))

    def forward(trained, other, *inputs):
        found, _ = network.stateless_call(
            trained, other, list(inputs) if len(inputs) > 1 else inputs[0], training=False
        )
        # One number that depends on all outputs.
        return sum(keras.ops.sum(keras.ops.cast(y, "float32")) for y in keras.tree.flatten(found))

    run = compiled(forward)
    state = [[v.value for v in variables] for variables in
             (network.trainable_variables, network.non_trainable_variables)]  # fmt: skip

    def call(count: int) -> None:
        results = [run(*state, *inputs) for _ in range(count)]
        float(results[-1])

    return time_repeats(call, SECONDS[small]), count_operations(network, shapes)


def matmul_rate(precision: str, *, small: bool) -> float:
    """Return the floating-point operations per second of a square matrix product, with XLA."""
    edge = MATMUL_SIZES[small]
    square = keras.random.normal((edge, edge), seed=0, dtype=precision) / edge**0.5
    # The whole product must be made: its sum alone would be a vector's work for the compiler.
    product = compiled(keras.ops.matmul)

    def call(count: int) -> None:
        x = square
        for _ in range(count):
            x = product(x, square)
        float(keras.ops.sum(x[:1, :1]))

    return 2.0 * edge**3 / time_repeats(call, SECONDS[small])


def time_repeats(run: Callable[[int], None], least: float) -> float:
    """Return the seconds of one of many calls that last `least` in all; the first compiles."""
    run(1)
    count = 2
    while True:
        seconds, _ = time_call(partial(run, count))
        if seconds >= least:
            return seconds / count
        count = max(2 * count, int(1.2 * count * least / seconds))


def compiled(function: Callable) -> Callable:
    """Return the function compiled with XLA by whichever backend there is."""
    return jax.jit(function) if BACKEND == "jax" else tf.function(function, jit_compile=True)
