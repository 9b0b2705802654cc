"""Orientation and voxel size of a training, and scans that have others."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from common.data.geometry import Geometry
from common.errors import DataError
from dhcp_fetal.session import CaseFiles
from dhcp_fetal.training_grid import TrainingGrid, find_training_grid, fit_scan

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
    cases = []
    for number, spacing in enumerate((1.25, 1.26, 0.8)):
        path = tmp_path / f"{number}.nii.gz"
        affine = np.diag([-spacing, spacing, spacing, 1.0])
        nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), affine), path)
        cases.append(CaseFiles((None, path)))
    assert find_training_grid(cases[:1]) == TrainingGrid("LAS", (1.25, 1.25, 1.25))
    assert find_training_grid(cases[:2]).spacing_mm == pytest.approx((1.255,) * 3)
    assert find_training_grid(cases) is None
