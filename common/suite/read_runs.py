"""What the suite knows of a run: read from its folder, or from the small file kept in results/.

A result file is the evidence for a number in a README: what was measured, on what data, by which
code and configuration. `python -m common results record` writes it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.evaluation.claims import Outcome, PaperClaims, data_of
from common.files import read_json, sha256_of, write_json
from common.papers import ROOT
from common.runs.folder import load_run
from common.runs.provenance import hash_data_files

RESULTS = ROOT / "results"
STAGES = "reproduce.json"
"""Written next to a run by `reproduce`: the stages, how long each took, how it ended."""
SCHEMA = 1
BENCHMARKS = "bench-"
"""What the names of benchmark results begin with; they are files of their own kind."""
KEPT_OF_A_SUMMARY = ("n", "n_undefined", "mean", "sd", "ci95_low", "ci95_high",
                     "values", "seeds")  # fmt: skip
DIGITS = 6
"""Of the numbers in a result file."""


@dataclass(frozen=True)
class Stages:
    """How a paper's `reproduce` went."""

    paper: str
    preset: str
    run: str
    """The run folder that the report is in, relative to the folder of the file."""
    status: str
    """running, finished or failed."""
    failure: str
    """What failed, or an empty text."""
    seconds: tuple[tuple[str, float], ...]
    """Wall time by stage, as (command, seconds), in order."""


@dataclass(frozen=True)
class Result:
    """The outcome of one run, and where it came from."""

    paper: str
    preset: str
    outcome: Outcome
    """What `judge` needs."""
    cases: int
    """Measured ones."""
    date: str
    """When the run ended, ISO 8601 in UTC."""
    origin: Mapping[str, Any]
    """Hashes of configuration and report, code, versions, machine, seed."""
    seconds: tuple[tuple[str, float], ...] = ()
    """Stages and their wall time where known."""
    folder: Path | None = field(default=None, compare=False)
    """The run folder, or None where read from a result file."""
    name: str = field(default="", compare=False)
    """What tells it from other runs of its paper and preset; empty where there is one."""


@dataclass(frozen=True)
class PaperEntry:
    """One paper on the page of all papers."""

    claims: PaperClaims
    result: Result | None = None
    problem: str = "not run"
    """Why there is no result, in a sentence; empty where there is one."""


def find_run(path: Path) -> tuple[Path, Stages | None]:
    """Return the run folder that a path means, and how its `reproduce` went, if that is known."""
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such folder; expected a run folder or one that reproduce made")
    if (path / "manifest.json").is_file():
        beside = path.parent / STAGES
        stages = read_stages(beside) if beside.is_file() else None
        return path, stages if stages and stages.run == path.name else None
    if (path / STAGES).is_file():
        stages = read_stages(path / STAGES)
        return path / stages.run, stages
    raise RunError(f"{path} is not a run folder: expected manifest.json or {STAGES} in it")


def read_run(path: Path) -> tuple[Result | None, Stages | None]:
    """Return the result of a run, None if its `reproduce` did not finish; see `find_run`."""
    run, stages = find_run(path)
    if stages and stages.status != "finished":
        return None, stages
    return read_result_of_run(run, stages.seconds if stages else ()), stages


def read_stages(path: Path) -> Stages:
    """Read what `reproduce` wrote of its stages; raise `RunError` if that is absent or damaged."""
    stored = read_json(path)
    try:
        words = {key: str(stored[key]) for key in ("paper", "preset", "run", "status")}
        seconds = tuple((str(command), float(time)) for command, time in stored["seconds"])
        return Stages(**words, failure=str(stored.get("failure") or ""), seconds=seconds)
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise damaged(path, failure, "the stages of a reproduce") from failure


