"""The exported graph against the Python path, for whole volumes and for patches."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from raseg.config import CODE, DRAFT, PORT
from raseg.inference import build_for_any_size, make_predict
from raseg.sampling import normalise_in_graph
from raseg.serving import logits_in_graph, store_in_graph, stream_in_graph, tile_starts, truncate

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
        (replace(WHOLE, wrap_intensities=True, read_as_signed=True), (9, 10, 7)),
        (replace(WHOLE, batch_statistics=True), (9, 10, 7)),
    ],
)
def test_graph_equals_the_python_path(config, shape):
    """Raw intensities with fractions in, normalisation and tiles in the graph."""
    network = randomised(config)
    image = np.random.default_rng(0).uniform(0, 900, (*shape, 2)).astype(np.float32)
    if config.wrap_intensities:
        image = image * 100 - 20_000
    graph = tf.function(lambda volume: logits_in_graph(network, volume, config))
    spec = tf.TensorSpec((None, None, None, 2), tf.float32)
    found = graph.get_concrete_function(spec)(tf.constant(image)).numpy()
    np.testing.assert_allclose(found, make_predict(network, config)(image), atol=1e-5)


@pytest.mark.parametrize(("rows", "slab"), [(14, 4), (13, 4), (9, 8), (3, 4)])
def test_streamed_graph_equals_the_plain_pass(rows, slab):
    """Slabs that divide the rows, that do not, one of a single row, and one that is the volume."""
    config = replace(PORT, filters=(2, 3, 4))
    network = randomised(config)
    image = np.random.default_rng(0).normal(size=(rows, 11, 6, 2)).astype(np.float32)
    graph = tf.function(lambda volume: stream_in_graph(network, volume, config, slab_rows=slab))
    spec = tf.TensorSpec((None, None, None, 2), tf.float32)
    found = graph.get_concrete_function(spec)(tf.constant(image))
    np.testing.assert_allclose(found, network.predict_on_batch(image[None])[0], atol=1e-5)


def test_large_volumes_are_streamed(monkeypatch):
    """The threshold decides, in the graph."""
    network = randomised(WHOLE)
    image = np.random.default_rng(0).uniform(0, 900, (12, 10, 7, 2)).astype(np.float32)
    plain = make_predict(network, WHOLE)(image)
    monkeypatch.setattr("raseg.serving.STREAMED_VOXELS", 12 * 10 * 7)
    graph = tf.function(lambda volume: logits_in_graph(network, volume, WHOLE))
    spec = tf.TensorSpec((None, None, None, 2), tf.float32)
    function = graph.get_concrete_function(spec)
    np.testing.assert_allclose(function(tf.constant(image)), plain, atol=1e-5)


class TestStoredIntensities:
    def test_wrapped_and_signed_by_hand(self):
        """[R4] 65537 is 1, -1 is 65535; as signed words 40000 is -25536."""
        values = tf.constant([65537.9, -1.0, 40000.0, 12.7])
        wrapping = replace(PORT, wrap_intensities=True)
        assert store_in_graph(values, wrapping).numpy().tolist() == [1, 65535, 40000, 12]
        signed = replace(wrapping, read_as_signed=True)
        assert store_in_graph(values, signed).numpy().tolist() == [1, -1, -25536, 12]

    @pytest.mark.parametrize("value", [-1.0, 65536.0])
    def test_what_16_bits_cannot_hold_is_refused(self, value):
        with pytest.raises(tf.errors.InvalidArgumentError, match="below 0 or above 65535"):
            store_in_graph(tf.constant([5.0, value]), PORT)


def test_normalisation_is_that_of_the_python_path():
    from raseg.data import normalise

    image = np.random.default_rng(0).uniform(0, 900, (5, 6, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(normalise_in_graph(image), normalise(image), atol=1e-6)


def test_truncation_is_towards_zero():
    values = tf.constant([12.7, -3.9, 0.2, -0.2])
    assert truncate(values).numpy().tolist() == [12, -3, 0, 0]


@pytest.mark.parametrize(("size", "expected"), [(20, [0, 4]), (16, [0]), (33, [0, 16, 17])])
def test_starts_of_tiles(size, expected):
    assert tile_starts(tf.constant(size), 16).numpy().tolist() == expected
