"""Patches, against recordings of the released sampler, and what the port changes about them."""

import random
from dataclasses import replace

import numpy as np
import pytest
from vertebra_sampler import add_noise, crop_z_originally, extract_patch

from common.data.prepared_store import write_prepared_case
from common.errors import DataError
from vertebra.augmentation import (
    blur,
    deform,
    displacement_fields,
    smoothing_matrix,
    stretch_coordinates,
)
from vertebra.config import CODE, PORT
from vertebra.sampling import (
    Changes,
    TrainingSampler,
    change_patch,
    cut_example,
    place_window,
)
from vertebra.study.sides import deform_originally
from vertebra.windows import cut

SMALL = replace(PORT, patch_size=32, crop_slices=20)


@pytest.fixture(scope="module")
def augment(golden_dir, shared):
    """Recorded changes; the file is too large to be kept in the project."""
    with np.load(shared / "golden" / "vertebra" / "augment.npz") as file:
        return {key: file[key] for key in file.files}


def volume(recipe, seed):
    """The recorded 128^3 phantom with memory, target and weights."""
    image, labels = recipe.spine((128, 128, 128), 5, seed, 16, 24)
    return {"image": image, "label": labels, "weight": recipe.weight_map(labels)}


@pytest.fixture
def small_case(recipe, tmp_path):
    """A prepared case smaller than most: (60, 40, 36) with three vertebrae."""
    image, labels = recipe.spine((60, 40, 36), 3, 3, 10, 18, r=(7, 8, 8), jitter=1)
    arrays = {"image": image, "label": labels.astype(np.int32)}
    arrays["weight"] = recipe.weight_map(labels)
    return write_prepared_case(tmp_path, "case1", arrays)


def test_window_of_the_code(golden):
    """[V7] Windows as recorded for 60 centres and sizes, negative starts included."""
    for c, depth, height, width, low, high in golden("patches")["force_inside"]:
        window = place_window((c, c, c), (depth, height, width), CODE)
        assert (window.low[0], window.high[0]) == (low, high)


