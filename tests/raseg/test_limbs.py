"""Limbs of the public collection in the layout of the paper's arrays."""

import json

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError
from raseg.config import PORT
from raseg.limbs import lay_into_grid, write_limbs
from raseg.prepare import prepare


def test_the_larger_edge_fills_the_grid_and_the_smaller_one_is_in_its_middle():
    """40 slices of 96 x 48 become 20 of 96 x 96: every second slice, 24 columns of zeros aside."""
    array = np.random.default_rng(0).normal(size=(40, 96, 48)).astype(np.float32)
    laid = lay_into_grid(array)
    assert laid.shape == (96, 96, 20)
    np.testing.assert_array_equal(laid[:, 24:72], array[::2].transpose(1, 2, 0))
    assert not laid[:, :24].any()
    assert not laid[:, 72:].any()


def write_patient(folder, *, label=1):
    folder.mkdir(parents=True)
    z, y, x = np.mgrid[:20, :48, :48].astype(np.float32)
    geometry = Geometry((1.0, 1.0, 3.0))
    write_volume(folder / "MR_T1_image.nii.gz", 10 * z + y + x, geometry)
    mask = np.zeros(x.shape, np.uint8)
    mask[5:15, 10:20, 10:20] = label
    write_volume(folder / "MR_T1_mask.nii.gz", mask, geometry)


def test_the_command_writes_what_the_task_reads(tmp_path, capsys):
    write_patient(tmp_path / "nifti" / "STS_902")
    write_patient(tmp_path / "nifti" / "STS_901")
    out = tmp_path / "datasets"
    prepare(config=PORT, data=tmp_path, layout="ibsi", out=out)
    assert "Volumes: 2" in capsys.readouterr().out
    pairs = np.load(out / "t2imgs_and_prereg_labels.npy")
    assert (pairs.shape, pairs.dtype) == ((2, 2, 96, 96, 20), np.uint16)
    # Twice as many rows and columns: every second one is the scan's own.
    y, x, z = np.mgrid[:48, :48, :20]
    np.testing.assert_array_equal(pairs[0, 0, ::2, ::2], 10 * z + y + x)
    np.testing.assert_array_equal(
        pairs[0, 1, 0:96:2, 0:96:2].sum((0, 1)), [0] * 5 + [100] * 10 + [0] * 5
    )
    assert json.loads((out / "patients.json").read_text())["patients"] == ["STS_901", "STS_902"]
    with pytest.raises(DataError, match="exists; expected a folder without it"):
        write_limbs(tmp_path, out)


def test_one_bad_patient_does_not_stop_the_others(tmp_path, capsys):
    write_patient(tmp_path / "nifti" / "STS_901", label=0)
    write_patient(tmp_path / "nifti" / "STS_902")
    with pytest.raises(DataError, match="STS_901"):
        write_limbs(tmp_path, tmp_path / "datasets")
    assert "STS_901: the lesion's mask is empty" in capsys.readouterr().err
    assert len(np.load(tmp_path / "datasets" / "t2imgs_and_prereg_labels.npy")) == 1


@pytest.mark.shared
def test_real_patients_are_those_of_the_file_beside_the_project(shared, tmp_path):
    data = shared / "data"
    folder = tmp_path / "ibsi"
    folder.mkdir()
    (folder / "nifti").symlink_to(data / "sarcoma" / "ibsi_sample" / "nifti")
    write_limbs(folder, tmp_path / "datasets")
    found = np.load(tmp_path / "datasets" / "t2imgs_and_prereg_labels.npy")
    with np.load(data / "raseg" / "extremity_t1.npz") as stored:
        numbers = [list(stored["patient"]).index(name) for name in ("STS_002", "STS_003")]
        image, mask = (stored[name][numbers] for name in ("image", "mask"))
    np.testing.assert_array_equal(found[:, 1], mask)
    # That conversion goes on for half a voxel beyond the edge: a row of one patient.
    apart = np.abs(found[:, 0].astype(int) - image) > 1
    assert apart.any(axis=(2, 3)).sum() == 1
