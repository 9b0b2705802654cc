"""Orientation and voxel size of a training, and scans that have others."""

from dataclasses import replace
from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from common.data.geometry import Geometry, Volume
from common.errors import DataError
from common.runs.training_grid import (
    TrainingGrid,
    find_training_grid,
    fit_scan,
    segment_on_grid,
)

SHAPE = (4, 5, 6)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_orientation_comes_to_one_and_goes_back(order):
    """All 48: the voxels of the trained orientation, then those of the file, exactly."""
    trained = np.arange(240, dtype=np.float32).reshape(*SHAPE, 2)
    for flipped in product((False, True), repeat=3):
        axes = [axis for axis in range(3) if flipped[axis]]
        stored = np.flip(trained.transpose(*order, 3), axes)
        direction = np.zeros((3, 3))
        for column, (row, turned) in enumerate(zip(order, flipped, strict=True)):
            direction[row, column] = -1.0 if turned else 1.0
        spacing = tuple((0.9, 1.0, 1.1)[axis] for axis in order)
        scan = Geometry(spacing, direction=tuple(direction.ravel()))
        fit = fit_scan(scan, stored.shape[:3], TrainingGrid("LPS", (0.9, 1.0, 1.1)))
        np.testing.assert_array_equal(fit.to_network(stored, 1), trained)
        np.testing.assert_array_equal(fit.to_scan(trained), stored)
        np.testing.assert_array_equal(fit.to_scan(trained[..., 0]), stored[..., 0])


def test_a_ramp_is_resampled_by_millimetres():
    """Voxel n of 0.8 mm lies at 0.8 (n + 1/2) mm; 16 of them are 10 of 1.28 mm."""
    ramp = np.broadcast_to(0.8 * (np.arange(16.0) + 0.5)[:, None, None], (16, 3, 3))
    scan, grid = Geometry((0.8, 1.0, 1.0)), TrainingGrid("LPS", (1.28, 1.0, 1.0))
    with pytest.raises(DataError, match=r"found voxels of 0.8 x 1 x 1 mm \(LPS\); .*--resample"):
        fit_scan(scan, ramp.shape, grid)
    fit = fit_scan(scan, ramp.shape, grid, resample=True)
    assert fit.words == "resampled from 0.8 x 1 x 1 mm to 1.28 x 1 x 1 mm"
    found = fit.to_network(ramp, 1)
    np.testing.assert_allclose(found[:, 1, 1], 1.28 * (np.arange(10) + 0.5), atol=1e-12)
    np.testing.assert_allclose(fit.to_scan(found)[1:-1], ramp[1:-1], atol=1e-12)
    mask = (ramp > 6.4).astype(np.int16)  # the second half
    assert fit.to_network(mask, 0)[:, 0, 0].tolist() == [0] * 5 + [1] * 5


def test_what_the_scans_of_a_training_share(tmp_path):
    scans = []
    for number, spacing in enumerate((1.25, 1.26, 0.8)):
        path = tmp_path / f"{number}.nii.gz"
        affine = np.diag([-spacing, spacing, spacing, 1.0])
        nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), affine), path)
        scans.append(path)
    assert find_training_grid(scans[:1]) == TrainingGrid("LAS", (1.25, 1.25, 1.25))
    assert find_training_grid(scans[:2]).spacing_mm == pytest.approx((1.255,) * 3)
    assert find_training_grid(scans) is None


def test_a_scan_on_another_grid_is_segmented_on_the_trained_one():
    """Arrays (Z, Y, X): what is found lies where it was found; another size needs a word."""
    trained = np.arange(60.0).reshape(3, 4, 5)
    grid = TrainingGrid("LPS", (1.0, 1.0, 2.0))
    direction = (0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)  # x to the head, z to the right
    stored = Volume(
        np.flip(trained.transpose(2, 1, 0), 0), Geometry((2.0, 1.0, 1.0), (0.0,) * 3, direction)
    )
    seen = []

    def segment(array):
        seen.append(array)
        return {
            "labels": (array > 20).astype(np.uint8),
            "probabilities": np.stack([array, -array], -1),
        }

    options = {"grid": grid, "tolerance": 0.25, "name": "scan.nii"}
    found = segment_on_grid(stored, segment, resample=False, **options)
    np.testing.assert_array_equal(seen.pop(), trained)
    np.testing.assert_array_equal(found["labels"], stored.array > 20)
    np.testing.assert_array_equal(found["probabilities"][..., 0], stored.array)
    small = replace(stored, geometry=replace(stored.geometry, spacing_mm=(1.0, 1.0, 1.0)))
    with pytest.raises(DataError, match=r"^scan.nii: found voxels of 1 x 1 x 1 mm \(LPS\); .* 25%"):
        segment_on_grid(small, segment, resample=False, **options)
    found = segment_on_grid(small, segment, resample=True, **options)
    assert seen.pop().shape == (2, 4, 5)
    assert found["labels"].shape == small.array.shape
    assert found["labels"].dtype == np.uint8
    same = Volume(trained, Geometry((1.0, 1.0, 2.4)))
    segment_on_grid(same, segment, resample=False, **options)
    assert seen.pop() is trained
