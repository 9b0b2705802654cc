"""Whole volumes through the network, against the original's deploy and against identities."""

from dataclasses import replace

import numpy as np
import pytest

from common.data.normalisation import whiten
from common.data.volumes import read_volume
from common.errors import DataError, RunError
from fetal_brain.config import CODE, PORT, QUICK
from fetal_brain.convert import assign_original
from fetal_brain.inference import (
    build_for_any_plane,
    load_network,
    make_apply,
    plan_windows,
    segment,
    segment_labels,
)


@pytest.fixture(scope="module")
def apply(recipe_weights):
    """The recorded network, compiled."""
    model = build_for_any_plane(CODE)
    assign_original(model, recipe_weights)
    return make_apply(model, CODE)


@pytest.fixture(scope="module")
def deployed(shared):
    """What the original's deploy wrote, and the stacks it read."""
    folder = shared / "golden" / "fetal_brain"
    with np.load(folder / "deploy.npz") as file:
        recorded = {key: file[key] for key in file.files}
    images = [read_volume(folder / f"data/syn000{i}_img.nii.gz") for i in (0, 1)]
    masks = [read_volume(folder / f"deploy_out/SYN0000{i}.nii.gz") for i in (0, 1)]
    return recorded, images, masks


@pytest.mark.shared
@pytest.mark.parametrize("case", [0, 1])
def test_probabilities_and_mask_of_deploy(apply, deployed, case):
    """2.7e-6 was measured at the 3000 recorded voxels, and no differing mask voxel; 1e-4 and the
    number of near ties are what other weights may need."""
    recorded, images, masks = deployed
    image = whiten(images[case].array)
    found = np.concatenate([slab for _, slab in segment(apply, image, CODE)])
    brain = found[..., 1].ravel()[recorded[f"vol{case}_idx"]]
    np.testing.assert_allclose(brain, recorded[f"vol{case}_p1"], atol=1e-4)
    unlike = np.count_nonzero(found.argmax(axis=-1) != masks[case].array)
    assert unlike <= recorded[f"vol{case}_near_tie_counts"][2] + 2


@pytest.mark.shared
def test_last_window_counts_twice(apply, deployed):
    """Without the doubled window 280 voxels of the first volume and 998 of the second differ."""
    _, images, masks = deployed
    once = replace(CODE, count_last_window_twice=False)
    for image, mask, expected in zip(images, masks, (280, 998), strict=True):
        found = segment_labels(apply, whiten(image.array), once)
        assert abs(np.count_nonzero(found != mask.array) - expected) <= 10


def test_plan_of_the_port_is_one_window_of_the_planes_size():
    plan = plan_windows((170, 336, 330), PORT)
    assert plan.window == (3, 336, 336)
    assert plan.padded_shape == (170, 336, 336)
    plan = plan_windows((2, 500, 100), PORT)
    assert plan.window == (3, 384, 104)
    assert plan.padded_shape == (3, 500, 104)


def test_small_volume():
    assert plan_windows((2, 100, 60), PORT).padded_shape == (3, 104, 64)
    with pytest.raises(DataError, match="smaller than the window"):
        plan_windows((2, 100, 60), CODE)


def test_port_covers_once():
    """Three windows cover an inner slice (one per triple), and each of them the whole plane."""
    calls = []

    def apply(windows):
        calls.append(windows.shape)
        return np.repeat(windows, 2, axis=-1)

    image = np.random.default_rng(0).normal(size=(9, 40, 48)).astype(np.float32)
    config = replace(PORT, windows_per_batch=1)
    found = np.concatenate([slab for _, slab in segment(apply, image, config)])
    np.testing.assert_allclose(found[..., 1], image, atol=1e-6)
    assert calls == [(1, 3, 40, 48, 1)] * 7


def test_labels_equal_the_argmax_of_the_streamed_probabilities():
    image = np.random.default_rng(1).normal(size=(5, 30, 40)).astype(np.float32)
    apply = make_apply(build_for_any_plane(QUICK), QUICK)
    found = np.concatenate([slab for _, slab in segment(apply, image, QUICK)])
    assert found.shape == (5, 30, 40, 2)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(segment_labels(apply, image, QUICK), found.argmax(axis=-1))


def test_slices_as_channels_give_every_slice_once():
    """Three slices in, the middle one out; the volume is continued with zeros in z."""
    config = replace(
        QUICK, slices_as_channels=True, batch_normalisation=False, patch_shape=(3, 8, 8)
    )
    apply = make_apply(build_for_any_plane(config), config)
    image = np.random.default_rng(2).normal(size=(4, 24, 16)).astype(np.float32)
    found = np.concatenate([slab for _, slab in segment(apply, image, config)])
    assert found.shape == (4, 24, 16, 2)
    first = np.stack([np.zeros_like(image[0]), image[0], image[1]])[None, ..., None]
    alone = apply(np.repeat(first, config.windows_per_batch, axis=0))
    np.testing.assert_allclose(found[0], alone[0, 0], atol=1e-6)


def test_memory_does_not_grow_with_the_depth():
    """The float64 sums of a few slices are held, not of the volume: compared by tracemalloc."""
    import tracemalloc

    def peak(slices):
        image = np.zeros((slices, 64, 64), np.float32)
        tracemalloc.start()
        for _ in segment(lambda windows: np.repeat(windows, 2, axis=-1), image, PORT):
            pass
        _, largest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return largest

    assert peak(200) < 1.2 * peak(20)


def test_network_of_another_architecture_is_refused(tmp_path):
    build_for_any_plane(QUICK).save(tmp_path / "model.keras")
    load_network(tmp_path, QUICK)
    with pytest.raises(RunError, match=r"model\.keras is another architecture \(89406 param"):
        load_network(tmp_path, replace(QUICK, filters=(4, 4, 4, 4, 4)))


def test_damaged_or_missing_network_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"model\.keras is missing"):
        load_network(tmp_path, QUICK)
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(RunError, match="cannot be read as a Keras model"):
        load_network(tmp_path, QUICK)
