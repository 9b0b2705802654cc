"""What each quirk of the original does: one switch flipped at a time, the outcome measured.

A switch is a field of a paper's `Config` that its preset `code` sets and `port` does not. A paper
names, for each, the stage where it acts: a function of the configuration that computes that stage's
result on a phantom. Here the stage is run with the port's value and with the code's.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure as Canvas

from common.errors import UserError
from common.evaluation.overlap import dice
from common.report.drawing import render
from common.report.page import Figure
from common.study.compare import Table

REFUSED = "refused: "


@dataclass(frozen=True)
class Outcome:
    """What one stage comes to."""

    values: Any
    """Array or sequence whose elements can be held to another outcome's, one by one; None where
    nothing of the kind exists."""
    words: str
    """The same in a few words, for people."""


@dataclass(frozen=True)
class Probe:
    """Where a switch acts and how it is measured."""

    switches: tuple[str, ...]
    """Fields flipped together: one, or several that make no sense alone."""
    ledger: str
    """Ids of the paper card's ledger, as "F5"."""
    stage: str
    """Name of the stage, such as "inference"."""
    measure: Callable[[Any], Outcome]
    """Function of a `Config`."""


def find_switches(code: Any, port: Any) -> list[str]:
    """Return the fields in which two configurations of one paper differ, in their order."""
    return [f.name for f in fields(port) if getattr(code, f.name) != getattr(port, f.name)]


def measure_effects(
    probes: Sequence[Probe], *, base: Any, code: Any, progress: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Flip one switch after the other and measure what changes.

    Args:
        probes: of the paper.
        base: the port's configuration, its network perhaps made small for the phantom.
        code: preset `code`, whose values the switches take.
        progress: called with the name of each switch before it is measured.

    Returns:
        A row per probe: `ledger`, `switch`, `flip` (the port's value -> the code's), `stage`,
        `changed` (share of the stage's values that differ, in per cent; a dash where values cannot
        be paired), `port` and `code` (the outcome in words). A configuration that the project
        refuses is an outcome, too.
    """
    rows, known = [], {}
    for probe in probes:
        name = ", ".join(probe.switches)
        if progress is not None:
            progress(name)
        if probe.measure not in known:
            known[probe.measure] = run_stage(probe.measure, base)
        before = known[probe.measure]
        flipped = replace(base, **{each: getattr(code, each) for each in probe.switches})
        after = run_stage(probe.measure, flipped)
        rows.append({
            "ledger": probe.ledger,
            "switch": name,
            "flip": ", ".join(
                f"{short(getattr(base, each))} -> {short(getattr(code, each))}"
                for each in probe.switches
            ),
            "stage": probe.stage,
            "changed": format_share(share_changed(before.values, after.values)),
            "port": before.words,
            "code": after.words,
        })  # fmt: skip
    return rows


def run_stage(measure: Callable[[Any], Outcome], config: Any) -> Outcome:
    """Run a stage; where the project refuses the configuration, that is the outcome."""
    try:
        return measure(config)
    except UserError as refusal:
        return Outcome(None, f"{REFUSED}{' '.join(str(refusal).split())[:90]}")


def share_changed(before: Any, after: Any) -> float | None:
    """Return the share of paired values that differ, or None where they cannot be paired.

    Floating-point numbers differ beyond a millionth of the larger spread: rounding does not count.
    """
    if before is None or after is None:
        return None
    first, second = np.asarray(before), np.asarray(after)
    if first.shape != second.shape or not first.size:
        return None
    if first.dtype.kind == "f" or second.dtype.kind == "f":
        limit = 1e-6 * max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-30)
        return float((np.abs(first.astype(np.float64) - second) > limit).mean())
    return float((first != second).mean())


def format_share(share: float | None) -> str:
    """Return a share as a percentage, or a dash."""
    if share is None:
        return "–"
    if share == 0:
        return "0 %"
    return f"{100 * share:.2f} %" if share >= 5e-5 else f"{100 * share:.1e} %"


def short(value: Any, limit: int = 24) -> str:
    """Return a setting's value, cut where it is long."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_complete(probes: Sequence[Probe], code: Any, port: Any) -> list[str]:
    """Return the switches that no probe measures; empty where the paper has a probe for each."""
    measured = {name for probe in probes for name in probe.switches}
    return [name for name in find_switches(code, port) if name not in measured]


def compare_effects(bench: Any, *, code: Any, run: Path | None) -> Table:
    """Measure every switch of a paper and return the effects as a part.

    Args:
        bench: has `base`, the port's configuration, `probes()`, and `given`: the network it was
            given, or None where that does not fit its phantoms.
        code: preset `code`.
        run: whose network the bench uses; None: one of its own.
    """
    rows = measure_effects(bench.probes(), base=bench.base, code=code, progress=show_progress)
    network = "a small one, trained on phantoms for some seconds"
    if run is not None:
        network = (
            f"that of {run}" if bench.given else f"{network} (that of {run} does not fit them)"
        )
    return effects_table(rows, note=f"Network, where one is needed: {network}.")


def show_progress(name: str) -> None:
    """Show on a terminal which switch is being flipped."""
    if sys.stderr.isatty():
        print(f"\r{name[:70]:<72}", end="", file=sys.stderr, flush=True)


def effects_table(rows: Sequence[Mapping[str, Any]], *, note: str) -> Table:
    """Return the effects as a part.

    Args:
        rows: of `measure_effects`.
        note: which network they were measured with.
    """
    text = (
        "Each row flips one switch of the port to the value the released code has and leaves "
        "everything else. `changed` is the share of the stage's values (voxels, patches, settings) "
        f"that differ. {note}"
    )
    return Table("effects of the quirks", rows, text, [draw(rows)], phantom=True)


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the shares that can be paired as bars, coloured by stage."""
    shown = [row for row in rows if row["changed"] != "–"]
    stages = list(dict.fromkeys(row["stage"] for row in shown))
    palette = colormaps["tab10"]
    canvas = Canvas(figsize=(8.5, 0.8 + 0.27 * max(len(shown), 3)), layout="constrained")
    axes = canvas.subplots()
    for place, row in enumerate(shown):
        share = float(row["changed"].removesuffix(" %"))
        colour = palette(stages.index(row["stage"]) % 10)
        axes.barh(place, max(share, 0.05), color=colour)
        axes.text(max(share, 0.05) + 1, place, row["changed"], va="center", fontsize=7)
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([f"{row['ledger']}  {short(row['switch'], 40)}" for row in shown],
                         fontsize=7)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xlabel("values of the stage that change, %")
    handles = [
        axes.barh(0, 0, color=palette(number % 10), label=stage)
        for number, stage in enumerate(stages)
    ]
    if handles:
        axes.legend(handles=handles, fontsize=7, frameon=False, loc="lower right")
    caption = "How much of its stage's result each switch changes when it alone is flipped."
    return Figure(render(canvas, phantom=True), caption)


def describe_labels(found: np.ndarray, reference: np.ndarray) -> Outcome:
    """Return a label map as an outcome, with the phantom's Dice of all that is above 0."""
    score = dice(found > 0, reference > 0)
    return Outcome(found, f"phantom's Dice {score:.3f}, {int((found > 0).sum())} voxels")


def describe_numbers(values: np.ndarray, what: str) -> Outcome:
    """Return numbers as an outcome: their mean and deviation, named."""
    values = np.asarray(values)
    return Outcome(values, f"{what}: mean {values.mean():.4g}, deviation {values.std():.4g}")
