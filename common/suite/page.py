"""The page of all papers: views of runs and claims, and the template they are poured into.

One self-contained file: styles, pictures, NiiVue and its volumes are inside, and the page's
own policy forbids it to fetch anything.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from common.errors import RunError
from common.evaluation.claims import Claim, DataKind, Judgement, Verdict, judge
from common.files import write_text_atomically
from common.report.page import PHANTOM_NOTICE, Section, format_number, format_spread, read_sections
from common.report.viewer.embed import FOLDER, EmbeddedCase, read_case
from common.suite.network_drawing import Layer, read_layers
from common.suite.read_runs import PaperEntry, Result

SCRIPTS = ("niivue.umd.js", "viewer.js")
RUN_SECTION = "Run"


@dataclass(frozen=True)
class ClaimView:
    """A claim beside the outcome of a run."""

    claim: Claim
    judgement: Judgement
    measured: str
    spread: str
    n: str


@dataclass(frozen=True)
class PaperView:
    """Everything the page shows of one paper."""

    entry: PaperEntry
    claims: Sequence[ClaimView]
    sections: Sequence[Section]
    facts: Section | None
    layers: Sequence[Layer]
    case: EmbeddedCase | None
    comparison: Sequence[Section]

    @property
    def paper(self) -> str:
        """Package name."""
        return self.entry.claims.paper

    @property
    def headline(self) -> ClaimView:
        """The claim of the front page."""
        return next(view for view in self.claims if view.claim.headline)

    @property
    def phantom(self) -> bool:
        """Whether the run was on synthetic data."""
        return bool(self.entry.result) and self.entry.result.outcome.data.kind is DataKind.PHANTOM

    @property
    def data(self) -> str:
        """On what was run, in words."""
        if not self.entry.result:
            return ""
        return self.entry.result.outcome.data.words

    @property
    def minutes(self) -> str:
        """Wall time of all stages in minutes, or an empty text where not recorded."""
        seconds = sum(time for _, time in self.entry.result.seconds) if self.entry.result else 0
        return f"{seconds / 60:.1f}" if seconds else ""

    @property
    def parameters(self) -> int:
        """Numbers the network holds."""
        return sum(layer.parameters for layer in self.layers)


def write_page(path: Path, entries: Sequence[PaperEntry], *, comparisons: Path) -> None:
    """Write the page atomically; <paper>/compare/sections.json are looked for in `comparisons`."""
    views = [make_view(entry, comparisons) for entry in entries]
    verdicts = [view.headline.judgement.verdict for view in views]
    environment = Environment(
        loader=PackageLoader("common.suite", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report_suite.html.j2").render(
        views=views,
        verdicts={verdict.value: verdicts.count(verdict) for verdict in Verdict},
        phantoms=[view.paper for view in views if view.phantom],
        problems=[view for view in views if not view.entry.result],
        notice=PHANTOM_NOTICE,
        scripts=[inline_script(name) for name in SCRIPTS],
    )
    write_text_atomically(path, page)


def make_view(entry: PaperEntry, comparisons: Path) -> PaperView:
    """Read what a paper's run left for the page."""
    result = entry.result
    claims = [view_claim(claim, result) for claim in entry.claims.claims]
    compared = comparisons / entry.claims.paper / "compare" / "sections.json"
    comparison = read_sections(compared) if compared.is_file() else []
    if result is None or result.folder is None:
        return PaperView(entry, claims, [], None, [], None, comparison)
    report, network = result.folder / "report", result.folder / "model.keras"
    if not (report / "sections.json").is_file():
        raise RunError(
            f"{report} has no sections.json: an older version made it; run evaluate again"
        )
    sections = read_sections(report / "sections.json")
    facts = next((section for section in sections if section.title == RUN_SECTION), None)
    others = [section for section in sections if section.title != RUN_SECTION]
    layers = read_layers(network) if network.is_file() else []
    case = read_case(report / FOLDER) if (report / FOLDER).is_dir() else None
    return PaperView(entry, claims, others, facts, layers, case, comparison)


def view_claim(claim: Claim, result: Result | None) -> ClaimView:
    """Compare a claim with the outcome of a run, and judge it."""
    outcome = result.outcome if result else None
    summary = outcome.find(claim) if outcome else None
    judgement = judge(claim, outcome)
    if summary is None:
        return ClaimView(claim, judgement, "", "", "")
    measured = format_number(summary["mean"])
    if summary.get("sd") is not None:
        measured += f" ± {format_number(summary['sd'])}"
    measured += f" {claim.unit}" if claim.unit else ""
    return ClaimView(claim, judgement, measured, format_spread(summary), str(summary.get("n", "")))


def inline_script(name: str) -> str:
    """Return a script of the viewer so that no part of it can end its element."""
    text = (resources.files("common.report.viewer") / name).read_text(encoding="utf-8")
    text = re.sub(r"</(?=script)", r"<\\/", text, flags=re.IGNORECASE)
    return Markup(text.replace("<!--", r"<\!--"))
