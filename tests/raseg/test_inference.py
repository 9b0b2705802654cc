"""Whole volumes in bounded memory: streamed, in patches, rematerialised; and what was recorded."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import DataError, RunError
from common.network.trained import save_network
from raseg.config import CODE, DRAFT, PAPER, PORT
from raseg.data import read_words
from raseg.inference import (
    build_for_any_size,
    load_network,
    logits_of_scan,
    on_volumes,
    predict_tiles,
    segment,
    segment_scan,
)
from raseg.masks import to_mask
from raseg.model import DiceLoss, build_model
from raseg.original_weights import assign_original, variables_by_name
from raseg.patches import cut_patch
from raseg.rematerialise import Rematerialised
from raseg.streaming import stream, widen

SMALL = replace(CODE, filters=(3, 4, 5, 6))


def network_of(config, seed=0):
    keras.utils.set_random_seed(seed)
    network = build_for_any_size(config)
    rng = np.random.default_rng(seed)
    network.set_weights([w + rng.normal(0, 0.05, w.shape) for w in network.get_weights()])
    return network


@pytest.mark.parametrize("rows", [8, 20, 200])
@pytest.mark.parametrize("shape", [(37, 20, 7), (40, 22, 20)])
@pytest.mark.parametrize("kernels", [(5, 5), (5, 3)])
def test_streamed_pass_equals_the_plain_one(rows, shape, kernels):
    """Odd sizes, slabs that do not divide the rows, both kernels; 5e-7 was measured."""
    config = replace(SMALL, top_kernels=kernels)
    network = network_of(config)
    image = np.random.default_rng(1).normal(size=(*shape, 2)).astype(np.float32)
    streamed = on_volumes(stream, network, config, slab_rows=rows)(image)
    plain = on_volumes(segment, network, config, streamed_voxels=None)(image)
    np.testing.assert_allclose(streamed, plain, atol=5e-6)


def test_streamed_pass_of_the_recorded_network(rebuild):
    model, recorded, image, _ = rebuild("thin_a")
    config = replace(CODE, filters=(2, 4, 8, 16, 32))
    network = build_for_any_size(config)
    network.set_weights(model.get_weights())
    streamed = on_volumes(stream, network, config, slab_rows=12)(image[0])
    assert np.abs(streamed - recorded["logits"]).max() < 1e-4


def test_rows_around_a_slab():
    """Two kernels of 5 reach four rows further, but never outside the volume."""
    assert tuple(map(int, widen(128, 256, 512, 5))) == (124, 260)
    assert tuple(map(int, widen(0, 128, 130, 5))) == (0, 130)
    assert tuple(map(int, widen(128, 130, 130, 3))) == (126, 130)


@pytest.mark.shared
@pytest.mark.full_size
def test_full_size(recipe, golden):
    """512 x 512 x 20: 2.9e-6 at the recorded logits, 1 of 5 242 880 mask voxels."""
    recorded = golden("full_forward")
    network = build_for_any_size(CODE)
    shapes = {key: v.shape for key, v in variables_by_name(network).items()}
    assign_original(network, recipe.make_weights(shapes, int(recorded["seed"])))
    image, _ = recipe.make_volume((512, 512, 20), int(recorded["seed"]) + 1)
    logits = on_volumes(stream, network, CODE)(recipe.whiten(image))
    i, j, k = recorded["logits/idx"].T
    assert np.abs(logits[i, j, k] - recorded["logits/val"]).max() < 1e-4
    mask = np.unpackbits(recorded["pred"])[: image[..., 0].size].reshape(image.shape[:3])
    assert (to_mask(logits) == mask).mean() >= 0.9999


def test_batch_statistics_take_the_plain_pass():
    """Their moments are the whole volume's, which slabs do not have."""
    config = replace(PAPER, filters=(2, 3))
    network = network_of(config)
    image = np.random.default_rng(1).normal(size=(9, 8, 5, 2)).astype(np.float32)
    whole = on_volumes(segment, network, config, streamed_voxels=0)(image)
    np.testing.assert_allclose(whole, np.asarray(network(image[None]))[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, replace(PAPER, filters=(3, 4, 5))])
def test_rematerialised_gradient_is_the_same(config):
    """The same operations on the same numbers, twice. What differs is the order of sums in threads:
    1e-5 of a variable's largest gradient was measured with batch statistics, less without."""
    network = network_of(config)
    again = Rematerialised(network, config, least_voxels=0)
    rng = np.random.default_rng(2)
    images = tf.constant(rng.normal(size=(2, 11, 8, 7, 2)).astype(np.float32))
    labels = rng.integers(0, 2, (2, 11, 8, 7))

    @tf.function
    def gradient(model):
        with tf.GradientTape() as tape:
            loss = DiceLoss(config)(labels, model(images, training=True))
        return loss, tape.gradient(loss, network.trainable_variables)

    loss, expected = gradient(network)
    other, found = gradient(again)
    assert float(loss) == float(other)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()
    assert any(np.abs(g).max() > 1e-4 for g in expected)


