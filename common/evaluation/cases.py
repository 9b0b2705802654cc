"""The cases of an evaluation: each is read once, measured, and drawn if it is among the worst."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from common.cohort.work import HERE, Item, Workers, work_through
from common.data.geometry import Geometry
from common.report.drawing import draw_overlay
from common.report.page import Figure
from common.report.viewer.embed import ViewedCase
from common.runs.failures import Failures

PICTURES = 4
"""Cases that are drawn on the page."""


@dataclass(frozen=True)
class Plane:
    """The plane in which a paper's cases are drawn: that with the largest reference area."""

    axis: int = 0
    """Of the arrays (Z, Y, X), to which the plane is perpendicular."""
    flipped: bool = False
    """The first row of the plane is drawn at the bottom."""
    word: str = "slice"
    caption: str = "scan, reference and prediction"


@dataclass(frozen=True)
class ScoredCase:
    """One measured case: label map and reference on one grid, and the scan where there is one."""

    id: str
    rows: Sequence[Mapping[str, Any]]
    """Measures per label, as `common.evaluation.metrics.score_case` gives them, or with more."""
    prediction: np.ndarray
    """(Z, Y, X) integer labels, 0 is background."""
    reference: np.ndarray
    """(Z, Y, X) integer labels."""
    geometry: Geometry
    read_scan: Callable[[], np.ndarray] | None
    """Reads the intensities (Z, Y, X), which only the worst cases need; None: there is no scan."""
    title: str = ""
    """What pictures call the case; empty: its id."""
    oriented: bool = True
    """Whether the data say where left and right are."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else a paper measures of a case."""

    @cached_property
    def scan(self) -> np.ndarray:
        """Intensities (Z, Y, X), read when first asked for."""
        return self.read_scan()

    @property
    def lowest_dice(self) -> float:
        """The lowest Dice of the labels, -1 where one is not defined; infinite without labels."""
        values = (row["dice"] for row in self.rows)
        return min((-1.0 if math.isnan(dice) else dice for dice in values), default=math.inf)

    def draw(self, plane: Plane, *, phantom: bool) -> Figure:
        """Return the picture of the case; one of synthetic data says so inside it."""
        area = (self.reference > 0).sum(axis=tuple({0, 1, 2} - {plane.axis}))
        chosen = int(area.argmax())
        title = f"{self.title or self.id}, {plane.word} {chosen} of {len(area)}"
        flip = slice(None, None, -1 if plane.flipped else 1)
        volumes = (self.scan, self.reference, self.prediction)
        png = draw_overlay(
            *(volume.take(chosen, plane.axis)[flip] for volume in volumes),
            title=title,
            pixel_mm=tuple(np.delete(self.geometry.spacing_zyx_mm, plane.axis)),
            phantom=phantom,
        )
        return Figure(png, f"{title}: {plane.caption}.")

    def view(self) -> ViewedCase:
        """Return the case for the viewer in three planes."""
        volumes = (self.scan, self.reference, self.prediction)
        return ViewedCase.from_zyx(self.id, volumes, self.geometry, oriented=self.oriented)


Measure = Callable[[], ScoredCase]
"""Reads and measures a case."""


@dataclass(frozen=True)
class Scores:
    """What came out of all cases of an evaluation."""

    rows: list[dict[str, Any]]
    """A row per case and label: `id`, `in_training_set` and the measures."""
    facts: list[Mapping[str, Any]]
    """What else was measured, a mapping per case."""
    worst: list[ScoredCase]
    """Up to `PICTURES` cases, by rising Dice."""
    failures: Failures
    """Those that could not be measured, or drawn."""

    def shown(self, plane: Plane, *, phantom: bool) -> dict[str, Any]:
        """Return arguments of `write_evaluation`: the worst cases that have a scan, and those of
        which a file could not be used."""
        drawn = []
        for case in self.worst:
            with self.failures.of(case.id):
                if case.read_scan is not None:
                    drawn.append((case, case.draw(plane, phantom=phantom)))
        return {
            "overlays": [figure for _, figure in drawn],
            "viewed": drawn[0][0].view() if drawn else None,
            "unusable": self.failures.names,
        }


@dataclass(frozen=True)
class MeasuredElsewhere:
    """What a worker says of a case that it measured: no more than is written of every case."""

    id: str
    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    lowest_dice: float


def score_cases(
    cases: Sequence[tuple[str, Measure]], trained_on: Iterable[str], *, on: Workers = HERE
) -> Scores:
    """Gather the measures of all cases, holding no more than the worst of them in memory.

    Args:
        cases: id of each, and what reads and measures it.
        trained_on: ids of the cases that the network was trained on.
        on: who measures.

    Raises:
        DataError: no case could be measured; nothing has been written then.
    """
    failures, measures = Failures(len(cases), "case"), dict(cases)
    items = [Item(name, measure) for name, measure in cases]
    begin = begin_elsewhere if on.asked else begin_here
    found, worst = {}, []
    for name, case in work_through(items, begin, failures=failures, on=on, tensorflow=False):
        found[name] = (case.id, case.rows, case.facts)
        candidates = [*worst, (name, case)] if case.rows else worst
        worst = sorted(candidates, key=lambda each: each[1].lowest_dice)[:PICTURES]
    if len(failures.names) == len(cases):
        failures.conclude()
    trained_on, rows, facts = set(trained_on), [], []
    for id_, measured, known in (found[name] for name, _ in cases if name in found):
        rows += [{"id": id_, "in_training_set": id_ in trained_on, **row} for row in measured]
        facts.append(known)
    if on.asked:  # their arrays stayed with the workers
        worst = [(name, measures[name]()) for name, _ in worst]
    return Scores(rows, facts, [case for _, case in worst], failures)


def begin_here() -> Callable[[Measure], ScoredCase]:
    """Return what measures a case for this process."""
    return lambda measure: measure()


def begin_elsewhere() -> Callable[[Measure], MeasuredElsewhere]:
    """Return what measures a case in a worker."""

    def work(measure: Measure) -> MeasuredElsewhere:
        case = measure()
        return MeasuredElsewhere(case.id, case.rows, case.facts, case.lowest_dice)

    return work
