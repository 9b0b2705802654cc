"""What the scripts that predict share."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

Config = TypeVar("Config")


def with_inference_of(config: Config, preset: Config, fields: Sequence[str]) -> Config:
    """Return a configuration whose inference fields come from a preset."""
    return replace(config, **{name: getattr(preset, name) for name in fields})


def has_terminal() -> bool:
    """Return whether stderr is a terminal that is this process's alone, not shared by workers."""
    return sys.stderr.isatty() and multiprocessing.parent_process() is None


def show_progress(what: str) -> Callable[[int, int], None] | None:
    """Return the function that shows on a terminal how many of what are done; None without one."""
    if not has_terminal():
        return None
    return lambda done, total: print(
        f"\r{int(done)} of {int(total)} {what}", end="\n" if done == total else "",
        file=sys.stderr, flush=True,
    )  # fmt: skip
