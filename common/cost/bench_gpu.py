"""Time every paper's training step and inference under XLA, beside a matrix product.

`make bench-gpu`, or `KERAS_BACKEND=jax python -m common bench-gpu [--paper NAME] [--small]`, needs
keras and jax alone; with KERAS_BACKEND=tensorflow it runs unchanged on TensorFlow's GPU build. Each
measurement is a process of its own, since the largest memory of a process never falls again and one
that does not fit must not end the others. Papers are found by their `workload.py`.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.papers import ROOT, find_papers

if TYPE_CHECKING:
    from common.cost.workloads import WorkloadModule

PRECISIONS = ("float32", "bfloat16")
KINDS = ("training", "inference")
MATMUL_SIZES = {False: 8192, True: 256}
"""Edge of the matrix product by whether the run is a small one."""
SECONDS = {False: 2.0, True: 0.05}
"""That the timed calls last at least."""
BACKENDS = ("jax", "tensorflow")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the options name, each in a process, and print a line for each.

    Returns:
        0, or 1 where a measurement failed, or 2 after a mistake of the user's.
    """
    parser = argparse.ArgumentParser(prog="python -m common bench-gpu", description=__doc__)
    parser.add_argument("--paper", help="one paper; default: all")
    parser.add_argument("--small", action="store_true", help="small sizes, as a CPU can do")
    parser.add_argument("--precision", choices=PRECISIONS, help="one of them; default: both")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if backend not in BACKENDS:
        parser.error(f"KERAS_BACKEND is {backend}; expected {' or '.join(BACKENDS)}")
    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
        return 0
    missing = [name for name in ("keras", backend) if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(
            f"{missing[0]} is not installed here; expected keras and {backend} (GPU_PYTHON of "
            "`make bench-gpu` names another Python)"
        )
    papers = find_papers("workload.py")
    if options.paper and options.paper not in papers:
        parser.error(f"--paper {options.paper}: expected one of {', '.join(papers)}")
    requests = list_requests(
        [options.paper] if options.paper else papers, small=options.small, only=options.precision
    )
    found, failed = [], 0
    print(HEADER, flush=True)
    for request in requests:
        result = measure_apart(request)
        failed += "error" in result
        found.append(request | result)
        print(row_of(request, result), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


def list_requests(papers: Sequence[str], *, small: bool, only: str | None) -> list[dict]:
    """Return what is to be measured: networks, kinds and precisions."""
    from common.cost.workloads import load_workload

    requests = []
    for paper in papers:
        module = load_workload(paper)
        names = module.small() if small else module.full_size()
        requests += [
            {"paper": paper, "name": name, "kind": kind, "precision": precision, "small": small}
            for name in names
            for kind in KINDS
            for precision in ([only] if only else PRECISIONS)
        ]
    return requests


def measure_apart(request: dict) -> dict:
    """Measure in another process; a failure is returned as its last line, under `error`."""
    words = [sys.executable, "-m", "common", "bench-gpu", "--measure", json.dumps(request)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return {"error": f"ended by signal {-done.returncode}"}
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line or "RESOURCE_EXHAUSTED" in line]
        return {"error": (telling or lines or ["no message"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(paper: str, name: str, kind: str, precision: str, small: bool) -> dict[str, Any]:
    """Time one network in this process.

    Args:
        paper: package name.
        name: of the configuration in the paper's `full_size()` or `small()`.
        kind: training or inference.
        precision: float32 or bfloat16 (with float32 weights).
        small: which of the two.
    Returns:
        ms, peak_gib, memory (whose), operations, tflops, matmul_tflops, share, backend, device,
        batch.
    """
    import keras

    from common.cost.device import device_name, peak_of_device
    from common.cost.workloads import load_workload

    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    module = load_workload(paper)
    config = (module.small() if small else module.full_size())[name]
    workload = module.workload_of(config)
    if kind == "training":
        shapes, time_work = workload.training_shapes, time_training
    else:
        shapes, time_work = workload.prediction_shapes, time_inference
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
        "share": operations / seconds / matmul,
        "backend": keras.config.backend(),
        "device": device_name(),
        "shapes": [list(shape) for shape in shapes],
    }


def time_training(
    module: "WorkloadModule", config: Any, shapes: Sequence[Sequence[int]], *, small: bool
) -> tuple[float, float]:
    """Return seconds and floating-point operations of a step of Keras' own `fit`, with XLA."""
    import keras
    import numpy as np

    from common.cost.operations import TRAINING_PASSES, count_operations
    from common.cost.workloads import draw_batch

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
    module: "WorkloadModule", config: Any, shapes: Sequence[Sequence[int]], *, small: bool
) -> tuple[float, float]:
    """Return seconds and floating-point operations of a forward pass, with XLA."""
    import keras
    import numpy as np

    from common.cost.operations import count_operations
    from common.cost.workloads import draw

    network = module.build_network(config)
    inputs = list(map(keras.ops.convert_to_tensor, draw(shapes, np.random.default_rng(0))))

    def forward(trained, other, *inputs):
        found, _ = network.stateless_call(
            trained, other, list(inputs) if len(inputs) > 1 else inputs[0], training=False
        )
        return total(found)

    run = compiled(forward)
    state = [[v.value for v in variables] for variables in
             (network.trainable_variables, network.non_trainable_variables)]  # fmt: skip

    def call(count: int) -> None:
        results = [run(*state, *inputs) for _ in range(count)]
        float(results[-1])

    return time_repeats(call, SECONDS[small]), count_operations(network, shapes)


def matmul_rate(precision: str, *, small: bool) -> float:
    """Return the floating-point operations per second of a square matrix product, with XLA."""
    import keras

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
    """Return the seconds of one of many calls in a row, waited for at the end.

    Args:
        run: function of the number of calls; the first one compiles and does not count.
        least: seconds that the timed calls last at least.
    """
    run(1)
    count = 2
    while True:
        begin = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - begin
        if seconds >= least:
            return seconds / count
        count = max(2 * count, int(1.2 * count * least / seconds))


def compiled(function: Callable) -> Callable:
    """Return the function compiled with XLA by whichever backend there is."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def total(outputs: Any) -> Any:
    """Return one float32 number that depends on all outputs."""
    from keras import ops, tree

    return sum(ops.sum(ops.cast(tensor, "float32")) for tensor in tree.flatten(outputs))


HEADER = (
    f"{'network':<20} {'kind':<9} {'precision':<9} {'ms':>10} {'peak GiB':>9} {'TFLOP/s':>8} "
    f"{'matmul':>8} {'share':>6}  device"
)


def row_of(request: dict, result: dict) -> str:
    """Return the line of one measurement under `HEADER`."""
    name = " ".join(filter(None, (request["paper"], request["name"])))
    start = f"{name:<20} {request['kind']:<9} {request['precision']:<9}"
    if "error" in result:
        return f"{start} failed: {result['error']}"
    return (
        f"{start} {result['ms']:>10.2f} {result['peak_gib']:>9.3f} {result['tflops']:>8.3g} "
        f"{result['matmul_tflops']:>8.3g} {result['share']:>6.1%}  {result['backend']} on "
        f"{result['device']}{'' if result['memory'] == 'device' else ', memory of the process'}"
    )


if __name__ == "__main__":
    sys.exit(main())
