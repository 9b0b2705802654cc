"""The synthetic file: groups, patients, shapes and windows of the true one."""

import h5py
import numpy as np
import pytest

from common.data.phantoms import read_marker
from common.data.rng import rng_for
from common.errors import OptionError
from sarcoma.config import DATA, PORT, POSITIVE_SLICES
from sarcoma.data import find_patients, is_phantom, split_patients
from sarcoma.phantom import phantom
from sarcoma.phantom_body import SLICES, make_patient


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole phantom with small planes; the slices are the true ones."""
    out = tmp_path_factory.mktemp("phantom") / "data"
    phantom(out, seed=3, plane=64)
    return out


@pytest.fixture(scope="module")
def patient():
    """One patient of true size."""
    return make_patient("STS_002", 100, rng_for(0, 0))


def test_file(folder):
    """The program that trains accepts it as it is."""
    patients = find_patients(folder / DATA.name, PORT)
    assert {name: p.shape[0] for name, p in patients.items()} == SLICES
    assert sum(SLICES.values()) == 1246
    assert len(split_patients(patients, PORT)["test"]) == 2
    assert is_phantom(folder / DATA.name)
    assert read_marker(folder)["seed"] == 3


def test_windows(folder):
    """Labels 0 and 2, in exactly the slices of each patient's window, without gaps."""
    with h5py.File(folder / DATA.name) as file:
        for name, (start, stop) in POSITIVE_SLICES.items():
            label = file[f"label_data/{name}"][()]
            assert set(np.unique(label)) == {0, 2}
            found = np.flatnonzero(label.any(axis=(1, 2)))
            np.testing.assert_array_equal(found, np.arange(start, stop))


def test_dtypes_and_units(patient):
    """Hounsfield-like CT, uptake values near the printed PET statistics of the true data."""
    assert {name: v.dtype.name for name, v in patient.items()} == {
        "ct_data": "int16", "pet_data": "float32", "label_data": "uint8",
    }  # fmt: skip
    assert all(v.shape == (175, 100, 100) for v in patient.values())
    assert patient["ct_data"].min() >= -1024
    assert -1000 < np.median(patient["ct_data"]) < -900  # air around the body
    pet = patient["pet_data"]
    assert -1.0 < pet.min() < 0 < pet.mean() < 1.0
    assert 8 < pet.max() < 30


def test_lesion_is_avid_and_not_alone(patient):
    """Twice as bright as muscle, and other organs are as bright."""
    lesion = patient["label_data"] > 0
    assert 0.6 < lesion.sum() / 477 < 1.6
    inside = patient["pet_data"][lesion].mean()
    assert inside > 2.5
    elsewhere = np.count_nonzero((patient["pet_data"] > inside) & ~lesion)
    assert elsewhere > 3 * lesion.sum()


@pytest.mark.slow
def test_seed_decides(patient):
    again = make_patient("STS_002", 100, rng_for(0, 0))
    other = make_patient("STS_002", 100, rng_for(1, 0))
    for name, volume in patient.items():
        np.testing.assert_array_equal(volume, again[name])
    assert not np.array_equal(patient["pet_data"], other["pet_data"])


@pytest.mark.parametrize("options", [{"plane": 32}, {"seed": -1}])
def test_bad_options(tmp_path, options):
    with pytest.raises(OptionError, match="--"):
        phantom(tmp_path / "data", **options)


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="no phantom wrote"):
        phantom(tmp_path / "data", plane=64)
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"
