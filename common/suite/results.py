"""The tables of results in READMEs and docs, made from claims and the result files behind them.

`python -m common results record <run folders>` keeps what runs measured as results/*.json;
`... update` writes the tables between the marks of every README, and with
`--check` only says whether they are up to date. A number cannot be typed into such a table: the
next check would find it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cli import Parser
from common.data.inspection import count_in_words
from common.data.names import normal_id
from common.errors import DataError, RunError
from common.evaluation.claims import Claim, DataKind, Outcome, PaperClaims, judge
from common.evaluation.claims_reader import find_claims
from common.files import write_text_atomically
from common.papers import ROOT
from common.report.page import PHANTOM_NOTICE, format_summary
from common.suite import bench_results
from common.suite.markdown import markdown_table
from common.suite.read_runs import RESULTS, Result, read_results, read_run, write_result

BEGIN = "<!-- results: begin; made by `python -m common results update` -->"
END = "<!-- results: end -->"
NOT_SHOWN = ("dice", "jaccard", "volume_difference_ml", "relative_volume_difference")
"""Measures that stand in another column, or follow from others, of the table of patients' runs."""
README = "README.md"
PERFORMANCE = "docs/performance.md"


def record(folders: Sequence[Path], to: Path = RESULTS) -> list[Path]:
    """Keep what runs measured as small files, and return these.

    They are named <paper>-<preset>.json; of runs on patients the folder's name is added, since
    there may be several.
    """
    files = []
    for folder in folders:
        result, stages = read_run(folder)
        if result is None:
            raise RunError(f"{folder}: its reproduce is {stages.status}; expected a finished one")
        to.mkdir(parents=True, exist_ok=True)
        phantom = result.outcome.data.kind is DataKind.PHANTOM
        more = "" if phantom else f"-{normal_id(Path(folder).resolve().name)}"
        files.append(to / f"{result.paper}-{result.preset}{more}.json")
        write_result(files[-1], result)
    return files


def front_table(claims: Mapping[str, PaperClaims], results: Sequence[Result]) -> str:
    """Return the table of the root README: the headline claim of every paper, a row per kind of
    data that it was run on, with the run of most cases; the others are in its card."""
    header = ("paper", "published", "source", "access to the data", "our run", "our result",
              "verdict")  # fmt: skip
    rows = []
    for paper, published in sorted(claims.items()):
        claim = published.headline
        number = "none" if claim.low is None else f"{claim.metric} {claim.number}"
        for result, others in shown_results(paper, results) or [(None, 0)]:
            more = f" ({count_in_words(others, 'more run')} in its card)" if others else ""
            rows.append(
                [
                    f"[`{paper}`]({paper}/{README})",
                    number,
                    claim.source,
                    claim.access,
                    describe_run(result) + more,
                    *measured_and_verdict(claim, result),
                ]
            )
    return "\n".join([*markdown_table(header, rows), "", *phantom_notice(results)])


def shown_results(paper: str, results: Sequence[Result]) -> list[tuple[Result, int]]:
    """Return the run of most cases on each kind of data, the newest of several, and how many
    others there are on such data."""
    found: dict[DataKind, list[Result]] = {}
    for result in results:
        if result.paper == paper:
            found.setdefault(result.outcome.data.kind, []).append(result)
    return [
        (max(of_kind, key=lambda each: (each.cases, each.date)), len(of_kind) - 1)
        for of_kind in found.values()
    ]


def paper_table(published: PaperClaims, results: Sequence[Result]) -> str:
    """Return the tables of a paper's README: its claims, then everything its runs measured."""
    rows = []
    for claim in published.claims:
        unit = f" {claim.unit}" if claim.unit else ""
        tolerance = f"± {claim.tolerance:g}{unit}: {claim.tolerance_reason}"
        cells = [f"{claim.id}: {claim.statement}", claim.number, tolerance]
        for result, _ in shown_results(published.paper, results) or [(None, 0)]:
            rows.append([*cells, *measured_and_verdict(claim, result)])
    lines = markdown_table(("claim", "published", "tolerance", "our result", "verdict"), rows)
    results = [result for result in results if result.paper == published.paper]
    phantoms = [each for each in results if each.outcome.data.kind is DataKind.PHANTOM]
    for result in phantoms:
        lines += ["", f"Run: {describe_run(result)}.", "", *measures_table(result.outcome)]
    patients = [each for each in results if each not in phantoms]
    if patients:
        lines += ["", "Runs on patients, mean ± sd over cases:", "", *runs_table(patients)]
    return "\n".join([*lines, "", *phantom_notice(results)])


