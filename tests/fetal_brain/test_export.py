"""The exported signatures: what `predict` computes, and patches."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from common.data.normalisation import whiten
from common.export import formats
from fetal_brain.config import QUICK
from fetal_brain.inference import build_for_any_plane, on_volumes, segment, segment_scan
from fetal_brain.serving import make_endpoints, make_examples, make_up_case, served_ids

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
@pytest.mark.slow
def test_equals_sums_over_the_whole_volume(config, shape):
    """DLTK's way, all sums held in numpy; 6e-8 was measured."""
    network = randomised(config)
    image = whiten(np.random.default_rng(0).normal(400, 90, shape))
    found = on_volumes(segment, network, config)(image)
    np.testing.assert_allclose(found, segment_naively(network, image, config), atol=2e-6)


def segment_naively(network, image, config):
    """Return the class probabilities, window by window in DLTK's order."""
    depth, rows, columns = image.shape
    slices, *largest = config.window
    edges = [min(-(-n // 8) * 8, edge) for n, edge in zip((rows, columns), largest, strict=True)]
    extra = [max(edge - n, 0) for edge, n in zip((slices, *edges), image.shape, strict=True)]
    image = np.pad(image, [(0, n) for n in extra], constant_values=image.min())
    reach = 1 if config.slices_as_channels else slices
    sums, counts = np.zeros((*image.shape, 2)), np.zeros((*image.shape, 1))
    around = np.pad(image, [((slices - reach) // 2,) * 2, (0, 0), (0, 0)])
    axes = [
        [*range(0, size - edge, step), size - edge]
        for size, edge, step in zip(image.shape, (reach, *edges), config.window_stride, strict=True)
    ]
    corners = [(z, y, x) for x in axes[2] for y in axes[1] for z in axes[0]]
    for z, y, x in corners + corners[-1:] * config.count_last_window_twice:
        window = around[z : z + slices, y : y + edges[0], x : x + edges[1]]
        inputs = window.transpose(1, 2, 0)[None] if config.slices_as_channels else window[..., None]
        found = tf.nn.softmax(network(inputs[None], training=False))[0].numpy()
        box = np.s_[z : z + reach, y : y + edges[0], x : x + edges[1]]
        sums[box] += found
        counts[box] += 1
    return (sums / counts)[:depth, :rows, :columns]


@pytest.mark.slow
def test_serving_is_what_predict_runs():
    """The same function of the scan as it was read: to the bit."""
    network = randomised(WINDOWED)
    scan = np.random.default_rng(0).normal(400, 90, (6, 30, 21)).astype(np.float32)
    volume = make_endpoints(network, WINDOWED)[2]
    served = tf.function(volume.function, input_signature=volume.signature)(scan)
    predicted = on_volumes(segment_scan, network, WINDOWED)(scan)
    np.testing.assert_array_equal(served["labels"], 2 * predicted["labels"])
    np.testing.assert_array_equal(served["probabilities"], predicted["probabilities"])
    alone = on_volumes(segment_scan, network, WINDOWED, with_probabilities=False)(scan)
    np.testing.assert_array_equal(alone["labels"], predicted["labels"])


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_constant_scan_is_zeros_to_the_network():
    """The mean of equal numbers may be off by one rounding."""
    network = randomised(SMALL)
    found = on_volumes(segment_scan, network, SMALL)(np.full((3, 16, 16), 77.1))
    zeros = on_volumes(segment, network, SMALL)(np.zeros((3, 16, 16)))
    np.testing.assert_allclose(found["probabilities"], zeros, atol=2e-6)


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


@pytest.mark.slow
def test_example_fills_the_window_where_padding_is_off():
    """A network trained on small patches may be applied to larger windows."""
    config = replace(SMALL, window=(3, 48, 32), window_stride=(1, 24, 16), pad_small_volumes=False)
    examples = make_examples(randomised(config), config, make_up_case(config))
    scan = examples["serving_default"].inputs["image"]
    assert all(size >= edge for size, edge in zip(scan.shape, config.window, strict=True))
    assert examples["patches"].inputs["x"].shape == (2, 3, 16, 16, 1)


@pytest.mark.slow
def test_openvino_answers_large_slices(tmp_path, monkeypatch):
    """Compiled for open sizes it computes without end from 96 x 96 on."""
    pytest.importorskip("openvino", reason="the extra `openvino` has it")
    monkeypatch.setattr(formats, "PATIENCE_S", 60)
    image = np.random.default_rng(0).normal(size=(1, 3, 128, 128, 1)).astype(np.float32)
    found = formats.write_formats(tmp_path, build_for_any_plane(QUICK), [image], ["openvino"])
    assert found["openvino"].get("largest_difference", 1) < 1e-5
