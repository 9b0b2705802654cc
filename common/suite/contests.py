"""What a paper's `bench` does: run its contests, print a table of each, keep the numbers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from common.cost.turns import Contest, Side, Timing, run_contest
from common.errors import OptionError, RunError
from common.files import write_json
from common.report.tables import format_table
from common.runs.provenance import environment_facts, package_version
from common.runtime import instruction_set, onednn_in_force, threads_wanted

LAYOUTS = ("contiguous", "channels last")
"""How PyTorch lays tensors out in memory; either may be the faster."""
MIXED_PRECISION = "mixed_precision"
"""Option of a side on TensorFlow that computes in bfloat16."""
MIB = 2**20
TRAINING, INFERENCE = NETWORK_WORK = ("training step", "inference")
"""What a network does; a paper may have contests of other work."""
COLUMNS = ("side", "CPU s", "wall s", "peak MiB", "CPU ratio", "wall ratio", "differs by")
VERSIONS = ("tensorflow", "keras", "torch", "monai")


def torch_sides(function: str, *, name: str = "PyTorch", monai: bool = False) -> tuple[Side, ...]:
    """Return PyTorch's sides of a contest, one for each memory layout; MONAI where it is needed.

    The function is a twin's "module:function", whose `sizes["layout"]` is one of `LAYOUTS`.
    """
    packages = ("torch", "monai") if monai else ("torch",)
    # Keras builds the network on PyTorch, so that TensorFlow computes nothing.
    variables = {"KERAS_BACKEND": "torch"}
    return tuple(
        Side(name, function, {"layout": layout}, packages=packages, environment=variables)
        for layout in LAYOUTS
    )


def run_contests(
    paper: str,
    contests: Sequence[Contest],
    *,
    turns: int,
    mixed_precision: bool = False,
    to: Path | None = None,
) -> None:
    """Run the contests of a paper, print a table of each, keep the numbers in the JSON file `to`.

    Each side has so many timed turns; with `mixed_precision` the first also computes in bfloat16.

    Raises:
        OptionError: there are no turns.
        RunError: a side failed or came to another result; the others were timed.
    """
    if turns < 1:
        raise OptionError(f"--turns: found {turns}; expected 1 or more")
    # The same number of threads for all, whatever they run on.
    environment = {"OMP_NUM_THREADS": str(threads_wanted())}
    found, failures = [], []
    for contest in contests:
        if mixed_precision and contest.work in NETWORK_WORK:
            contest = _with_bfloat16(contest)
        timings = choose_variants(run_contest(contest, turns=turns, environment=environment))
        table = format_table(make_rows(timings))
        print(f"{paper}: {contest.work}, {contest.what}\n{table}\n", flush=True)
        found.append({"work": contest.work, "what": contest.what, "timings": timings})
        failures += [f"{contest.work}, {t.side}: {t.note}" for t in timings if t.failed]
    if to is not None:
        write_json(to, {**machine_facts(), "turns": turns, "contests": found})
    if failures:
        raise RunError("; ".join(failures))


def choose_variants(timings: Sequence[Timing]) -> list[Timing]:
    """Return one timing per name of a side, that of the least processor time."""
    fastest: dict[str, Timing] = {}
    for timing in sorted(timings, key=lambda t: math.inf if t.cpu_s is None else t.cpu_s):
        fastest.setdefault(timing.side, timing)
    return [fastest[name] for name in dict.fromkeys(timing.side for timing in timings)]


def make_rows(timings: Sequence[Timing]) -> list[dict[str, str]]:
    """Return the table of a contest, a row per side; ratios are those to the first."""
    rows, ours = [], timings[0]
    for timing in timings:
        layout = timing.options.get("layout")
        row = dict.fromkeys(COLUMNS, "")
        row["side"] = f"{timing.side} ({layout})" if layout else timing.side
        row["differs by"] = timing.note
        if timing.cpu_s is not None:
            row["CPU s"], row["wall s"] = f"{timing.cpu_s:.3f}", f"{timing.wall_s:.3f}"
            row["peak MiB"] = f"{timing.peak_bytes / MIB:.0f}"
            row["differs by"] = f"{timing.difference:.1e}"
            if ours.cpu_s is not None:
                row["CPU ratio"] = f"{timing.cpu_s / ours.cpu_s:.2f}"
                row["wall ratio"] = f"{timing.wall_s / ours.wall_s:.2f}"
        rows.append(row)
    return rows


def machine_facts() -> dict:
    """Return what decides the speed, and when and with which code it was measured; plain."""
    facts = environment_facts()
    return {
        "processor": facts["cpu"],
        "instruction_set": instruction_set(),
        "native_instruction_set": instruction_set(environment={}),
        "onednn": onednn_in_force(),
        "threads": threads_wanted(),
        "memory_gib": facts["memory_gib"],
        "versions": {name: package_version(name) for name in VERSIONS},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts["git"],
    }


def _with_bfloat16(contest: Contest) -> Contest:
    ours, *others = contest.sides
    name, options = f"{ours.name}, bfloat16", {MIXED_PRECISION: True}
    rounded = replace(ours, name=name, options=options, is_same=False)
    return replace(contest, sides=(ours, rounded, *others))
