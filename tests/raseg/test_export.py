"""The exported graph against the Python path, for whole volumes and for patches."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from raseg.config import CODE, DRAFT, PORT
from raseg.inference import build_for_any_size, make_predict
from raseg.serving import logits_in_graph, tile_starts, truncate

WHOLE = replace(PORT, filters=(2, 3))
PATCHES = replace(DRAFT, filters=(2, 3), patch_shape=(8, 8, 4))


def randomised(config):
    """Return a network with biases that are not zero."""
    keras.utils.set_random_seed(3)
    network = build_for_any_size(config)
    rng = np.random.default_rng(3)
    network.set_weights([w + rng.normal(0, 0.1, w.shape) for w in network.get_weights()])
    return network


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (WHOLE, (13, 10, 7)),
        (replace(CODE, filters=(2, 3)), (8, 9, 5)),
        (PATCHES, (20, 13, 7)),
        (PATCHES, (8, 16, 4)),
        (PATCHES, (5, 9, 3)),
    ],
)
def test_graph_equals_the_python_path(config, shape):
    """Raw intensities with fractions in, normalisation and tiles in the graph."""
    network = randomised(config)
    image = np.random.default_rng(0).uniform(0, 900, (*shape, 2)).astype(np.float32)
    graph = tf.function(lambda volume: logits_in_graph(network, volume, config))
    spec = tf.TensorSpec((None, None, None, 2), tf.float32)
    found = graph.get_concrete_function(spec)(tf.constant(image)).numpy()
    np.testing.assert_allclose(found, make_predict(network, config)(image), atol=1e-5)


def test_truncation_is_towards_zero():
    values = tf.constant([12.7, -3.9, 0.2, -0.2])
    assert truncate(values).numpy().tolist() == [12, -3, 0, 0]


@pytest.mark.parametrize(("size", "expected"), [(20, [0, 4]), (16, [0]), (33, [0, 16, 17])])
def test_starts_of_tiles(size, expected):
    assert tile_starts(tf.constant(size), 16).numpy().tolist() == expected