def runs_table(results: Sequence[Result]) -> list[str]:
    """Return the lines of a table with a row per run and label: Dice with its spread, and what
    else was measured of all of them."""
    found = [
        (result, label, summaries)
        for result in results
        for label, summaries in result.outcome.measures.items()
        if "dice" in summaries
    ]
    names = [name for name in found[0][2] if name not in NOT_SHOWN] if found else []
    names = [name for name in names if all(name in summaries for _, _, summaries in found)]
    rows = []
    for result, label, summaries in found:
        cells = [format_summary({**summaries[name], "values": (), "ci95_low": None})
                 .partition(" (")[0] for name in names]  # fmt: skip
        what = f"`{result.preset}`, {result.name}; {result.outcome.data.kind.words}"
        rows.append([what, label, format_summary(summaries["dice"]), *cells])
    return markdown_table(("run", "label", "dice", *names), rows)


def measured_and_verdict(claim: Claim, result: Result | None) -> tuple[str, str]:
    """Return the cells of a claim that depend on a run."""
    outcome = result.outcome if result else None
    verdict = judge(claim, outcome)
    measured = describe_outcome(outcome, claim.label, claim.measure)
    return measured, f"**{verdict.verdict.value}**: {verdict.reason}"


def measures_table(outcome: Outcome) -> list[str]:
    """Return the lines of the table of everything a run measured."""
    rows = [[label, measure, format_summary(summary)]
            for label, summaries in outcome.measures.items()
            for measure, summary in summaries.items()]  # fmt: skip
    return markdown_table(("label", "measure", "mean ± sd (cases; their values, if few)"), rows)


def describe_run(result: Result | None) -> str:
    """Return preset, data, cases and date of a run."""
    if result is None:
        return "not run"
    name = f", {result.name}" if result.name else ""
    data = result.outcome.data.words
    return f"preset `{result.preset}`{name}, {data}, {result.cases} cases, {result.date[:10]}"


def describe_outcome(outcome: Outcome | None, label: str, measure: str) -> str:
    """Return one measure of an outcome with its spread and number, marked where a phantom's."""
    summary = (outcome.measures if outcome else {}).get(label, {}).get(measure)
    if not summary or summary.get("mean") is None:
        return "–"
    whose = " (phantoms)" if outcome.data.kind is DataKind.PHANTOM else ""
    return f"{format_summary(summary)}{whose}"


def phantom_notice(results: Sequence[Result]) -> list[str]:
    """Return the sentence that must be below phantoms' numbers, if there are any."""
    phantoms = any(result.outcome.data.kind is DataKind.PHANTOM for result in results)
    return [f"**{PHANTOM_NOTICE}**"] if phantoms else []


def put_between_marks(text: str, table: str, *, source: str) -> str:
    """Replace what is between the two marks of a text, which must each be there once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{source}: expected the lines '{BEGIN}' and '{END}', once each")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table.strip()}\n{END}{rest.partition(END)[2]}"


def make_pages(root: Path = ROOT, results: Path | None = None) -> dict[Path, str]:
    """Return what every page with results should be, from the files behind them."""
    results = results or root / "results"
    claims, found = find_claims(root), read_results(results)
    tables = {root / README: front_table(claims, found)}
    tables |= {root / paper / README: paper_table(each, found) for paper, each in claims.items()}
    if (root / PERFORMANCE).is_file():
        tables[root / PERFORMANCE] = bench_results.make_page(bench_results.read_all(results))
    return {
        path: put_between_marks(path.read_text(encoding="utf-8"), table, source=str(path))
        for path, table in tables.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Record runs, or write or check the tables; return 1 if a checked table is not up to date."""
    parser = Parser(prog="python -m common results", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("record", help="keep what runs measured in results/")
    keeping.add_argument("runs", nargs="+", type=Path)
    updating = commands.add_parser("update", help="write the tables of the READMEs")
    updating.add_argument("--check", action="store_true", help="write nothing, only compare")
    options = parser.parse_args(argv)
    if options.command == "record":
        print("\n".join(str(path) for path in record(options.runs)))
        return 0
    pages = make_pages().items()
    stale = [(path, text) for path, text in pages if path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        if options.check:
            print(f"{path} is not up to date: run python -m common results update")
        else:
            write_text_atomically(path, text)
            print(path)
    return int(bool(stale) and options.check)
