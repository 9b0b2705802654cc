"""The verb `plan`: what training and a prediction will take, estimated and measured, as a table."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.cost.budget import (
    Budget,
    budget_of_prediction,
    budget_of_training,
    compare_memory,
    network_of,
    show_operations,
    show_time,
    uses_gpu,
    usual_rate,
)
from common.cost.memory import GIB
from common.cost.probe import Kind, Measured, measure
from common.cost.workloads import Scan, Workload, load_description
from common.errors import OptionError


def print_plan(
    paper: str,
    config: Any,
    *,
    scan: tuple[int, int, int] | None = None,
    examples: int | None = None,
    probe: bool = True,
    mixed_precision: bool = False,
    out: Path | None = None,
) -> None:
    """Print what training a network and predicting a scan will take on this machine.

    Args:
        paper: package name.
        config: the paper's `Config`.
        scan: voxels of the scan; None: a usual one.
        examples: what is trained on, where the number of steps depends on it.
        probe: also measure one step and one call, each in a process of its own.
        mixed_precision: bfloat16 arithmetic.
        out: JSON file with the same numbers.
    Raises:
        OptionError: a size of the scan is below 1, or a probe failed.
        RunError: `out` cannot be written.
    """
    from common.files import write_json
    from common.runtime import configure_runtime

    description = load_description(paper)
    asked = description.describe_scan(check_scan(scan) or description.SCAN, config)
    configure_runtime(seed=0, mixed_precision=mixed_precision)
    workload = description.describe(config, asked.shape)
    model = workload.compile(workload.build(), False)
    budgets = {
        "training": budget_of_training(model, workload),
        "prediction": budget_of_prediction(network_of(model), workload),
    }
    counts = {"training": description.count_steps(config, examples), "prediction": asked.calls}
    rows, facts = [], {"paper": paper, "mixed_precision": mixed_precision}
    rows.append(("parameters", f"{budgets['training'].parameters:,}"))
    for kind, budget in budgets.items():
        measured = None
        if probe and has_room(budget, kind):
            measured = measure(
                paper, config, kind, scan=asked.shape, mixed_precision=mixed_precision
            )
        rows += describe_kind(kind, budget, measured, workload, count=counts[kind])
        facts[kind] = {
            "estimate": {**asdict(budget), "growth": budget.growth},
            "measured": measured and asdict(measured),
            "count": counts[kind],
        }
    rows += describe_payload(asked)
    facts["scan"] = asdict(asked)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows))
    if out is not None:
        write_json(out, facts)


def check_scan(scan: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    """Refuse a scan without voxels.

    Raises:
        OptionError: a size is below 1.
    """
    if scan is not None and min(scan) < 1:
        raise OptionError(f"--scan: found {scan}; expected sizes from 1")
    return scan


def has_room(budget: Budget, kind: Kind) -> bool:
    """Say whether a probe fits into memory; where it does not, tell."""
    needed, available, where = compare_memory(budget)
    if needed > available:
        print(
            f"warning: {kind} is not measured: about {needed / GIB:.1f} GiB of {where} are needed "
            f"(estimate), {available / GIB:.1f} GiB are available"
        )
    return needed <= available


def describe_kind(
    kind: Kind, budget: Budget, measured: Measured | None, workload: Workload, *, count: int | None
) -> list[tuple[str, str]]:
    """Return the rows of a training step or a call: name and value."""
    training = kind == "training"
    shapes = workload.training_shapes if training else workload.prediction_shapes
    each, lower = (
        ("step", workload.lower_in_training) if training else ("call", workload.lower_in_prediction)
    )
    needed, available, where = compare_memory(budget)
    parts = {
        "activations": budget.tensors,
        "gradients": budget.gradients,
        "optimiser": budget.optimiser,
        "workspace": budget.workspace,
        "at the start": needed - budget.growth,
    }
    listed = ", ".join(
        f"{name} {size / GIB:.2f}" for name, size in parts.items() if size > 0.005 * GIB
    )
    seconds = budget.operations / usual_rate()
    rows = [
        (kind, " + ".join(" x ".join(map(str, shape)) for shape in shapes)),
        ("  memory, estimated", f"{needed / GIB:.2f} GiB ({listed}); {available / GIB:.1f} GiB of "
                                f"{where} available"),
        (f"  {each}, estimated", f"{show_operations(budget.operations)}, {show_time(seconds)}"),
    ]  # fmt: skip
    if measured is not None:
        seconds = measured.seconds
        share = budget.operations / seconds / 1e9
        memory = f"{measured.peak_bytes / GIB:.2f} GiB"
        memory += " of the host; the GPU's is not measured" if uses_gpu() else ""
        rows += [
            ("  memory, measured", memory),
            (f"  {each}, measured", f"{show_time(seconds)} ({share:.0f} GFLOP/s); the first, with "
                                    f"compilation, {show_time(measured.first_seconds)}"),
        ]  # fmt: skip
    if count is None:
        rows.append(("  the run", "its steps depend on the data: give --examples"))
    else:
        what = "the run" if training else "the scan"
        rows.append((f"  {what}", f"{count} {each}s, {show_time(count * seconds)}"
                                  f"{'' if measured else ' (estimate)'}"))  # fmt: skip
    if lower:
        rows.append(("  to take less", f"lower {lower}"))
    return rows


def describe_payload(scan: Scan) -> list[tuple[str, str]]:
    """Return the rows of what goes to a server and comes back."""
    parts = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in scan.payload.items())
    rows = [("served scan", f"{' x '.join(map(str, scan.shape))}: {parts}")]
    return [*rows, ("", scan.note)] if scan.note else rows
