"""NIfTI files in the engine's axis order (x, y, z), their headers kept for what is written back.

The other papers read through `common.data.volumes`; the engine's 2-D and 4-D files, its `-` for an
absent channel and its own output headers [G24] need the header itself.
"""

import os
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from common.errors import DataError

ENDINGS = (".nii", ".nii.gz")
READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError)
ALIGNED = 2
"""NIfTI code of a transform that is aligned to another scan, which the engine writes."""


@dataclass(frozen=True)
class Image:
    """One scan: voxels (x, y, z) in the file's order, and its header."""

    array: np.ndarray
    header: nibabel.Nifti1Header
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in the array's axis order."""
        return tuple(float(size) for size in self.header.get_zooms()[:3])


def read_image(path: Path, *, first_of_many: bool = False, finite: bool = True) -> Image:
    """Read a NIfTI file as it lies: neither reoriented nor resampled.

    Args:
        path: .nii or .nii.gz; 2-D becomes (x, y, 1).
        first_of_many: [D8] take the first volume of a 4-D file, as v0.7.0 does; else a 4-D file
            must hold a single volume, as v0.8.4 asks.
        finite: refuse NaN and infinite voxels.
    Returns:
        `Image`; integers stay integers unless the file scales them, which gives float64.
    Raises:
        DataError: the file is missing, damaged, has other dimensions or voxels that are no number.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise DataError(f"{path}: expected a file of {' or '.join(ENDINGS)}")
    try:
        loaded = nibabel.load(path)
        array = np.asanyarray(loaded.dataobj)
    except READ_ERRORS as failure:
        reason = getattr(failure, "strerror", None) or " ".join(str(failure).split())
        raise DataError(f"{path}: cannot be read ({reason})") from None
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 4 and (first_of_many or array.shape[3] == 1):
        array = array[..., 0]
    if array.ndim != 3 or not array.size:
        raise DataError(f"{path}: found {shape}, expected a 3-D scan, or 4-D with one volume")
    if finite:
        check_finite(array, path)
    return Image(array, loaded.header, loaded.affine)


def check_finite(array: np.ndarray, path: Path) -> None:
    """Refuse NaN and infinite voxels."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path}: found NaN or infinite voxels, expected finite values")


def write_image(
    path: Path, array: np.ndarray, like: Image, *, copy_header: bool, stored: np.dtype | None = None
) -> None:
    """Write voxels in the geometry of a scan; the file is whole or not there.

    Args:
        path: .nii or .nii.gz in an existing folder.
        array: (x, y, z) in a type that NIfTI has.
        like: the scan.
        copy_header: [G24] keep the scan's units, codes and description; else those of the engine:
            sform code 2, qform code 0, all others empty.
        stored: type in the file; integers get a slope and an intercept. None: that of the array.
    Raises:
        DataError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    if copy_header:
        header = like.header.copy()
        header.set_data_dtype(array.dtype if stored is None else stored)
        header["cal_min"] = header["cal_max"] = 0
        image = nibabel.Nifti1Image(array, like.affine, header)
    else:
        image = nibabel.Nifti1Image(array, like.affine)
        image.header.set_zooms(like.spacing_mm)
        image.set_sform(like.affine, code=ALIGNED)
        image.set_qform(None, code=0)
    ending = ".nii.gz" if path.name.endswith(".nii.gz") else ".nii"
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.partial{ending}")
    try:
        nibabel.save(image, temporary)
        os.replace(temporary, path)
    except OSError as failure:
        raise DataError(f"{path}: cannot be written ({failure.strerror or failure})") from None
    finally:
        temporary.unlink(missing_ok=True)
