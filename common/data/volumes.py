"""Scalar 3-D volumes on disk: NIfTI, MetaImage and NRRD, with their geometry.

Arrays are (Z, Y, X); the geometry is ordered (x, y, z), in mm, as SimpleITK has it (LPS).

SimpleITK 2.5 needs watching. Its NIfTI reader returns whatever a truncated file still holds and
zeros for NaN, its NIfTI writer returns normally on a full disk, its MetaImage reader goes on when
decompression fails, and the libraries below it print to stderr. All five are dealt with here.
"""

import gzip
import os
import re
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import RLock

import numpy as np
import SimpleITK

from common.errors import DataError

FORMATS = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
}
"""File name endings and the reader and writer of SimpleITK that they stand for."""

GRID_TOLERANCE = 0.1
"""Two grids are one if no corner of the volume is further off than this part of a voxel's edge."""

_NIFTI_DATA_OFFSET = 352
_NIFTI_HEADER_SIZE = 348
_NIFTI_FLOATS = {"16": "f4", "64": "f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_STDERR = 2
_stderr_lock = RLock()


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie in space; ordered (x, y, z)."""

    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    """Row-major 3 x 3 matrix; its columns are the directions of the array's x, y and z axes."""

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing in the order of the array's axes."""
        return self.spacing_mm[::-1]


@dataclass(frozen=True)
class Volume:
    """Voxels (Z, Y, X) and where they lie."""

    array: np.ndarray
    geometry: Geometry

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing in the order of the array's axes."""
        return self.geometry.spacing_zyx_mm


def read_volume(path: str | Path, dtype: np.typing.DTypeLike | None = None) -> Volume:
    """Read a scalar 3-D volume; a 4-D file with one frame counts as one.

    Args:
        path: .nii, .nii.gz, .mha, .mhd (with the data file beside it) or .nrrd.
        dtype: type of the array, the file's own if None. Values must survive a conversion to
            integers exactly.

    Returns:
        `Volume`.

    Raises:
        DataError: the file is missing, unreadable, truncated, not scalar or not 3-D, is a NIfTI
            with NaN or infinite voxels, or has values that the integer type asked for cannot hold.
    """
    path = Path(path)
    reader = _read_header(path)
    shape, geometry = _grid_of(reader)
    if FORMATS[_ending(path)] == "NiftiImageIO":
        _check_nifti_data(path, reader)
    with _library_messages_held() as messages:
        try:
            array = SimpleITK.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise _unreadable(path, _reason(error, messages())) from error
        if b"Uncompress failed" in messages():
            raise _unreadable(path, "its compressed data are damaged")
    return Volume(_converted(array.reshape(shape), dtype, path), geometry)


def read_geometry(path: str | Path) -> tuple[tuple[int, int, int], Geometry]:
    """Read the shape and geometry of a volume from its header alone.

    Args:
        path: see `read_volume`.

    Returns:
        Shape (Z, Y, X) and `Geometry`.

    Raises:
        DataError: the file is missing, its header is unreadable, or it is not a scalar 3-D volume.
    """
    return _grid_of(_read_header(Path(path)))


def write_volume(
    path: str | Path, array: np.ndarray, geometry: Geometry, *, compress: bool = False
) -> None:
    """Write a volume so that the file is either whole or not there.

    The bytes go to a temporary file in the same folder, which then takes the name; on failure an
    existing file stays as it was. A .mhd and its .raw cannot change in one step: the old header is
    removed before its data are replaced, so that one never describes the other's voxels.

    Args:
        path: ending as in `read_volume`, in an existing folder; an existing file is replaced.
        array: (Z, Y, X), any real dtype; stored as uint8 if boolean, as int32 if int64 and within
            its range, as float32 if float16.
        geometry: written as it is; NIfTI keeps float32 precision.
        compress: MetaImage and NRRD with compressed data (.zraw beside a .mhd); for NIfTI the
            ending decides.

    Raises:
        DataError: the ending is unknown, the folder is missing or cannot be written, or the disk is
            full.
        ValueError: the array is not 3-D.
    """
    path = Path(path)
    ending = _ending(path)
    image = _image(array, geometry)
    if not os.path.isdir(path.parent):
        raise DataError(f"{path}: cannot be written, found no folder {path.parent}")
    if os.path.isdir(path):
        raise DataError(f"{path}: cannot be written, found a folder of this name, expected a file")
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.partial{ending}")
    data_ending = ".zraw" if compress else ".raw"
    parts = [temporary, temporary.with_suffix(data_ending)] if ending == ".mhd" else [temporary]
    compressed = compress and FORMATS[ending] != "NiftiImageIO"
    with _library_messages_held() as messages:
        try:
            SimpleITK.WriteImage(
                image, str(temporary), useCompression=compressed, imageIO=FORMATS[ending]
            )
            _check_is_written(parts, np.prod(image.GetSize()) * image.GetSizeOfPixelComponent())
            _put_in_place(temporary, path, data_ending)
        except (RuntimeError, OSError) as error:
            found = _reason(error, messages())
            raise DataError(
                f"{path}: cannot be written ({found}), expected a writable folder with enough space"
            ) from error
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def check_same_grid(
    first: "Volume | tuple[tuple[int, ...], Geometry]",
    second: "Volume | tuple[tuple[int, ...], Geometry]",
    *,
    names: tuple[str, str],
) -> None:
    """Refuse two volumes whose voxels do not lie at the same places.

    The shapes must be equal, and no corner voxel may lie further from its counterpart than
    `GRID_TOLERANCE` times the smallest spacing; this covers spacing, origin and direction at once
    and lets the rounding of the file formats pass.

    Args:
        first: a volume, or what `read_geometry` returns.
        second: the same.
        names: what the message calls the two, file names as a rule.

    Raises:
        DataError: they differ; names both and what differs.
    """
    (shape, geometry), (other_shape, other_geometry) = (
        (grid.array.shape, grid.geometry) if isinstance(grid, Volume) else grid
        for grid in (first, second)
    )
    on_two_grids = f"{names[0]} and {names[1]}: expected one voxel grid, found"
    if tuple(shape) != tuple(other_shape):
        raise DataError(f"{on_two_grids} shape (z, y, x) {tuple(shape)} and {tuple(other_shape)}")
    distances = np.linalg.norm(_corners(shape, geometry) - _corners(shape, other_geometry), axis=1)
    # Written so that a geometry with NaN is refused.
    if not distances.max() <= GRID_TOLERANCE * min(geometry.spacing_mm):
        differences = _differences(geometry, other_geometry)
        raise DataError(f"{on_two_grids} {differences} (up to {distances.max():.3g} mm apart)")


def _ending(path: Path) -> str:
    for ending in sorted(FORMATS, key=len, reverse=True):
        if path.name.lower().endswith(ending):
            return path.name[-len(ending) :].lower()
    raise DataError(f"{path}: unknown kind of volume, expected {', '.join(FORMATS)}")


def _read_header(path: Path) -> SimpleITK.ImageFileReader:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(FORMATS[_ending(path)])
    reader.SetFileName(str(path))
    with _library_messages_held() as messages:
        try:
            path.open("rb").close()  # says why it fails, which the libraries do not
            reader.ReadImageInformation()
        except (RuntimeError, OSError) as error:
            raise _unreadable(path, _reason(error, messages())) from error
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if components != 1 or len(size) < 3 or any(n != 1 for n in size[3:]):
        kind = "scalar" if components == 1 else f"{components}-component"
        raise DataError(
            f"{path}: found a {kind} {len(size)}-D image of size (x, y, ...) {size}, "
            "expected a scalar 3-D volume"
        )
    return reader


def _grid_of(reader: SimpleITK.ImageFileReader) -> tuple[tuple[int, int, int], Geometry]:
    axes = len(reader.GetSize())
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    geometry = Geometry(
        spacing_mm=tuple(reader.GetSpacing()[:3]),
        origin_mm=tuple(reader.GetOrigin()[:3]),
        direction=tuple(direction.ravel().tolist()),
    )
    return tuple(reader.GetSize()[2::-1]), geometry


def _check_nifti_data(path: Path, reader: SimpleITK.ImageFileReader) -> None:
    """Compare the bytes that are there with those the header promises, and look for NaN.

    Reads the file once; gzip's checksum is checked on the way.
    """
    field = {key: reader.GetMetaData(key) for key in ("vox_offset", "bitpix", "datatype")}
    offset = int(float(field["vox_offset"]))
    bits = int(np.prod(reader.GetSize(), dtype=np.int64)) * int(field["bitpix"])
    expected = offset + (bits + 7) // 8
    try:
        found, not_finite = _scan_nifti(path, offset, _NIFTI_FLOATS.get(field["datatype"]))
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, _reason(error)) from error
    if found < expected:
        raise _unreadable(path, f"truncated: found {found} of {expected} bytes")
    if not_finite:
        raise DataError(
            f"{path}: found {not_finite} NaN or infinite voxels, expected finite values"
        )


