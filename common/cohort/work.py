"""A work on many cases: one after the other in this process, or shared among others by Dask.

A command says how a process begins (loads its network) and lists its cases; where they are worked
on is the user's choice and changes no result.
"""

import importlib
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from tqdm import tqdm

from common.cost.first_step import after_first
from common.errors import OptionError
from common.runs.failures import Failures

Begin = Callable[[], Callable[[Any], Any]]
"""Called once in each process that works: loads what it needs and returns the function from a case
to its result. Where others work it goes there: a module's function, or a `partial` of one."""


System = Literal["slurm", "pbs", "sge", "lsf"]


@dataclass(frozen=True)
class Workers:
    """Who works on the cases of a command: this process alone, or others by way of Dask."""

    workers: int | None = None
    """Processes that share the cases, each with a network of its own; default: this one alone."""
    cluster: System | None = None
    """Ask this scheduler for the workers instead of starting them here."""
    cluster_config: Path | None = None
    """YAML with what a job of the scheduler needs; docs/clusters has an example for each."""
    scheduler: str | None = None
    """Address of a Dask cluster that runs already, such as tcp://host:8786."""
    scan_timeout_s: float | None = None
    """Give a case up after so many seconds, with those in which its worker loads the network."""

    @property
    def asked(self) -> bool:
        """Whether others are to work."""
        return self.workers is not None or self.scheduler is not None

    def check(self) -> None:
        """Raise `OptionError` for options that contradict one another."""
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers: found {self.workers}; expected 1 or more")
        if self.scan_timeout_s is not None and not self.scan_timeout_s > 0:
            raise OptionError(f"--scan_timeout_s: found {self.scan_timeout_s}; expected above 0")
        if self.scheduler is not None and (self.workers or self.cluster):
            raise OptionError("--scheduler has its workers already; expected no --workers, "
                              "--cluster beside it")  # fmt: skip
        if (self.cluster is None) != (self.cluster_config is None):
            raise OptionError("--cluster and --cluster_config: expected both or neither")
        if not self.asked and (self.cluster or self.scan_timeout_s):
            name = "--cluster" if self.cluster else "--scan_timeout_s"
            raise OptionError(f"{name} needs --workers; expected how many there are to be")


HERE = Workers()
"""This process alone."""


def add_options(parser: ArgumentParser) -> None:
    """Give a parser of plain functions the options that typed functions have by `Workers`."""
    parser.add_argument("--workers", type=int, help="processes that share the cases")
    parser.add_argument("--cluster", choices=get_args(System), help="who is asked for the workers")
    parser.add_argument("--cluster_config", type=Path, help="YAML; see docs/clusters")
    parser.add_argument("--scheduler", help="a Dask cluster that runs, tcp://host:8786")
    parser.add_argument("--scan_timeout_s", type=float, help="give a case up after so long")


@dataclass(frozen=True)
class Item:
    """One case of a command."""

    name: str
    case: Any
    """What the work is given; where others work it goes there, so it names files, not contents."""
    outputs: tuple[Path, ...] = ()
    """Files that are there when the case is done."""


def work_through(
    items: Sequence[Item],
    begin: Begin,
    *,
    failures: Failures,
    on: Workers = HERE,
    out: Path | None = None,
    decides: Sequence[Path] = (),
    tensorflow: bool = True,
) -> Iterator[tuple[str, Any]]:
    """Do a work on every case and yield name and result, in this process in order.

    A case that raises a `DataError` fails alone. Where others work, so does one that raises
    anything else or ends its process, and the results come as they are done.

    Args:
        items: the cases, each with a name of its own.
        begin: see `Begin`.
        failures: notes the cases that fail; the caller concludes.
        on: who works.
        out: folder of the results; where others work, cohort.csv in it has a row per case, and
            cases that are done there by the same work are passed over; None: nothing is kept.
        decides: files other than the case's own that decide the results, such as the network's.
        tensorflow: the work needs it, and its first case tells what the others will take.

    Raises:
        OptionError: the options contradict one another, or Dask is not installed.
        UserError: other than `DataError`: raised by the work, which cannot go on.
    """
    on.check()
    if on.asked:
        yield from _load_dask().share(
            items, begin, failures=failures, on=on, out=out, decides=decides, tensorflow=tensorflow
        )
        return
    work = begin()
    for item in after_first(items, failures) if tensorflow else items:
        with failures.of(item.name):
            yield item.name, work(item.case)


def _load_dask() -> ModuleType:
    """Return `common.cohort.shared`; raise `OptionError` where its libraries, an extra, are not."""
    try:
        return importlib.import_module("common.cohort.shared")
    except ModuleNotFoundError as absent:
        raise OptionError(
            f"--workers, --scheduler: the package {absent.name} is not installed; expected "
            '`pip install "dask[distributed]" dask-jobqueue`, the extra cohort'
        ) from None


def segment_cases(
    items: Sequence[Item], begin: Begin, *, what: str, on: Workers, out: Path,
    decides: Sequence[Path], tensorflow: bool = True,
) -> None:  # fmt: skip
    """Segment every case, print the line that the work returns about each, and raise `DataError` at
    the end where some failed; arguments as for `work_through`. `out` is made."""
    failures = Failures(len(items), what)
    out.mkdir(parents=True, exist_ok=True)
    work = work_through(
        items, begin, failures=failures, on=on, out=out, decides=decides, tensorflow=tensorflow
    )
    for _, line in work:
        tqdm.write(line)  # above a progress bar, where there is one
    failures.conclude()
