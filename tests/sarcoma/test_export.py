"""The exported graph against the Python path, in a process without Keras and in this one."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from common.export import export_saved_model
from sarcoma.config import QUICK
from sarcoma.data import LoadedPatient, prepare_patient
from sarcoma.inference import build_for_inference, make_apply, segment
from sarcoma.serving import make_endpoints, make_examples, segment_in_graph

SMALL = replace(QUICK, filters=(2, 2, 2), window_stride=14, windows_per_batch=8)
CASCADE = replace(SMALL, architecture="cascade", cascade_filters=(1, 1, 2), cascade_step=20)
DILATED = replace(SMALL, architecture="dilated", dilated_filters=(2, 2, 2, 2, 2, 2))


def randomised(config):
    """A network that has something to say everywhere."""
    tf.keras.utils.set_random_seed(3)
    network = build_for_inference(config)
    rng = np.random.default_rng(3)
    # The cascade's large kernels add up thousands of maps: its softmax would be saturated.
    spread = 0.002 if config.architecture == "cascade" else 0.1
    network.set_weights(
        [w + rng.uniform(-spread, 1.5 * spread, w.shape) for w in network.get_weights()]
    )
    return network


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (SMALL, (2, 61, 70)),
        (replace(SMALL, standardise="slice", window_stride=28), (2, 28, 59)),
        (replace(SMALL, pad_small_slices=True), (1, 20, 16)),
        (replace(SMALL, modalities=("pet",)), (1, 56, 56)),
        (CASCADE, (1, 57, 60)),
        (replace(CASCADE, centre_index=28), (1, 57, 60)),
        (DILATED, (1, 59, 64)),
    ],
)
def test_graph_equals_the_python_path(config, shape):
    """6e-8 was measured."""
    network = randomised(config)
    scan = np.random.default_rng(0).normal(40, 9, (*shape, len(config.modalities)))
    scan[:, 5:15, 7:30] += 30
    scan = scan.astype(np.float32)
    loaded = LoadedPatient({m: scan[..., i] for i, m in enumerate(config.modalities)}, None)
    expected = segment(make_apply(network, config), prepare_patient(loaded, config), config)
    found = tf.function(lambda image: segment_in_graph(network, image, config))(tf.constant(scan))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert expected.std() > 1e-4


def test_signatures(tmp_path):
    """One export, served without Keras and compared there."""
    config = SMALL
    network = randomised(config)
    differences = export_saved_model(
        tmp_path / "1",
        model=network,
        endpoints=make_endpoints(network, config),
        examples=make_examples(network, config),
        tolerance=1e-5,
        beside={},
    )
    assert set(differences) == {
        "serving_default/labels", "probabilities/probabilities", "patches/y",
    }  # fmt: skip
    assert max(differences.values()) < 1e-5
