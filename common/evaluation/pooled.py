"""Several runs read as one: the folds of a cross-validation, the seeds of a repetition, or both.

A case that runs of several seeds measured counts once, with the mean of its measures, since two
networks' answers on one case are not two cases. How far apart the seeds lie is said beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.tables import check_cells, read_table
from common.errors import DataError, RunError
from common.evaluation.claims import Data, DataKind
from common.evaluation.paired import read_case_table
from common.evaluation.run_report import MEASURES, OVERLAYS, write_evaluation
from common.files import (
    as_yaml,
    make_folder,
    read_json,
    sha256_of,
    write_json,
    write_text_atomically,
)
from common.report.drawing import draw_over
from common.report.page import Figure, Section, read_sections
from common.runs.folder import Run, load_run

OF_A_ROW = ("id", "label", "status", "in_training_set")
"""Columns of cases.csv that are not measures, and may be of numbers."""


@dataclass(frozen=True)
class Pool:
    """What several runs measured together."""

    runs: tuple[Run, ...]
    data: Data
    """On what all of them were measured."""
    rows: list[dict[str, Any]]
    """A row per case and label, as `write_evaluation` takes them."""
    measures: tuple[str, ...]
    """Those that every run has, in the first one's order."""
    seeds: dict[str, dict[str, list[float]]]
    """label -> measure -> its mean over the cases of each seed; empty where there is one seed."""
    unusable: tuple[str, ...]
    """Cases of which a file could not be used."""
    others: dict[str, dict[str, dict[str, Any]]]
    """What is no mean over cases, label -> measure -> summary, where all runs measured the same
    cases: the mean over the runs."""

    @property
    def differing(self) -> dict[str, list]:
        """Fields of the runs' configurations that are not the same in all, with their values."""
        first, *others = (run.config for run in self.runs)
        names = dict.fromkeys(name for run in self.runs for name in run.config)
        return {
            name: [run.config.get(name) for run in self.runs]
            for name in names
            if any(each.get(name) != first.get(name) for each in others)
        }


def read_pool(folders: Sequence[Path]) -> Pool:
    """Read the reports of runs that belong together.

    Raises:
        RunError: one was not evaluated, or its report is damaged; they are of several papers,
            presets or kinds of data; a case was measured twice under one seed.
    """
    runs = tuple(load_run(folder) for folder in folders)
    reports = [read_report(run) for run in runs]
    for run, report in zip(runs, reports, strict=True):
        for what, found, expected in (
            ("paper", run.paper, runs[0].paper),
            ("preset", run.config.get("preset"), runs[0].config.get("preset")),
            ("data", report["data"].words, reports[0]["data"].words),
        ):
            if found != expected:
                raise RunError(
                    f"{run.path}: its {what} is {found}; expected {expected}, as in {runs[0].path}"
                )
    tables = [table_of(run) for run in runs]
    refuse_twice(runs, tables)
    measures = tuple(
        name
        for name in tables[0].select_dtypes("number")
        if name not in OF_A_ROW and all(name in table for table in tables)
    )
    table = pd.concat(tables, ignore_index=True)
    return Pool(
        runs=runs,
        data=reports[0]["data"],
        rows=mean_over_runs(table, measures),
        measures=measures,
        seeds=means_of_seeds(table, measures) if table["seed"].nunique() > 1 else {},
        unusable=tuple(dict.fromkeys(name for each in reports for name in each["unusable"])),
        others=mean_of_others(tables, [each["others"] for each in reports]),
    )


def read_report(run: Run) -> dict[str, Any]:
    """Return data, unusable cases and other measures of a run's report.json."""
    path = run.path / "report" / "report.json"
    if not path.is_file():
        raise RunError(f"{run.path} has no report; expected a run that evaluate has measured")
    stored = read_json(path)
    try:
        data = stored["data"]
        kind = DataKind(data["kind"])
        data = Data(kind, data.get("cohort"), data.get("preparation") or "")
        unusable = [str(name) for name in stored.get("unusable", ())]
        return {"data": data, "unusable": unusable, "others": dict(stored.get("others", {}))}
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise RunError(
            f"{path} is damaged ({failure!r}); expected what evaluate writes"
        ) from failure


def table_of(run: Run) -> pd.DataFrame:
    """Return the rows of a run's cases.csv with its seed."""
    table = read_case_table(run.path)
    return table.assign(seed=str(run.manifest.get("seed")))


def refuse_twice(runs: Sequence[Run], tables: Sequence[pd.DataFrame]) -> None:
    """Refuse a case that two runs of one seed measured: they are no folds of one experiment."""
    places: dict[tuple[str, str], Path] = {}
    for run, table in zip(runs, tables, strict=True):
        for case in dict.fromkeys(zip(table["seed"], table["id"], strict=True)):
            if case in places:
                raise RunError(
                    f"{run.path} and {places[case]} both measured case {case[1]} with seed "
                    f"{case[0]}; expected each case once per seed"
                )
            places[case] = run.path


