"""Training logs: TensorBoard events, progress on stderr."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from common.cost.first_step import line_of_steps
from common.errors import RunError

SECONDS_BETWEEN_LINES = 60.0
"""Where stderr is not a terminal: a line at every epoch, and within long epochs this often."""


class EventWriter:
    """TensorBoard scalars and pictures under <run>/tensorboard."""

    def __init__(self, run_path: Path) -> None:
        self._folder = Path(run_path) / "tensorboard"
        self._writer = None

    def write(self, row: Mapping[str, float], pictures: Mapping[str, Any]) -> None:
        """Write one epoch: the row of the log, and pictures uint8 (H, W, 3) by tag."""
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
        self._bar = tqdm(
            total=max_steps, initial=step, unit="step", file=sys.stderr, dynamic_ncols=True,
            disable=not (enabled and sys.stderr.isatty()),
        )  # fmt: skip

    def show_step(self, epoch: int, step: int, loss: float | None) -> None:
        """Show where training is; `epoch` counts from 1."""
        shown = "" if loss is None else f"loss {loss:.4g}"
        if not self._bar.disable:
            self._bar.set_description(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self.say(f"epoch {epoch}, step {step} of {self._max_steps}: {shown}")

    def show_epoch(self, row: Mapping[str, float]) -> None:
        """Show the row of an epoch that has ended."""
        seconds = time.monotonic() - self._epoch_begin
        values = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("epoch", "step"))
        place = f"epoch {row['epoch']}, step {row['step']} of {self._max_steps}"
        self.say(f"{place}: {values} ({seconds:.1f} s)")
        self._epoch_begin = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line above the bar, or as it is where there is none."""
        if self._enabled:
            self._last_line = time.monotonic()
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        self._bar.close()


class FirstSteps(keras.callbacks.Callback):
    """Says once what the steps to be taken will take: after the second, as the first compiles."""

    def __init__(self, steps: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self._steps = steps
        self._say = say
        self._began = 0.0
        self._seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Mapping | None = None) -> None:
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        enough = min(2, self._steps)
        if len(self._seconds) < enough:
            self._seconds.append(time.monotonic() - self._began)
            if len(self._seconds) == enough:
                self._say(line_of_steps(self._seconds, self._steps))
