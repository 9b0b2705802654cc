"""Whitening as a graph against numpy's."""

import numpy as np
import tensorflow as tf

from common.data.normalisation import whiten
from common.inference.whitening import sum_in_double, whiten_in_graph


def test_equals_numpys():
    """The same float64 statistics: at most the last bit of a float32."""
    image = np.random.default_rng(0).normal(5000, 3, (6, 20, 30)).astype(np.float32)
    found = whiten_in_graph(tf.constant(image)[..., None])[..., 0]
    np.testing.assert_allclose(found, whiten(image), rtol=2e-7, atol=1e-7)


def test_every_channel_by_itself_and_a_constant_one_zero():
    image = np.random.default_rng(0).normal(0, 1, (4, 5, 6, 3)).astype(np.float32)
    image[..., 1] = 77.1
    found = whiten_in_graph(tf.constant(image)).numpy()
    assert (found[..., 1] == 0).all()
    for channel in (0, 2):
        np.testing.assert_allclose(found[..., channel], whiten(image[..., channel]), atol=1e-6)


def test_least_deviation():
    """+-1 has deviation 1; held at 2 it becomes +-0.5."""
    image = tf.constant([[[1.0], [-1.0]]])
    assert whiten_in_graph(image, least_deviation=2.0).numpy().ravel().tolist() == [0.5, -0.5]


def test_sums_are_taken_in_float64():
    """1e8 ones and a third: float32 would have lost them."""
    image = tf.constant(np.full((4, 100, 1), 2.0**24 + 2, np.float32))
    assert sum_in_double(image, lambda values: values).numpy() == [400 * (2.0**24 + 2)]
