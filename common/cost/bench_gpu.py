"""Time every paper's training step and inference and a matrix product under XLA.

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
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser
from common.errors import OptionError
from common.papers import ROOT, choose_papers

PRECISIONS = ("float32", "bfloat16")
BACKENDS = ("jax", "tensorflow")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the options name and print a line for each; return 1 if one failed, else 0."""
    parser = Parser(prog="python -m common bench-gpu", description=__doc__)
    parser.add_argument("--paper", help="one paper; default: all")
    parser.add_argument("--small", action="store_true", help="small sizes, as a CPU can do")
    parser.add_argument("--precision", choices=PRECISIONS, help="one of them; default: both")
    parser.add_argument(
        "--devices", type=int, default=1,
        help="devices that share a training step, each with the usual batch (JAX alone)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if backend not in BACKENDS:
        raise OptionError(f"KERAS_BACKEND is {backend}; expected {' or '.join(BACKENDS)}")
    if options.devices < 1 or (options.devices > 1 and backend != "jax"):
        raise OptionError(
            f"--devices is {options.devices} with KERAS_BACKEND={backend}; expected 1, or more "
            "with KERAS_BACKEND=jax"
        )
    missing = [name for name in ("keras", backend) if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(
            f"{missing[0]} is not installed here; expected keras and {backend} (GPU_PYTHON of "
            "`make bench-gpu` names another Python)"
        )
    papers = choose_papers(options.paper, having="workload.py")
    from common.cost.gpu_timing import list_requests, measure

    if options.measure:
        print(json.dumps(measure(**json.loads(options.measure))))
        return 0
    precisions = [options.precision] if options.precision else PRECISIONS
    requests = list_requests(
        papers, small=options.small, precisions=precisions, devices=options.devices
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
    whose = "" if result["memory"] == "device" else ", memory of the process"
    several = f" x {result['devices']}" if result["devices"] > 1 else ""
    return (
        f"{start} {result['ms']:>10.2f} {result['peak_gib']:>9.3f} {result['tflops']:>8.3g} "
        f"{result['matmul_tflops']:>8.3g} {result['share']:>6.1%}  {result['backend']} on "
        f"{result['device']}{several}{whose}"
    )
