"""Scalar 3-D volumes on disk: NIfTI, MetaImage, NRRD and series of DICOM, with their geometry.

Arrays are (Z, Y, X); see `common.data.geometry` for what is said of space. NIfTI is read and
written in `common.data.nifti`, MetaImage and NRRD through SimpleITK in `common.data.itk_files`;
series of DICOM, which `common.data.dicom_paths` recognises, are read in `common.data.dicom`.
"""

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np

from common.data import nifti
from common.data.dicom_paths import Place, find_series, holds_dicom
from common.data.geometry import Frames, Geometry, Volume
from common.errors import DataError, WriteError
from common.files import scratch_folder

ITK_ENDINGS = (".mha", ".mhd", ".nrrd")
FORMATS = (*nifti.ENDINGS, *ITK_ENDINGS)
"""File name endings, in small letters; a file may have them in capitals."""
STEM_ENDINGS = (".seg.nrrd", *sorted(FORMATS, key=len, reverse=True))
"""What does not belong to a scan's name; 3D Slicer calls a segmentation case1.seg.nrrd."""
UNREAD = (".hdr", ".img", ".nhdr", ".gipl", ".mgh", ".mgz", ".mnc", ".nii.bz2", ".dcm", ".ima")
"""Endings of other image files, which a listing names rather than passes over."""


def read_volume(
    path: str | Path,
    dtype: np.typing.DTypeLike | None = None,
    *,
    frames: Frames = "one",
    flat: bool = False,
    finite: bool = True,
) -> Volume:
    """Read a scalar 3-D volume.

    Args:
        path: .nii, .nii.gz, .mha, .mhd (with the data file beside it), .nrrd, or a series of DICOM
            as `common.data.dicom_paths` has them: CT in HU, PET in SUV by body weight.
        dtype: type of the array, the file's own if None. Values must survive a conversion to
            integers exactly.
        frames: "one": a 4-D file must hold a single volume; "first": the first of several counts.
        flat: take a 2-D image as one slice.
        finite: refuse NaN and infinite voxels.

    Returns:
        `Volume`; voxels in the stored type, or float64 where a NIfTI file scales them.

    Raises:
        DataError: the file is missing, unreadable, shorter or longer than its header says, not
            scalar or not 3-D, has NaN or infinite voxels, or has values that the integer type asked
            for cannot hold; or the header says what cannot be used (see `common.data.nifti`).
    """
    path = Path(path)
    array, geometry = _reader_of(path).read_voxels(path, frames=frames, flat=flat)
    array = _converted(array, dtype, path)
    if finite:
        check_finite(array, path)
    return Volume(array, geometry)


def read_geometry(
    path: str | Path, *, frames: Frames = "one", flat: bool = False
) -> tuple[tuple[int, int, int], Geometry]:
    """Read the shape (Z, Y, X) and geometry of a volume from its header; see `read_volume`.

    Raises:
        DataError: the file is missing, its header is unreadable, or it is not a scalar 3-D volume.
    """
    path = Path(path)
    return _reader_of(path).read_grid(path, frames=frames, flat=flat)


def files_of(path: Path) -> list[Path]:
    """Return the files that are read of a scan: the file, then those that hold its voxels.

    Raises:
        DataError: it is a MetaImage or NRRD file whose header cannot be believed, or no series.
    """
    if _series_at(path):
        return list(_dicom().read_headers(path).files)
    if path.suffix.lower() not in ITK_ENDINGS:
        return [path]
    return [path, *(path.parent / name for name in _itk_files().data_files(path))]


