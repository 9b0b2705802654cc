"""What each quirk of the original does: one switch flipped at a time, the outcome measured.

A switch is a field of a paper's `Config` that its preset `code` sets and `port` does not. The stage
where it acts, a function of the configuration, is run on a phantom with the port's value and the
code's.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import keras
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure as Canvas

from common.errors import UserError
from common.evaluation.overlap import dice
from common.report.drawing import render
from common.report.page import Figure
from common.runtime import configure_runtime
from common.study.compare import Table

REFUSED = "refused: "


@dataclass(frozen=True)
class MeasuredEffect:
    """What one stage comes to."""

    values: Any
    """Array or sequence whose elements can be held to another outcome's, one by one; None where
    nothing of the kind exists."""
    words: str
    """The same in a few words, for people."""


@dataclass(frozen=True)
class EffectProbe:
    """Where a switch acts and how it is measured."""

    switches: tuple[str, ...]
    """Fields flipped together: one, or several that make no sense alone."""
    ledger: str
    """Ids of the paper card's ledger, as "F5"."""
    stage: str
    """Name of the stage, such as "inference"."""
    measure: Callable[[Any], MeasuredEffect]
    """Function of a `Config`."""


class TrainedBench:
    """Phantoms and a network on which a paper's switches are measured.

    Args:
        network: a trained network with the configuration it belongs to; None, or one that does not
            fit the phantoms: a small one is trained here for some seconds.
    """

    seed: int
    """Of phantoms, weights and draws."""
    small: Any
    """The port's configuration with a network that learns a phantom in seconds."""
    network_fields: Sequence[str]
    """Fields that are taken from the configuration of a given network."""

    def __init__(self, network: tuple[keras.Model, Any] | None = None):
        self.given = network if network is not None and self.fits(network[1]) else None
        self.base = self.adapt(None if self.given is None else self.given[1])
        """The port's configuration, its network made small or that of the given one."""

    @cached_property
    def model(self) -> keras.Model:
        """The given network, or one trained on phantoms."""
        if self.given is not None:
            return self.given[0]
        keras.utils.set_random_seed(self.seed)
        return self.train_model()

    def fits(self, config: Any) -> bool:
        """Return whether a network of this configuration can be shown the phantoms."""
        raise NotImplementedError

    def adapt(self, config: Any | None) -> Any:
        """Return `base` for a given network's configuration, or for none."""
        fields = () if config is None else self.network_fields
        return replace(self.small, **{name: getattr(config, name) for name in fields})

    def train_model(self) -> keras.Model:
        """Return a small network after some seconds of training."""
        raise NotImplementedError

    def probes(self) -> list[EffectProbe]:
        """Return a probe for every switch of the preset `code`."""
        raise NotImplementedError


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a temporary folder whose name is left out of refusals: it is soon gone."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        except UserError as refusal:
            raise type(refusal)(str(refusal).replace(f"{folder}/", "")) from refusal


def find_switches(code: Any, port: Any) -> list[str]:
    """Return the fields in which two configurations of one paper differ, in their order."""
    return [f.name for f in fields(port) if getattr(code, f.name) != getattr(port, f.name)]


def measure_effects(
    probes: Sequence[EffectProbe],
    *,
    base: Any,
    code: Any,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Flip one switch of `base` after the other to the value of `code` and measure what changes.

    Returned is a row per probe: `ledger`, `switch`, `flip` (the port's value -> the code's),
    `stage`, `changed` (share of the stage's values that differ, in per cent; a dash where values
    cannot be paired), `port` and `code` (the outcome in words). A configuration that the project
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


def run_stage(measure: Callable[[Any], MeasuredEffect], config: Any) -> MeasuredEffect:
    """Run a stage; where the project refuses the configuration, that is the outcome."""
    try:
        return measure(config)
    except UserError as refusal:
        return MeasuredEffect(None, REFUSED + shorten(str(refusal), 90, placeholder=" ..."))


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


def check_complete(probes: Sequence[EffectProbe], code: Any, port: Any) -> list[str]:
    """Return the switches that no probe measures; empty where the paper has a probe for each."""
    measured = {name for probe in probes for name in probe.switches}
    return [name for name in find_switches(code, port) if name not in measured]


def compare_effects(
    make_bench: type[TrainedBench],
    load_network: Callable[[Path], tuple[keras.Model, Any]],
    *,
    code: Any,
    run: Path | None,
) -> Table:
    """Flip every switch of the preset `code` alone and measure what it does on phantoms.

    The network of `run` is used where it fits the phantoms, else one trained for some seconds.
    """
    configure_runtime(seed=0)
    bench = make_bench(None if run is None else load_network(run))
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
    """Return the rows of `measure_effects` as a part; `note` says with which network."""
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
    names = [f"{row['ledger']}  {short(row['switch'], 40)}" for row in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(0, 115), xlabel="values of the stage that change, %")
    for number, stage in enumerate(stages):
        axes.barh(0, 0, color=palette(number % 10), label=stage)
    if stages:
        axes.legend(fontsize=7, frameon=False, loc="lower right")
    caption = "How much of its stage's result each switch changes when it alone is flipped."
    return Figure(render(canvas, phantom=True), caption)


def describe_labels(found: np.ndarray, reference: np.ndarray) -> MeasuredEffect:
    """Return a label map as an outcome, with the phantom's Dice of all that is above 0."""
    score = dice(found > 0, reference > 0)
    return MeasuredEffect(found, f"phantom's Dice {score:.3f}, {int((found > 0).sum())} voxels")