def test_small_volumes_pass_through_the_network_as_it_is():
    """Nothing is computed again: the graph's backward pass holds as many convolutions."""
    network = network_of(SMALL)
    image = tf.zeros((1, 8, 8, 4, 2))

    def count(model):
        @tf.function
        def gradient():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(image, training=True))
            return tape.gradient(loss, network.trainable_variables)

        operations = gradient.get_concrete_function().graph.get_operations()
        return sum(operation.type == "Conv3D" for operation in operations)

    assert count(Rematerialised(network, SMALL)) == count(network)
    assert count(Rematerialised(network, SMALL, least_voxels=256)) > count(network)


def test_rematerialised_model_owns_the_networks_variables():
    network = network_of(SMALL)
    again = Rematerialised(network, SMALL)
    assert [id(v) for v in again.variables] == [id(v) for v in network.variables]
    assert len(again.trainable_variables) == len(network.trainable_variables)


def test_tie_is_background():
    logits = np.array([[[[0.0, 0.0], [1.0, 1.0], [0.0, 0.1], [0.1, 0.0]]]], np.float32)
    assert to_mask(logits).ravel().tolist() == [0, 0, 1, 0]
    config = replace(PORT, predict_from_stored=False)
    scan = np.zeros((1, 1, 4, 2), np.float32)
    segment = on_volumes(
        segment_scan, lambda images, training: logits[None], config, streamed_voxels=None
    )
    found = segment(scan)
    assert found["labels"].ravel().tolist() == [0, 0, 1, 0]
    expected = 1 / (1 + np.exp(-np.array([0.0, 0.0, 0.1, -0.1])))
    np.testing.assert_allclose(found["probabilities"].ravel(), expected, atol=1e-7)


def test_patch_borders(golden):
    """The older workflow's windows, recorded: zero outside the volume."""
    recorded = golden("patches_metrics")
    image, size = recorded["patch/image"], tuple(int(v) for v in np.ravel(recorded["patch/size"]))
    for centre, expected in zip(recorded["patch/centers"], recorded["patch/out"], strict=True):
        np.testing.assert_array_equal(cut_patch(image, centre, size), expected)


def test_tiles_of_the_draft():
    """32 patches: 16 for slices 0-15, then 16 of which only slices 16-19 are kept."""
    shape, corners = (512, 512, 20), []
    places = np.stack(np.indices(shape), axis=-1).astype(np.float32)

    def apply(patch):
        tf.numpy_function(
            lambda corner: corners.append(tuple(map(int, corner))), [patch[0, 0, 0]], []
        )
        return tf.stack([patch[..., 2], tf.fill(patch.shape[:3], patch[0, 0, 0, 2])], axis=-1)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))], autograph=False)
    def run(scan):
        return predict_tiles(scan, (128, 128, 16), apply)

    slices, first = np.moveaxis(run(tf.constant(places)).numpy(), -1, 0)
    assert len(corners) == 32
    assert sorted(set(corners)) == sorted(corners)
    assert corners.count((0, 0, 0)) == corners.count((0, 128, 4)) == corners.count((0, 256, 0)) == 1
    assert {corner[2] for corner in corners} == {0, 4}
    np.testing.assert_array_equal(slices, places[..., 2])
    assert (first[..., :16] == 0).all()
    assert (first[..., 16:] == 4).all()


@pytest.mark.parametrize("shape", [(9, 8, 5), (4, 4, 3), (3, 9, 2)])
def test_tiles_put_everything_in_its_place(shape):
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    found = predict_tiles(tf.constant(image), (4, 4, 3), lambda patch: patch)
    np.testing.assert_array_equal(found, image)


def test_patches_are_normalised_on_their_own():
    config = replace(DRAFT, patch_shape=(8, 8, 4), filters=(2, 3))
    network = network_of(config)
    image = np.random.default_rng(0).uniform(0, 500, (8, 16, 4, 2))
    image[:, 8:] *= 3
    found = on_volumes(logits_of_scan, network, config)(image)
    first = on_volumes(logits_of_scan, network, replace(config, patch_shape=None))(image[:, :8])
    np.testing.assert_allclose(found[:, :8], first, atol=1e-5)


def test_intensities_that_binaries_cannot_hold():
    image = np.full((8, 8, 4, 2), -5.0)
    with pytest.raises(DataError, match=r"volume 7: found the value -5\.0, which 16 bits"):
        read_words(image, PORT, name="volume 7")


def test_network_of_another_architecture_is_refused(tmp_path):
    save_network(build_model(SMALL, (16, 16, 4, 2)), tmp_path / "model.keras")
    load_network(tmp_path, SMALL)
    with pytest.raises(RunError, match=r"model\.keras is another architecture"):
        load_network(tmp_path, replace(SMALL, filters=(3, 4, 5, 7)))


def test_damaged_or_missing_network_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"model\.keras is missing"):
        load_network(tmp_path, SMALL)
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(RunError, match="cannot be read as a Keras model"):
        load_network(tmp_path, SMALL)
