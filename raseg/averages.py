"""The running mean of the weights that predicts, in the order the original was measured to take."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
from keras import ops


class WeightAverages(keras.callbacks.Callback):
    """Average the weights before every update, with a decay that grows with the step.

    At step t, counted from 0: d = min(decay, (1 + t) / (10 + t)), average -= (1 - d) * (average -
    weight), and then the optimiser changes the weight. The averages start at the weights' values.
    Keras' own `use_ema` averages after the update and with a constant decay.

    Source: raseg_model.py, `train`; ledger R8.
    """

    def __init__(self, weights: Sequence, decay: float):
        super().__init__()
        self.decay = decay
        self.weights = list(weights)
        self.variables = [
            keras.Variable(ops.copy(weight.value), trainable=False, name=f"average_{index}")
            for index, weight in enumerate(self.weights)
        ]

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        """Take in the weights as they are before this step's update."""
        # [R8] The original leaves the order to chance, which always averages first.
        self.update(int(self.model.optimizer.iterations.numpy()))

    def update(self, step: int) -> None:
        """Move the averages towards the weights after `step` updates."""
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.variables, self.weights, strict=True):
            average.assign_sub(share * (average.value - weight.value))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages where the weights are for the length of a block."""
        kept = [ops.copy(weight.value) for weight in self.weights]
        try:
            for average, weight in zip(self.variables, self.weights, strict=True):
                weight.assign(average.value)
            yield
        finally:
            for value, weight in zip(kept, self.weights, strict=True):
                weight.assign(value)
