"""Preparation, against recordings of the original's and against hand-computed values."""

from dataclasses import replace

import numpy as np
import pytest

from common.data.geometry import Geometry, Volume
from common.data.volumes import read_volume, write_volume
from common.errors import DataError
from vertebra.config import CODE, PORT
from vertebra.preparation import (
    back_to_source,
    crop_range,
    crop_z,
    isotropic_size,
    make_isotropic,
    make_isotropic_mask,
    split_ids,
    to_raw_scale,
    upright,
)
from vertebra.prepare import prepare
from vertebra.segmentation import to_working_grid
from vertebra.weighting import weight_map, weight_of_distance


@pytest.mark.parametrize("case", range(5))
def test_nearest_resampling_is_exact(golden, case):
    recorded = golden("preprocess")
    geometry = Geometry(*(tuple(recorded[f"resample{case}_{part}"].tolist())
                          for part in ("spacing", "origin", "direction")))  # fmt: skip
    volume = make_isotropic(Volume(recorded[f"resample{case}_in"], geometry), CODE)
    np.testing.assert_array_equal(volume.array, recorded[f"resample{case}_out"])
    assert volume.array.dtype == recorded[f"resample{case}_out"].dtype
    for part in ("spacing_mm", "origin_mm", "direction"):
        expected = recorded[f"resample{case}_out_{part.removesuffix('_mm')}"]
        np.testing.assert_array_equal(getattr(volume.geometry, part), expected)


def test_sizes(golden):
    recorded = golden("preprocess")
    rows = (recorded[f"size_rule_{part}"] for part in ("in", "spacing", "out"))
    for sizes, spacings, expected in zip(*rows, strict=True):
        found = [isotropic_size(n, s, 1.0) for n, s in zip(sizes, spacings, strict=True)]
        np.testing.assert_array_equal(found, expected)


def test_weight_map(golden):
    """Float32 of the original's: 1e-6 relative."""
    recorded = golden("preprocess")
    found = weight_map(recorded["weight_mask"], CODE)
    np.testing.assert_allclose(found, recorded["weight_map"], rtol=1e-6)
    assert found.dtype == np.float32
    values = weight_of_distance(recorded["weight_distance"], CODE)
    np.testing.assert_allclose(values, recorded["weight_value"], rtol=1e-6)


@pytest.mark.parametrize("fill", [0, 1])
def test_weights_without_a_surface_are_one(fill):
    """The original's are arbitrary: distances to a voxel that is not there."""
    np.testing.assert_array_equal(weight_map(np.full((3, 4, 5), fill), CODE), 1)


def test_z_crop(golden, recipe):
    recorded = golden("preprocess")
    for row, expected in zip(recorded["zcrop_recipe"], recorded["zcrop_range"], strict=True):
        *shape, n, seed, z0, pitch = row.tolist()
        labels = recipe.spine_labels(shape, n, seed, z0, pitch, r=(9, 8, 8), jitter=2)
        if expected[0] == expected[1]:  # the original writes an empty file, or fails
            with pytest.raises(DataError, match="single vertebra"):
                crop_range(labels, name="case")
        else:
            assert crop_range(labels, name="case") == tuple(expected)


def test_reversed_labels_and_no_labels_are_refused():
    labels = np.zeros((10, 2, 2), np.int16)
    with pytest.raises(DataError, match="no vertebra"):
        crop_range(labels, name="case")
    labels[1], labels[8] = 200, 100
    with pytest.raises(DataError) as refusal:
        crop_range(labels, name="case")
    assert str(refusal.value) == (
        "case: found labels that grow downwards; expected larger labels further up, or "
        "--layout verse, whose labels grow downwards"
    )


