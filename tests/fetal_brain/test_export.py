"""The exported graph against the Python path."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from common.data.normalisation import whiten
from fetal_brain.config import QUICK
from fetal_brain.inference import build_for_any_plane, make_apply, segment
from fetal_brain.serving import (
    make_endpoints,
    make_examples,
    make_up_case,
    segment_in_graph,
    served_ids,
)

SMALL = replace(QUICK, filters=(4, 4, 4, 4, 4), patch_shape=(3, 16, 16))
WINDOWED = replace(SMALL, window=(3, 16, 16), window_stride=(1, 8, 8), count_last_window_twice=True)
FLAT = replace(SMALL, slices_as_channels=True, batch_normalisation=False)
SPARSE = replace(WINDOWED, window_stride=(2, 8, 8))


def randomised(config):
    """Return a network whose normalisation statistics are not the trivial ones."""
    tf.keras.utils.set_random_seed(3)
    network = build_for_any_plane(config)
    rng = np.random.default_rng(3)
    network.set_weights([w + rng.uniform(0.05, 0.3, w.shape) for w in network.get_weights()])
    return network


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (SMALL, (5, 20, 27)),
        (SMALL, (2, 9, 16)),
        (WINDOWED, (6, 30, 21)),
        (SPARSE, (8, 30, 21)),
        (FLAT, (4, 20, 27)),
        # Windows that fill more batches than one, and slabs that do not fill the last.
        (replace(WINDOWED, windows_per_batch=2), (4, 30, 21)),
        (replace(SMALL, windows_per_batch=4), (9, 16, 16)),
        (replace(FLAT, window=(3, 16, 16), window_stride=(1, 8, 16)), (4, 20, 27)),
    ],
)
def test_graph_equals_the_python_sliding_window(config, shape):
    """Float64 sums on both sides; 6e-8 was measured."""
    network = randomised(config)
    scan = np.random.default_rng(0).normal(400, 90, shape).astype(np.float32)
    apply = make_apply(network, config)
    expected = np.concatenate([slab for _, slab in segment(apply, whiten(scan), config)])
    graph = tf.function(lambda image: segment_in_graph(network, image, config))
    spec = tf.TensorSpec((None, None, None), tf.float32)
    found = graph.get_concrete_function(spec)(tf.constant(scan))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_signatures():
    """Ids as in the files, one graph for three signatures, and argmax of logits [F24]."""
    served = {
        endpoint.name: tf.function(endpoint.function, input_signature=endpoint.signature)
        for endpoint in make_endpoints(randomised(SMALL), SMALL)
    }
    scan = np.random.default_rng(5).normal(100, 9, (4, 18, 33)).astype(np.float32)
    both = served["volume"](scan)
    labels, probabilities = both["labels"].numpy(), both["probabilities"].numpy()
    assert labels.dtype == np.uint8
    assert labels.shape == scan.shape
    assert probabilities.shape == (*scan.shape, 2)
    np.testing.assert_array_equal(labels, 2 * probabilities.argmax(axis=-1))
    np.testing.assert_array_equal(served["serving_default"](scan)["labels"], labels)
    np.testing.assert_array_equal(served["probabilities"](scan)["probabilities"], probabilities)
    patch = np.random.default_rng(6).normal(size=(3, 3, 16, 16, 1)).astype(np.float32)
    found = served["patches"](patch)
    assert found["y_"].dtype == tf.int64
    np.testing.assert_array_equal(found["y_"], found["logits"].numpy().argmax(axis=-1))


def test_a_constant_scan_is_zeros_to_the_network():
    """The mean of equal numbers may be off by one rounding."""
    network = randomised(SMALL)
    found = segment_in_graph(network, tf.fill((3, 16, 16), 77.1), SMALL)
    zeros = np.zeros((3, 16, 16), np.float32)
    slabs = [slab for _, slab in segment(make_apply(network, SMALL), zeros, SMALL)]
    np.testing.assert_allclose(found, np.concatenate(slabs), atol=2e-6)


@pytest.mark.parametrize(
    ("label_ids", "expected", "dtype"),
    [
        ((0, 2), [0, 2], np.uint8),
        ((0, (3, 1), 255), [0, 3, 255], np.uint8),
        ((0, 300), [0, 300], np.int32),
        ((0, -1), [0, -1], np.int32),
    ],
)
def test_served_ids_are_those_of_the_files(label_ids, expected, dtype):
    served = served_ids(replace(SMALL, label_ids=label_ids))
    np.testing.assert_array_equal(served, np.array(expected, dtype), strict=True)


def test_example_fills_the_window_where_padding_is_off():
    """A network trained on small patches may be applied to larger windows."""
    config = replace(SMALL, window=(3, 48, 32), window_stride=(1, 24, 16), pad_small_volumes=False)
    examples = make_examples(randomised(config), config, make_up_case(config))
    scan = examples["serving_default"].inputs["image"]
    assert all(size >= edge for size, edge in zip(scan.shape, config.window, strict=True))
    assert examples["patches"].inputs["x"].shape == (2, 3, 16, 16, 1)
