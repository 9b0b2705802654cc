"""Reading and writing NIfTI: every kind of file, and headers that stay or go."""

import nibabel
import numpy as np
import pytest

from common.errors import DataError
from dhcp_fetal.images import read_image, write_image

AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 1.2, -5], [0, 0, 0, 1.0]])


def save(path, array, *, codes=(2, 1)):
    image = nibabel.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINE, code=codes[0])
    image.set_sform(AFFINE, code=codes[1])
    nibabel.save(image, path)
    return path


def test_axes_stay_as_in_the_file(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = read_image(save(tmp_path / "a.nii.gz", array))
    np.testing.assert_array_equal(image.array, array)
    assert image.spacing_mm == pytest.approx((0.8, 0.8, 1.2))


def test_flat_and_four_dimensional_files(tmp_path):
    """[D8] v0.7.0 takes the first of several volumes, v0.8.4 only a single one."""
    flat = read_image(save(tmp_path / "flat.nii", np.ones((3, 4), np.float32)))
    assert flat.array.shape == (3, 4, 1)
    single = save(tmp_path / "one.nii", np.ones((3, 4, 5, 1), np.float32))
    assert read_image(single).array.shape == (3, 4, 5)
    several = save(tmp_path / "two.nii", np.arange(120.0).reshape(3, 4, 5, 2))
    first = read_image(several, first_of_many=True).array
    np.testing.assert_array_equal(first, np.arange(0.0, 120, 2).reshape(3, 4, 5))
    with pytest.raises(DataError, match=r"two\.nii.*3-D"):
        read_image(several)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_damaged_files_are_named(tmp_path, ending):
    path = save(tmp_path / f"scan{ending}", np.random.default_rng(0).normal(size=(9, 9, 9)))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match="scan"):
        read_image(path)
    with pytest.raises(DataError, match="missing"):
        read_image(tmp_path / f"missing{ending}")


def test_voxels_must_be_numbers(tmp_path):
    array = np.ones((3, 3, 3), np.float32)
    array[1, 1, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        read_image(save(tmp_path / "nan.nii", array))
    with pytest.raises(DataError, match="expected a file of"):
        read_image(tmp_path / "scan.mha")


def test_headers_are_kept_or_those_of_the_engine(tmp_path):
    """[G24] Units and codes go in the engine's files; the affine stays in both."""
    scan = read_image(save(tmp_path / "scan.nii.gz", np.zeros((3, 4, 5), np.int16)))
    labels = np.ones((3, 4, 5), np.int16)
    for kept in (True, False):
        path = tmp_path / f"labels_{kept}.nii.gz"
        write_image(path, labels, scan, copy_header=kept)
        header = nibabel.load(path).header
        np.testing.assert_allclose(nibabel.load(path).affine, AFFINE, atol=1e-6)
        assert header.get_zooms() == pytest.approx((0.8, 0.8, 1.2))
        codes = int(header["qform_code"]), int(header["sform_code"])
        assert codes == ((2, 1) if kept else (0, 2))
        assert header.get_xyzt_units() == (("mm", "sec") if kept else ("unknown", "unknown"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "labels_False.nii.gz",
        "labels_True.nii.gz",
        "scan.nii.gz",
    ]


def test_an_unwritable_folder_is_named(tmp_path):
    scan = read_image(save(tmp_path / "scan.nii", np.zeros((3, 4, 5), np.int16)))
    with pytest.raises(DataError, match="nowhere"):
        write_image(tmp_path / "nowhere" / "a.nii", scan.array, scan, copy_header=True)
