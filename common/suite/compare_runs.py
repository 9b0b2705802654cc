"""Whether one run is better than another, case by case.

`python -m common compare-runs A B [--measure dice]` takes two run folders with a report and pairs
the cases that both measured; with --against B is measured by another column, so that a network can
be held against a baseline of its own run. For every label: the mean of the differences B - A with
Student's interval, the paired t test, Wilcoxon's signed ranks, and the effect in standard
deviations of the differences. Several rows of one case are averaged first, since they are not
independent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cli import Parser
from common.files import read_json, write_json
from common.report.page import PHANTOM_NOTICE, format_number, format_spread
from common.report.tables import format_table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison of two runs; return 0."""
    parser = Parser(prog="python -m common compare-runs", description=__doc__)
    parser.add_argument("first", type=Path, metavar="A", help="run that evaluate has measured")
    parser.add_argument("second", type=Path, metavar="B", help="the other one")
    parser.add_argument("--measure", default="dice", help="column of report/cases.csv")
    parser.add_argument("--against", metavar="MEASURE", help="column of B; default: that of A")
    parser.add_argument("--out", type=Path, help="JSON file of the same numbers")
    options = parser.parse_args(argv)
    from common.evaluation.paired import compare_cases, read_cases  # after --help was answered

    runs = options.first, options.second
    tables = [
        read_cases(options.first, options.measure),
        read_cases(options.second, options.against or options.measure, option="--against"),
    ]
    rows = compare_cases(*tables)
    print(format_table([as_text(row) for row in rows]))
    for run, own, other in zip(runs, tables, tables[::-1], strict=True):
        if alone := sorted({*own.index.get_level_values(0)} - {*other.index.get_level_values(0)}):
            print(f"only in {run}: {', '.join(alone)}")
    if any(read_json(run / "report" / "report.json").get("phantom") for run in runs):
        print(PHANTOM_NOTICE)
    if options.out:
        measures = [options.measure, options.against or options.measure]
        write_json(options.out, {"measures": measures, "labels": rows})
    return 0


def as_text(row: Mapping) -> dict[str, str]:
    """Return a row of the printed table."""
    difference = row["difference"]
    shown = {"label": row["label"], "n": str(row["n"])}
    if row["undefined"]:
        shown["n"] += f", {row['undefined']} undefined"
    shown |= {"A": format_number(row["mean_a"]), "B": format_number(row["mean_b"])}
    shown["B - A"] = format_number(difference["mean"])
    shown["95% interval, or values"] = format_spread(difference).removeprefix("95% interval ")
    shown["effect"] = format_number(row["effect"], 2)
    for name in ("p_t", "p_wilcoxon"):
        shown[name.removeprefix("p_") + " p"] = format_number(row[name], 4)
    return shown
