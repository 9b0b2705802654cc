"""NIfTI files, versions 1 and 2: what a header says is checked before a voxel is believed.

Which form counts: the sform where its code is above 0, else the qform where its code is, else
neither, and the axes are taken as stored. Both are kept and written back as they were. Sizes are
brought to mm, values are scaled by slope and intercept.
"""

import gzip
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import nibabel
import numpy as np
import psutil
from nibabel.nifti1 import data_type_codes, intent_codes
from nibabel.quaternions import fillpositive, quat2mat
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling, endian_codes

from common.data.geometry import GRID_TOLERANCE, Frames, Geometry, largest_distance_mm
from common.errors import DataError, one_line

ENDINGS = (".nii", ".nii.gz")
UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the code of the spatial unit: not stated, metre, millimetre, micrometre."""
NO_SCALARS = range(1004, 1011)
"""Intent codes of matrices, vectors, points, triangles and quaternions."""
LARGEST_NIFTI1_EDGE = 32767
SMALLEST_MM, LARGEST_MM = 1e-9, 1e9
"""Of sizes and positions in the header's unit; others are damage and overflow in products."""
POSITION_FIELDS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
                   "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")  # fmt: skip
SCANNER, ALIGNED = 1, 2
"""Codes of a form: in the scanner's coordinates, or aligned to another scan."""
_SPATIAL_UNIT = 7
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MOST = 1100
"""Bytes that one byte of gzip can hold, at most about 1030."""
_CHUNK = 1 << 20
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}


def read_grid(
    path: Path, *, frames: Frames = "one", flat: bool = False
) -> tuple[tuple[int, int, int], Geometry]:
    """Return the shape (Z, Y, X) and geometry that the header says; see `read_voxels`."""
    with _unreadable_named(path), _open(path) as file:
        _, _, shape, geometry = _read_head(file, path, frames, flat)
    return shape, geometry


def read_voxels(
    path: Path, *, frames: Frames = "one", flat: bool = False
) -> tuple[np.ndarray, Geometry]:
    """Read (Z, Y, X) in the machine's byte order, packed or not whatever the file is called.

    See `common.data.volumes.read_volume`. The `DataError` of a header that cannot be believed or
    used names the field.
    """
    with _unreadable_named(path), _open(path) as file:
        header, count, shape, geometry = _read_head(file, path, frames, flat)
        array = _read_array(file, path, header, count, shape)
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise DataError(
            f"{path}: found the slope {header['scl_slope']} and intercept "
            f"{header['scl_inter']}; expected finite numbers"
        ) from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return apply_read_scaling(array, slope, intercept), geometry


def write_voxels(
    path: Path, array: np.ndarray, header: nibabel.Nifti1Header, *, packed: bool
) -> None:
    """Write an array (Z, Y, X) under a header, whose shape and slope are set here.

    It is stored as the header's type; the gzip of `packed` files has no time stamp.
    """
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(array.T, None, header)
    with open(path, "wb") as file:
        if packed:
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)
        file.flush()
        os.fsync(file.fileno())


def header_for(shape: tuple[int, ...], dtype: np.dtype, geometry: Geometry) -> nibabel.Nifti1Header:
    """Return a new header: both forms, their codes and the unit as a NIfTI file stated them.

    Where no file did, or the geometry has changed since, both forms are the geometry's.
    """
    stated = geometry.nifti
    kept = stated is not None and _is_stated(geometry)
    large = max(shape) > LARGEST_NIFTI1_EDGE or (kept and isinstance(stated, nibabel.Nifti2Header))
    header = nibabel.Nifti2Header() if large else nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape[::-1])
    if kept:
        for name in POSITION_FIELDS:
            header[name] = stated[name]
        header["pixdim"][:4] = stated["pixdim"][:4]
        header["xyzt_units"] = stated["xyzt_units"] & _SPATIAL_UNIT
        return header
    affine = affine_of(geometry)
    header.set_qform(affine, code=SCANNER)
    header.set_sform(affine, code=SCANNER)
    header.set_xyzt_units("mm")
    return header


