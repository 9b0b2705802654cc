"""From scored cases to files and lines: cases.csv, report.json, the HTML page, the terminal.

Beside the page stand its parts as data (sections.json, viewer/), from which `common.suite.collect`
makes the page of all papers.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common.evaluation.claims_reader import read_cohort
from common.evaluation.metrics import summarise
from common.files import write_folder_atomically, write_json, write_text_atomically
from common.report.drawing import draw_learning_curve
from common.report.page import (
    PHANTOM_NOTICE,
    Figure,
    Section,
    format_number,
    format_seeds,
    format_spread,
    format_summary,
    write_report,
    write_sections,
)
from common.report.viewer.embed import FOLDER, ViewedCase, write_case
from common.runs.folder import Run
from common.runs.log import read_log

MEASURES = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "volume_difference_ml": "volume difference (ml)",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "nsd_2mm": "surface Dice (2 mm)",
}
"""Columns of `evaluation.metrics.score_case` that are summarised, and their names on the page."""


OVERLAYS = "Overlays"
"""Title of the part of the page that has the pictures, worst case first."""


def write_evaluation(
    record: Run,
    rows: Sequence[Mapping],
    *,
    title: str,
    curve: Sequence[Sequence[str]],
    overlays: Sequence[Figure],
    phantom: bool,
    measures: Mapping[str, str] = MEASURES,
    viewed: ViewedCase | None = None,
    others: Mapping[str, Mapping[str, Mapping]] | None = None,
    cohort: str | None = None,
    unusable: Sequence[str] = (),
    seeds: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    more: Sequence[Section] = (),
) -> None:
    """Write and print what came out of scoring the cases of a run.

    Args:
        record: the run; its report/ folder is replaced whole.
        rows: a mapping per case and label: `id`, `in_training_set`, and what `score_case` gives.
        title: heading of the page.
        curve: columns of the training log in each panel of the learning curve; empty: of several
            runs there is none.
        overlays: pictures, worst case first.
        phantom: True where the data are synthetic; said wherever a number is.
        measures: columns of `rows` to summarise, and their names; a paper may add its own.
        viewed: the worst case, for the viewer of the suite's page.
        others: label -> measure -> summary of what is no mean over `rows`, for the claims.
        cohort: what the data are to the paper; see `read_cohort`.
        unusable: cases of which a file could not be used; with any, the data are not the cohort.
        seeds: label -> measure -> its mean under each seed, where the rows are means over seeds.
        more: further parts of the page, after the results.

    Raises:
        OptionError: no claim of the paper is about that cohort, or the data are phantoms.
        RunError: the report folder cannot be written; an earlier report is untouched.
    """
    data = read_cohort(record.paper, cohort, phantom=phantom)
    if unusable:
        data = read_cohort(record.paper, None, phantom=phantom)
    folder = record.path / "report"
    summaries = summarise_rows(rows, measures)
    for label, means in (seeds or {}).items():
        for measure in measures:
            summaries[label][measure]["seeds"] = list(means[measure])
    cases = len({row["id"] for row in rows})
    preset = record.config.get("preset", "unknown")
    absent = f" Not usable: {', '.join(unusable)}." if unusable else ""
    sections = [
        results_section(summaries, measures),
        *more,
        # A network trained on phantoms may be measured on something else.
        *curve_section(record, curve, phantom=phantom or bool(record.manifest.get("phantom"))),
        cases_section(rows, measures),
        Section(OVERLAYS, text="The cases with the lowest Dice.", figures=overlays),
        run_section(record),
    ]
    with write_folder_atomically(folder, replace=True) as unfinished:
        table = pd.DataFrame([{key: as_cell(row[key]) for key in row} for row in rows])
        write_text_atomically(unfinished / "cases.csv", table.to_csv(index=False))
        write_json(
            unfinished / "report.json",
            {
                "paper": record.paper,
                "phantom": phantom,
                "data": {**data._asdict(), "kind": data.kind.value},
                "cases": cases,
                "unusable": list(unusable),
                "cases_trained_on": len({row["id"] for row in rows if row["in_training_set"]}),
                "labels": summaries,
                "others": others or {},
            },
        )
        write_report(
            unfinished / "index.html",
            title=title,
            lead=f"{data.words}; {cases} cases, preset {preset}.{absent}",
            sections=sections,
            phantom=phantom,
        )
        write_sections(unfinished / "sections.json", sections)
        if viewed is not None:
            (unfinished / FOLDER).mkdir()
            write_case(unfinished / FOLDER, viewed, phantom=phantom)
    print_results(rows, summaries, measures, phantom=phantom)
    print(f"Report: {folder / 'index.html'}")


def summarise_rows(
    rows: Sequence[Mapping], measures: Mapping[str, str] = MEASURES
) -> dict[str, dict[str, dict]]:
    """Return, per label and measure, what `common.evaluation.metrics.summarise` gives."""
    by_label: dict[str, list[Mapping]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    return {label: {measure: summarise(row[measure] for row in of_label) for measure in measures}
            for label, of_label in by_label.items()}  # fmt: skip


def as_cell(value: Any) -> Any:
    """Return a value as it is written to a table: a word that a spreadsheet would take for a
    formula gets an apostrophe, which it shows as text."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t"))
    return f"'{value}" if formula else value


