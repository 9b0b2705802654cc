"""Cases shared among workers by Dask: none lost, none doubled, whatever becomes of a worker.

The scheduler gives a worker one case at a time and hands the case of a dead worker to another one.
"""

import math
import os
import queue
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker
from tqdm import tqdm

from common.cohort.book import DONE, FAILED, Book, Row, fingerprint, open_book
from common.cohort.cluster import open_cluster
from common.cohort.work import Begin, Item, Workers
from common.cohort.worker import Job, Outcome, work_on
from common.cost.stopwatch import show_time
from common.errors import RunError, UserError, one_line
from common.files import write_json
from common.inference.command import Shown
from common.runs.failures import Failures
from common.runs.provenance import environment_facts, package_version
from common.runtime import THREADS

FACTS = "cohort.json"
LOOK_EVERY_S = 1.0
"""How often cases are looked at that take too long."""


def share(
    items: Sequence[Item],
    begin: Begin,
    *,
    failures: Failures,
    on: Workers,
    out: Path | None,
    decides: Sequence[Path],
    tensorflow: bool,
) -> Iterator[tuple[str, Any]]:
    """Let workers do a work and yield name and result as they come; see `work_through`."""
    failures.among_workers()
    threads = int(os.environ.get(THREADS, "1"))
    job = Job(fingerprint(begin, decides), begin, os.getcwd(), threads, tensorflow)
    works = {item.name: job.work + fingerprint(item.case, folders=True) for item in items}
    with ExitStack() as stack:
        book = None if out is None else stack.enter_context(open_book(out))
        left = [item for item in items if not is_done(item, works[item.name], book)]
        if len(left) < len(items):
            print(f"{len(items) - len(left)} of {len(items)} {failures.what}s were done before",
                  file=sys.stderr)  # fmt: skip
        if not left:
            return
        client = stack.enter_context(open_cluster(on, threads=threads, most=len(left)))
        if out is not None:
            write_json(out / FACTS, facts_of(on, threads))
        run = stack.enter_context(_Run(client, job, left, failures, on))
        for item, outcome in run.outcomes():
            if book is not None:
                book.write(row_of(item, outcome, works[item.name]))
            if outcome.done:
                yield item.name, outcome.result
            else:
                failures.note(item.name, f"{item.name}: {outcome.message}")


def is_done(item: Item, work: str, book: Book | None) -> bool:
    """Return whether a case was done by the same work, and its files are there."""
    row = None if book is None else book.rows.get(item.name)
    return (
        row is not None and (row.status, row.work) == (DONE, work)
        and all(path.is_file() for path in item.outputs)
    )  # fmt: skip


def row_of(item: Item, outcome: Outcome, work: str) -> Row:
    """Return what cohort.csv says of a case."""
    return Row(
        item.name, DONE if outcome.done else FAILED, f"{outcome.seconds:.2f}", outcome.worker,
        str(outcome.peak_mib or ""), outcome.message, work,
    )  # fmt: skip


def facts_of(on: Workers, threads: int) -> Mapping[str, Any]:
    """Return what cohort.json says of a cohort: who worked, and on what."""
    where = on.scheduler or on.cluster or "this machine"
    packages = {name: package_version(name) for name in ("dask", "distributed", "dask-jobqueue")}
    facts = environment_facts()
    facts["packages"] |= packages
    return {**facts, "workers": on.workers, "where": where, "intra_op_threads": threads}


