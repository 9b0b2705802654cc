"""Patches stitched to slices: every voxel once or averaged, at its own place."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import OptionError, RunError
from sarcoma.config import CODE, QUICK
from sarcoma.inference import build_for_inference, load_network, on_volumes, segment
from sarcoma.sampling import PATCH, cut, sizes_of

SHAPE = (3, 61, 70, 1)
CT = replace(QUICK, modalities=("ct",))


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def find(network, image, config):
    """Return the probability of lesion that a network gives a stack."""
    return on_volumes(segment, network, config)(image)


def hand_on_centre(patches, training=False):
    """A U-Net that gives the middle of its input."""
    return patches[:, 14:42, 14:42]


def hand_on_voxel(place):
    """Return a cascade that gives one voxel of its input for the probability of class 1."""

    def network(inputs, training=False):
        value = inputs[0][:, place, place]
        return tf.concat([1 - value, value], axis=-1)

    return network


@pytest.mark.parametrize("stride", [28, 14, 9])
def test_a_network_that_hands_on_its_centre(image, stride):
    """The stitched output is then the image itself: nothing is moved or left out [S4]."""
    config = replace(CT, window_stride=stride, windows_per_batch=5)
    found = find(hand_on_centre, image, config)
    np.testing.assert_allclose(found, image[..., 0], atol=1e-6)


def test_overlaps_are_averaged(image):
    """Each patch answers with its own mean: a voxel gets the mean over the patches around it."""
    config = replace(CT, window_stride=14)

    def own_mean(patches, training=False):
        mean = tf.reduce_mean(patches, axis=(1, 2, 3), keepdims=True)
        return tf.tile(mean, (1, 28, 28, 1))

    found = find(own_mean, image, config)
    starts = [s for s in (0, 14, 28, 33) if s <= 30 < s + 28]
    columns = [s for s in (0, 14, 28, 42) if s <= 35 < s + 28]
    patches = [cut(image[1], r - 14, c - 14, PATCH).mean() for r in starts for c in columns]
    np.testing.assert_allclose(found[1, 30, 35], np.mean(patches), atol=1e-6)


@pytest.mark.parametrize("centre_index", [27, 28])
def test_cascade_places_its_voxel(image, centre_index):
    """[S3] With a step of 1, the class of a patch lands on the voxel it is about."""
    config = replace(CT, architecture="cascade", cascade_step=1, centre_index=centre_index)
    found = find(hand_on_voxel(centre_index), image, config)
    np.testing.assert_allclose(found, image[..., 0], atol=1e-6)


def test_cascade_steps(image):
    """With a step of 4, a number stands for the 4 x 4 square that it is in the middle of."""
    config = replace(CT, architecture="cascade", cascade_step=4)
    found = find(hand_on_voxel(27), image, config)
    np.testing.assert_allclose(found[0, 8:12, 20:24], np.full((4, 4), image[0, 9, 21, 0]))


def test_dilated_sees_reflections(image):
    """A network that hands on what lies 186 pixels inside gives the image back."""
    config = replace(CT, architecture="dilated")
    seen = []

    def network(inputs, training=False):
        tf.numpy_function(lambda shape: seen.append(tuple(shape)), [tf.shape(inputs)], [])
        inside = inputs[:, 186:-186, 186:-186]
        return tf.concat([1 - inside, inside], axis=-1)

    found = find(network, image, config)
    np.testing.assert_array_equal(found, image[..., 0])
    assert seen == [(1, 64 + 372, 72 + 372, 1)] * 3


def test_small_slices(image):
    """[S26] Slices smaller than the output are continued and cut again."""
    small = image[:, :20, :16]
    found = find(hand_on_centre, small, CT)
    np.testing.assert_allclose(found, small[..., 0], atol=1e-6)


@pytest.mark.parametrize("architecture", ["unet2d", "dilated"])
def test_empty_stack(image, architecture):
    config = replace(QUICK, modalities=("ct",), architecture=architecture)
    network = build_for_inference(config)
    assert find(network, image[:0], config).shape == (0, 61, 70)


@pytest.mark.parametrize("options", [{"window_stride": 29}, {"cascade_step": 0}])
def test_steps_that_leave_voxels_out(image, options):
    with pytest.raises(OptionError, match="expected 1 to 28"):
        find(hand_on_centre, image, replace(CT, **options))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["unet2d", "cascade", "dilated"])
def test_training_and_inference_agree(image, architecture):
    """What a patch gives in training, its place in the stitched volume gives too."""
    config = replace(
        CT, architecture=architecture, window_stride=28, cascade_step=1, windows_per_batch=32,
        filters=(2, 2), cascade_filters=(1, 1, 1), dilated_filters=(1, 1, 1, 1, 1, 2),
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    network = build_for_inference(config)
    found = find(network, image[:1], config)
    sizes = sizes_of(config)
    r, c = 28 + 13, 28 + 13  # the patch whose output begins at 28, 28
    patch = cut(
        image[0], r + sizes.input_start, c + sizes.input_start, sizes.input,
        reflect=architecture == "dilated",
    )[None]  # fmt: skip
    if architecture == "cascade":
        expected = network([patch, patch[:, 14:42, 14:42]])[0, 1]
        np.testing.assert_allclose(found[0, r, c], expected, atol=1e-6)
        return
    expected = np.asarray(network(patch))[0, ..., 0 if architecture == "unet2d" else 1]
    if architecture == "dilated":  # its cells lie on a grid of 8, at another phase in a slice
        assert found.shape == (1, *image.shape[1:3])
        assert expected.shape == (32, 32)
        return
    # Further down and to the right the last, moved windows have their share.
    np.testing.assert_allclose(found[0, 28:33, 28:42], expected[:5, :14], atol=1e-6)


def test_network_of_another_architecture(tmp_path):
    network = build_for_inference(replace(CODE, filters=(2, 2)))
    network.save(tmp_path / "model.keras")
    with pytest.raises(RunError, match="is another architecture"):
        load_network(tmp_path, replace(CODE, filters=(2, 4)))


def test_no_network(tmp_path):
    with pytest.raises(RunError, match=r"model.keras is missing"):
        load_network(tmp_path, CODE)