def test_crop_keeps_the_place():
    """[V21] z runs against the patient here: the origin moves along the array's own axis."""
    geometry = Geometry((1.0, 2.0, 3.0), (10.0, 20.0, 30.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    volume = Volume(np.arange(5)[:, None, None] * np.ones((1, 2, 2)), geometry)
    kept = crop_z(volume, 2, 4, keep_geometry=True)
    assert kept.geometry.origin_mm == (10.0, 20.0, 24.0)
    assert crop_z(volume, 2, 4, keep_geometry=False).geometry == Geometry((1.0, 1.0, 1.0))
    np.testing.assert_array_equal(kept.array[:, 0, 0], [2, 3])


def test_split_of_the_code(golden):
    """[V25] Numbers from 1 and a limit that is not reached: 7 of 10 train, not 8."""
    for cases, _, train, test in golden("preprocess")["split_table"]:
        split = split_ids(range(1, cases + 1), CODE)
        assert (len(split["train"]), len(split["test"])) == (train, test)
    assert len(split_ids(range(1, 11), PORT)["train"]) == 8
    assert split_ids([7, 3], PORT) == {"train": [3], "test": [7]}


def test_original_preparation_file_by_file(golden, recipe, tmp_path):
    """Names, types, geometry, sums and extremes of all files of both trees are the original's."""
    source = tmp_path / "CSI_dataset"
    source.mkdir()
    geometry = Geometry((1.5, 1.5, 1.0), (5.0, 6.0, 7.0))
    for number in range(1, 6):
        image, labels = recipe.spine((70, 30, 28), 3, 1070 + number, 12, 22, r=(8, 6, 6), jitter=1)
        write_volume(source / f"case{number}.mhd", image, geometry)
        write_volume(source / f"case{number}_label.mhd", labels, geometry)
    prepare(source, tmp_path / "iso", tmp_path / "crop", config=CODE, preset="code")
    recorded = golden("prepare_dataset")
    found = {
        str(path.relative_to(tmp_path))
        for tree in ("iso", "crop")
        for path in (tmp_path / tree).rglob("*")
        if path.is_file() and path.name != "split.json"
    }
    assert found == set(recorded["listing"].tolist())
    endings = {"img": ".mhd", "seg": "_label.mhd", "weight": "_weight.nrrd"}
    for key in (key for key in recorded if key.count("/") == 3):
        volume = read_volume(tmp_path / f"{key}{endings[key.split('/')[2]]}")
        array = volume.array
        row = [*array.shape, array.sum(dtype=np.float64), array.min(), array.max(),
               *volume.geometry.spacing_mm, *volume.geometry.origin_mm]  # fmt: skip
        np.testing.assert_allclose(row, recorded[key], rtol=1e-6)
        assert str(array.dtype) == str(recorded[f"dtype/{key}"])


def test_linear_resampling_by_hand():
    """[V24] A ramp stays a ramp; what lies beyond the scan gets its minimum, not 0."""
    ramp = (np.arange(6)[:, None, None] * 10 + 100 + np.zeros((6, 4, 4))).astype(np.int16)
    volume = Volume(ramp, Geometry((1.0, 1.0, 2.0)))
    found = make_isotropic(volume, PORT).array[:, 1, 1]
    np.testing.assert_array_equal(found[:11], np.arange(100, 151, 5))
    nearest = make_isotropic(volume, CODE).array[:, 1, 1]
    np.testing.assert_array_equal(nearest, [*np.repeat(ramp[:, 0, 0], 2)[1:].tolist(), 0])
    assert found[11] in (100, 150)


def test_bspline_resampling_is_smoother_than_linear():
    """[V24] Of a sampled cosine the spline recovers the crest, straight lines cut it."""
    wave = np.cos(np.arange(40) * 0.9)[:, None, None] * 1000 * np.ones((1, 6, 6))
    volume = Volume(wave.astype(np.float32), Geometry((1.0, 1.0, 2.0)))
    truth = np.cos(np.arange(20, 60) * 0.45) * 1000
    errors = {
        kind: np.abs(
            make_isotropic(volume, replace(PORT, image_interpolation=kind)).array[20:60, 3, 3]
            - truth
        ).max()
        for kind in ("bspline", "linear", "nearest")
    }
    assert errors["bspline"] < 0.3 * errors["linear"] < 0.3 * errors["nearest"]


def test_masks_are_never_interpolated():
    labels = np.zeros((6, 6, 6), np.int16)
    labels[2:4] = 300
    found = make_isotropic_mask(Volume(labels, Geometry((0.7, 0.7, 2.5))), PORT)
    assert set(np.unique(found.array)) == {0, 300}


def test_intensity_scale():
    """[V34] Hounsfield units get 1024; a few negative values of the unsigned scale become 0."""
    hounsfield = np.array([-1000, 0, 500], np.int16)
    found, note = to_raw_scale(hounsfield, replace(PORT, intensity="hu"), name="a")
    np.testing.assert_array_equal(found, [24, 1024, 1524])
    assert "1024" in note
    unsigned = replace(PORT, intensity="unsigned")
    found, _ = to_raw_scale(np.array([-3, 5], np.int16), unsigned, name="a")
    np.testing.assert_array_equal(found, [0, 5])
    assert to_raw_scale(hounsfield, CODE, name="a")[0] is hounsfield


def test_a_scale_that_is_asked_for_is_used_by_the_released_way_too():
    """[V34] [V21] It drops the geometry, not the option: released weights with a CT of today."""
    scan = Volume(np.array([[[-1000, 0, 500]]], np.int16), Geometry((0.8, 0.8, 1.0)))
    taken, notes = to_working_grid(scan, replace(CODE, intensity="hu"), name="a")
    np.testing.assert_array_equal(taken.array, [[[24, 1024, 1524]]])
    assert taken.geometry.spacing_mm == (1.0, 1.0, 1.0)
    assert notes == ["Hounsfield units: 1024 was added"]
    taken, notes = to_working_grid(scan, CODE, name="a")
    assert taken.array is scan.array
    assert notes == []


def ct_in_hounsfield_units():
    """Air, fat, muscle and bone in blocks, with noise."""
    rng = np.random.default_rng(0)
    image = np.full((20, 30, 40), -1000.0)
    image[:, 5:25, 5:35] = -100
    image[:, 8:22, 8:32] = 50
    image[:, 12:18, 15:25] = 300
    return np.rint(image + rng.normal(0, 15, image.shape)).astype(np.int16)


@pytest.mark.parametrize(
    ("store", "difference"),
    [
        (lambda hu: hu, 1024),
        (lambda hu: hu.astype(np.float64), 1024),
        (lambda hu: np.maximum(hu, -150), 1024),
        (lambda hu: np.where(np.indices(hu.shape)[2] < 3, -3024, hu), 1024),
        (lambda hu: np.maximum(hu + 1024, 0).astype(np.uint16), 1024),
        (lambda hu: np.where(np.indices(hu.shape)[2] < 3, -2000, hu + 1024), 1024),
        (lambda hu: np.where(np.arange(hu.size).reshape(hu.shape) == 9, -1000, hu + 1024), 1024),
    ],
    ids=["HU", "float64", "cut off", "HU, padded", "unsigned", "unsigned, padded", "stray voxel"],
)
def test_scale_is_told_by_the_bulk_of_voxels(store, difference):
    """A single negative voxel shifted a whole scan by 1024; one cut off at -150 was not shifted."""
    hounsfield = ct_in_hounsfield_units()
    found, _ = to_raw_scale(store(hounsfield), PORT, name="a")
    inner = (slice(None), slice(8, 22), slice(8, 32))
    np.testing.assert_array_equal(found[inner], hounsfield[inner] + difference)
    assert found.min() >= 0


@pytest.mark.parametrize(
    "change", [lambda hu: (hu + 1024) / 4096, lambda hu: (hu - hu.mean()) / hu.std(),
               lambda hu: np.maximum(hu, 0)],
    ids=["0 to 1", "z-scores", "cut off at 0"],
)  # fmt: skip
def test_unknown_scales_are_refused(change):
    with pytest.raises(DataError, match=r"^scan.nii: found values of .* --intensity hu, unsigned"):
        to_raw_scale(change(ct_in_hounsfield_units()), PORT, name="scan.nii")


def test_upside_down_scans_are_turned_and_masks_turned_back():
    """[V37] Voxels keep their place in the patient."""
    direction = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    geometry = Geometry((1.0, 2.0, 3.0), (5.0, 6.0, 7.0), direction)
    array = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.uint8)
    turned = upright(Volume(array, geometry))
    matrix = np.reshape(turned.geometry.direction, (3, 3))
    np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)
    back = back_to_source(turned, (array.shape, geometry))
    np.testing.assert_array_equal(back.array, array)