class _Run:
    """The cases that are being worked on, and those that wait."""

    def __init__(
        self, client: Client, job: Job, items: Sequence[Item], failures: Failures, on: Workers
    ) -> None:
        self.client, self.limit_s = client, on.scan_timeout_s
        self.ended: queue.Queue[Future] = queue.Queue()
        self.items: dict[str, Item] = {}
        self.began: dict[str, float] = {}
        """When a case was first seen with a worker, by key."""
        self.futures: dict[str, Future] = {}
        self.progress = _Progress(len(items), failures)
        stamp = time.time_ns()  # a scheduler may serve several commands
        for number, item in enumerate(items):
            future = client.submit(
                work_on, job, item.case, key=f"case-{stamp}-{number}", pure=False
            )
            self.items[future.key], self.futures[future.key] = item, future
            future.add_done_callback(self.ended.put)

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *failure: object) -> None:
        self.progress.close()
        self.client.cancel(list(self.futures.values()), force=True)

    def outcomes(self) -> Iterator[tuple[Item, Outcome]]:
        """Yield each case once, when it is done or given up."""
        looked = time.monotonic()
        while self.futures:
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                for key in self.overdue():
                    yield self.give_up(key)
                self.progress.show(self.workers())
            try:
                future = self.ended.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                continue
            if self.futures.pop(future.key, None) is not None:  # else it was given up
                outcome = self.outcome_of(future)
                self.progress.count(outcome)
                yield self.items[future.key], outcome

    def outcome_of(self, future: Future) -> Outcome:
        """Return what became of a case whose future has ended; raise what ends all work."""
        try:
            failure = future.exception()
        except CancelledError as lost:
            raise RunError("the cluster went away; the same command goes on") from lost
        if failure is None:
            return future.result()
        if isinstance(failure, KilledWorker):
            seconds = time.monotonic() - self.began.get(future.key, time.monotonic())
            told = ("its worker ended while it had it, and so did the next ones: killed, perhaps "
                    "for want of memory, or crashed")  # fmt: skip
            return Outcome(False, told, None, seconds, "", 0)
        if isinstance(failure, UserError):
            raise failure
        raise RunError(f"the workers cannot do the work: {type(failure).__name__}: "
                       f"{one_line(failure)}") from failure  # fmt: skip

    def overdue(self) -> list[str]:
        """Note since when workers have their cases; return the keys of those they have too long."""
        now, limit = time.monotonic(), self.limit_s or math.inf
        held = {key for keys in self.client.processing().values() for key in keys}
        # A case whose worker died waits for another one, and begins anew.
        self.began = {key: self.began.get(key, now) for key in held}
        return [key for key in held & self.futures.keys() if now - self.began[key] > limit]

    def give_up(self, key: str) -> tuple[Item, Outcome]:
        """End the worker of a case, which begins anew without it."""
        holders = [name for name, keys in self.client.processing().items() if key in keys]
        future = self.futures.pop(key)
        future.cancel(force=True)
        self.client.restart_workers(holders, timeout=60, raise_for_error=False)
        told = f"given up after {self.limit_s:g} s (--scan_timeout_s)"
        outcome = Outcome(False, told, None, time.monotonic() - self.began.pop(key), "", 0)
        self.progress.count(outcome)
        return self.items[key], outcome

    def workers(self) -> int:
        """Return how many workers there are now."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"])


class _Progress:
    """A bar on a terminal; elsewhere a line a minute."""

    def __init__(self, total: int, failures: Failures) -> None:
        self.total, self.failures = total, failures
        self.done, self.began = 0, time.monotonic()
        self.shown = Shown()
        self.bar = tqdm(total=total, unit=failures.what, file=sys.stderr, dynamic_ncols=True,
                        disable=not sys.stderr.isatty())  # fmt: skip

    def count(self, outcome: Outcome) -> None:
        """Note that a case has ended."""
        self.done += 1
        failed = len(self.failures.names) + (not outcome.done)
        self.bar.set_postfix_str(f"{failed} failed, {self.rate():.1f} a minute", refresh=False)
        self.bar.update()

    def rate(self) -> float:
        """Return how many cases end in a minute."""
        return 60 * self.done / max(time.monotonic() - self.began, 1e-3)

    def show(self, workers: int) -> None:
        """Say where the cohort is, if it was not said lately."""
        if not self.bar.disable:
            return
        rate = self.rate()
        left = show_time(60 * (self.total - self.done) / rate) if self.done else "unknown"
        self.shown(f"{self.done} of {self.total} {self.failures.what}s ended, "
                   f"{len(self.failures.names)} failed, {rate:.1f} a minute, time left {left}; "
                   f"{workers} workers")  # fmt: skip

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
