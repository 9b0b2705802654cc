"""The exported graph against the Python path, in a process without Keras and in this one."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from common.errors import OptionError
from common.export import export_saved_model, next_version, run_elsewhere
from common.normalisation import whiten
from fetal_brain.config import QUICK
from fetal_brain.inference import build_for_any_plane, make_apply, segment
from fetal_brain.serving import (
    make_endpoints,
    make_examples,
    segment_in_graph,
    served_ids,
    window_starts_in_graph,
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
    ],
)
def test_graph_equals_the_python_sliding_window(config, shape):
    """Float64 sums on both sides; 6e-8 was measured."""
    network = randomised(config)
    scan = np.random.default_rng(0).normal(400, 90, shape).astype(np.float32)
    apply = make_apply(network, config)
    expected = np.concatenate([slab for _, slab in segment(apply, whiten(scan), config)])
    found = tf.function(lambda image: segment_in_graph(network, image, config))(tf.constant(scan))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_signatures(tmp_path):
    """One export, served without Keras: names, dtypes, shapes, ids, and argmax of logits [F24]."""
    network = randomised(SMALL)
    (tmp_path / "note").write_text("beside")
    differences = export_saved_model(
        tmp_path / "1",
        model=network,
        endpoints=make_endpoints(network, SMALL),
        examples=make_examples(network, SMALL),
        tolerance=1e-5,
        beside={"note": tmp_path / "note"},
    )
    assert set(differences) == {
        "serving_default/labels",
        "probabilities/probabilities",
        "patches/logits",
        "patches/y_",
    }
    assert max(differences.values()) < 1e-5
    assert (tmp_path / "1" / "note").read_text() == "beside"
    scan = np.random.default_rng(5).normal(100, 9, (4, 18, 33)).astype(np.float32)
    patch = np.random.default_rng(6).normal(size=(3, 3, 16, 16, 1)).astype(np.float32)
    served = run_elsewhere(
        tmp_path / "1",
        {"serving_default": {"image": scan}, "probabilities": {"image": scan},
         "patches": {"x": patch}},
    )  # fmt: skip
    labels, probabilities = served["serving_default/labels"], served["probabilities/probabilities"]
    assert labels.dtype == np.uint8
    assert labels.shape == scan.shape
    assert probabilities.shape == (*scan.shape, 2)
    np.testing.assert_array_equal(labels, 2 * probabilities.argmax(axis=-1))
    assert served["patches/y_"].dtype == np.int64
    np.testing.assert_array_equal(served["patches/y_"], served["patches/logits"].argmax(axis=-1))


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
    examples = make_examples(randomised(config), config)
    scan = examples["serving_default"].inputs["image"]
    assert all(size >= edge for size, edge in zip(scan.shape, config.window, strict=True))
    assert examples["patches"].inputs["x"].shape == (2, 3, 16, 16, 1)


def test_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "1").mkdir()
    network = randomised(SMALL)
    with pytest.raises(OptionError, match="exists already"):
        export_saved_model(
            tmp_path / "1", model=network, endpoints=[], examples={}, tolerance=0, beside={}
        )
    assert next_version(tmp_path) == 2
    assert next_version(tmp_path / "none") == 1


@pytest.mark.parametrize(("size", "window", "stride"), [(336, 128, 64), (16, 16, 8), (21, 16, 8)])
def test_starts_in_graph_equal_those_of_common(size, window, stride):
    from common.windows import window_starts

    found = window_starts_in_graph(tf.constant(size), window, stride)
    assert tuple(found.numpy()) == window_starts(size, window, stride)
