"""Keras' early stopping, with a memory that survives an interruption."""

import keras
import numpy as np


class EarlyStopping(keras.callbacks.Callback):
    """End training when a measure has not fallen enough for some epochs in a row.

    Best value and count are variables, so that `common.training.loop.fit` keeps them in its
    checkpoints; Keras' own callback forgets them.

    Args:
        monitor: column of the log, smaller is better [S17].
        min_delta: a fall smaller than this does not count.
        patience: epochs in a row without one.
    Source: train.py, `EarlyStopping(monitor='loss', min_delta=3e-4, patience=2)`.
    """

    def __init__(self, monitor: str, *, min_delta: float, patience: int):
        super().__init__()
        self.monitor, self.min_delta, self.patience = monitor, min_delta, patience
        self.best = keras.Variable(np.inf, trainable=False, dtype="float32", name="best")
        self.waited = keras.Variable(0, trainable=False, dtype="int32", name="waited")
        self.variables = [self.best, self.waited]

    def on_epoch_end(self, epoch, logs=None):
        """Compare the epoch's value with the best one so far."""
        value = (logs or {}).get(self.monitor)
        if value is None:
            return
        if value < float(self.best.numpy()) - self.min_delta:
            self.best.assign(value)
            self.waited.assign(0)
            return
        self.waited.assign_add(1)
        if int(self.waited.numpy()) >= self.patience:
            self.model.stop_training = True