@pytest.mark.slow
def test_patches_of_the_code(golden, recipe):
    """All 30 recorded draws: vertebra, centre, window, sums, completeness; exact."""
    recorded = golden("patches")
    columns = recorded["patch_columns"].tolist()
    volumes = []
    for name in "ABC":
        *shape, n, seed, z0, pitch = recorded[f"vol{name}_recipe"].tolist()
        image, labels = recipe.spine(shape, n, seed, z0, pitch)
        volumes.append({"image": image, "label": labels, "weight": recipe.weight_map(labels)})
    for number, row in enumerate(recorded["patch_rows"].tolist()):
        expected = dict(zip(columns, row, strict=True))
        seed = expected["seed"]
        patch = extract_patch(
            volumes[expected["volume_index"]], expected["sample_index"],
            choose=random.Random(seed), numbers=np.random.RandomState(seed), elastic=None,
        )  # fmt: skip
        found = {
            "chosen": patch.chosen, **dict(zip("zyx", patch.centre, strict=True)),
            **{f"{a}_{e}": v for e, part in zip(("low", "up"), patch.window, strict=True)
               for a, v in zip("zyx", part, strict=True)},
            **dict(zip(("dz", "dy", "dx"), patch.image.shape, strict=True)),
            "img_sum": patch.image.sum(dtype=np.int64), "ins_sum": patch.memory.sum(),
            "gt_sum": patch.target.sum(), "ins_nonzero": np.count_nonzero(patch.memory),
            "c_label": int(patch.complete),
        }  # fmt: skip
        assert found == {key: expected[key] for key in found}
        weight_sum = patch.weight.sum(dtype=np.float64)
        np.testing.assert_allclose(weight_sum, recorded[f"weight_sum_{number}"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.shared
def test_training_samples_of_the_code(augment, recipe):
    """Five whole samples with their changes; images to 1e-5, masks exactly."""
    columns = augment["train_columns"].tolist()
    index = tuple(augment["train_idx"].astype(int).T)
    arrays = volume(recipe, int(augment["train_volume_seed"]))
    for number, row in enumerate(augment["train_rows"].tolist()):
        expected = dict(zip(columns, row, strict=True))
        seed = expected["seed"]
        patch = extract_patch(
            arrays, 1, choose=random.Random(seed), numbers=np.random.RandomState(seed),
            elastic=np.random.RandomState(seed + 1),
        )  # fmt: skip
        made = dict(zip(("elastic", "blur", "noise", "crop"), patch.changes, strict=True))
        assert made == {key: bool(expected[key]) for key in made}
        assert (patch.crop_start, int(patch.complete)) == (
            expected["crop_start"], expected["c_label"])  # fmt: skip
        for name, array in zip(("img", "ins", "gt", "weight"), patch[:4], strict=True):
            recorded = augment[f"train{number}_{name}"]
            if name in ("ins", "gt"):
                np.testing.assert_array_equal(array[index], recorded)
            else:
                np.testing.assert_allclose(array[index], recorded, rtol=1e-5)
            total = array.sum(dtype=np.float64)
            np.testing.assert_allclose(total, augment[f"train{number}_sum_{name}"], rtol=1e-6)


@pytest.mark.shared
def test_elastic_of_the_code(augment):
    """Integer arrays exactly, weights and fractional masks to 1e-5."""
    arrays = [augment[f"el_{name}"] for name in ("img", "gt", "ins", "weight")]
    found = deform_originally(
        arrays, random=np.random.RandomState(int(augment["el_seed"])), alpha=20
    )
    for name, array in zip(("img", "gt", "ins"), found, strict=False):
        np.testing.assert_array_equal(array, augment[f"el_out_{name}"])
    np.testing.assert_allclose(found[3], augment["el_out_weight"], rtol=1e-5)
    found = deform_originally(
        [arrays[0].astype(float), arrays[1].astype(float), arrays[2].astype(float), arrays[3]],
        random=np.random.RandomState(int(augment["el400_seed"])), alpha=400,
    )  # fmt: skip
    for name, array in zip(("img", "gt", "ins", "weight"), found, strict=True):
        np.testing.assert_allclose(array, augment[f"el400_float_out_{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.shared
def test_blur_noise_and_crop_of_the_code(augment, recipe):
    image = augment["el_img"]
    np.testing.assert_array_equal(blur(image, CODE), augment["blur_int16"])
    np.testing.assert_allclose(blur(image.astype(float), CODE), augment["blur_float64"])
    random_state = np.random.RandomState(int(augment["noise_seed"]))
    np.testing.assert_allclose(add_noise(image, random_state), augment["noise_out"], rtol=1e-12)
    arrays = volume(recipe, int(augment["rc_volume_seed"]))
    labels = arrays["label"]
    parts = (arrays["image"], (labels > 300).astype(np.int16), (labels == 300).astype(np.int16),
             arrays["weight"])  # fmt: skip
    cropped = crop_z_originally(parts, int(augment["rc_start"]))
    index = tuple(augment["rc_idx"].astype(int).T)
    for name, array in zip(("img", "ins", "gt", "weight"), cropped, strict=True):
        np.testing.assert_allclose(array[index], augment[f"rc_out_{name}"], rtol=1e-5)
    coordinates = np.abs(stretch_coordinates(80, 128))
    recorded = augment["crop_linear_coord"]
    np.testing.assert_allclose(np.where(coordinates > 79, 158 - coordinates, coordinates), recorded)
    draws = random.Random(int(augment["crop_seed"]))
    assert [draws.randint(0, 47) for _ in range(2)] == augment["crop_starts"].tolist()


def test_fast_deformation_equals_scipy():
    """The same fields give the same arrays; 7e-3 of values up to 4000 was measured in float32."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    rng = np.random.default_rng(0)
    shape = (40, 36, 44)
    image, mask = rng.integers(0, 4000, shape).astype(np.int16), rng.random(shape) > 0.5
    fields = displacement_fields(rng, shape, alpha=300, sigma=5)
    assert 1 < fields.std() < 3
    places = np.indices(shape) + fields
    found = deform((image, mask), fields)
    for array, got in zip((image, mask), found, strict=True):
        expected = map_coordinates(array.astype(float), places, order=1, mode="reflect")
        np.testing.assert_allclose(got, expected, atol=2e-2 if array is image else 1e-5)
    impulse = np.zeros(41)
    impulse[3] = 1
    expected = gaussian_filter(impulse, 5, mode="constant")
    np.testing.assert_allclose(impulse @ smoothing_matrix(41, 5.0), expected, atol=1e-7)


@pytest.mark.shared
def test_displacements_have_the_recorded_spread(augment):
    """[V9] 0.15 voxels at the code's strength, 2.3 at the port's."""
    mean, std, largest, _ = augment["disp_stats_128"]
    fields = displacement_fields(np.random.default_rng(1), (128,) * 3, alpha=20, sigma=5)
    np.testing.assert_allclose(fields.std(), std, rtol=0.03)
    assert abs(fields.mean()) < 2 * abs(mean)
    assert 0.8 * largest < np.abs(fields).max() < 1.4 * largest
    assert 2.1 < fields.std() * PORT.elastic_alpha / 20 < 2.5


@pytest.mark.shared
def test_completeness_is_counted_before_the_stretch(augment, recipe):
    """[V8] Recorded: a vertebra cut to 69 % is complete for the code, since stretching adds 1.6."""
    arrays = volume(recipe, int(augment["rc_volume_seed"]))
    target = (arrays["label"] == 100).astype(np.uint8)
    for start, whole, visible, counted, original, by_visibility in augment["completeness_rows"]:
        assert target.sum() == whole
        assert target[start : start + 80].sum() == visible
        stretched = crop_z_originally((target,) * 4, int(start))[2]
        assert stretched.sum() == counted
        assert (counted / whole >= 0.98) == original
        assert (visible / whole >= 0.98) == by_visibility


def test_window_of_the_port():
    """[V7] Every axis has its own limit; a small volume lies in the middle of the patch."""
    assert place_window((290, 5, 80), (300, 150, 100), PORT).low == (172, 0, -14)
    ramp = np.arange(1, 5)[:, None, None] * np.ones((1, 40, 40), int)
    window = place_window((2, 20, 20), ramp.shape, SMALL)
    assert window.low == (-14, 4, 4)
    np.testing.assert_array_equal(np.flatnonzero(cut(ramp, *window)[:, 0, 0]),
                                  [14, 15, 16, 17])  # fmt: skip


def test_truncated_windows_of_the_code_are_refused(small_case):
    """[V7] What the released code hands to a network that cannot take it."""
    config = replace(SMALL, window_limits="x_size", patch_size=64)
    with pytest.raises(DataError, match="window_limits"):
        TrainingSampler([small_case], config, seed=0).draw(0)


def test_samples_of_the_port(small_case):
    """Memory is what lies above, every fifth patch is empty, patches repeat by their number."""
    sampler = TrainingSampler([small_case], SMALL, seed=4)
    labels = small_case.arrays["label"]
    for index in range(10):
        patch = sampler.draw(index)
        assert {*np.unique(patch.memory), *np.unique(patch.target)} <= {0, 1}
        assert not (patch.memory & patch.target).any()
        if (index + 1) % 5 == 0:
            assert not patch.target.any()
            assert not patch.complete
            np.testing.assert_allclose(patch.weight, 1, rtol=1e-5)
    assert len(np.unique(labels)) == 4
    again = TrainingSampler([small_case], SMALL, seed=4).draw(3)
    for one, other in zip(sampler.draw(3), again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(sampler.draw(3).image, sampler.draw(8).image)


def test_network_inputs(small_case):
    inputs, targets = TrainingSampler([small_case], SMALL, seed=4)(0)
    patch = TrainingSampler([small_case], SMALL, seed=4).draw(0)
    np.testing.assert_array_equal(inputs[..., 0], patch.image)
    np.testing.assert_array_equal(targets["mask"][..., 1], patch.weight)
    assert targets["completeness"] == [patch.complete]


def test_completeness_by_hand(small_case):
    """The lowest vertebra of 60 slices, shown whole and cut in the middle."""
    arrays = dict(small_case.arrays)
    window = place_window((10, 20, 18), arrays["label"].shape, SMALL)
    patch = cut_example(arrays, 100, window, SMALL)
    assert patch.target.sum() == (cut(arrays["label"], *window) == 100).sum() > 2000
    assert (patch.memory == 1).sum() == (cut(arrays["label"], *window) > 100).sum()
    rng = np.random.default_rng(0)
    changed, shown = change_patch(patch, Changes(False, False, False, True), rng, SMALL)
    assert changed.image.shape == (32, 32, 32)
    assert shown.stop - shown.start == 20


def test_target_weights(small_case):
    """[V26] Between two touching vertebrae the union has no surface, the target has one."""
    labels = np.zeros((32, 32, 32), np.int32)
    labels[4:16, 8:24, 8:24], labels[16:28, 8:24, 8:24] = 100, 200
    from vertebra.weighting import weight_map

    arrays = {"image": labels, "label": labels, "weight": weight_map(labels, PORT)}
    window = place_window((16, 16, 16), labels.shape, SMALL)
    union = cut_example(arrays, 100, window, SMALL)
    target = cut_example(arrays, 100, window, replace(SMALL, weights="target"))
    assert union.weight[15, 16, 16] < 3 < 8 < target.weight[15, 16, 16]


def test_blur_of_integers_darkens(small_case):
    """[V27] By about 1.5, since each axis cuts to whole numbers; floats keep their mean."""
    arrays = dict(small_case.arrays)
    patch = cut_example(arrays, 100, place_window((20, 20, 18), (60, 40, 36), SMALL), SMALL)
    only_blur = Changes(False, True, False, False)
    means = {}
    for flag in (True, False):
        config = replace(SMALL, integer_blur=flag)
        means[flag] = change_patch(patch, only_blur, None, config)[0].image.mean(dtype=np.float64)
    before = patch.image.mean(dtype=np.float64)
    assert 1.2 < before - means[True] < 1.8
    assert abs(before - means[False]) < 0.01
