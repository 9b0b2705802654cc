"""Reading scans as the engine does, and writing results whose headers stay or go."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from common.data.volumes import read_geometry
from common.errors import DataError
from dhcp_fetal.config import CODE, PORT
from dhcp_fetal.data import read_file
from dhcp_fetal.outputs import write_result

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
    image = read_file(save(tmp_path / "a.nii.gz", array), PORT)
    np.testing.assert_array_equal(image.array.T, array)
    assert image.geometry.spacing_mm == pytest.approx((0.8, 0.8, 1.2))


def test_flat_and_four_dimensional_files(tmp_path):
    """[D8] v0.7.0 takes the first of several volumes, v0.8.4 only a single one."""
    flat = read_file(save(tmp_path / "flat.nii", np.ones((3, 4), np.float32)), PORT)
    assert flat.array.T.shape == (3, 4, 1)
    single = save(tmp_path / "one.nii", np.ones((3, 4, 5, 1), np.float32))
    assert read_file(single, PORT).array.T.shape == (3, 4, 5)
    several = save(tmp_path / "two.nii", np.arange(120.0).reshape(3, 4, 5, 2))
    first = read_file(several, CODE).array.T
    np.testing.assert_array_equal(first, np.arange(0.0, 120, 2).reshape(3, 4, 5))
    with pytest.raises(DataError, match=r"two\.nii.*3-D"):
        read_file(several, PORT)


@pytest.mark.parametrize("config", [CODE, PORT])
def test_results_of_a_flat_file(tmp_path, config):
    """With the engine's header it was a traceback: two sizes of voxels for three axes."""
    path = save(tmp_path / "flat.nii.gz", np.ones((3, 4), np.float32))
    scan = read_file(path, config).geometry
    labels = np.arange(12, dtype=np.int16).reshape(3, 4, 1)
    write_result(tmp_path / "labels.nii.gz", labels, scan, config)
    found = nibabel.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), labels)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_damaged_files_are_named(tmp_path, ending):
    path = save(tmp_path / f"scan{ending}", np.random.default_rng(0).normal(size=(9, 9, 9)))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match="scan"):
        read_file(path, PORT)
    with pytest.raises(DataError, match="missing"):
        read_file(tmp_path / f"missing{ending}", PORT)


def test_voxels_must_be_numbers(tmp_path):
    array = np.ones((3, 3, 3), np.float32)
    array[1, 1, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        read_file(save(tmp_path / "nan.nii", array), PORT)
    with pytest.raises(DataError, match="no such file, expected"):
        read_file(tmp_path / "scan.dcm", PORT)


def test_headers_are_kept_or_those_of_the_engine(tmp_path):
    """[G24] Units and codes go in the engine's files; the affine stays in both."""
    path = save(tmp_path / "scan.nii.gz", np.zeros((3, 4, 5), np.int16))
    _, scan = read_geometry(path)
    labels = np.ones((3, 4, 5), np.int16)
    for kept in (True, False):
        path = tmp_path / f"labels_{kept}.nii.gz"
        write_result(path, labels, scan, replace(PORT, copy_header=kept))
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
    array = np.zeros((3, 4, 5), np.int16)
    _, scan = read_geometry(save(tmp_path / "scan.nii", array))
    with pytest.raises(DataError, match="nowhere"):
        write_result(tmp_path / "nowhere" / "a.nii", array, scan, PORT)