def check_finite(array: np.ndarray, path: str | Path) -> None:
    """Refuse NaN and infinite voxels; the `DataError` names the file and how many there are."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise DataError(f"{path}: found {count} NaN or infinite voxels, expected finite values")


def check_scan(array: np.ndarray, path: str | Path) -> None:
    """Raise `DataError` for what is not a scan: NaN and infinite voxels, or one value only."""
    check_finite(array, path)
    if array.min() == array.max():
        raise DataError(f"{path}: every voxel is {array.flat[0]}; expected a scan")


def write_volume(
    path: str | Path,
    array: np.ndarray,
    geometry: Geometry,
    *,
    compress: bool = False,
    header: nibabel.Nifti1Header | None = None,
) -> None:
    """Write a volume so that the file is either whole or not there.

    The bytes go to a temporary folder beside it, from where the file then takes its name; on
    failure an existing file stays as it was. A .mhd and its .raw cannot change in one step: the old
    header is removed before its data are replaced, so that one never describes the other's voxels.

    Args:
        path: ending as in `read_volume`, in an existing folder; an existing file is replaced.
        array: (Z, Y, X), any real dtype; stored as uint8 if boolean, as int32 if int64 and within
            its range, as float32 if float16.
        geometry: written as it is, in NIfTI with both forms as they were read; NIfTI-1 keeps
            float32 precision.
        compress: MetaImage and NRRD with compressed data (.zraw beside a .mhd); for NIfTI the
            ending decides.
        header: of a NIfTI file; None: one of type, size and geometry alone.

    Raises:
        DataError: the ending is unknown.
        WriteError: the folder is missing or cannot be written, or the disk is full.
        ValueError: the array is not 3-D.
    """
    path = Path(path)
    ending = ending_of(path)
    array = _storable(array)
    if not os.path.isdir(path.parent):
        raise WriteError(f"{path}: cannot be written, found no folder {path.parent}")
    if os.path.isdir(path):
        raise WriteError(f"{path}: cannot be written, found a folder of this name, expected a file")
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    try:
        with scratch_folder(target) as folder:
            temporary = folder / f"{path.name[: -len(ending)]}{ending}"
            if ending in nifti.ENDINGS:
                header = header or nifti.header_for(array.shape, array.dtype, geometry)
                nifti.write_voxels(temporary, array, header, packed=ending == ".nii.gz")
                files = [temporary]
            else:
                files = _itk_files().write_voxels(temporary, array, geometry, compress=compress)
            for file in files[:-1]:
                target.unlink(missing_ok=True)
                os.replace(file, target.with_name(file.name))
            os.replace(files[-1], target)
    except (RuntimeError, OSError) as error:
        raise WriteError(
            f"{path}: cannot be written ({_itk_files().reason(error)}), expected a writable folder "
            "with enough space"
        ) from error


def ending_of(path: Path) -> str:
    """Return the ending of a volume in small letters; raise `DataError` unless in `FORMATS`."""
    for ending in STEM_ENDINGS[1:]:
        if path.name.lower().endswith(ending):
            return ending
    found = "a folder without DICOM" if path.is_dir() else "unknown kind of volume"
    if path.suffix.lower() in (".dcm", ".ima"):
        found = "no file of DICOM" if path.is_file() else "no such file"
    raise DataError(f"{path}: {found}, expected {', '.join(FORMATS)} or a series of DICOM")


def is_volume(path: Path) -> bool:
    """Return whether what is in a folder is a volume: a file by its name, or a folder of DICOM;
    hidden ones are none."""
    if path.name.startswith("."):
        return False
    return holds_dicom(path) if path.is_dir() else path.name.lower().endswith(FORMATS)


def stem_of(path: Path) -> str:
    """Return a scan's name: that of its file without the ending of a volume, also without both of
    `.nii.gz`, or that of the folder of its series."""
    if place := _series_at(path):
        return place.folder.resolve().name
    for ending in STEM_ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def explain_unread(names: Iterable[str]) -> str:
    """Return a hint at image files of other kinds in a folder, or "" where there are none."""
    others = sorted(name for name in names if name.lower().endswith(UNREAD))
    if not others:
        return ""
    if others[0].lower().endswith((".dcm", ".ima")):
        return f"; found {others[0]}: expected a folder of its own for each series of DICOM"
    return f"; found {others[0]}, which is not read: convert it to .nii.gz"


def _converted(array: np.ndarray, dtype, path: Path) -> np.ndarray:
    if dtype is None:
        return array
    dtype = np.dtype(dtype)
    if np.issubdtype(dtype, np.integer) and array.dtype != dtype:
        limits = np.iinfo(dtype)
        fits = (array >= limits.min) & (array <= limits.max)
        if not np.issubdtype(array.dtype, np.integer):
            fits &= array == np.rint(array)
        if not fits.all():
            wrong = array[~fits][0]
            raise DataError(f"{path}: found the value {wrong}, expected integers in {dtype}")
    return array.astype(dtype, copy=False)


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array in a type that every format has, in the machine's byte order."""
    array = np.asarray(array)
    if array.ndim != 3:
        raise ValueError(f"expected an array (Z, Y, X), found shape {array.shape}")
    limits = np.iinfo(np.int32)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype == np.int64 and limits.min <= array.min() and array.max() <= limits.max:
        array = array.astype(np.int32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _series_at(path: Path) -> Place | None:
    """Return the series that a path means; a name of another format is never one."""
    return None if path.name.lower().endswith(FORMATS) else find_series(path)


def _reader_of(path: Path) -> ModuleType:
    if _series_at(path):
        return _dicom()
    return nifti if ending_of(path) in nifti.ENDINGS else _itk_files()


def _itk_files() -> ModuleType:
    """Return `common.data.itk_files`, without SimpleITK's start-up where all files are NIfTI."""
    return importlib.import_module("common.data.itk_files")


def _dicom() -> ModuleType:
    """Return `common.data.dicom`, whose library is an extra."""
    return importlib.import_module("common.data.dicom")
