"""Several ways of doing the same work, each in a process of its own, timed in turns.

In turns, so that a busy machine slows all of them alike. In processes of their own, since the
largest memory of a process never falls, and since two frameworks in one process would share threads
and settings. Before anything is timed, all must come to the same result.

`python -m common.cost.turns FUNCTION SIZES FOLDER` is such a process: it takes orders on its input,
a word per line, and answers each with a line of JSON.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.cost.memory import forget_peak, memory_held, peak_memory
from common.cost.stopwatch import time_call
from common.errors import UserError
from common.papers import ROOT

TOLERANCE = 5e-3
"""Largest difference, as a share of the largest value, that rounding may make."""


class Contender(NamedTuple):
    """One way of doing the work, ready to begin."""

    prove: Callable[[], Sequence[np.ndarray]]
    """Does the work once and returns what shows that it is the same work. It also compiles."""
    work: Callable[[], object]
    """What is timed, after `prove`."""
    units: int = 1
    """Steps that one call of `work` takes; times are given per step."""


@dataclass(frozen=True)
class Side:
    """One way of doing the work."""

    name: str
    function: str
    """"module:function" that makes it ready: (sizes, folder) -> `Contender`. All sides get one
    folder, and the first is made ready before the others, so that it can leave its weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Added to the contest's sizes. Sides of one name are variants, the fastest of which counts."""
    packages: tuple[str, ...] = ()
    """Extra packages without which it cannot run."""
    environment: Mapping[str, str] = field(default_factory=dict)
    is_same: bool = True
    """Whether its result must be that of the first side."""


@dataclass(frozen=True)
class Contest:
    """Work that several sides do."""

    work: str
    """In two words, such as "training step"."""
    what: str
    """What it is done on, with sizes."""
    sides: tuple[Side, ...]
    """The others are compared with the first."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Handed to the sides' functions; plain values."""


@dataclass(frozen=True)
class Timing:
    """What one side took. All None where it was not timed; `note` then says why."""

    side: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cpu_s: float | None = None
    """Processor seconds of a step on all cores, the least of all turns."""
    wall_s: float | None = None
    """The same by the clock."""
    peak_bytes: int | None = None
    """Memory above that of the process with libraries, network and input, at most; with the first
    pass, which compiles."""
    difference: float | None = None
    """Largest difference from the first side's result, as a share of its largest value."""
    note: str = ""
    failed: bool = False
    """Whether the note tells of more than a package that is not installed."""


class ContenderError(UserError):
    """A side failed, or came to another result."""


class NotInstalledError(UserError):
    """A side needs a package that is not installed."""


def run_contest(
    contest: Contest, *, turns: int = 3, environment: Mapping[str, str] | None = None
) -> list[Timing]:
    """Let all sides do the work in turns; return what each took, in their order.

    A side's own environment variables outweigh those for all.
    """
    timings = [Timing(side.name, side.options) for side in contest.sides]
    running: dict[int, _Process] = {}
    expected = None
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        for number, side in enumerate(contest.sides):
            try:
                process = _Process(side, contest.sizes, folder, environment or {})
                cleanup.enter_context(process)
                found = process.prove()
                expected = found if expected is None else expected
                difference = compare(found, expected, side)
            except (ContenderError, NotInstalledError) as reason:
                failed = isinstance(reason, ContenderError)
                timings[number] = replace(timings[number], note=str(reason), failed=failed)
                continue
            running[number] = process
            timings[number] = replace(timings[number], difference=difference)
        rounds = [{n: process.ask("work") for n, process in running.items()} for _ in range(turns)]
        for number, process in running.items():
            wall, cpu = np.min([each[number] for each in rounds], axis=0).tolist()
            peak = process.ask("peak")
            timings[number] = replace(timings[number], wall_s=wall, cpu_s=cpu, peak_bytes=peak)
    return timings


def compare(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], side: Side) -> float:
    """Return the largest difference, as a share of the largest value that is expected."""
    shares = []
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape:
            raise ContenderError(f"result {theirs.shape} instead of {ours.shape}; not timed")
        difference = np.abs(ours.astype(np.float64) - theirs).max(initial=0.0)
        shares.append(difference / (np.abs(ours).max(initial=0.0) or 1.0))
    apart = float(np.max(shares))
    if side.is_same and not apart <= TOLERANCE:  # NaN is not a result either
        raise ContenderError(f"differs by {apart:.1e} of the largest value; not timed")
    return apart


class _Process:
    """A side in a process of its own."""

    def __init__(
        self, side: Side, sizes: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
    ):
        missing = [name for name in side.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise NotInstalledError(f"{missing[0]} is not installed: pip install '.[bench]'")
        options = json.dumps({**sizes, **side.options})
        words = [sys.executable, "-m", __name__, side.function, options, str(folder)]
        variables = {**os.environ, **environment, **side.environment}
        self._folder = folder
        self._notices = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=variables, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._notices,
        )  # fmt: skip
        self._answer()

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._notices.close()

    def prove(self) -> list[np.ndarray]:
        """Return the arrays that show what the side computes."""
        with np.load(self._folder / self.ask("prove"), allow_pickle=False) as arrays:
            return list(arrays.values())

    def ask(self, order: str) -> Any:
        """Return the answer to an order of `serve`."""
        with suppress(BrokenPipeError):  # what it died of is said by the missing answer
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        if status < 0:
            raise ContenderError(f"ended by signal {-status}; 9 is what too little memory gives")
        self._notices.seek(0)
        last = (self._notices.read().strip().splitlines() or ["no message"])[-1]
        raise ContenderError(f"failed: {last}")


def serve(function: str, sizes: Mapping[str, Any], folder: Path) -> None:
    """Be the process of one side until the input ends.

    The orders: "prove" is answered with the name of a file of arrays, "work" with the wall and CPU
    seconds of a step, "peak" with the bytes above the start that were held at most.
    """
    # Libraries print what they like; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    module, _, name = function.partition(":")
    contender: Contender = getattr(importlib.import_module(module), name)(sizes, folder)
    forget_peak()
    start = memory_held()
    say("ready")
    for order in map(str.strip, sys.stdin):
        if order == "prove":
            np.savez(folder / f"{os.getpid()}.npz", *contender.prove())
            say(f"{os.getpid()}.npz")
        elif order == "work":
            say([seconds / contender.units for seconds in time_call(contender.work)])
        elif order == "peak":
            say(max(peak_memory() - start, 0))


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
