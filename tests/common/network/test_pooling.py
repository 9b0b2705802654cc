"""Maximum pooling: values of Keras' own, gradients worked out by hand where voxels tie."""

from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from common.network.pooling import first_max_pool

FETAL_BRAIN = ((2, 4, 4), (1, 2, 2), "same")
VERTEBRA = ((2, 2, 2), (2, 2, 2), "valid")


def pool_with_gradient(x, window, strides, padding, *, compiled):
    """Return the pooled array and the gradient of its sum, weighted with 1, 2, 3, ..."""

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = first_max_pool(x, window, strides, padding=padding)
            weights = tf.reshape(tf.range(1, tf.size(y) + 1), tf.shape(y))
            total = tf.reduce_sum(y * tf.cast(weights, y.dtype))
        return y, tape.gradient(total, x)

    y, gradient = (tf.function(run) if compiled else run)(tf.constant(x))
    return y.numpy(), gradient.numpy()


def gradient_by_search(x, window, strides, padding):
    """Return the same gradient: each window's weight goes to what `argmax` finds in it first."""
    sizes = x.shape[1:4]
    if padding == "same":
        counts = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
        before = [max((c - 1) * s + w - n, 0) // 2
                  for c, s, w, n in zip(counts, strides, window, sizes, strict=True)]  # fmt: skip
    else:
        counts = [(n - w) // s + 1 for n, w, s in zip(sizes, window, strides, strict=True)]
        before = [0, 0, 0]
    gradient = np.zeros(x.shape)
    places = product(range(len(x)), *map(range, counts), range(x.shape[-1]))
    for weight, (sample, *place, channel) in enumerate(places, start=1):
        lows = [i * s - b for i, s, b in zip(place, strides, before, strict=True)]
        box = tuple(slice(max(low, 0), low + w) for low, w in zip(lows, window, strict=True))
        voxels = x[(sample, *box, channel)]
        found = np.unravel_index(voxels.argmax(), voxels.shape)
        voxel = tuple(part.start + i for part, i in zip(box, found, strict=True))
        gradient[(sample, *voxel, channel)] += weight
    return gradient


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("value", [-2.0, 0.0, 3.0])
def test_ties_at_a_padded_border(value, compiled):
    """A constant 2 x 4 x 4 under windows of 2 x 4 x 4: of the 8 windows, four begin in slice 0,
    four in slice 1; rows and columns of each begin at -1, cut to 0, or at 1."""
    x = np.full((1, 2, 4, 4, 1), value, np.float32)
    y, gradient = pool_with_gradient(x, *FETAL_BRAIN, compiled=compiled)
    np.testing.assert_array_equal(y, np.full((1, 2, 2, 2, 1), value))
    expected = np.zeros((2, 4, 4))
    expected[0, :2, :2] = [[1, 2], [3, 4]]
    expected[1, :2, :2] = [[5, 6], [7, 8]]
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_order_of_ties(compiled):
    """Two maxima in a window: the lower slice wins over the row, the lower row over the column."""
    x = np.zeros((1, 2, 2, 4, 1), np.float32)
    x[0, 0, 1, 1] = x[0, 1, 0, 0] = 5
    x[0, 1, 0, 3] = x[0, 1, 1, 2] = 5
    _, gradient = pool_with_gradient(x, *VERTEBRA, compiled=compiled)
    assert {tuple(index): gradient[tuple(index)] for index in np.argwhere(gradient)} == {
        (0, 0, 1, 1, 0): 1,
        (0, 1, 0, 3, 0): 2,
    }


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 8, 12, 3), FETAL_BRAIN),
        ((1, 3, 7, 9, 2), FETAL_BRAIN),
        ((2, 1, 8, 8, 2), ((1, 4, 4), (1, 2, 2), "same")),
        ((1, 9, 8, 7, 2), VERTEBRA),
        ((1, 7, 9, 10, 2), ((3, 2, 4), (2, 3, 1), "same")),
        ((1, 7, 9, 10, 2), ((3, 2, 4), (2, 3, 1), "valid")),
    ],
)
def test_values_and_gradients(shape, arguments, compiled):
    """Three different values, so that nearly every window holds ties."""
    x = np.random.default_rng(0).integers(-1, 2, shape).astype(np.float32)
    y, gradient = pool_with_gradient(x, *arguments, compiled=compiled)
    np.testing.assert_array_equal(y, ops.max_pool(x, *arguments))
    np.testing.assert_array_equal(gradient, gradient_by_search(x, *arguments))


def test_bfloat16():
    x = np.random.default_rng(0).integers(-1, 2, (1, 3, 8, 8, 2)).astype(np.float32)
    y, gradient = pool_with_gradient(
        tf.cast(x, tf.bfloat16), (2, 4, 4), (1, 4, 4), "valid", compiled=True
    )
    assert y.dtype == gradient.dtype == tf.bfloat16.as_numpy_dtype
    # Whole numbers up to 16: exact in 8 bits.
    expected = gradient_by_search(x, (2, 4, 4), (1, 4, 4), "valid")
    np.testing.assert_array_equal(gradient.astype(np.float32), expected)


def test_a_file_gives_no_lists_back(tmp_path):
    """JAX' pooling takes a number or a tuple; a file turns a tuple into a list."""
    image = keras.Input((3, 8, 8, 1))
    pooled = first_max_pool(image, (2, 4, 4), (1, 2, 2), padding="same")
    keras.Model(image, pooled).save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    pools = [each for each in loaded.operations if type(each).__name__ == "MaxPool"]
    assert [(each.pool_size, each.strides) for each in pools] == [(4, 2)] * 3
