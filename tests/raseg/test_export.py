"""What is exported: the function of `predict`, prepared as the binaries are."""

from dataclasses import replace
from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf

from raseg.config import CODE, DRAFT, PORT
from raseg.data import prepare_volume
from raseg.inference import (
    as_stored,
    build_for_any_size,
    logits_of_scan,
    on_volumes,
    segment,
    segment_scan,
    truncate,
)
from raseg.sampling import normalise_in_graph
from raseg.serving import make_endpoints

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
        (replace(WHOLE, wrap_intensities=True, read_as_signed=True), (9, 10, 7)),
        (replace(WHOLE, batch_statistics=True), (9, 10, 7)),
    ],
)
def test_scans_are_prepared_as_in_preparation(config, shape):
    """Raw intensities with fractions in, what binaries do and normalisation in the graph."""
    network, image = randomised(config), make_image(config, shape)
    found = on_volumes(logits_of_scan, network, config)(image)
    prepared = prepare_volume(image, config, name="volume")
    expected = on_volumes(segment, network, config)(prepared)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 13, 7), (8, 16, 4), (5, 9, 3)])
def test_patches_are_prepared_one_by_one(shape):
    """Continued with zeros where the volume is smaller; the last patch of an axis is pushed back,
    and what of it was predicted before is left as it was."""
    network, image = randomised(PATCHES), make_image(PATCHES, shape)
    found = on_volumes(logits_of_scan, network, PATCHES)(image)
    np.testing.assert_allclose(found, predict_naively(network, image, PATCHES), atol=1e-5)


def predict_naively(network, image, config):
    """Return the logits patch by patch, later ones first, in numpy."""
    shape, patch = image.shape[:3], config.patch_shape
    whole = replace(config, patch_shape=None)
    extra = [(0, max(edge - size, 0)) for size, edge in zip(shape, patch, strict=True)]
    image = np.pad(np.trunc(image), [*extra, (0, 0)])
    logits = np.full((*image.shape[:3], 2), np.nan, np.float32)
    axes = [
        [*range(0, size - edge, edge), size - edge]
        for size, edge in zip(image.shape, patch, strict=False)
    ]
    for corner in reversed(list(product(*axes))):
        box = tuple(slice(low, low + edge) for low, edge in zip(corner, patch, strict=True))
        prepared = prepare_volume(image[box], whole, name="patch")
        logits[box] = network(prepared[None], training=False)[0]
    return logits[tuple(map(slice, shape))]


def make_image(config, shape):
    """Return raw intensities with fractions."""
    image = np.random.default_rng(0).uniform(0, 900, (*shape, 2)).astype(np.float32)
    return image * 100 - 20_000 if config.wrap_intensities else image


def test_serving_is_what_predict_runs():
    """The same function of the volume as it was read: to the bit."""
    network, image = randomised(PATCHES), make_image(PATCHES, (20, 13, 7))
    volume = make_endpoints(network, PATCHES)[2]
    served = tf.function(volume.function, input_signature=volume.signature)(image)
    predicted = on_volumes(segment_scan, network, PATCHES)(image)
    np.testing.assert_array_equal(served["labels"], predicted["labels"])
    np.testing.assert_array_equal(served["probabilities"], predicted["probabilities"])


def test_large_volumes_are_streamed():
    """The threshold decides, in the graph: a limit at the volume's size, and one above."""
    network, image = randomised(WHOLE), make_image(WHOLE, (12, 10, 7))
    limit = 12 * 10 * 7
    streamed = on_volumes(logits_of_scan, network, WHOLE, streamed_voxels=limit)
    plain = on_volumes(logits_of_scan, network, WHOLE, streamed_voxels=limit + 1)
    np.testing.assert_allclose(streamed(image), plain(image), atol=1e-5)


class TestStoredIntensities:
    def test_wrapped_and_signed_by_hand(self):
        """[R4] 65537 is 1, -1 is 65535; as signed words 40000 is -25536."""
        values = tf.constant([65537.9, -1.0, 40000.0, 12.7])
        wrapping = replace(PORT, wrap_intensities=True)
        assert as_stored(values, wrapping).numpy().tolist() == [1, 65535, 40000, 12]
        signed = replace(wrapping, read_as_signed=True)
        assert as_stored(values, signed).numpy().tolist() == [1, -1, -25536, 12]

    @pytest.mark.parametrize("value", [-1.0, 65536.0])
    def test_what_16_bits_cannot_hold_is_refused(self, value):
        with pytest.raises(tf.errors.InvalidArgumentError, match="below 0 or above 65535"):
            as_stored(tf.constant([5.0, value]), PORT)


def test_normalisation_is_that_of_the_python_path():
    from raseg.data import normalise

    image = np.random.default_rng(0).uniform(0, 900, (5, 6, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(normalise_in_graph(image), normalise(image), atol=1e-6)


def test_truncation_is_towards_zero():
    values = tf.constant([12.7, -3.9, 0.2, -0.2])
    assert truncate(values).numpy().tolist() == [12, -3, 0, 0]
