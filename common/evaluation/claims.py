"""What a paper claims, in numbers, and the one function that says whether a run reproduced it.

Every paper's package holds a `claims.yaml`: the published numbers, where each stands, on whose data
it was measured, and the tolerance, fixed before anything is run. `judge` compares a claim with what
came out of a run. Only numbers from the paper's own data can be called reproduced, or failed; of
its patients prepared otherwise two numbers are laid side by side, and of phantoms and other
patients nothing is said: a `Judgement` that says more cannot be made.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class DataKind(StrEnum):
    """On what a run was measured."""

    PHANTOM = "phantom"
    """Synthetic: says that the code runs, nothing about patients."""
    STAND_IN = "stand-in"
    """Patients, but not declared to be those of the paper."""
    SAME_PATIENTS = "same patients"
    """The paper's patients, on the word of whoever ran it, but not as the paper prepared them."""
    ORIGINAL = "original"
    """The paper's own data, on the word of whoever ran it (`--cohort`)."""

    @property
    def words(self) -> str:
        """How pages and tables call them, everywhere the same."""
        return DATA_WORDS[self]


DATA_WORDS = {
    DataKind.PHANTOM: "phantoms",
    DataKind.STAND_IN: "stand-in patients",
    DataKind.SAME_PATIENTS: "the same patients, prepared otherwise",
    DataKind.ORIGINAL: "the paper's cohort",
}


class Data(NamedTuple):
    """On what a run was measured."""

    kind: DataKind
    cohort: str | None = None
    """Name of the paper's data in its claims.yaml, where these are they, or its patients."""
    preparation: str = ""
    """What differs from the paper's preparation."""

    @property
    def words(self) -> str:
        """Kind, cohort and preparation in words."""
        more = f" ({self.cohort})" if self.cohort else ""
        return self.kind.words + more + (f": {self.preparation}" if self.preparation else "")


def data_of(stored: Mapping, *, phantom: bool = False) -> Data:
    """Return on what a run was measured; a mark of a phantom anywhere outweighs all else."""
    if phantom:
        return Data(DataKind.PHANTOM)
    kind = DataKind(stored.get("kind", DataKind.STAND_IN.value))
    return Data(kind, stored.get("cohort"), stored.get("preparation") or "")


class Verdict(StrEnum):
    """What became of a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    SIDE_BY_SIDE = "same patients, other preparation"
    NOT_ATTEMPTED = "not attempted"


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentence that explains it.

    Raises:
        ValueError: a verdict that the data do not bear. This is what keeps a phantom's number from
            ever being shown as a reproduction, whoever builds the judgement.
    """

    verdict: Verdict
    reason: str
    data: DataKind | None = None

    def __post_init__(self) -> None:
        if self.verdict is Verdict.NOT_ATTEMPTED:
            return
        side_by_side = self.verdict is Verdict.SIDE_BY_SIDE
        bears = DataKind.SAME_PATIENTS if side_by_side else DataKind.ORIGINAL
        if self.data is not bears:
            raise ValueError(
                f"'{self.verdict.value}' cannot be said of data that are "
                f"{self.data.words if self.data else 'missing'}; only of {bears.words}"
            )


@dataclass(frozen=True)
class Claim:
    """One published number.

    Attributes:
        id: short and unique within the paper.
        statement: what is claimed, in a sentence.
        low, high: the number, or the ends of the range that is given; None where none is published.
        sd: published spread, or None.
        cases: on how many cases, or None where not stated.
        cases_trained_on: how many of them the network was trained on, as published.
        metric: name of what is measured.
        label, measure: place of the number in a run's report.
        definition: of the metric.
        unit: of number and tolerance; empty for ratios.
        source: where the number stands.
        verified: whether it was seen there, or what stands in its stead.
        cohort: name of the data, as given to `--cohort`.
        data: the data in words.
        access: how they are to be had.
        presets: those whose protocol is that of the number.
        tolerance: largest distance at which the number counts as reproduced.
        tolerance_reason: why that much.
        headline: whether it stands on the front page; one claim per paper.
    """

    id: str
    statement: str
    low: float | None
    high: float | None
    sd: float | None
    cases: int | None
    cases_trained_on: int
    metric: str
    label: str
    measure: str
    definition: str
    unit: str
    source: str
    verified: str
    cohort: str
    data: str
    access: str
    presets: tuple[str, ...]
    tolerance: float
    tolerance_reason: str
    headline: bool

    @property
    def number(self) -> str:
        """The published number as text, as in '0.613 ± 0.078 (n = 10)'."""
        if self.low is None or self.high is None:
            return "none"
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        text += f" ± {self.sd:g}" if self.sd is not None else ""
        return text + unit + (f" (n = {self.cases})" if self.cases else "")

    def distance(self, value: float) -> float:
        """Return how far a value lies from the number, 0 within its range."""
        if self.low is None or self.high is None:
            raise ValueError(f"claim {self.id} has no number")
        return max(self.low - value, value - self.high, 0.0)


