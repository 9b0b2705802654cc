"""The public copy of the patients becomes a file like the paper's."""

import h5py
import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.ibsi_collection import find_sources
from common.data.volumes import write_volume
from common.errors import DataError, OptionError
from sarcoma.config import PORT
from sarcoma.data import find_patients, load_patient, preparation_of
from sarcoma.ibsi import DIFFERENCE, arrays_of
from sarcoma.prepare import prepare
from sarcoma.scoring import middle_of_crop

CT = Geometry((1.0, 1.0, 2.5), (10.0, 20.0, 30.0))
PET = Geometry((5.0, 5.0, 2.5), (12.0, 22.0, 30.0))


def write_patient(folder, *, mask=None, pet=PET):
    """A ramp along every axis of the CT, a PET that is its x in cm, a box of lesion."""
    folder.mkdir(parents=True)
    z, y, x = np.mgrid[:8, :20, :30].astype(np.float32)
    write_volume(folder / "CT_image.nii.gz", 100 * z + 10 * y + x, CT)
    z, y, x = np.mgrid[:8, :4, :6].astype(np.float32)
    write_volume(folder / "PET_image.nii.gz", (12 + 5 * x) / 10, pet)
    if mask is None:
        mask = np.zeros((8, 20, 30), np.uint8)
        mask[2:6, 5:15, 10:20] = 1
    write_volume(folder / "CT_mask.nii.gz", mask, CT)


def test_the_grid_begins_at_the_corner_of_the_ct(tmp_path):
    """Voxels of 5 mm: the first centre lies at 2 whole voxels of 1 mm, half a slice of 2.5 mm."""
    write_patient(tmp_path / "nifti" / "STS_901")
    (source,) = find_sources(tmp_path)
    arrays = arrays_of(source)
    assert {name: array.shape for name, array in arrays.items()} == dict.fromkeys(
        ("ct_data", "pet_data", "label_data"), (4, 100, 100)
    )
    assert [str(array.dtype) for array in arrays.values()] == ["float32", "float32", "uint8"]
    inner = np.s_[:, 48:52, 47:53]  # 4 rows and 6 columns in the middle of 100
    z, y, x = np.mgrid[:4, :4, :6]
    np.testing.assert_allclose(
        arrays["ct_data"][inner], 100 * (2 * z + 0.5) + 10 * (5 * y + 2) + 5 * x + 2, rtol=1e-6
    )
    outside = np.ones((100, 100), bool)
    outside[inner[1:]] = False
    assert (arrays["ct_data"][:, outside] == -1000).all()
    np.testing.assert_allclose(
        arrays["pet_data"][inner], np.broadcast_to((12 + 5 * x) / 10, x.shape)
    )
    assert (arrays["pet_data"][:, outside] == 0).all()
    label = np.zeros((4, 4, 6), int)
    label[1:3, 1:3, 2:4] = 2  # slices 2.5 and 4.5, rows 7 and 12, columns 12 and 17
    np.testing.assert_array_equal(arrays["label_data"][inner], label)


def test_voxels_that_are_lesion_in_part_are_the_rim(tmp_path):
    mask = np.zeros((8, 20, 30), np.uint8)
    mask[3:, 5:15, 10:20] = 1  # slice 2.5 is half lesion
    write_patient(tmp_path / "nifti" / "STS_901", mask=mask)
    label = arrays_of(find_sources(tmp_path)[0])["label_data"]
    assert [int(plane.max()) for plane in label] == [0, 1, 2, 2]


def test_the_command_writes_a_file_that_says_what_differs(tmp_path, capsys):
    for number in (901, 902):
        write_patient(tmp_path / "data" / "nifti" / f"STS_{number}")
    out = tmp_path / "made" / "sts.h5"
    prepare(tmp_path / "data", out, config=PORT, layout="ibsi")
    said = capsys.readouterr().out
    assert "Patients: 2" in said
    assert f"not the paper's file: {DIFFERENCE}" in said
    assert preparation_of(out) == (DIFFERENCE, 50.0)
    patients = find_patients(out, PORT)
    assert list(patients) == ["STS_901", "STS_902"]
    assert load_patient(patients["STS_901"], ("ct",)).label.sum() == 8


