"""What the scripts that predict share."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

Config = TypeVar("Config")


def with_inference_of(config: Config, preset: Config, fields: Sequence[str]) -> Config:
    """Return a configuration whose inference fields come from a preset."""
    return replace(config, **{name: getattr(preset, name) for name in fields})


def has_terminal() -> bool:
    """Return whether stderr is a terminal that is this process's alone, not shared by workers."""
    return sys.stderr.isatty() and is_alone()


def is_alone() -> bool:
    """Return whether this process is no worker of another."""
    return multiprocessing.parent_process() is None


SAY_EVERY_S = 60.0
"""Where stderr is not a terminal."""


class Shown:
    """A line of progress: renewed on a terminal; elsewhere said once a minute, but never by
    workers, who share what they write to."""

    def __init__(self) -> None:
        self.said = time.monotonic()

    def __call__(self, line: str) -> None:
        """Show a line in the place of the one before."""
        if has_terminal():
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
        elif is_alone() and time.monotonic() - self.said >= SAY_EVERY_S:
            self.said = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the last line as it is."""
        if has_terminal():
            print(file=sys.stderr, flush=True)


def show_progress(what: str) -> Callable[[int, int], None] | None:
    """Return the function that shows on a terminal how many of what are done; None without one."""
    if not has_terminal():
        return None
    return lambda done, total: print(
        f"\r{int(done)} of {int(total)} {what}", end="\n" if done == total else "",
        file=sys.stderr, flush=True,
    )  # fmt: skip