@dataclass(frozen=True)
class PaperClaims:
    """The claims of one paper and how the paper is called."""

    paper: str
    title: str
    task: str
    citation: str
    claims: tuple[Claim, ...]

    @property
    def headline(self) -> Claim:
        """The claim of the front page."""
        return next(claim for claim in self.claims if claim.headline)


@dataclass(frozen=True)
class Outcome:
    """What came out of a run, as far as `judge` needs it.

    Attributes:
        data: on what it was measured.
        preset: whose numbers were used.
        cases_trained_on: measured cases that the network was trained on.
        measures: label -> measure -> summary with `mean`, `n` and, where known, `ci95_low`,
            `ci95_high`; values are None or NaN where undefined.
    """

    data: Data
    preset: str
    cases_trained_on: int
    measures: Mapping[str, Mapping[str, Mapping[str, float | None]]]

    def find(self, claim: Claim) -> Mapping[str, float | None] | None:
        """Return the summary that a claim is about; None where it is absent or undefined."""
        summary = self.measures.get(claim.label, {}).get(claim.measure)
        return summary if summary and is_number(summary.get("mean")) else None


def judge(claim: Claim, outcome: Outcome | None) -> Judgement:
    """Say what became of a claim.

    Reproduced: on the paper's data, all its cases, by a preset of the number's protocol, and the
    mean lies within the tolerance. Partly: within the tolerance, but something of the protocol
    differs; or outside, with the number inside the 95% interval of the mean. Of the same patients,
    prepared otherwise, both numbers are said and nothing more. Not attempted: all else; also where
    nothing was run or the run failed (`outcome` None).
    """
    data = outcome.data.kind if outcome else None
    obstacle = _obstacle(claim, outcome)
    if outcome is None or obstacle:
        return Judgement(Verdict.NOT_ATTEMPTED, obstacle, data)
    summary = outcome.find(claim)
    if data is DataKind.SAME_PATIENTS:
        both = f"{summary['mean']:.3g} against {claim.number}; {outcome.data.preparation}"
        return Judgement(Verdict.SIDE_BY_SIDE, both, data)
    off = claim.distance(summary["mean"])
    unit = f" {claim.unit}" if claim.unit else ""
    words = f"{off:.3g}{unit} from the published number; tolerance {claim.tolerance:g}{unit}"
    if off <= claim.tolerance:
        differs = _departures(claim, outcome, summary)
        if differs:
            return Judgement(Verdict.PARTLY, f"{words}; but {', '.join(differs)}", data)
        return Judgement(Verdict.REPRODUCED, words, data)
    low, high = summary.get("ci95_low"), summary.get("ci95_high")
    if is_number(low) and is_number(high) and low <= claim.high and claim.low <= high:
        reason = f"{words}; the published number lies in our 95% interval"
        return Judgement(Verdict.PARTLY, reason, data)
    return Judgement(Verdict.NOT_REPRODUCED, words, data)


def _obstacle(claim: Claim, outcome: Outcome | None) -> str:
    """Return why a claim is not attempted, or an empty text."""
    if claim.low is None:
        return "no number is published to compare with"
    if outcome is None:
        return "nothing was run"
    kind, cohort, _ = outcome.data
    if kind is DataKind.PHANTOM:
        return "run on phantoms, which say nothing about patients"
    if kind is DataKind.STAND_IN:
        return f"run on stand-in patients; the claim is about {claim.cohort}"
    if cohort != claim.cohort:
        return f"run on {cohort or 'unnamed data'}; the claim is about {claim.cohort}"
    if outcome.find(claim) is None:
        return f"the run's report has no {claim.measure} of {claim.label}"
    return ""


def _departures(claim: Claim, outcome: Outcome, summary: Mapping) -> list[str]:
    """Return what of a run differs from the protocol of the number."""
    found = []
    if outcome.preset not in claim.presets:
        found.append(f"preset {outcome.preset}, expected {' or '.join(claim.presets)}")
    if claim.cases is not None and summary.get("n") != claim.cases:
        found.append(f"n = {summary.get('n')}, published n = {claim.cases}")
    if outcome.cases_trained_on > claim.cases_trained_on:
        found.append(f"{outcome.cases_trained_on} of the cases were trained on")
    return found


def is_number(value: Any) -> bool:
    """Say whether a value is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