def test_the_crop_alone_gives_an_answer():
    """Of 40 x 30 x 26 voxels of 5 mm cropped 5 cm around the lesion, 20 x 10 x 6 are its box; the
    padding around them is no part of the crop."""
    ct = np.full((40, 50, 60), -1000.0)
    ct[:, 10:40, 20:46] = np.random.default_rng(0).normal(size=(40, 30, 26))
    found = middle_of_crop(ct, 50.0)
    z, y, x = np.mgrid[:40, :50, :60]
    expected = ((z - 19.5) / 10) ** 2 + ((y - 24.5) / 5) ** 2 + ((x - 32.5) / 3) ** 2 <= 1
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == pytest.approx(4 / 3 * np.pi * 10 * 5 * 3, rel=0.03)


def test_one_bad_patient_does_not_stop_the_others(tmp_path, capsys):
    write_patient(tmp_path / "nifti" / "STS_901", mask=np.zeros((8, 20, 30), np.uint8))
    write_patient(tmp_path / "nifti" / "STS_902")
    (tmp_path / "nifti" / "STS_903").mkdir()
    with pytest.raises(DataError, match="for 2 of 3 patients: STS_901, STS_903; the others"):
        prepare(tmp_path, tmp_path / "sts.h5", config=PORT, layout="ibsi")
    said = capsys.readouterr().err
    assert "STS_901: the lesion's mask is empty" in said
    assert "STS_903" in said.split("CT_image.nii.gz")[0]
    with h5py.File(tmp_path / "sts.h5") as file:
        assert list(file["ct_data"]) == ["STS_902"]


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match="expected the folder ibsi_validation"):
        prepare(tmp_path, tmp_path / "sts.h5", config=PORT, layout="ibsi")
    with pytest.raises(OptionError, match=r"prepared: expected a name ending in \.h5"):
        prepare(tmp_path, tmp_path / "prepared", config=PORT, layout="ibsi")
    write_patient(tmp_path / "nifti" / "STS_901")
    mask = np.ones((8, 20, 30), np.uint8)
    moved = Geometry((1.0, 1.0, 2.5), (10.0, 20.0, 40.0))
    write_volume(tmp_path / "nifti" / "STS_901" / "CT_mask.nii.gz", mask, moved)
    with pytest.raises(DataError, match=r"STS_901: CT and its lesion: expected one voxel grid"):
        prepare(tmp_path, tmp_path / "sts.h5", config=PORT, layout="ibsi")
    assert not (tmp_path / "sts.h5").exists()


@pytest.mark.shared
def test_real_patients_are_those_of_the_files_beside_the_project(shared):
    """From NIfTI to the bit; from DICOM within rounding, its labels to the voxel."""
    data = shared / "data" / "sarcoma"
    for source in find_sources(data / "ibsi_sample"):
        for group, found in arrays_of(source).items():
            name = "paper_seven" if source.nifti else "others"
            with h5py.File(data / f"sts_5mm_{name}.h5") as file:
                expected = file[group][source.id][()]
            assert found.dtype == expected.dtype
            limit = 0 if source.nifti or group == "label_data" else 3e-3
            np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.shared
def test_a_pet_in_other_units_is_refused(shared, tmp_path):
    import pydicom

    source = shared / "data" / "sarcoma" / "ibsi_sample" / "dicom" / "STS_042"
    for path in source.rglob("*.dcm"):
        target = tmp_path / "dicom" / "STS_042" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = pydicom.dcmread(path)
        if content.Modality == "PT":
            content.Units = "CNTS"
        content.save_as(target)
    with pytest.raises(DataError, match=r"a PET in CNTS; expected BQML or GML \(0054,1001\)"):
        arrays_of(find_sources(tmp_path)[0])
