"""The exported signatures: what `predict` computes, and patches."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from sarcoma.config import QUICK
from sarcoma.data import LoadedPatient, prepare_patient
from sarcoma.inference import build_for_inference, on_volumes, on_windows, segment, segment_scan
from sarcoma.serving import cut_patches, make_endpoints

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


@pytest.mark.slow
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
        # Slices that do not fill the last group, windows that do not fill the last batch.
        (replace(SMALL, window_stride=28, windows_per_batch=9), (3, 56, 60)),
        (replace(SMALL, windows_per_batch=5), (2, 50, 64)),
    ],
)
def test_scans_are_standardised_as_in_preparation(config, shape):
    """6e-8 was measured."""
    network, scan = randomised(config), make_scan(config, shape)
    loaded = LoadedPatient({m: scan[..., i] for i, m in enumerate(config.modalities)}, None)
    expected = on_volumes(segment, network, config)(prepare_patient(loaded, config))
    found = on_volumes(segment_scan, network, config)(scan)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert expected.std() > 1e-4


def make_scan(config, shape):
    """Noise around a bright body."""
    scan = np.random.default_rng(0).normal(40, 9, (*shape, len(config.modalities)))
    scan[:, 5:15, 7:30] += 30
    return scan.astype(np.float32)


@pytest.mark.slow
def test_serving_is_what_predict_runs():
    """The same function of the scan as it was read: to the bit, in the window of slices, too."""
    network, scan = randomised(SMALL), make_scan(SMALL, (4, 61, 70))
    volume = make_endpoints(network, SMALL)[2]
    served = tf.function(volume.function, input_signature=volume.signature)(scan)
    predict = on_windows(network, SMALL)
    predicted = predict(scan, (0, 4))
    np.testing.assert_array_equal(served["probabilities"], predicted)
    np.testing.assert_array_equal(served["labels"], predicted > SMALL.threshold)
    # [S24] Other batches of patches: not to the bit.
    np.testing.assert_allclose(predict(scan, (1, 3)), predicted[1:3], atol=1e-6)


def test_patches_are_cut_from_the_slice_that_varies_most():
    """Continued by repetition where the slice is smaller; the second lies three columns further."""
    image = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5, 1)
    image[1] *= 2
    first, second = cut_patches(image, 6)[..., 0]
    rows, columns = np.arange(6) % 4, np.arange(9) % 5
    np.testing.assert_array_equal(first, image[1, rows[:, None], columns[:6], 0])
    np.testing.assert_array_equal(second, image[1, rows[:, None], columns[3:], 0])