def read_result_of_run(folder: Path, seconds: Iterable[tuple[str, float]] = ()) -> Result:
    """Read what a run's evaluation measured; raise `RunError` if there is no whole report."""
    run = load_run(folder)
    path = Path(folder) / "report" / "report.json"
    if not path.is_file():
        raise RunError(f"{folder} has no report ({path.name} is missing); run evaluate first")
    report = read_json(path)
    try:
        preset = str(run.config["preset"])
        phantom = bool(report["phantom"] or run.manifest.get("phantom"))
        outcome = Outcome(
            data=data_of(report.get("data", {}), phantom=phantom),
            preset=preset,
            cases_trained_on=int(report.get("cases_trained_on", 0)),
            measures={**report["labels"], **report.get("others", {})},
        )
        check_measures(outcome.measures)
        return Result(
            paper=str(report["paper"]),
            preset=preset,
            outcome=outcome,
            cases=int(report["cases"]),
            date=str(run.manifest.get("finished") or run.manifest["started"]),
            origin=origin_of(folder, run.manifest),
            seconds=tuple(seconds),
            folder=Path(folder),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise damaged(path, failure, "what evaluate writes; run it again") from failure


def check_measures(measures: Mapping) -> None:
    """Raise `TypeError` or `KeyError` for measures that are not label -> measure -> summary."""
    for label, summaries in measures.items():
        for name, summary in summaries.items():
            if not isinstance(summary["mean"], (int, float, type(None))):
                raise TypeError(f"mean of {label}, {name} is {summary['mean']!r}")


def origin_of(folder: Path, manifest: Mapping) -> dict:
    """Return what identifies a run without naming a place on somebody's machine."""
    git = manifest.get("git") or {}
    return {
        "config_sha256": sha256_of(Path(folder) / "config.yaml"),
        "report_sha256": sha256_of(Path(folder) / "report" / "report.json"),
        **{key: git.get(key) for key in ("commit", "dirty")},
        **{key: manifest.get(key) for key in ("seed", "python")},
        "versions": manifest.get("packages", {}),
        **{key: manifest.get(key) for key in ("cpu", "cores")},
        "data_sha256": hash_data_files(manifest),
        "trained_s": [
            round(seconds_between(each["started"], each["ended"]))
            for each in manifest.get("attempts", ())
            if each.get("ended")
        ],
    }


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two times as a manifest has them."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def write_result(path: Path, result: Result) -> None:
    """Write a result as a small JSON file."""
    outcome = result.outcome
    write_json(path, {
        "schema": SCHEMA,
        "paper": result.paper,
        "preset": result.preset,
        "date": result.date,
        "data": {**outcome.data._asdict(), "kind": outcome.data.kind.value},
        "cases": result.cases,
        "cases_trained_on": outcome.cases_trained_on,
        "measures": {
            label: {name: shorten(summary) for name, summary in summaries.items()}
            for label, summaries in outcome.measures.items()
        },
        "origin": result.origin,
        "seconds": [[command, round(time, 1)] for command, time in result.seconds],
    })  # fmt: skip


def shorten(summary: Mapping) -> dict:
    """Return what of a summary is kept, rounded."""

    def rounded(value):
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return round(value, DIGITS) if isinstance(value, float) else value

    kept = {key: rounded(summary.get(key)) for key in KEPT_OF_A_SUMMARY}
    return {key: value for key, value in kept.items() if value not in (None, [])}


def read_result(path: Path) -> Result:
    """Read a result file; raise `RunError` if it is missing, damaged or of another schema."""
    stored = read_json(path)
    try:
        if stored["schema"] != SCHEMA:
            raise ValueError(f"schema {stored['schema']}, expected {SCHEMA}")
        outcome = Outcome(
            data=data_of(stored["data"]),
            preset=stored["preset"],
            cases_trained_on=stored["cases_trained_on"],
            measures={
                label: {name: {"mean": None, **each} for name, each in summaries.items()}
                for label, summaries in stored["measures"].items()
            },
        )  # fmt: skip
        check_measures(outcome.measures)
        for key in ("config_sha256", "report_sha256"):  # a number needs a run behind it
            if len(bytes.fromhex(stored["origin"][key])) != 32:
                raise ValueError(f"{key} is {stored['origin'][key]!r}, expected 64 hex digits")
        return Result(
            stored["paper"], stored["preset"], outcome, stored["cases"], stored["date"],
            stored["origin"], tuple((command, float(time)) for command, time in stored["seconds"]),
            name=path.stem.removeprefix(f"{stored['paper']}-{stored['preset']}").lstrip("-"),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise damaged(path, failure, "what common.suite.results record writes") from failure


def read_results(folder: Path = RESULTS) -> list[Result]:
    """Read every result file of a folder, by name, but for those of benchmarks."""
    paths = (path for path in folder.glob("*.json") if not path.name.startswith(BENCHMARKS))
    return [read_result(path) for path in sorted(paths)]


def damaged(path: Path, failure: Exception, expected: str) -> RunError:
    """Return the one line for a file whose content is not as it should be."""
    found = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    return RunError(f"{path} is damaged ({found}); expected {expected}")
