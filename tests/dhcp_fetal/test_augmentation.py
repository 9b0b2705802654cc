"""Augmentation as the engine recorded it, and by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dhcp_fetal import augmentation
from dhcp_fetal.config import PORT
from dhcp_fetal.data import Case

PLAIN = replace(PORT, intensity_shift=None, intensity_scale=None, flip_probabilities=None)


@pytest.fixture(scope="module")
def recorded(shared):
    with np.load(shared / "golden/dhcp_fetal/augment.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.shared
@pytest.mark.parametrize("number", range(5))
def test_affine_equals_the_engine(recorded, number):
    """[G19] The record was made with the transform's own seed. 1e-5; labels and mask exactly."""
    entry = json.loads(str(recorded["affine_json"]))[number]
    config = replace(
        PLAIN,
        affine_probability=entry["prob"],
        affine_rotation_deg=tuple(entry["max_rot_xyz"]),
        affine_scaling=entry["max_scaling"],
        affine_seed=entry["seed"],
        affine_orders=(entry["interp_order_imgs"], 0, 0, 1),
    )
    matrix = augmentation.draw_affine(np.random.RandomState(entry["seed"]), config)
    expected = recorded[f"aff{number}_matrix"]
    if expected.ndim == 0:
        assert matrix is None
    else:
        np.testing.assert_allclose(matrix, expected, atol=1e-9)
    image = np.moveaxis(recorded["img"], 0, -1)
    case = Case("case", image, recorded["lab"], recorded["roi"].astype(np.int16), None, None)
    found = augmentation.augment_case(case, config, np.random.default_rng(0))
    np.testing.assert_allclose(
        np.moveaxis(found.image, -1, 0), recorded[f"aff{number}_img"], atol=1e-5
    )
    np.testing.assert_array_equal(found.labels, recorded[f"aff{number}_lab"])
    np.testing.assert_array_equal(found.mask, recorded[f"aff{number}_roi"])


def mean_std(entry):
    return entry and (entry["mu"], entry["std"])


@pytest.mark.shared
@pytest.mark.parametrize("number", range(6))
def test_segments_equal_the_engine(recorded, number, golden):
    """Even the draws are the same with numpy's old generator. 1e-6 (1.2e-7 measured)."""
    entry = json.loads(str(recorded["sample_json"]))[number]
    intensity = entry["hist_dist"] or {}
    turns = entry["rotate90"]
    config = replace(
        PORT,
        intensity_shift=mean_std(intensity.get("shift")),
        intensity_scale=mean_std(intensity.get("scale")),
        flip_probabilities=entry["reflect"] and tuple(entry["reflect"]),
        turn_probabilities=turns
        and tuple(
            tuple(turns[plane][angle] for angle in ("0", "90", "180", "270"))
            for plane in ("xy", "yz", "xz")
        ),
    )
    parts = [np.moveaxis(recorded[f"seg{i}"], 0, -1) for i in range(2)]
    rng = np.random.RandomState(int(golden("sampling")["np_seed"]) + number)
    found, labels = augmentation.augment_segment(parts, recorded["seglab"], config, rng)
    for index, part in enumerate(found):
        expected = recorded[f"smp{number}_seg{index}"]
        np.testing.assert_allclose(np.moveaxis(part, -1, 0), expected, atol=1e-6)
    np.testing.assert_array_equal(labels, recorded[f"smp{number}_lab"])


def cube(size=5):
    image = np.random.default_rng(1).normal(size=(size, size, size, 2)).astype(np.float32)
    labels = (image[..., 0] > 0).astype(np.uint8)
    return Case("case", image, labels, labels.astype(np.int16), None, None)


def test_one_seed_means_one_transform():
    """[G19] Without it every draw is another one."""
    fixed = replace(PLAIN, affine_probability=1.0, affine_seed=7)
    results = [
        augmentation.augment_case(cube(9), fixed, np.random.default_rng(n)).image for n in (0, 1)
    ]
    np.testing.assert_array_equal(*results)
    free = replace(fixed, affine_seed=None)
    results = [
        augmentation.augment_case(cube(9), free, np.random.default_rng(n)).image for n in (0, 1)
    ]
    assert np.abs(results[0] - results[1]).max() > 0.1


def test_v070_flips_the_whole_case_and_no_segment():
    """[D11]"""
    old = replace(PLAIN, compat="v0.7.0", flip_probabilities=(1.0, 0.0, 0.0))
    case = cube()
    flipped = augmentation.augment_case(case, old, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped.image, case.image[::-1])
    np.testing.assert_array_equal(flipped.labels, case.labels[::-1])
    parts, labels = augmentation.augment_segment(
        [case.image], case.labels, old, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(parts[0], case.image)
    np.testing.assert_array_equal(labels, case.labels)
    new = replace(old, compat="v0.8.4")
    assert augmentation.augment_case(case, new, np.random.default_rng(0)) is case
    parts, labels = augmentation.augment_segment(
        [case.image], case.labels, new, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(parts[0], case.image[::-1])
    np.testing.assert_array_equal(labels, case.labels[::-1])


def test_boundary_at_the_minimum():
    volume = np.full((5, 5, 5), 3.0, np.float32)
    volume[0, 0, 0] = -2.0
    small = augmentation.apply_affine(volume, np.eye(3) * 3.0, order=0, boundary="min")
    assert small[2, 2, 2] == 3.0
    assert small[4, 4, 4] == -2.0