def _scan_nifti(path: Path, offset: int, float_type: str | None) -> tuple[int, int]:
    """Return the size of the unpacked file and how many voxels of a float type are not finite."""
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP_MAGIC
    if not is_packed and float_type is None:
        return path.stat().st_size, 0
    not_finite = 0
    with gzip.open(path) if is_packed else path.open("rb") as file:
        header = file.read(offset)
        size = len(header)
        order = "<" if header[:4] == _NIFTI_HEADER_SIZE.to_bytes(4, "little") else ">"
        while chunk := file.read(1 << 20):  # a whole number of voxels, but for the last chunk
            size += len(chunk)
            if float_type is not None:
                values = np.frombuffer(chunk, order + float_type, len(chunk) // int(float_type[1]))
                not_finite += values.size - np.count_nonzero(np.isfinite(values))
    return size, not_finite


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
            raise DataError(f"{path}: found the value {wrong}, expected whole numbers in {dtype}")
    return array.astype(dtype, copy=False)


def _image(array: np.ndarray, geometry: Geometry) -> SimpleITK.Image:
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
    image = SimpleITK.GetImageFromArray(array.astype(array.dtype.newbyteorder("="), copy=False))
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def _check_is_written(parts: list[Path], data_bytes: int) -> None:
    """Bring delayed failures out, and those that the NIfTI writer keeps to itself."""
    for part in parts:
        with part.open("rb") as file:
            os.fsync(file.fileno())
    ending, size = _ending(parts[0]), parts[0].stat().st_size
    expected = _NIFTI_DATA_OFFSET + int(data_bytes)
    if ending == ".nii.gz":
        # A gzip file ends with the size of what it holds, modulo 2**32.
        with parts[0].open("rb") as file:
            file.seek(max(size - 4, 0))
            size = int.from_bytes(file.read(), "little")
        expected %= 1 << 32
    if ending in (".nii", ".nii.gz") and size != expected:
        raise OSError("not all bytes could be written")


def _put_in_place(temporary: Path, path: Path, data_ending: str) -> None:
    if _ending(path) == ".mhd":
        data, temporary_data = (file.with_suffix(data_ending) for file in (path, temporary))
        lines = temporary.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("ElementDataFile")]
        temporary.write_text("\n".join([*kept, f"ElementDataFile = {data.name}", ""]))
        path.unlink(missing_ok=True)
        os.replace(temporary_data, data)
    os.replace(temporary, path)


