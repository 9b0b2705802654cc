"""Measures shown while training: Keras metrics on the network's own output.

`common.evaluation.metrics` measures finished label files; these are for the progress line and the
log.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="common")
class LabelDice(keras.metrics.Metric):
    """Dice of one class, pooled over all voxels seen since the last reset.

    Args:
        label: class number.
        name: name in the log.
    """

    def __init__(self, label: int = 1, name: str = "dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label = label
        self.overlap = self.add_weight(name="overlap", initializer="zeros")
        self.sizes = self.add_weight(name="sizes", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count a batch of classes (B, ...) and scores (B, ..., C); `sample_weight` is ignored."""
        predicted = ops.cast(ops.equal(ops.argmax(y_pred, axis=-1), self.label), "float32")
        reference = ops.cast(ops.equal(ops.cast(y_true, "int32"), self.label), "float32")
        self.overlap.assign_add(ops.sum(predicted * reference))
        self.sizes.assign_add(ops.sum(predicted) + ops.sum(reference))

    def result(self):
        """Return 2 overlap / (size + size); NaN where the class never occurred."""
        return ops.divide(2.0 * self.overlap, self.sizes)

    def get_config(self):
        """Return the arguments that rebuild this metric."""
        return {**super().get_config(), "label": self.label}
