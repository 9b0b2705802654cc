"""Training that can be killed at any moment and ends, to the bit, as if it had not been.

Keras' own `fit` does the training. Around it: checkpoints of every variable, a log without gaps or
doubles, and a dataset that begins at any step (`common.data.batches`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.cost.device import uses_gpu
from common.cost.memory import bytes_of, warn_of_memory
from common.data.batches import surface_user_errors
from common.errors import RunError, TrainingDivergedError
from common.runs.folder import Run
from common.runs.log import read_log, write_log
from common.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from common.training.journal import EventWriter, FirstSteps, ProgressReport
from common.training.strategy import (
    STEPS_BETWEEN_CHECKPOINTS,
    check_same_step,
    is_shared,
    measures_of,
    share_dataset,
    sharing_training,
)

CHECKPOINT = "last.npz"
POSITION = {"step": int, "epoch_done": bool, "stopped": bool}
"""What a checkpoint says beside the variables."""
SECONDS_BETWEEN_CHECKPOINTS = 60.0


def fit(
    model: keras.Model,
    make_dataset: Callable[[int], tf.data.Dataset],
    *,
    run: Run,
    max_steps: int,
    steps_per_epoch: int,
    checkpoint_every: int | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    pictures: Callable[[], Mapping[str, np.ndarray]] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train to `max_steps`, from the run's checkpoint if it has one.

    At the end of an epoch, in this order: `evaluate`, the callbacks, TensorBoard, log.csv, the
    checkpoint. Without a checkpoint training begins at the optimiser's own step, so that a
    converted model with its slots goes on where the original stopped.

    Args:
        model: compiled and built; a `train_step` of its own is welcome. The position in a learning
            rate schedule is `optimizer.iterations`, which the checkpoint holds.
        make_dataset: first step -> batches from that step on, at least to `max_steps`. Batch k must
            be the same whatever the first step (`common.data.batches.make_batches`). Where several
            devices share the training (`configure_runtime`), it gives this worker's part.
        run: writable run.
        max_steps: optimiser steps of the whole run.
        steps_per_epoch: steps between two rows of the log; the last epoch may be shorter.
        checkpoint_every: steps between checkpoints within an epoch; None: about once a minute, or
            where several devices share the training every hundred steps.
        evaluate: called at the end of every epoch; its measures join the log. It must leave the
            training state alone.
        pictures: called after it; tag -> uint8 (H, W, 3) for TensorBoard.
        callbacks: the paper's own. What one remembers between steps must be in its attribute
            `variables` (Keras variables, made in its constructor) to be in the checkpoints; Keras'
            EarlyStopping and ReduceLROnPlateau forget their state. `model.stop_training` ends the
            run, also when it is started again.
        progress: show progress on stderr; of several workers the chief does.
    Returns:
        The rows of the whole run, also of its earlier parts: epoch (from 1), step, what the model
        logs, what `evaluate` gives, learning_rate (of the next step).
    Raises:
        TrainingDivergedError: the loss is NaN or infinite; the last checkpoint is from before.
        RunError: a file of the run cannot be written, the checkpoint is another model's, or another
            worker has ended.
        UserError: raised by the dataset's `draw`, by `evaluate` or by `pictures`.
    """
    if not model.built:
        raise ValueError("the model has no variables yet: build it before training")
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if is_shared():
        checkpoint_every = checkpoint_every or STEPS_BETWEEN_CHECKPOINTS
    training = _Training(run, max_steps, steps_per_epoch, checkpoint_every, evaluate, pictures,
                         callbacks)  # fmt: skip
    training.restore(model)
    progress = progress and run.chiefs is None
    if progress and not uses_gpu():
        # The gradients are what is certain to be made; without a GPU they lie in this memory.
        warn_of_memory(bytes_of(model.trainable_variables), what="training")
    report = ProgressReport(step=training.step, max_steps=max_steps, enabled=progress)
    events = EventWriter(run.path)
    first_steps = FirstSteps(max_steps - training.step, report.say)
    around = [_Before(training), first_steps, *callbacks, _After(training, report, events)]
    with closing(report), closing(events), surface_user_errors(), sharing_training(model):
        check_same_step(training.step)
        while training.step < max_steps and not training.stopped:
            epoch, done = divmod(training.step, steps_per_epoch)
            epochs, steps = (max_steps - training.step) // steps_per_epoch, steps_per_epoch
            if done or not epochs:  # the rest of a broken epoch, or a shorter last one
                epochs, steps = 1, min(steps_per_epoch - done, max_steps - training.step)
            dataset, specs = share_dataset(make_dataset, training.step)
            build_measures(model, specs)
            model.fit(
                dataset, initial_epoch=epoch, epochs=epoch + epochs,
                steps_per_epoch=steps, callbacks=around, shuffle=False, verbose=0,
            )  # fmt: skip
    run.record(training={"steps": training.step, "stopped_early": training.stopped})
    return training.rows


def build_measures(model: keras.Model, element_spec: Any) -> None:
    """Make the variables of a compiled model's losses and metrics, from zeros shaped like a batch.

    Keras makes them in the first step otherwise; TensorFlow traces a step that makes some twice.
    """
    if model.loss is None:  # a step of the model's own has its measures from the beginning
        return
    batch = keras.tree.map_structure(
        lambda spec: keras.KerasTensor([size or 1 for size in spec.shape], spec.dtype.name),
        element_spec,
    )
    x, *targets = keras.utils.unpack_x_y_sample_weight(batch)
    y, weight, predicted = keras.tree.map_structure(
        lambda spec: None if spec is None else np.zeros(spec.shape, spec.dtype),
        (*targets, model.compute_output_spec(x)),
    )
    # Where devices have values of their own, none can be changed here.
    values = [(variable, variable.value) for variable in model.variables]
    with keras.StatelessScope(values) if is_shared() else nullcontext():
        model.compute_loss(y=y, y_pred=predicted, sample_weight=weight)
        model.compute_metrics(None, y, predicted, weight)
    model.reset_metrics()


