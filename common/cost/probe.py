"""Measure one training step or one call of a paper's network in a process of its own.

`python -m common.cost.probe` reads a request as JSON from its input and writes what it measured as
JSON to its output; `measure` does both ends. The largest memory of a process never falls again, so
every measurement gets a process.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.errors import OptionError
from common.files import as_yaml, plain, write_text_atomically
from common.papers import ROOT

Kind = Literal["training", "prediction"]
ENOUGH_SECONDS = 3.0
MOST_REPEATS = 20


@dataclass(frozen=True)
class Measured:
    """What a probe found."""

    seconds: float
    """Of one step or call, the fastest; the first, which compiles, does not count."""
    first_seconds: float
    start_bytes: int
    """Held before the first step, network and TensorFlow included."""
    peak_bytes: int
    """Held at most."""


def measure(
    paper: str,
    config: Any,
    kind: Kind,
    *,
    scan: tuple[int, ...] | None = None,
    mixed_precision: bool = False,
) -> Measured:
    """Run some steps, or calls, on random numbers in another process.

    Args:
        paper: package name.
        config: the paper's `Config`.
        kind: what to run.
        scan: shape of the scan that is predicted; None: a usual one.
        mixed_precision: bfloat16 arithmetic.
    Raises:
        OptionError: the process was ended, by the kernel where memory ran out, or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_text_atomically(Path(folder) / "config.yaml", as_yaml(plain(config)))
        request = {"paper": paper, "folder": folder, "kind": kind, "scan": scan,
                   "mixed": mixed_precision}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "common.cost.probe"],
            input=json.dumps(request),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode < 0:
        raise OptionError(
            f"the probe of one {kind} step was ended by signal {-done.returncode}; where that is 9 "
            "the memory did not suffice: lower the sizes, or --probe false for the estimate alone"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OptionError(f"the probe of one {kind} step failed: {last}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def run_request(request: dict) -> dict:
    """Measure what a request asks for, in this process.

    Args:
        request: paper, folder of config.yaml, kind, scan, mixed.
    Returns:
        Fields of `Measured`.
    """
    import importlib

    from common.cost.memory import memory_held, peak_memory
    from common.cost.workloads import load_description
    from common.runs.folder import load_config
    from common.runtime import configure_runtime

    config_class = importlib.import_module(f"{request['paper']}.config").Config
    config = load_config(Path(request["folder"]), config_class)
    runtime = configure_runtime(seed=0, mixed_precision=request["mixed"])
    workload = load_description(request["paper"]).describe(config, request["scan"])
    rng = np.random.default_rng(0)
    run = (prepare_training if request["kind"] == "training" else prepare_call)(
        workload, rng, xla=runtime["xla"]
    )
    start = memory_held()
    begin = time.perf_counter()
    run()
    first = time.perf_counter() - begin
    times = []
    while not times or (sum(times) < ENOUGH_SECONDS and len(times) < MOST_REPEATS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return {
        "seconds": min(times),
        "first_seconds": first,
        "start_bytes": start,
        "peak_bytes": peak_memory(),
    }


def prepare_training(workload, rng: np.random.Generator, *, xla: bool) -> Callable[[], None]:
    """Return the function that takes one training step on one random batch."""
    network = workload.build()
    model = workload.compile(network, xla)
    inputs, targets = workload.draw_batch(network, rng)
    return lambda: model.train_on_batch(inputs, targets)


def prepare_call(workload, rng: np.random.Generator, *, xla: bool) -> Callable[[], None]:
    """Return the function that calls the network once on random numbers."""
    import tensorflow as tf

    from common.cost.workloads import draw

    network = workload.build()
    arrays = draw(workload.prediction_shapes, rng)
    if workload.make_call is not None:
        call = workload.make_call(network)
        return lambda: call(*arrays)

    @tf.function(jit_compile=xla)
    def run(*inputs):
        return network(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    return lambda: tf.nest.map_structure(
        lambda tensor: tensor.numpy(), run(*map(tf.constant, arrays))
    )


if __name__ == "__main__":
    from common.runtime import load_tensorflow_quietly

    load_tensorflow_quietly()
    print(json.dumps(run_request(json.load(sys.stdin))))
