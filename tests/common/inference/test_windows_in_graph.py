"""The graph's windows against numpy's, axis by axis."""

import numpy as np
import pytest
import tensorflow as tf

from common.data.normalisation import whiten
from common.inference.windows_in_graph import (
    add_axis,
    apply_in_batches,
    cut_axis,
    join_tiles,
    sum_in_double,
    whiten_in_graph,
    window_starts,
)
from common.inference.windows_in_numpy import window_starts as starts_in_python


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(336, 128, 64), (16, 16, 8), (21, 16, 8), (9, 4, 5)]
)
def test_starts_equal_those_of_numpy(size, window, stride):
    found = window_starts(tf.constant(size), window, stride)
    assert tuple(found.numpy()) == starts_in_python(size, window, stride)


def test_cut_and_add_by_hand():
    """0 1 2 3 4 in windows of three at 0 and 2: voxel 2 is counted twice."""
    array = tf.constant([[0.0, 1, 2, 3, 4]])
    starts = tf.constant([0, 2])
    windows = cut_axis(array, 1, starts, 3)
    assert windows.numpy().tolist() == [[[0, 1, 2], [2, 3, 4]]]
    assert add_axis(windows, 1, starts, 5).numpy().tolist() == [[0, 1, 4, 3, 4]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_add_is_the_reverse_of_cut_on_every_axis(axis):
    """Divided by how often a voxel is covered."""
    array = np.random.default_rng(0).normal(size=(7, 8, 9))
    starts = tf.constant(starts_in_python(array.shape[axis], 4, 3))
    counts = np.zeros(array.shape[axis])
    for start in starts.numpy():
        counts[start : start + 4] += 1
    sums = add_axis(cut_axis(array, axis, starts, 4), axis, starts, array.shape[axis]).numpy()
    shape = [-1 if other == axis else 1 for other in range(3)]
    np.testing.assert_allclose(sums / counts.reshape(shape), array, rtol=1e-14)


def test_batches_are_no_larger_than_asked():
    sizes = []

    def apply(batch):
        tf.py_function(lambda size: sizes.append(int(size)), [tf.shape(batch)[0]], [])
        return 2 * batch

    windows = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    run = tf.function(lambda x: apply_in_batches(apply, x, batch_size=3, output_shape=(2,)))
    np.testing.assert_array_equal(run(tf.constant(windows)), 2 * windows)
    assert sizes == [3, 3, 1]


def test_tiles_of_unequal_size_are_joined_in_place():
    whole = np.random.default_rng(0).normal(size=(5, 4, 6, 2)).astype(np.float32)
    edges = [[0, 2, 5], [0, 4], [0, 1, 3, 6]]
    asked = []

    def compute(*numbers):
        tf.py_function(lambda *n: asked.append(tuple(int(i) for i in n)), numbers, [])
        low = [tf.gather(edge, n) for edge, n in zip(edges, numbers, strict=True)]
        high = [tf.gather(edge, n + 1) for edge, n in zip(edges, numbers, strict=True)]
        return tf.slice(whole, [*low, 0], [*(h - n for h, n in zip(high, low, strict=True)), 2])

    counts = [tf.constant(len(edge) - 1) for edge in edges]
    found = tf.function(lambda: join_tiles(compute, counts, channels=2))()
    np.testing.assert_array_equal(found, whole)
    assert sorted(asked) == [(i, 0, k) for i in range(2) for k in range(3)]


class TestWhitening:
    def test_equals_numpys(self):
        """The same float64 statistics: at most the last bit of a float32."""
        image = np.random.default_rng(0).normal(5000, 3, (6, 20, 30)).astype(np.float32)
        found = whiten_in_graph(tf.constant(image)[..., None])[..., 0]
        np.testing.assert_allclose(found, whiten(image), rtol=2e-7, atol=1e-7)

    def test_every_channel_by_itself_and_a_constant_one_zero(self):
        image = np.random.default_rng(0).normal(0, 1, (4, 5, 6, 3)).astype(np.float32)
        image[..., 1] = 77.1
        found = whiten_in_graph(tf.constant(image)).numpy()
        assert (found[..., 1] == 0).all()
        for channel in (0, 2):
            np.testing.assert_allclose(found[..., channel], whiten(image[..., channel]), atol=1e-6)

    def test_least_deviation(self):
        """+-1 has deviation 1; held at 2 it becomes +-0.5."""
        image = tf.constant([[[1.0], [-1.0]]])
        assert whiten_in_graph(image, least_deviation=2.0).numpy().ravel().tolist() == [0.5, -0.5]

    def test_sums_are_taken_in_float64(self):
        """1e8 ones and a third: float32 would have lost them."""
        image = tf.constant(np.full((4, 100, 1), 2.0**24 + 2, np.float32))
        assert sum_in_double(image, lambda values: values).numpy() == [400 * (2.0**24 + 2)]
