"""The public copy of the patients, as the IBSI publishes it, in the layout of the paper's file.

CT, PET and lesion (see `common.data.ibsi_collection`) come to the grid of the paper's file, 5 mm in
every direction, whose corner is that of the CT.
"""

from pathlib import Path

import numpy as np
import SimpleITK
from tqdm import tqdm

from common.data.dicom import in_suv
from common.data.geometry import Volume
from common.data.ibsi_collection import MARGIN_MM, Source, find_sources
from common.data.itk_files import to_itk
from common.errors import DataError
from common.runs.failures import Failures
from sarcoma.data import GROUPS, LABELS, SPACING_MM, check_hdf5_name, written_file

PLANE = 100
"""Rows and columns of the paper's slices, to which smaller ones are padded."""
AIR_HU = -1000.0
DIFFERENCE = "cropped 5 cm around the contour, whose GTV_Mass alone is the lesion"
"""How these patients differ from those of the paper's file."""


def write_collection(folder: Path, out: Path) -> int:
    """Write all patients of the collection into one HDF5 file; return how many they are.

    Args:
        folder: ibsi_validation.
        out: file, ending in .h5 or .hdf5; it is replaced whole or not at all.

    Raises:
        OptionError: `out` has another ending.
        DataError: a patient cannot be used (the others are written), or the file cannot be.
    """
    check_hdf5_name(out)
    sources = find_sources(folder)
    failures = Failures(len(sources), "patient")
    with written_file(out, failures) as file:
        file.attrs["source"] = "theibsi/data_sets, ibsi_validation"
        file.attrs["preparation"] = DIFFERENCE
        file.attrs["crop_margin_mm"] = MARGIN_MM
        for source in tqdm(sources, desc="read", unit="patient", disable=None):
            with failures.of(source.id):
                for group, array in arrays_of(source).items():
                    file.create_dataset(f"{group}/{source.id}", data=array, compression="gzip")
    failures.conclude()
    return len(sources)


def arrays_of(source: Source) -> dict[str, np.ndarray]:
    """Return a patient's arrays (Z, Y, X) by group: CT in HU and PET in SUV, float32; labels uint8,
    2 where more than half of a voxel is lesion, 1 where some of it is.

    Raises:
        DataError: a file is missing or cannot be used, the mask is empty or on another grid than
            the CT, the PET's units are none that SUV can be had of.
    """
    ct, mask, _ = source.read("CT", lesion=True)
    pet, _, series = source.read("PET", lesion=False)
    if series is not None:
        pet = Volume(in_suv(series), pet.geometry)
    grid = grid_of(ct)
    lesion = resample(mask, grid, outside=0.0)
    label = (lesion > 0.5).astype(np.uint8) + (lesion > 0)
    return {
        GROUPS["ct"]: pad(resample(ct, grid, outside=AIR_HU), AIR_HU),
        GROUPS["pet"]: pad(resample(pet, grid, outside=0.0), 0),
        LABELS: pad(label.astype(np.uint8), 0),
    }


def grid_of(ct: Volume) -> SimpleITK.Image:
    """Return the grid of 5 mm that begins at the CT's corner and holds all of it."""
    if not np.allclose(ct.geometry.direction, np.eye(3).ravel(), atol=1e-4):
        raise DataError("found a CT with turned axes; expected those of the collection, all LPS")
    spacing = np.array(ct.geometry.spacing_mm)
    size = np.ceil(np.array(ct.array.shape[::-1]) * spacing / SPACING_MM).astype(int)
    grid = SimpleITK.Image(size.tolist(), SimpleITK.sitkFloat32)
    grid.SetSpacing((SPACING_MM,) * 3)
    grid.SetOrigin((np.array(ct.geometry.origin_mm) + (SPACING_MM - spacing) / 2).tolist())
    return grid


def resample(volume: Volume, grid: SimpleITK.Image, *, outside: float) -> np.ndarray:
    """Interpolate a volume linearly on a grid; float32 (Z, Y, X)."""
    found = SimpleITK.Resample(
        SimpleITK.Cast(to_itk(volume), SimpleITK.sitkFloat32), grid, SimpleITK.Transform(),
        SimpleITK.sitkLinear, outside, SimpleITK.sitkFloat32,
    )  # fmt: skip
    return SimpleITK.GetArrayFromImage(found)


def pad(array: np.ndarray, value: float) -> np.ndarray:
    """Centre the slices of an array in `PLANE` rows and columns, larger ones as they are."""
    lacking = [max(0, PLANE - size) for size in array.shape[1:]]
    around = [(0, 0), *((n // 2, n - n // 2) for n in lacking)]
    return np.pad(array, around, constant_values=value)