def worst_first(rows: Sequence[Mapping]) -> list[Mapping]:
    """Return the rows by rising Dice, those without a defined Dice before all others."""
    return sorted(rows, key=lambda row: -1.0 if math.isnan(row["dice"]) else row["dice"])


def results_section(
    summaries: Mapping[str, Mapping[str, Mapping]], measures: Mapping[str, str]
) -> Section:
    """Return the table of means."""
    found = [(label, name, summary[measure]) for label, summary in summaries.items()
             for measure, name in measures.items()]  # fmt: skip
    return Section(
        "Results",
        text="Mean over cases, sample standard deviation, and Student's 95% interval of the mean "
        "or, of fewer than five cases, their values; a measure that is not defined because a mask "
        "is empty is counted, not dropped silently.",
        header=["label", "measure", "mean", "sd", "spread", "cases", "not defined"],
        rows=[
            [label, name, format_number(each["mean"]), format_number(each["sd"]),
             "; ".join(filter(None, (format_spread(each), format_seeds(each)))) or "–",
             each["n"], each["n_undefined"]]
            for label, name, each in found
        ],
    )  # fmt: skip


def curve_section(
    record: Run, curve: Sequence[Sequence[str]], *, phantom: bool
) -> Iterator[Section]:
    """Yield the learning curve, or a sentence where the weights were not trained here."""
    if not curve:
        return
    rows = read_log(record.path)
    if not rows:
        yield Section("Learning curve", text="The weights of this run were not trained here.")
        return
    picture = draw_learning_curve(rows, x="step", panels=curve, phantom=phantom)
    drawn = ", ".join(column for panel in curve for column in panel if column in rows[-1])
    yield Section("Learning curve", figures=[Figure(picture, f"By training step: {drawn}.")])


def cases_section(rows: Sequence[Mapping], measures: Mapping[str, str]) -> Section:
    """Return the table of cases, worst first."""
    return Section(
        "Cases, worst first",
        header=["case", "label", *measures.values(), "masks", "in training set"],
        rows=[
            [row["id"], row["label"], *(format_number(row[measure]) for measure in measures),
             row["status"], "yes" if row["in_training_set"] else "no"]
            for row in worst_first(rows)
        ],
    )  # fmt: skip


def run_section(record: Run) -> Section:
    """Return the facts that a reader needs to repeat the run."""
    hidden = ("data_files", "attempts")
    facts = {key: value for key, value in record.manifest.items() if key not in hidden}
    rows = [[key, value if isinstance(value, str) else json.dumps(value)]
            for key, value in {**facts, **record.config}.items()]  # fmt: skip
    return Section("Run", rows=rows)


def print_results(
    rows: Sequence[Mapping], summaries: Mapping[str, Mapping], measures: Mapping[str, str],
    *, phantom: bool,
) -> None:  # fmt: skip
    """Print a line per case and label, the mean Dice, and whether all this is a phantom's."""
    for row in worst_first(rows):
        cells = "  ".join(f"{name} {format_number(row[key])}" for key, name in measures.items())
        leaked = "  (also in the training set)" if row["in_training_set"] else ""
        print(f"{row['id']}  {row['label']}  {cells}{leaked}")
    for label, summary in summaries.items():
        print(f"Mean Dice of {label}: {format_summary(summary['dice'])}")
    if phantom:
        print(PHANTOM_NOTICE)


def prediction_path(folder: Path, case_id: str) -> Path:
    """Return where the label map of a case lies: <folder>/<id>.nii.gz."""
    return folder / f"{case_id}.nii.gz"
