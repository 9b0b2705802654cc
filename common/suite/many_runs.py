"""Many runs of the papers, over presets and seeds: shared among workers, with one table at the end.

Each run is `python -m <paper> reproduce` in a folder of its own, <paper>-<preset>-seed<n>, with
phantoms and training of its seed. The same command goes on: what is finished is not run again.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cohort.work import Item, Workers, segment_cases
from common.errors import DataError
from common.evaluation.claims import DataKind
from common.evaluation.claims_reader import find_claims
from common.files import make_folder, write_text_atomically
from common.runtime import THREADS
from common.suite.markdown import markdown_table
from common.suite.read_runs import STAGES, Result, read_run

LOG = "reproduce.log"
TABLE = "seeds.md"
HEADER = ("paper", "preset", "claim", "measure", "data", "seeds", "mean", "sd", "range")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec as little as possible is done


@dataclass(frozen=True)
class OneRun:
    """A paper, a preset, a seed, and the folder below which the run goes."""

    paper: str
    preset: str
    seed: int
    below: str

    @property
    def folder(self) -> Path:
        """Of this run."""
        return Path(self.below, f"{self.paper}-{self.preset}-seed{self.seed}")

    @property
    def words(self) -> list[str]:
        """The command."""
        return [sys.executable, "-m", self.paper, "reproduce", "--preset", self.preset,
                "--seed", str(self.seed), "--out", str(self.folder)]  # fmt: skip


def run_many(
    papers: Sequence[str], presets: Sequence[str], seeds: int, *, to: Path, on: Workers
) -> None:
    """Run papers with every preset and the seeds 1 to `seeds`, print and write `to`/seeds.md.

    Raises:
        CohortError: after that, names the runs that failed; their logs say why.
    """
    runs = [
        OneRun(paper, preset, seed, str(to))
        for preset in presets
        for seed in range(1, seeds + 1)
        for paper in papers
    ]
    make_folder(to, f"--to {to}")
    items = [Item(run.folder.name, run, (run.folder / STAGES,)) for run in runs]
    try:
        segment_cases(items, begin_runs, what="run", on=on, out=to, decides=[], tensorflow=False)
    finally:
        lines = table_of(runs)
        write_text_atomically(to / TABLE, "\n".join(lines) + "\n")
        print("\n".join(lines))


def begin_runs() -> Callable[[OneRun], str]:
    """Return what carries out a run in a worker."""
    return carry_out


def carry_out(run: OneRun) -> str:
    """Run the command, whose output goes to a log, and return a line about it.

    It ends with the worker: a killed one would leave it behind, and the next would write beside it.

    Raises:
        DataError: the command failed.
    """
    make_folder(run.folder, f"run folder {run.folder}")
    log = run.folder / LOG
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            run.words, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get(THREADS, "1")},
        )  # fmt: skip
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
    if status:
        *_, last = [""] + [line for line in log.read_text(errors="replace").splitlines() if line]
        raise DataError(f"failed with status {status}: {last}; {log}")
    return f"{run.folder.name}: {log}"


def _end_with_parent() -> None:
    """Let the kernel end this process when the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def table_of(runs: Sequence[OneRun]) -> list[str]:
    """Return the table of what finished runs measured: a row per claim, with its spread over seeds.

    A phantom's number is called one; seeds are said, since some may be missing.
    """
    claims, rows, phantoms = find_claims(), [], False
    for paper, preset in dict.fromkeys((run.paper, run.preset) for run in runs):
        found = {}
        for run in runs:
            if (run.paper, run.preset) == (paper, preset) and (run.folder / STAGES).is_file():
                result, _ = read_run(run.folder)
                if result is not None:
                    found[run.seed] = result
        for claim in claims[paper].claims:
            values = {seed: each.outcome.find(claim) for seed, each in found.items()}
            measured = {seed: each["mean"] for seed, each in values.items() if each}
            if measured:
                kind = _kind(found.values())
                phantoms |= kind == DataKind.PHANTOM.words
                place = f"{claim.label}, {claim.measure}"
                rows.append((paper, preset, claim.id, place, kind, *spread(measured)))
    lines = markdown_table(HEADER, rows)
    if phantoms:
        lines += ["", "Numbers of phantoms say nothing about patients."]
    return lines


def spread(values: dict[int, float]) -> tuple[str, str, str, str]:
    """Return seeds, mean, standard deviation and range of a measure, as text."""
    numbers = np.array(list(values.values()))
    sd = f"{numbers.std(ddof=1):.3f}" if len(numbers) > 1 else "–"
    seeds = ", ".join(map(str, sorted(values)))
    return seeds, f"{numbers.mean():.3f}", sd, f"{numbers.min():.3f} to {numbers.max():.3f}"


def _kind(results: Sequence[Result]) -> str:
    return ", ".join(dict.fromkeys(each.outcome.data.kind.words for each in results))
