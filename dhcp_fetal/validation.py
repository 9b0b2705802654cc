"""What is looked at while training: samples before each subepoch, whole volumes after an epoch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from common.network.trained import save_network
from common.report.overlay import picture_of_overlay
from dhcp_fetal.batches import SegmentSource, steps_per_epoch
from dhcp_fetal.config import Config
from dhcp_fetal.data import load_case, prepare_case
from dhcp_fetal.losses import EngineCost
from dhcp_fetal.measures import average_measures, count_classes, engine_dice, measure_samples
from dhcp_fetal.outputs import write_results
from dhcp_fetal.schedules import AutoState, advance_auto, learning_rate_at, momentum_at
from dhcp_fetal.session import CaseFiles, Saved

NOTHING_SEEN = -1.0


class FollowSchedule(keras.callbacks.Callback):
    """Sets learning rate, momentum and the cost's epoch at the end of every epoch."""

    def __init__(self, config: Config, cost: EngineCost):
        super().__init__()
        self.config = config
        self.cost = cost
        self.auto = keras.Variable(np.zeros(3, np.float32), trainable=False, name="auto_schedule")
        self.variables = [self.auto, cost.epochs_trained]

    def on_train_begin(self, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == 0:
            self._apply(0, self.config.learning_rate)

    def on_epoch_end(self, epoch, logs=None):
        config = self.config
        if config.schedule == "auto":  # [G11]
            best, best_epoch, lowered = self.auto.numpy().tolist()
            state, rate = advance_auto(
                config, AutoState(best, int(best_epoch), int(lowered)), epochs=epoch,
                accuracy=logs["val_accuracy"],
                rate=float(self.model.optimizer.learning_rate.numpy()),
            )  # fmt: skip
            self.auto.assign([state.best, state.best_epoch, state.lowered_epoch])
        else:
            rate = learning_rate_at(config, epoch + 1)
        self._apply(epoch + 1, rate)

    def _apply(self, epochs: int, rate: float) -> None:
        optimiser = self.model.optimizer
        optimiser.learning_rate = rate
        self.cost.epochs_trained.assign(epochs)
        if hasattr(optimiser, "momentum"):
            optimiser.momentum.assign(momentum_at(self.config, epochs))


class ValidateSamples(keras.callbacks.Callback):
    """Measures the network on samples before every subepoch, with the weights of that moment."""

    def __init__(self, source: SegmentSource, config: Config):
        super().__init__()
        self.source = source
        self.config = config
        shape = (config.subepochs, config.classes, 4)
        self.counts = keras.Variable(np.full(shape, NOTHING_SEEN, np.float32), trainable=False)
        self.variables = [self.counts]

    def on_train_batch_begin(self, batch, logs=None):
        per_subepoch = steps_per_epoch(self.config) // self.config.subepochs
        subepoch, done = divmod(int(self.model.optimizer.iterations.numpy()), per_subepoch)
        if done == 0:
            rows = self.counts.numpy()
            rows[subepoch % self.config.subepochs] = self._count(subepoch)
            self.counts.assign(rows)

    def on_epoch_end(self, epoch, logs=None):
        rows = [measure_samples(c) for c in self.counts.numpy() if c.min() > NOTHING_SEEN]
        logs.update({f"val_{name}": value for name, value in average_measures(rows).items()})

    def _count(self, subepoch: int) -> np.ndarray:
        inputs, labels = self.source.subepoch(subepoch)
        size = self.config.validation_batch_size
        counts = np.zeros((self.config.classes, 4), np.int64)
        for first in range(0, len(labels) // size * size, size):
            part = slice(first, first + size)
            batch = [array[part] for array in inputs]
            found = self.model.predict_on_batch(batch if len(batch) > 1 else batch[0])
            counts += count_classes(labels[part], found.argmax(axis=-1), self.config.classes)
        return counts


class KeepBest(keras.callbacks.Callback):
    """[G30] Keeps the network of the epoch with the best whole-volume Dice of the foreground."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.best = keras.Variable(NOTHING_SEEN, trainable=False, name="best_dice")
        self.variables = [self.best]

    def on_epoch_end(self, epoch, logs=None):
        dice = (logs or {}).get("val_volume_dice_foreground", np.nan)
        if dice > float(self.best.numpy()):
            save_network(self.model, self.path)
            self.best.assign(dice)


def make_volume_validation(
    model: keras.Model, segment: Callable, cases: Sequence[CaseFiles], config: Config, *,
    out: Path | None = None, saved: Saved | None = None,
) -> Callable[[], Mapping[str, float]]:  # fmt: skip
    """Return the function that segments validation cases whole and gives the mean DICE1 per class.

    Every `epochs_between_volumes` epochs it does, else it returns nothing. Cases without labels are
    only segmented; results are written where `out` is a folder.
    """

    def measure() -> dict[str, float]:
        epoch = int(model.optimizer.iterations.numpy()) // steps_per_epoch(config)
        if epoch % config.epochs_between_volumes:
            return {}
        rows = []
        for files in cases:
            case = load_case(files, config)
            found = segment(prepare_case(case, config), case.mask)
            if out is not None:
                write_results(out, case.name, found, case.scan, config, saved=saved)
            if case.labels is not None:
                scores = engine_dice(found.labels, case.labels, case.mask, config.classes)
                rows.append({f"val_volume_dice_{n}": dice[0] for n, dice in scores.items()})
        return average_measures(rows)

    return measure


def make_pictures(segment: Callable, files: CaseFiles, config: Config) -> Callable[[], Mapping]:
    """Return the function that draws the first validation case for TensorBoard.

    Only tiles that touch the plane with most foreground are segmented.
    """
    case = load_case(files, config)
    plane = int((case.labels > 0).sum(axis=(0, 1)).argmax())
    chosen = np.zeros(case.labels.shape, np.int16)
    chosen[:, :, plane] = 1 if case.mask is None else case.mask[:, :, plane] > 0
    image = prepare_case(case, config)

    def draw() -> dict[str, np.ndarray]:
        found = segment(image, chosen).labels[:, :, plane]
        truth = case.labels[:, :, plane]
        return {"validation": picture_of_overlay(image[:, :, plane, 0].T, truth.T, found.T)}

    return draw
