"""What a training run tells the world: log.csv, TensorBoard events, and progress on stderr."""

import csv
import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.files import write_text_atomically

LOG = "log.csv"
SECONDS_BETWEEN_LINES = 60.0
"""Where stderr is no terminal: a line at every epoch, and within long epochs this often."""


def read_log(run_path: Path) -> list[dict[str, float]]:
    """Read the training log of a run.

    Args:
        run_path: the run folder.
    Returns:
        A row per epoch: epoch (from 1), step (optimiser steps done), then the epoch's means and
        measures by name, to the last bit as they were. Values an epoch lacks are absent. Empty if
        there is no log.
    Raises:
        RunError: the log is no table of numbers.
    """
    path = Path(run_path) / LOG
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as failure:
        raise RunError(f"{path} cannot be read: {failure.strerror}") from failure
    try:
        return [
            {name: _number(name, cell) for name, cell in row.items() if cell != ""}
            for row in csv.DictReader(io.StringIO(text))
        ]
    except (ValueError, TypeError) as failure:
        raise RunError(f"{path} is no training log: {failure}") from failure


def write_log(run_path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the whole training log, atomically.

    Args:
        run_path: the run folder.
        rows: as `read_log` returns them.
    Raises:
        RunError: the disk is full or unwritable; the former log is untouched.
    """
    table = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    # repr of a Python float is the shortest text that reads back as the same bits.
    writer.writerows({name: repr(value) for name, value in row.items()} for row in rows)
    write_text_atomically(Path(run_path) / LOG, table.getvalue())


class EventWriter:
    """TensorBoard scalars and pictures under <run>/tensorboard."""

    def __init__(self, run_path: Path) -> None:
        self._folder = Path(run_path) / "tensorboard"
        self._writer = None

    def write(self, row: Mapping[str, float], pictures: Mapping[str, Any]) -> None:
        """Write one epoch.

        Args:
            row: as in the log; `step` places it.
            pictures: tag -> uint8 (H, W, 3).
        Raises:
            RunError: the disk is full or unwritable.
        """
        import tensorflow as tf

        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(step=int(row["step"])):
                for name, value in row.items():
                    if name != "step":
                        tf.summary.scalar(name, value)
                for tag, picture in pictures.items():
                    tf.summary.image(tag, picture[None])
            self._writer.flush()
        except tf.errors.OpError as failure:
            reason = failure.message.splitlines()[0]
            raise RunError(f"{self._folder} cannot be written: {reason}") from failure

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class ProgressReport:
    """A bar where stderr is a terminal, sparse lines where it is a file."""

    def __init__(self, *, step: int, max_steps: int, enabled: bool) -> None:
        self._enabled = enabled
        self._max_steps = max_steps
        self._epoch_begin = self._last_line = time.monotonic()
        self._bar = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=max_steps, initial=step, unit="step", file=sys.stderr, dynamic_ncols=True
            )

    def show_step(self, epoch: int, step: int, loss: float | None) -> None:
        """Show where training is; `epoch` counts from 1."""
        if not self._enabled:
            return
        shown = "" if loss is None else f"loss {loss:.4g}"
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self.say(f"epoch {epoch}, step {step} of {self._max_steps}: {shown}")

    def show_epoch(self, row: Mapping[str, float]) -> None:
        """Show the row of an epoch that has ended."""
        if not self._enabled:
            return
        seconds = time.monotonic() - self._epoch_begin
        values = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("epoch", "step"))
        self.say(
            f"epoch {row['epoch']}, step {row['step']} of {self._max_steps}: "
            f"{values} ({seconds:.1f} s)"
        )
        self._epoch_begin = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line above the bar, or as it is where there is none."""
        if not self._enabled:
            return
        self._last_line = time.monotonic()
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._bar is not None:
            self._bar.close()


def _number(name: str, cell: str) -> float:
    return int(cell) if name in ("epoch", "step") else float(cell)