def mean_of_others(
    tables: Sequence[pd.DataFrame], others: Sequence[Mapping[str, Mapping[str, Mapping]]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the mean over runs of what each measured over all its cases; see `Pool.others`."""
    first, *more = (set(table["id"]) for table in tables)
    if any(cases != first for cases in more):
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label, measures in others[0].items():
        for name, summary in measures.items():
            means = [each.get(label, {}).get(name, {}).get("mean") for each in others]
            if None not in means:
                pooled = {"n": summary.get("n"), "mean": float(np.mean(means))}
                pooled |= {"seeds": means} if more else {}
                found.setdefault(label, {})[name] = pooled
    return found


def mean_over_runs(table: pd.DataFrame, measures: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per case and label with the means of its measures, undefined if one of them is;
    several rows of one case and label in one run, such as vertebrae, stay apart."""
    number = table.groupby(["seed", "id", "label"], sort=False).cumcount()
    rows = []
    for (case, label, _), group in table.groupby(["id", "label", number], sort=False):
        means = {name: float(group[name].mean(skipna=False)) for name in measures}
        status = "; ".join(dict.fromkeys(group["status"]))
        trained = bool(group["in_training_set"].any())
        rows.append({"id": case, "in_training_set": trained, "label": label, **means,
                     "status": status})  # fmt: skip
    return rows


def means_of_seeds(
    table: pd.DataFrame, measures: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Return, per label and measure, the mean over the cases of each seed."""
    means = table.groupby(["label", "seed"], sort=False)[list(measures)].mean()
    labels = dict.fromkeys(table["label"])
    return {label: {name: means.loc[label][name].tolist() for name in measures} for label in labels}


def add_covariates(pool: Pool, path: Path) -> tuple[str, ...]:
    """Add the columns of numbers of a table with a column `id` to the rows; return their names.

    Raises:
        DataError: the table has no id, a case is not in it, or a cell is no number.
    """
    table = read_table(path)
    header = [cell.strip() for cell in table.header.cells]
    if header[:1] != ["id"] or len(header) < 2:
        raise DataError(f"{path}: found the columns {', '.join(header)}; expected id and others")
    known: dict[str, dict[str, float]] = {}
    for row in table.rows:
        check_cells(table, row, header)
        try:
            known[row.cells[0]] = dict(zip(header[1:], map(float, row.cells[1:]), strict=True))
        except ValueError as failure:
            raise DataError(f"{table.where(row)}: {failure}; expected numbers") from failure
    if taken := [name for name in header[1:] if name in pool.rows[0]]:
        raise DataError(
            f"{path}: the column {taken[0]} is a measure already; expected another name"
        )
    for row in pool.rows:
        if row["id"] not in known:
            raise DataError(f"{path}: case {row['id']} is missing; expected every case of the runs")
        row.update(known[row["id"]])
    return tuple(header[1:])


def manifest_of(pool: Pool) -> dict[str, Any]:
    """Return the manifest of the runs together: that of the first, with what each of them adds."""
    first = pool.runs[0].manifest
    seeds = list(dict.fromkeys(run.manifest.get("seed") for run in pool.runs))
    files: dict[str, Any] = {}
    for run in pool.runs:
        for path, facts in run.manifest.get("data_files", {}).items():
            if files.setdefault(path, facts) != facts:
                raise RunError(f"{path} changed between the runs; expected one version of the data")
    return {
        **first,
        "status": "finished",
        "seed": seeds if len(seeds) > 1 else seeds[0],
        "started": min(run.manifest["started"] for run in pool.runs),
        "finished": max(run.manifest.get("finished") or "" for run in pool.runs),
        "data_files": files,
        "attempts": [each for run in pool.runs for each in run.manifest.get("attempts", ())],
        "differing": pool.differing,
        "runs": {
            run.path.resolve().name: sha256_of(run.path / "report" / "report.json")
            for run in pool.runs
        },
    }


def cohort_of(data: Data) -> str | None:
    """Return data as `--cohort` names them."""
    if data.kind not in (DataKind.ORIGINAL, DataKind.SAME_PATIENTS):
        return None
    return f"{data.cohort}: {data.preparation}" if data.preparation else data.cohort


def write_pool(folders: Sequence[Path], to: Path, *, over: Path | None = None) -> None:
    """Write the report of several runs into a new folder.

    Raises:
        RunError: the folder exists; or see `read_pool`.
        DataError: see `add_covariates`.
    """
    if to.exists():
        raise RunError(f"--to {to} exists; expected a new folder")
    pool = read_pool(folders)
    phantom = pool.data.kind is DataKind.PHANTOM
    measures = {name: MEASURES.get(name, name) for name in pool.measures}
    more = []
    if pool.differing:
        varied = ", ".join(pool.differing)
        text = f"{len(pool.runs)} runs, of which these options differ: {varied}."
        more.append(Section("What was pooled", text=text))
    drawn = {name: measures[name] for name in ("dice", "hd95_mm") if name in measures}
    for column in add_covariates(pool, over) if over else ():
        png = draw_over(pool.rows, x=column, measures=drawn, phantom=phantom)
        title = f"Over {column.replace('_', ' ')}"
        more.append(Section(title, figures=[Figure(png, f"{title}: each point is a case.")]))
    manifest = manifest_of(pool)
    config = {k: v for k, v in pool.runs[0].config.items() if k not in pool.differing}
    make_folder(to, f"--to {to}")
    write_text_atomically(to / "config.yaml", as_yaml(config))
    write_json(to / "manifest.json", manifest)
    write_evaluation(
        Run(to, config, manifest),
        pool.rows,
        title=f"{pool.runs[0].paper}: {len(pool.runs)} runs",
        curve=(),
        overlays=worst_pictures(pool.runs),
        phantom=phantom,
        measures=measures,
        cohort=cohort_of(pool.data),
        unusable=pool.unusable,
        seeds=pool.seeds,
        others=pool.others,
        more=more,
    )


def worst_pictures(runs: Sequence[Run]) -> list[Figure]:
    """Return the picture of each run's worst case, that of the lowest Dice first."""
    lowest = {run.path: read_case_table(run.path)["dice"].min() for run in runs}
    pages = [path / "report" / "sections.json" for path in sorted(lowest, key=lowest.get)]
    overlays = [
        section for page in pages if page.is_file()
        for section in read_sections(page) if section.title == OVERLAYS
    ]  # fmt: skip
    return [section.figures[0] for section in overlays if section.figures]
