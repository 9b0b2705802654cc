"""What the passport promises of models with slices standardised alone: they may be cut along Z."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from common.export.write import HeldOutCase
from sarcoma.config import QUICK
from sarcoma.inference import build_for_inference
from sarcoma.serving import make_endpoints, passport_entry

UNET = replace(QUICK, filters=(2, 2, 2), window_stride=14, standardise="slice")
DILATED = replace(UNET, architecture="dilated", dilated_filters=(2, 2, 2, 2, 2, 2))


def described(config):
    case = HeldOutCase("none", {"image": np.zeros((1, 56, 56, 2), np.float32)})
    return passport_entry(config, case).inputs["image"]


def test_only_slices_standardised_alone_are_independent():
    assert described(UNET)["independent_axes"] == ["Z"]
    assert described(replace(UNET, standardise="patient"))["independent_axes"] == []


@pytest.mark.slow
@pytest.mark.parametrize("config", [UNET, DILATED])
def test_a_part_is_segmented_as_within_the_whole(config):
    tf.keras.utils.set_random_seed(3)
    network = build_for_inference(config)
    rng = np.random.default_rng(3)
    network.set_weights([w + rng.uniform(-0.1, 0.15, w.shape) for w in network.get_weights()])
    endpoint = next(e for e in make_endpoints(network, config) if e.name == "volume")
    serve = tf.function(endpoint.function, input_signature=endpoint.signature)
    scan = rng.normal(-200.0, 80.0, (7, 61, 70, 2)).astype(np.float32)
    scan[:, 20:50, 15:55] += 260.0
    whole = {name: value.numpy() for name, value in serve(tf.constant(scan)).items()}
    assert len(np.unique(whole["probabilities"])) > 1000
    for step in (1, 3, 5):
        parts = [serve(tf.constant(scan[low : low + step])) for low in range(0, 7, step)]
        for name, expected in whole.items():
            found = np.concatenate([part[name].numpy() for part in parts])
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, {step} slices a part")