def _corners(shape: tuple[int, ...], geometry: Geometry) -> np.ndarray:
    """Centres of the eight corner voxels, (8, 3), (x, y, z) in mm."""
    indices = np.array(list(product(*((0, size - 1) for size in shape[::-1]))))
    direction = np.reshape(geometry.direction, (3, 3))
    return geometry.origin_mm + indices * geometry.spacing_mm @ direction.T


def _differences(first: Geometry, second: Geometry) -> str:
    pairs = {
        "spacing (x, y, z) in mm": (first.spacing_mm, second.spacing_mm),
        "origin (x, y, z) in mm": (first.origin_mm, second.origin_mm),
        "direction": (first.direction, second.direction),
    }
    shown = [
        f"{name} {_rounded(one)} and {_rounded(other)}"
        for name, (one, other) in pairs.items()
        if not np.allclose(one, other, rtol=1e-4, atol=1e-4)
    ]
    return "; ".join(shown) or "slightly different spacings, origins or directions"


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.5g}" for value in values) + ")"


def _unreadable(path: Path, found: str) -> DataError:
    return DataError(f"{path}: cannot be read ({found}), expected a whole {_ending(path)} file")


def _reason(error: Exception, messages: bytes = b"") -> str:
    """Say what went wrong in one short line, in the library's own words where it printed some."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = messages.decode(errors="replace")
    if not text.strip():
        # The last line names the cause, those before it name source files and callers.
        text = (str(error).strip() or type(error).__name__).splitlines()[-1]
        text = re.sub(r"\w+\(0x[0-9a-f]+\): ", "", text)
    return " ".join(text.split())[:200]


@contextmanager
def _library_messages_held() -> Iterator:
    """Hold what C libraries print to stderr; hand it on if the block succeeds, drop it if not.

    Yields a function that returns the bytes held so far. One block at a time: the file descriptor
    belongs to the whole process, and what other threads print meanwhile must come out again.
    """
    with _stderr_lock:
        held = os.memfd_create("stderr")
        try:
            stderr = os.dup(_STDERR)
            os.dup2(held, _STDERR)
            try:
                yield lambda: os.pread(held, 1 << 20, 0)
            finally:
                os.dup2(stderr, _STDERR)
                os.close(stderr)
            os.write(_STDERR, os.pread(held, 1 << 20, 0))
        finally:
            os.close(held)
