"""One page for all papers, made from run folders: what was claimed, what was run, what came out.

`python -m common report <run folders> --to report` reads the report of each run, the claims of
every paper and, where `compare --to report/<paper>/compare` left some, its comparison. Nothing is
rerun. A paper without a run, or whose run failed, has a row as well.
"""

import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cli import Parser
from common.errors import RunError
from common.evaluation.claims import PaperClaims
from common.evaluation.claims_reader import find_claims
from common.files import make_folder
from common.suite.page import write_page
from common.suite.read_runs import PaperEntry, Stages, read_run

PAGE = "index.html"


def collect(
    folders: Sequence[Path],
    claims: Mapping[str, PaperClaims],
    failures: Mapping[str, str] | None = None,
) -> list[PaperEntry]:
    """Return an entry per paper, by name, of what is known of it.

    The failures, a sentence by paper, outweigh what lies in a folder from before.
    """
    failures = dict(failures or {})
    entries = {paper: PaperEntry(claims[paper]) for paper in sorted(claims)}
    seen: dict[str, Path] = {}
    for folder in folders:
        result, stages = read_run(folder)
        paper = result.paper if result else stages.paper
        if result is None:
            failures.setdefault(paper, describe_failure(stages))
        if paper not in entries:
            known = ", ".join(entries)
            raise RunError(f"{folder} is a run of {paper!r}; expected one of {known}")
        if paper in seen:
            raise RunError(f"{seen[paper]} and {folder} are both of {paper}; expected one of them")
        seen[paper] = Path(folder)
        entries[paper] = PaperEntry(claims[paper], result, "")
    for paper, problem in failures.items():
        entries[paper] = PaperEntry(claims[paper], None, problem)
    return list(entries.values())


def describe_failure(stages: Stages) -> str:
    """Return how a `reproduce` that did not finish ended, in a sentence."""
    if stages.status == "failed":
        return f"failed: {stages.failure}"
    return f"did not finish: {len(stages.seconds)} stages were done"


def build(folders: Sequence[Path], to: Path, *, failures: Mapping[str, str] | None = None) -> Path:
    """Write the page of all papers into a folder, which is made, and return it; see `collect`.

    <paper>/compare/sections.json in the folder are shown.
    """
    entries = collect(folders, find_claims(), failures)
    make_folder(to, f"--to {to}")
    write_page(to / PAGE, entries, comparisons=to)
    return to / PAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the given runs and print where it is; returns 0."""
    parser = Parser(prog="python -m common report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, one per paper")
    parser.add_argument("--to", type=Path, default=Path("report"), help="default: %(default)s")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args(argv)
    page = build(options.runs, options.to)
    print(f"Report: {page}")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0
