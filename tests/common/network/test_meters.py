"""Dice shown while training, against counts by hand."""

import keras
import numpy as np
import pytest

from common.network.meters import LabelDice


def one_hot(classes, count=3):
    """Logits whose argmax is the class."""
    return np.eye(count, dtype=np.float32)[np.asarray(classes)] * 5 - 2


def test_voxels_of_all_batches_are_pooled():
    """1 in common of 2 and 2, then 0 of 1 and 3: pooled 2 / 8, the mean of both alone 1 / 4."""
    meter = LabelDice(1)
    meter.update_state(np.array([[1, 1, 0, 2]]), one_hot([[1, 0, 1, 2]]))
    assert float(meter.result()) == pytest.approx(2 / 4)
    meter.update_state(np.array([[1, 1, 1, 0]]), one_hot([[0, 2, 0, 1]]))
    assert float(meter.result()) == pytest.approx(2 / 8)
    meter.reset_state()
    meter.update_state(np.array([[1]]), one_hot([[1]]))
    assert float(meter.result()) == 1.0


def test_only_the_chosen_class_counts():
    """Class 2: one in common of 1 and 2."""
    meter = LabelDice(2, name="dice_2")
    meter.update_state(np.array([[2, 0, 1, 1]]), one_hot([[2, 2, 0, 0]]))
    assert float(meter.result()) == pytest.approx(2 / 3)
    assert meter.name == "dice_2"


def test_a_class_that_never_occurs_is_undefined():
    meter = LabelDice(1)
    assert np.isnan(float(meter.result()))
    meter.update_state(np.array([[0, 2]]), one_hot([[2, 0]]))
    assert np.isnan(float(meter.result()))
    meter.update_state(np.array([[0]]), one_hot([[1]]))
    assert float(meter.result()) == 0.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_volumes_of_any_label_type(dtype):
    """Keras hands labels over as they come or as floats; half of 2 x 3 x 4 voxels agree."""
    labels = np.zeros((2, 3, 4), dtype)
    labels[0] = 1
    predicted = np.zeros((2, 3, 4), int)
    predicted[:, :, :2] = 1
    meter = LabelDice(1)
    meter.update_state(labels, one_hot(predicted, 2))
    assert float(meter.result()) == pytest.approx(2 * 6 / (12 + 12))


def test_a_saved_meter_is_the_same_meter():
    meter = LabelDice(2, name="d")
    again = keras.metrics.deserialize(keras.metrics.serialize(meter))
    assert isinstance(again, LabelDice)
    assert (again.label, again.name) == (2, "d")


def test_half_precision_does_not_touch_the_counts():
    """4097 voxels are no number of bfloat16 or float16."""
    meter = LabelDice(1)
    labels = np.zeros((1, 5000), np.int32)
    labels[0, :4097] = 1
    logits = keras.ops.cast(one_hot(labels, 2), "bfloat16")
    meter.update_state(labels, logits)
    assert float(meter.sizes) == 2 * 4097
    assert float(meter.result()) == 1.0