@dataclass
class _Training:
    """A training under way; shared by the callbacks around the paper's own."""

    run: Run
    max_steps: int
    steps_per_epoch: int
    checkpoint_every: int | None
    evaluate: Callable[[], Mapping[str, float]] | None
    pictures: Callable[[], Mapping[str, np.ndarray]] | None
    callbacks: Sequence[keras.callbacks.Callback]
    step: int = 0
    stopped: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    broken_epoch: Checkpoint | None = None
    """Holds the metrics of the epoch to finish, until Keras has reset them."""
    epoch_end: int = 0
    """Step at which the current epoch ends."""

    def restore(self, model: keras.Model) -> None:
        """Go on from the run's checkpoint, or begin at the optimiser's own step."""
        checkpoint = read_checkpoint(self.run.shared / "checkpoints" / CHECKPOINT)
        if checkpoint is None:
            self.step = int(model.optimizer.iterations.numpy())
            return
        position = checkpoint.position
        if {name: type(fact) for name, fact in position.items()} != POSITION:
            raise RunError(f"{checkpoint.path} is of no training: found {position} in its header")
        self.step, self.stopped = position["step"], position["stopped"]
        if not position["epoch_done"]:
            self.broken_epoch = checkpoint
        groups = self.variables_of(model)
        # Keras resets the metrics when it begins an epoch; theirs are assigned after that.
        groups.pop("metrics")
        checkpoint.assign(groups)
        # A row after the checkpoint belongs to an epoch that is finished once more.
        self.rows = [row for row in read_log(self.run.shared) if row["step"] <= self.step]

    def variables_of(self, model: keras.Model) -> dict[str, list[Any]]:
        """Return all that a checkpoint holds, by group."""
        return {
            # Not `model.weights`: that lacks the states of the random generators (Dropout).
            "model": list(model.variables),
            "optimizer": list(model.optimizer.variables),
            "callbacks": [v for each in self.callbacks for v in getattr(each, "variables", ())],
            "metrics": measures_of(model),
        }


class _Before(keras.callbacks.Callback):
    """Ahead of the paper's callbacks: counts steps, checks the loss, evaluates."""

    def __init__(self, training: _Training) -> None:
        super().__init__()
        self._training = training
        self._epoch_begin = training.step

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        training = self._training
        if training.broken_epoch is not None:
            training.broken_epoch.assign({"metrics": measures_of(self.model)})
            training.broken_epoch = None
        self._epoch_begin = training.step
        training.epoch_end = min((epoch + 1) * training.steps_per_epoch, training.max_steps)

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        step = min(self._epoch_begin + batch + 1, self._training.epoch_end)
        self._training.step = step
        # The running mean of the epoch: one bad step spoils it to the end.
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {step}; expected a finite number: try a lower "
                "learning rate"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        training = self._training
        if training.step < training.epoch_end and not self.model.stop_training:
            raise ValueError(
                f"make_dataset ended at step {training.step}, before the epoch's "
                f"{training.epoch_end}"
            )
        if training.evaluate is not None:
            # One dictionary passes through all callbacks: the paper's see these measures too.
            logs.update({name: float(value) for name, value in training.evaluate().items()})


class _After(keras.callbacks.Callback):
    """Behind the paper's callbacks: keeps what they all did."""

    def __init__(self, training: _Training, report: ProgressReport, events: EventWriter) -> None:
        super().__init__()
        self._training = training
        self._report = report
        self._events = events
        self._epoch = 0
        self._last_step = training.step
        self._next_time = time.monotonic() + SECONDS_BETWEEN_CHECKPOINTS

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        step = self._training.step
        # A checkpoint at the end of an epoch, or of the run, waits until that is complete.
        if self._is_due(step) and step < self._training.epoch_end and not self.model.stop_training:
            self._write_checkpoint(epoch_done=False)
        self._report.show_step(self._epoch + 1, step, (logs or {}).get("loss"))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        training = self._training
        row = {"epoch": epoch + 1, "step": training.step}
        row |= {name: float(value) for name, value in (logs or {}).items()}
        row["learning_rate"] = float(self.model.optimizer.learning_rate.numpy())
        training.stopped = bool(self.model.stop_training)
        training.rows.append(row)
        self._events.write(row, training.pictures() if training.pictures else {})
        # The log goes first: a row too many is dropped when the run goes on, one too few is lost.
        write_log(training.run.path, training.rows)
        self._write_checkpoint(epoch_done=True)
        self._report.show_epoch(row)

    def _is_due(self, step: int) -> bool:
        if (every := self._training.checkpoint_every) is None:
            return time.monotonic() >= self._next_time
        return step // every > self._last_step // every

    def _write_checkpoint(self, *, epoch_done: bool) -> None:
        training = self._training
        seconds = write_checkpoint(
            training.run.checkpoints / CHECKPOINT,
            training.variables_of(self.model),
            {"step": training.step, "epoch_done": epoch_done, "stopped": training.stopped},
        )
        self._last_step = training.step
        # Never more than about two per cent of the time.
        self._next_time = time.monotonic() + max(SECONDS_BETWEEN_CHECKPOINTS, 50 * seconds)
