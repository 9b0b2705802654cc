"""Estimate memory and time of training and prediction, by measuring one step and one call."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.cost.memory import GIB, available_memory, gpu_memory
from common.cost.probe import Kind, Measured, measure
from common.cost.stopwatch import show_time
from common.errors import OptionError
from common.files import write_json
from common.runtime import usable_cores

Rows = list[tuple[str, str]]
UNITS = {"training": "step", "prediction": "call"}
PREFIXES = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
WORKER_STARTS_S = 12.0
"""Until a worker of a cohort has TensorFlow and its network, on one core; measured."""
WHOLES = {"training": "the run", "prediction": "the scan"}


@dataclass(frozen=True)
class Work:
    """A training step, or a call at prediction, and how many there are."""

    kind: Kind
    shapes: Sequence[Sequence[int]]
    """Of the network's inputs, the batch first."""
    operations: float
    """Floating-point operations of one."""
    count: int | None
    """None: the examples decide, and they are not known."""
    lower: str
    """Options that make it smaller."""
    measured: Measured | None = None
    too_large: bool = False
    """It was tried, and memory did not suffice."""


def plan(
    paper: str,
    *,
    config: Any,
    preset: str = "port",
    scan: tuple[int, int, int] | None = None,
    examples: int | None = None,
    probe: bool = True,
    mixed_precision: bool = False,
    out: Path | None = None,
) -> None:
    """Estimate memory and time of training and prediction on this machine, and payloads.

    Memory and time are measured on random numbers, in processes of their own. A time holds for a
    machine that is as busy as this one is now.

    Args:
        paper: package name.
        config: every number of the run.
        preset: where the numbers come from; options after it change single ones.
        scan: voxels of the scan to predict, in the order of the paper's arrays; default: a usual
            one, with the preset quick a phantom.
        examples: what is trained on, where the number of steps depends on it.
        probe: measure one step and one call; without it only counts are printed.
        mixed_precision: bfloat16 arithmetic.
        out: JSON file with the same numbers.

    Raises:
        OptionError: a size of the scan is below 1, or a measurement failed.
        RunError: `out` cannot be written.
    """
    from common.cost.device import leave_gpus_alone
    from common.cost.workloads import load_workload, operations_of

    if scan is not None and min(scan) < 1:
        raise OptionError(f"--scan: found {scan}; expected sizes from 1")
    leave_gpus_alone()  # for the processes that measure
    module = load_workload(paper)
    usual = module.usual_data(preset)
    scan, examples = scan or usual.scan, examples or usual.examples
    asked, network = module.scan_work(scan, config), module.build_network(config)
    load = {"processes": os.getloadavg()[0], "cores": usable_cores()}
    step, call = operations_of(module, network, config, scan)
    steps, work = module.count_steps(config, examples), module.workload_of(config, scan)
    works = [
        Work("training", work.training_shapes, step, steps, work.lower_in_training),
        Work("prediction", work.prediction_shapes, call, asked.calls, work.lower_in_prediction),
    ]
    for number, work in enumerate(works if probe else ()):
        found = measure(paper, config, work.kind, scan=scan, mixed_precision=mixed_precision)
        works[number] = replace(work, measured=found, too_large=found is None)
    rows = [("parameters", f"{network.count_params():,}")]
    for work in works:
        rows += rows_of_work(work, examples=examples)
    payload = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in asked.payload.items())
    rows.append(("served scan", f"{' x '.join(map(str, asked.shape))}: {payload}"))
    rows += [("", asked.note)] if asked.note else []
    if probe:
        rows.append(("load", f"{load['processes']:.1f} processes for {load['cores']} cores when "
                             "this began: times hold for a machine as busy as that"))  # fmt: skip
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows))
    if out is not None:
        facts = {"paper": paper, "mixed_precision": mixed_precision, "examples": examples,
                 "parameters": network.count_params(), "scan": asdict(asked),
                 "load": load}  # fmt: skip
        write_json(out, facts | {work.kind: asdict(work) for work in works})


def rows_of_work(work: Work, *, examples: int | None) -> Rows:
    """Return the rows of a training step or a call: name and value."""
    each, measured = UNITS[work.kind], work.measured
    inputs = " + ".join(" x ".join(map(str, shape)) for shape in work.shapes)
    rows = [(work.kind, inputs), (f"  {each}", show_operations(work.operations))]
    if work.too_large:
        memory = f"more than the {available_memory() / GIB:.1f} GiB that are available"
        rows.append(("  memory, measured", memory))
    if measured is not None:
        rate = work.operations / measured.seconds / 1e9
        times = (f"{show_time(measured.seconds)} ({rate:.0f} GFLOP/s); the first, with "
                 f"compilation, {show_time(measured.first_seconds)}")  # fmt: skip
        rows += [("  memory, measured", show_memory(measured)), (f"  {each}, measured", times)]
    rows.append((f"  {WHOLES[work.kind]}", show_count(work, examples=examples)))
    if work.kind == "prediction" and measured is not None and work.count:
        least = math.ceil(2 * WORKER_STARTS_S / (work.count * measured.seconds))
        rows.append(("  --workers 2", f"gains time from about {least} such scans on: a worker "
                                      f"takes about {WORKER_STARTS_S:.0f} s to start"))  # fmt: skip
    return [*rows, ("  to take less", f"lower {work.lower}")] if work.lower else rows


def show_memory(measured: Measured) -> str:
    """Return the peak of a measurement beside what is available where it was held."""
    of, available = "memory", available_memory()
    if measured.memory == "device":
        of, available = "GPU memory", gpu_memory() or 0
    return f"{measured.peak_bytes / GIB:.2f} GiB; {available / GIB:.1f} GiB of {of} available"


def show_count(work: Work, *, examples: int | None) -> str:
    """Return how many steps or calls there are, and how long all of them take."""
    if work.count is None:
        return "its steps depend on the data: give --examples"
    words = f"{work.count} {UNITS[work.kind]}{'' if work.count == 1 else 's'}"
    if work.kind == "training" and examples is not None:
        words += f" for {examples} examples"
    if work.measured is not None:
        words += f", {show_time(work.count * work.measured.seconds)}"
    return words


def show_operations(count: float) -> str:
    """Return a number of operations with a prefix, such as 1.26 TFLOP."""
    size, name = next((each for each in PREFIXES if count >= each[0]), PREFIXES[-1])
    return f"{count / size:.3g} {name}"