def affine_of(geometry: Geometry) -> np.ndarray:
    """Return the matrix (4, 4) from voxels (x, y, z) to mm (right, anterior, superior)."""
    affine = np.eye(4)
    affine[:3, :3] = _RAS_TO_LPS @ np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    affine[:3, 3] = _RAS_TO_LPS @ geometry.origin_mm
    return affine


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        is_packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) if is_packed else nullcontext(raw) as file:
            yield file


@contextmanager
def _unreadable_named(path: Path) -> Iterator[None]:
    """Turn what the system or a damaged file raises into one line."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as failure:
        raise unreadable(path, one_line(failure)) from None
    except MemoryError:
        raise DataError(f"{path}: found more voxels than fit in memory; expected fewer") from None


def check_memory(path: Path, size: int) -> None:
    """Refuse voxels of more bytes than the machine has memory, of which it would take all."""
    if size > psutil.virtual_memory().total:
        raise DataError(f"{path}: found {size} bytes of voxels; expected what fits in memory")


def unreadable(path: Path, found: str) -> DataError:
    """Return the mistake of a file, of any format, that is not whole."""
    ending = ".nii.gz" if path.name.lower().endswith(".gz") else path.suffix.lower()
    return DataError(f"{path}: cannot be read ({found}), expected a whole {ending} file")


def _read_head(file: IO[bytes], path: Path, frames: Frames, flat: bool) -> tuple:
    """Return what a header says, checked: itself, the number of volumes, (Z, Y, X), geometry."""
    header = _parse(file, path)
    sizes = _sizes(header, path, frames, flat)
    _check_kind(header, path)
    shape = sizes[2::-1]
    return header, math.prod(sizes[3:]), shape, _geometry(header, shape, path)


def _parse(file: IO[bytes], path: Path) -> nibabel.Nifti1Header:
    """Read a header with its extensions, none of its values repaired."""
    start = file.read(4)
    for length, kind in _HEADERS.items():
        for order, byte_order in (("<", "little"), (">", "big")):
            if start == length.to_bytes(4, byte_order):
                block = start + file.read(length - 4)
                if len(block) < length:
                    raise unreadable(path, f"truncated: found {len(block)} bytes of a header")
                header = kind(block, order, check=False)
                _check_magic_and_offset(header, path)
                _read_extensions(header, file, path)
                return header
    raise unreadable(path, "it does not begin with a NIfTI header")


def _read_extensions(header: nibabel.Nifti1Header, file: IO[bytes], path: Path) -> None:
    size = int(header["vox_offset"]) - file.tell() - 4
    if file.read(4)[:1] in (b"", b"\0"):
        return
    swapped = header.endianness != endian_codes["native"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header.extensions = header.exts_klass.from_fileobj(file, size, swapped)
    except (HeaderDataError, ValueError, OverflowError):
        raise unreadable(path, "the extensions of its header are damaged") from None


def _check_magic_and_offset(header: nibabel.Nifti1Header, path: Path) -> None:
    magic = header["magic"].item()[:3]
    if magic in (b"ni1", b"ni2"):
        raise DataError(
            f"{path}: found the header of a pair of files (.hdr, .img); expected one .nii file"
        )
    if magic != (b"n+2" if isinstance(header, nibabel.Nifti2Header) else b"n+1"):
        raise unreadable(path, f"found the magic {magic!r}, which is not NIfTI's")
    offset, least = float(header["vox_offset"]), int(header.single_vox_offset)
    if not (offset >= least and offset.is_integer()):
        raise DataError(
            f"{path}: found vox_offset {offset:g}; expected an integer of at least {least}, behind "
            "the header"
        )


def _sizes(header, path: Path, frames: Frames, flat: bool) -> tuple[int, ...]:
    """Return x, y, z and frames; check the number of axes and the length of each."""
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise DataError(f"{path}: found dim[0] = {axes}; expected the number of axes, 1 to 7")
    sizes = tuple(int(size) for size in header["dim"][1 : axes + 1])
    if min(sizes) < 1:
        raise DataError(f"{path}: found sizes (x, y, ...) {sizes}; expected at least 1 voxel each")
    if axes == 2 and flat:
        return (*sizes, 1)
    if axes < 3 or any(size > 1 for size in sizes[3 if frames == "one" else 4 :]):
        raise DataError(
            f"{path}: found a scalar {axes}-D image of size (x, y, ...) {sizes}, expected a scalar "
            "3-D volume"
        )
    return sizes


def _check_kind(header, path: Path) -> None:
    """Refuse voxels that are not single real numbers: colours, complex numbers, vectors."""
    code, intent = int(header["datatype"]), int(header["intent_code"])
    try:
        dtype, name = header.get_data_dtype(), data_type_codes.label[code]
    except (HeaderDataError, KeyError):
        dtype, name = None, f"code {code}"
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"{path}: found voxels of the type {name}; expected real numbers of at most 64 bits"
        )
    if intent in NO_SCALARS:
        raise DataError(
            f"{path}: found the intent {intent_codes.label[intent]!r}; expected intensities or "
            "labels"
        )


def _geometry(header, shape: tuple[int, int, int], path: Path) -> Geometry:
    """Return where the voxels lie, by the form that counts; see the top of this module."""
    unit = int(header["xyzt_units"]) & _SPATIAL_UNIT
    if unit not in UNITS_MM:
        raise DataError(f"{path}: found the code {unit} of a spatial unit; expected 0 to 3")
    remarks = []
    if UNITS_MM[unit] != 1.0:
        remarks.append(f"sizes in {'metres' if unit == 1 else 'micrometres'} were brought to mm")
    if header["sform_code"] > 0:
        affine = _sform(header, path)
    elif header["qform_code"] > 0:
        affine = _qform(header, shape, path)
    else:
        affine = np.diag([*_pixdim(header, shape, path), 1.0])
        affine[:3] = _RAS_TO_LPS @ affine[:3]
        remarks.append("it states no position (codes of sform and qform are 0): axes as stored")
    affine[:3] *= UNITS_MM[unit]
    geometry = Geometry(*_placed(affine), header)
    _check_right_angles(geometry, shape, path)
    if header["sform_code"] > 0 and header["qform_code"] > 0:
        remarks += _other_form(header, geometry, shape, UNITS_MM[unit])
    return replace(geometry, remarks=tuple(remarks))


def _placed(affine: np.ndarray) -> tuple[tuple, tuple, tuple]:
    """Return spacing, origin and direction of a matrix to (right, anterior, superior) mm."""
    columns = _RAS_TO_LPS @ affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    # Adding 0 makes 0 of -0.
    direction = (columns / spacing).ravel() + 0.0
    origin = _RAS_TO_LPS @ affine[:3, 3] + 0.0
    return tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.tolist())


def _sform(header, path: Path) -> np.ndarray:
    affine = header.get_sform()
    believable = bool((np.abs(affine) <= LARGEST_MM).all())  # NaN is not
    lengths = np.linalg.norm(affine[:3, :3], axis=0) if believable else np.zeros(3)
    if lengths.min() < SMALLEST_MM or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        shown = "; ".join(" ".join(f"{value:.4g}" for value in row) for row in affine[:3])
        raise DataError(f"{path}: found the sform {shown}; expected three axes of finite length")
    return affine


def _qform(header, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    vector = np.array([header[f"quatern_{name}"] for name in "bcd"], np.float64)
    origin = np.array([header[f"qoffset_{name}"] for name in "xyz"], np.float64)
    try:
        if not (np.abs([*vector, *origin]) <= LARGEST_MM).all():
            raise ValueError
        rotation = quat2mat(fillpositive(vector, w2_thresh=-header.quaternion_threshold))
    except ValueError:
        raise DataError(
            f"{path}: found the qform's quaternion {vector.tolist()} and offset {origin.tolist()}; "
            "expected a rotation"
        ) from None
    spacing = _pixdim(header, shape, path)
    if header["pixdim"][0] < 0:
        spacing[2] *= -1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing, origin
    return affine


def _pixdim(header, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    """Return the sizes of voxels (x, y, z) in the header's unit; along one voxel 0 counts as 1."""
    spacing = header["pixdim"][1:4].astype(np.float64)
    spacing[(spacing == 0) & (np.array(shape[::-1]) == 1)] = 1.0
    if not ((spacing >= SMALLEST_MM) & (spacing <= LARGEST_MM)).all():
        raise DataError(
            f"{path}: found voxels of {' x '.join(f'{size:.4g}' for size in spacing)} (pixdim, "
            "x, y, z); expected sizes above 0"
        )
    return spacing


