"""Every paper from data to report, each stage a command of its own.

`python -m common reproduce [--paper NAME] [--preset quick] [--data FOLDER]` runs
`python -m <paper> reproduce` for every paper that has it, and makes one page of all of them, also
when a paper failed. With `--seeds N [--presets A,B] [--papers A,B] [--workers M]` each is run with
the seeds 1 to N, M at a time, and a table says how far apart the seeds lie; the same command goes
on.
"""

import argparse
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.cli import Parser, refuse
from common.cohort.work import Workers
from common.errors import RunError, UserError
from common.evaluation.claims_reader import read_cohort
from common.files import make_folder, write_json
from common.papers import choose_papers
from common.suite.collect import build, describe_failure
from common.suite.many_runs import run_many
from common.suite.read_runs import STAGES, read_stages

RUNS = Path("runs")


class StageError(UserError):
    """A command of a paper's recipe failed; its own message is above."""


@dataclass(frozen=True)
class Stage:
    """One command of a paper and its options, where `--` begins another set of them."""

    command: str
    options: Sequence[object]


def begin(
    paper: str, preset: str, *, out: Path | None, data: Path | None, cohort: str | None
) -> tuple[Path, list[str]]:
    """Return the folder of a paper's main job, and the options of `evaluate` that name the cohort;
    refuse a cohort without data of one's own, or that the paper's claims do not know."""
    read_cohort(paper, cohort, phantom=data is None)
    return out or RUNS / f"{paper}-{preset}", [] if cohort is None else ["--cohort", cohort]


def run_stages(
    paper: str, stages: Sequence[Stage], *, preset: str, out: Path, run: Path | None = None
) -> None:
    """Run the stages of one paper in order, each in its own process, time them, name the report.

    Args:
        paper: package name.
        stages: what to run.
        preset: the set of hyper-parameters.
        out: folder of everything that is written; reproduce.json in it says how the stages went.
        run: the run folder below it whose report counts; default: run.

    Raises:
        RunError: `out` cannot be written.
        StageError: a stage ended with another status than 0; the rest is not run.
    """
    run, seconds = run or out / "run", []
    state = {"paper": paper, "preset": preset, "run": str(run.relative_to(out)),
             "status": "running", "failure": "", "seconds": seconds}  # fmt: skip
    make_folder(out, f"--out {out}")
    write_json(out / STAGES, state)
    for number, stage in enumerate(stages, start=1):
        place = f"[{paper} {number}/{len(stages)}]"
        words = [str(word) for word in stage.options]
        _say(f"{place} python -m {paper} {stage.command} {' '.join(words)}")
        began = time.monotonic()
        if status := run_process([sys.executable, "-m", paper, stage.command, *words]):
            failure = f"{stage.command} failed with status {status}"
            write_json(out / STAGES, {**state, "status": "failed", "failure": failure})
            raise StageError(failure)
        seconds.append((stage.command, round(time.monotonic() - began, 2)))
        write_json(out / STAGES, state)
        total = sum(each for _, each in seconds)
        _say(f"{place} {stage.command}: {seconds[-1][1]:.0f} s (total {total:.0f} s)")
    write_json(out / STAGES, {**state, "status": "finished"})
    print(f"{paper} report: {run / 'report' / 'index.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job of one paper or of all; return 1 if a paper or the page failed, else 0."""
    options = parse_options(argv)
    if options.seeds:
        run_many(options.papers, options.presets, options.seeds, to=RUNS, on=options.on)
        return 0
    words = ["reproduce", "--preset", options.preset]
    words += ["--data", str(options.data)] if options.data else []
    words += ["--cohort", options.cohort] if options.cohort else []
    failures = run_papers(options.papers, words, preset=options.preset)
    whole = [paper for paper in options.papers if paper not in failures]
    folders = [RUNS / f"{paper}-{options.preset}" for paper in whole]
    try:
        page = build(folders, options.to, failures=failures)
    except UserError as failure:
        refuse("common reproduce", f"the report could not be made: {failure}")
        return 1
    print(f"Report of all papers: {page}")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return int(bool(failures))


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `papers` holds what is to be run."""
    parser = Parser(prog="python -m common reproduce", description=__doc__)
    parser.add_argument("--paper", help="one paper; default: all")
    parser.add_argument("--preset", default="quick", help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="folder of your own data; default: phantoms")
    parser.add_argument("--cohort", help="your data are the paper's own: their name in claims.yaml")
    parser.add_argument("--to", type=Path, default=Path("report"),
                        help="folder of the page (default: %(default)s)")  # fmt: skip
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    many = parser.add_argument_group("many runs")
    many.add_argument("--seeds", type=int, help="run with the seeds 1 to SEEDS")
    many.add_argument("--presets", help="several, A,B; default: that of --preset")
    many.add_argument("--papers", help="several, A,B; default: all")
    many.add_argument("--workers", type=int, help="runs at a time; default: 1")
    options = parser.parse_args(argv)
    choose_many(parser, options)
    if options.data and not options.paper:
        parser.error("--data requires --paper")
    if options.cohort and not options.data:
        parser.error("--cohort requires --data: phantoms belong to no cohort")
    return options


def choose_many(parser: Parser, options: argparse.Namespace) -> None:
    """Set what of the options is of many runs; refuse it without `--seeds`, and what is of one."""
    many = [name for name in ("presets", "papers", "workers") if getattr(options, name) is not None]
    if options.seeds is None and many:
        parser.error(f"--{many[0]} needs --seeds")
    if options.seeds is not None and (options.seeds < 1 or options.paper or options.data):
        parser.error("--seeds: expected 1 or more, with --papers, on phantoms")
    chosen = [options.paper] if options.papers in (None, "all") else options.papers.split(",")
    options.papers = [
        paper for name in chosen for paper in choose_papers(name, having="reproduce.py")
    ]
    options.presets = (options.presets or options.preset).split(",")
    options.on = Workers(workers=options.workers or 1)
    options.on.check()


def run_process(words: Sequence[str]) -> int:
    """Run a command and return its exit status; what ends this process ends the command, too."""
    with subprocess.Popen(words) as process:
        try:
            return process.wait()
        except SystemExit:  # SIGTERM; Ctrl-C reaches all processes of a terminal by itself
            process.terminate()
            raise


def run_papers(papers: Sequence[str], words: Sequence[str], *, preset: str) -> dict[str, str]:
    """Run one command of every paper, whatever becomes of the others; return why some failed."""
    failures = {}
    for paper in papers:
        out, began = RUNS / f"{paper}-{preset}", time.time()
        command = [sys.executable, "-m", paper, *words, "--out", str(out)]
        if status := run_process(command):
            failures[paper] = why_failed(out / STAGES, status, since=began)
    if failures:
        print(f"failed: {', '.join(failures)}", file=sys.stderr)
    return failures


def why_failed(stages: Path, status: int, *, since: float) -> str:
    """Return what a failed paper left about it; what lies there from an earlier time is not it."""
    with suppress(OSError, RunError):
        if stages.stat().st_mtime >= since:
            return describe_failure(read_stages(stages))
    return f"failed with status {status} before its first stage"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
