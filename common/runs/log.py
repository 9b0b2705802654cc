"""The log of a training run: a row per epoch in log.csv."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import RunError
from common.files import read_text, write_text_atomically

LOG = "log.csv"


def read_log(run_path: Path) -> list[dict[str, float]]:
    """Read the training log of a run.

    Returns:
        A row per epoch: epoch (from 1), step (optimiser steps done), then the epoch's means and
        measures by name, to the last bit as they were. Values an epoch lacks are absent. Empty if
        there is no log.
    Raises:
        RunError: the log is not a table of numbers.
    """
    path = Path(run_path) / LOG
    if not path.exists():
        return []
    kinds = {"epoch": int, "step": int}
    try:
        rows = [
            {name: kinds.get(name, float)(cell) for name, cell in row.items() if cell != ""}
            for row in csv.DictReader(io.StringIO(read_text(path)))
        ]
        if not all(kinds.keys() <= row.keys() for row in rows):
            raise ValueError("found a row without epoch or step")
        return rows
    except (ValueError, TypeError, csv.Error) as failure:
        raise RunError(f"{path} is not a training log: {failure}") from failure


def write_log(run_path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the whole training log atomically; the rows are as `read_log` returns them."""
    table = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    # repr of a Python float is the shortest text that reads back as the same bits.
    writer.writerows({name: repr(value) for name, value in row.items()} for row in rows)
    write_text_atomically(Path(run_path) / LOG, table.getvalue())