def _check_right_angles(geometry: Geometry, shape: tuple[int, int, int], path: Path) -> None:
    """Refuse a sheared grid; what rounding may do to a corner is let pass."""
    direction = np.reshape(geometry.direction, (3, 3))
    left, _, right = np.linalg.svd(direction)
    moved = largest_distance_mm(
        shape, geometry, replace(geometry, direction=tuple((left @ right).ravel()))
    )
    if moved > GRID_TOLERANCE * min(geometry.spacing_mm):
        cosines = np.abs(direction.T @ direction - np.eye(3)).max()
        raise DataError(
            f"{path}: found axes that miss a right angle by {np.degrees(np.arcsin(cosines)):.3g} "
            f"degrees (corners {moved:.3g} mm off); expected a grid that is not sheared: resample "
            "it first"
        )


def _other_form(header, geometry: Geometry, shape, unit_mm: float) -> list[str]:
    """Return a remark if the qform differs from the sform, which counts."""
    try:
        affine = _qform(header, shape, Path())
    except DataError:
        return ["its qform cannot be used; its sform counts"]
    affine[:3] *= unit_mm
    apart = largest_distance_mm(shape, geometry, Geometry(*_placed(affine)))
    if apart <= GRID_TOLERANCE * min(geometry.spacing_mm):
        return []
    return [f"its qform and sform are up to {apart:.3g} mm apart; the sform counts"]


