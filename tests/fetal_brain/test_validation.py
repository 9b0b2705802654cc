"""What is measured and drawn after every epoch, with a network that everyone can compute."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.data.prepared_store import write_prepared_case
from common.network.losses import sparse_cross_entropy
from fetal_brain.config import PORT
from fetal_brain.sampling import count_classes, draw_validation_batch
from fetal_brain.validation import make_overlay_pictures, make_validation

CONFIG = replace(PORT, patch_shape=(3, 8, 8), batch_size=6, steps_per_evaluation=10)
SHAPE = (5, 16, 24)


def make_network(classes=2):
    """Logits (0, x) or (0, x, 2 x - 3): class 1 where x > 0, class 2 where x > 3."""
    x = keras.Input((3, None, None, 1))
    columns = [0 * x, x, 2 * x - 3][:classes]
    model = keras.Model(x, keras.ops.concatenate(columns, axis=-1))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=sparse_cross_entropy)
    return model


def store(folder, name, image, label, classes=2):
    arrays = {"image": image[..., None].astype(np.float32), "label": label.astype(np.uint8)}
    counts = count_classes(arrays["label"], classes)
    return write_prepared_case(folder, name, {**arrays, "slice_counts": counts})


@pytest.fixture
def cases(tmp_path):
    """A case that the network solves, and one of which it finds half."""
    image = np.full(SHAPE, -1.0)
    image[1:4, 4:8, 4:16] = 1.0
    whole = image > 0
    label = whole.copy()
    label[1:4, 8:12, 4:16] = True
    return [store(tmp_path, "whole", image, whole), store(tmp_path, "half", image, label)]


def test_both_ways(cases):
    """[F20] Whole volumes: Dice 1 and 2/3. One batch: what the patches themselves give."""
    model = make_network()
    found = make_validation(model, cases, replace(CONFIG, validation="volumes"), 7)()
    assert found == {"val_dice": pytest.approx((1 + 2 / 3) / 2)}

    config = replace(CONFIG, validation="patch_batch")
    measure = make_validation(model, cases, config, 7)
    losses = set()
    for evaluation, step in enumerate((9, 10, 25)):
        model.optimizer.iterations.assign(step)
        images, labels = draw_validation_batch(cases, config, 7, evaluation)
        x, reference = images[..., 0].astype(np.float64), labels == 1
        loss = np.mean(np.log1p(np.exp(x)) - x * reference)
        overlap = 2 * ((x > 0) & reference).sum() / ((x > 0).sum() + reference.sum())
        assert measure() == {
            "val_loss": pytest.approx(loss, rel=1e-5),
            "val_dice": pytest.approx(overlap),
        }
        losses.add(loss)
    assert len(losses) == 3  # every evaluation has patches of its own


def test_every_class_has_its_own_number(tmp_path):
    """Class 1 as 0 < x < 3, class 2 as x > 3; a case without class 2 counts for class 1 alone."""
    image = np.full(SHAPE, -1.0)
    image[1:3], image[3:] = 1.0, 4.0
    label = np.where(image > 3, 2, image > 0)
    label[1] = 0
    without = np.where(image > 3, -1.0, image)
    cases = [
        store(tmp_path, "a", image, label, classes=3),
        store(tmp_path, "b", without, without > 0, classes=3),
    ]
    config = replace(CONFIG, label_ids=(0, 2, 9))
    found = make_validation(make_network(classes=3), cases, config, 0)()
    assert found == {
        "val_dice_1": pytest.approx((2 / 3 + 1) / 2),
        "val_dice_2": pytest.approx(1.0),
    }


def test_the_network_in_training_is_measured(cases):
    """The weights may change between two epochs; the compiled function must see it."""
    x = keras.Input((3, None, None, 1))
    scale = keras.layers.Conv3D(2, 1, use_bias=False, kernel_initializer="zeros")
    model = keras.Model(x, scale(x))
    measure = make_validation(model, cases[:1], CONFIG, 0)
    assert measure() == {"val_dice": 0.0}
    scale.kernel.assign(np.reshape([0.0, 1.0], (1, 1, 1, 1, 2)))
    assert measure() == {"val_dice": 1.0}


def test_without_cases_nothing_is_measured_or_drawn():
    assert make_validation(make_network(), [], CONFIG, 0) is None
    assert make_overlay_pictures(make_network(), [], CONFIG) is None


@pytest.mark.parametrize("place", [0, 2, 4])
def test_picture_shows_the_slice_with_most_of_the_label(tmp_path, place):
    """Grey where nothing is, the outline of the prediction drawn over that of the reference."""
    image = np.full(SHAPE, -1.0)
    image[place, 4:10, 4:10] = 1.0
    label = np.zeros(SHAPE, bool)
    label[place, 4:10, 12:20] = True
    label[(place + 1) % 5, 4, 4] = True
    draw = make_overlay_pictures(make_network(), [store(tmp_path, "a", image, label)], CONFIG)
    (picture,) = draw().values()
    assert picture.shape == (16, 24, 3)
    assert picture.dtype == np.uint8
    coloured = np.ptp(picture.astype(int), axis=-1) > 0
    expected = np.zeros((16, 24), bool)
    for columns in (slice(4, 10), slice(12, 20)):
        expected[4:10, columns] = True
        expected[5:9, columns.start + 1 : columns.stop - 1] = False
    np.testing.assert_array_equal(coloured, expected)
    assert (picture[4, 4] != picture[4, 12]).any()
