"""The written-out gradient of the batch normalisation against the one derived step by step."""

import numpy as np
import tensorflow as tf

from dhcp_fetal.layers import ChannelPReLU, RollingBatchNormalisation, standardise
from dhcp_fetal.study.engine import EngineNormalisation, EnginePReLU


def gradients(layer, x, weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True) if "training" in layer._call_signature.parameters else layer(x)
        loss = tf.reduce_sum(y * weights)
    return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]


def test_normalisation_has_the_gradient_of_its_expression():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 6, 7, 3)) * [1, 2, 0.1] + [0, 1, 3]
    x, weights = (tf.constant(array, tf.float32) for array in (x, random.normal(size=x.shape)))
    ours, engine = RollingBatchNormalisation(4), EngineNormalisation(4)
    found, expected = gradients(ours, x, weights), gradients(engine, x, weights)
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=1e-5 * scale, rtol=0)
    for one, other in zip(ours.variables, engine.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_standardising_by_hand():
    """Of 0 and 2: mean 1, deviation 1; two values that sum to 0 whatever they are: gradient 0."""
    x = tf.constant([[0.0], [2.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = standardise(x)
        loss = tf.reduce_sum(y * [[0.3], [5.0]])
    np.testing.assert_allclose(y, [[-1.0], [1.0]])
    np.testing.assert_allclose(tape.gradient(loss, x), [[0.0], [0.0]], atol=1e-6)


def test_prelu_is_that_of_the_engine_to_the_bit():
    x = tf.constant(np.random.default_rng(1).normal(size=(1, 4, 4, 4, 3)), tf.float32)
    ours, engine = ChannelPReLU(), EnginePReLU()
    found, expected = gradients(ours, x, x), gradients(engine, x, x)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)