def _is_stated(geometry: Geometry) -> bool:
    """Return whether a geometry is still that of its header."""
    header = geometry.nifti
    shape = tuple(max(int(size), 1) for size in header["dim"][3:0:-1])
    try:
        return _geometry(header, shape, Path()) == geometry
    except DataError:
        return False


def _read_array(file: IO[bytes], path: Path, header, frames: int, shape: tuple) -> np.ndarray:
    """Read the first of some volumes and check that the file ends where it should."""
    offset, dtype = int(header["vox_offset"]), header.get_data_dtype()
    size = offset + math.prod(shape) * frames * dtype.itemsize
    packed, on_disk = isinstance(file, gzip.GzipFile), path.stat().st_size
    if size > (on_disk * _GZIP_MOST if packed else on_disk):
        found = "" if packed else f": found {on_disk} of {size} bytes"
        raise unreadable(path, f"truncated{found}")
    check_memory(path, math.prod(shape) * dtype.itemsize)
    file.seek(offset)
    array = np.empty(shape, dtype)
    target, done = memoryview(array.reshape(-1).view(np.uint8)), 0
    while done < len(target) and (count := file.readinto(target[done:])):
        done += count
    found = offset + done
    while found < size and (chunk := file.read(min(size - found, _CHUNK))):
        found += len(chunk)
    if found < size:
        raise unreadable(path, f"truncated: found {found} of {size} bytes")
    if file.read(1):
        raise DataError(
            f"{path}: found more than the {size} bytes that its header says; expected dim, "
            "datatype and vox_offset to fit the data"
        )
    return array
