"""MetaImage and NRRD files, read and written by SimpleITK behind checks of their headers.

SimpleITK 2.5 needs watching: unknown fields, dimensions and sizes crash or hang the libraries below
it, its MetaImage reader goes on when decompression fails, raw data of another length are read as if
they fitted, and all of them print to stderr. A header is therefore read here first.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import numpy as np
import SimpleITK

from common.data.geometry import Frames, Geometry, Volume
from common.data.nifti import check_memory, unreadable
from common.errors import DataError

ENGINES = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO"}
"""File name endings and the reader and writer of SimpleITK that they stand for."""
LARGEST_HEADER = 16_000_000
LONGEST_META_LINE, LONGEST_NRRD_LINE = 20_000, 1000
"""Characters; a longer field that is not understood overflows buffers below SimpleITK."""
_DEFLATE_MOST = 1100
"""Bytes that one byte of compressed data can hold, at most about 1030."""
_META_FIELD = re.compile(rb"\s*([^=:]{1,200}?)\s*[=:]\s*(.*?)\s*")
_META_TYPES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4,
               "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}  # fmt: skip
_PATTERN = re.compile(r"([^%]+%0?[0-9]{0,2}d[^% ]*) +([0-9]{1,6}) +([0-9]{1,6}) +([1-9][0-9]{0,5})")
_NRRD_FIELDS = {
    "axismaxs", "axismins", "blocksize", "byteskip", "centerings", "centers", "content", "datafile",
    "dimension", "encoding", "endian", "kinds", "labels", "lineskip", "max", "measurementframe",
    "min", "number", "oldmax", "oldmin", "sampleunits", "sizes", "space", "spacedimension",
    "spacedirections", "spaceorigin", "spaceunits", "spacings", "thicknesses", "type", "units",
}  # fmt: skip
_NRRD_TYPES = (
    (re.compile(r"(signed |unsigned |u)char|u?int8(_t)?"), 1),
    (re.compile(r"((signed |unsigned )?short( int)?)|ushort|u?int16(_t)?"), 2),
    (re.compile(r"((signed |unsigned )?int)|uint|u?int32(_t)?|float"), 4),
    (re.compile(r"((signed |unsigned )?long long( int)?)|u?longlong|u?int64(_t)?|double"), 8),
)
"""Names of types and the bytes of a voxel."""
_QUOTED = re.compile(r'"([^"]*)"')
_ANATOMICAL = re.compile(
    r"((left|right)-(anterior|posterior)-(inferior|superior)|[lr][ap][is])(.*)"
)
_PLAIN_SCALE = re.compile(r"(1(\.0*)?)?"), re.compile(r"(-?0(\.0*)?)?")
"""Slope and offset of values that are what they are stored as."""
_STDERR = 2
_stderr_lock = RLock()


@dataclass(frozen=True)
class _Header:
    """What a header says of its data."""

    sizes: tuple[int, ...]
    """Bytes of a voxel, then voxels along each axis."""
    name: str
    """Of the data file or files; "" where the data follow the header."""
    rest: list[bytes]
    """Lines behind the header that name files."""
    begin: int
    skipped: int
    packed: bool
    measured: bool
    """Whether the length of the data is known; text is left to SimpleITK."""
    remarks: list[str]


def read_grid(
    path: Path, *, frames: Frames = "one", flat: bool = False
) -> tuple[tuple[int, int, int], Geometry]:
    """Return the shape (Z, Y, X) and geometry that the header says; see `read_voxels`."""
    return _grid_of(*_open(path), path, frames, flat)


def read_voxels(
    path: Path, *, frames: Frames = "one", flat: bool = False
) -> tuple[np.ndarray, Geometry]:
    """Read the voxels (Z, Y, X) in the file's type; see `common.data.volumes.read_volume`."""
    reader, header = _open(path)
    shape, geometry = _grid_of(reader, header, path, frames, flat)
    check_memory(path, math.prod(header.sizes))
    with _library_messages_held() as messages:
        try:
            array = SimpleITK.GetArrayFromImage(reader.Execute())
        except (RuntimeError, MemoryError) as error:
            raise unreadable(path, reason(error, messages())) from error
        if b"Uncompress failed" in messages():
            raise unreadable(path, "its compressed data are damaged")
    return array.reshape(-1, *shape)[0], geometry


def to_itk(volume: Volume) -> SimpleITK.Image:
    """Return a volume as a SimpleITK image."""
    image = SimpleITK.GetImageFromArray(volume.array)
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    return image


def write_voxels(
    path: Path, array: np.ndarray, geometry: Geometry, *, compress: bool
) -> list[Path]:
    """Write a volume (Z, Y, X); return the files, of a .mhd the data first, then the header."""
    image, files = to_itk(Volume(array, geometry)), [path]
    if path.suffix == ".mhd":
        files = [path.with_suffix(".zraw" if compress else ".raw"), path]
    with _library_messages_held() as messages:
        try:
            SimpleITK.WriteImage(
                image, str(path), useCompression=compress, imageIO=ENGINES[path.suffix]
            )
        except RuntimeError as error:
            raise RuntimeError(reason(error, messages())) from error
    for file in files:
        with file.open("rb") as stream:  # brings delayed failures out
            os.fsync(stream.fileno())
    return files


def reason(error: Exception, messages: bytes = b"") -> str:
    """Return what went wrong in one line, in the library's own words where it printed some."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = messages.decode(errors="replace")
    if not text.strip():
        # The last line names the cause, those before it name source files and callers.
        text = (str(error).strip() or type(error).__name__).splitlines()[-1]
        text = re.sub(r"\w+\(0x[0-9a-f]+\): ", "", text)
    return " ".join(text.split())[:200]


def data_files(path: Path) -> list[str]:
    """Return the files that hold the voxels, as a header names them; none where it holds them.

    Raises:
        DataError: a reader cannot be trusted with the header, the data are of another length, or
            lie outside the header's folder and those below it.
    """
    return _check(path)[0]


def _check(path: Path) -> tuple[list[str], _Header]:
    """Return the data files of a header, see `data_files`, and what else it says."""
    try:
        header = (_read_nrrd if path.suffix.lower() == ".nrrd" else _read_meta)(path)
        slices = _slice_files(header.name, header.rest, path)
        names = slices or [header.name] * bool(header.name)
        for name in names:
            if name.startswith("/") or ".." in Path(name).parts:
                raise DataError(
                    f"{path}: found the data file {name[:80]!r}; expected one below the header's "
                    "folder"
                )
        if slices:
            _check_slices(slices, path, header.sizes)
        elif header.measured:
            found = _size_of_data(path, header.name, header.begin)
            _check_length(path, header, found)
    except OSError as refusal:
        raise unreadable(path, reason(refusal)) from None
    return names, header


def _open(path: Path) -> tuple[SimpleITK.ImageFileReader, _Header]:
    """Return a reader that has read the header, and what we read in it."""
    _, header = _check(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(ENGINES[path.suffix.lower()])
    reader.SetFileName(str(path))
    with _library_messages_held() as messages:
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise unreadable(path, reason(error, messages())) from error
    return reader, header


def _grid_of(
    reader: SimpleITK.ImageFileReader, header: _Header, path: Path, frames: Frames, flat: bool
) -> tuple[tuple[int, int, int], Geometry]:
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    axes = len(size)
    others = size[4 if frames == "first" else 3 :]
    if components != 1 or (axes < 3 and not (flat and axes == 2)) or any(n > 1 for n in others):
        kind = "scalar" if components == 1 else f"{components}-component"
        raise DataError(
            f"{path}: found a {kind} {axes}-D image of size (x, y, ...) {size}, "
            "expected a scalar 3-D volume"
        )
    direction = np.eye(3)
    found = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    direction[: len(found), : len(found)] = found
    spacing = (*reader.GetSpacing()[:3], 1.0)[:3]
    origin = (*reader.GetOrigin()[:3], 0.0)[:3]
    if not (np.isfinite([*spacing, *origin, *direction.ravel()]).all() and min(spacing) > 0):
        raise DataError(
            f"{path}: found spacing {spacing}, origin {origin}; expected finite numbers, spacings "
            "above 0"
        )
    shape = (*size[:3], 1)[2::-1]
    direction = tuple(direction.ravel().tolist())
    return shape, Geometry(spacing, origin, direction, remarks=tuple(header.remarks))


def _read_meta(path: Path) -> _Header:
    """Read a MetaImage header; raise `DataError` for one that its reader cannot be trusted with."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(LONGEST_META_LINE + 1)
            match = _META_FIELD.fullmatch(line)
            if not match or len(line) > LONGEST_META_LINE or file.tell() > LARGEST_HEADER:
                shown = line[:40].decode(errors="replace").strip()
                raise unreadable(path, f"found the header line {shown!r}, expected `name = value`")
            fields[match[1].decode(errors="replace")] = match[2].decode(errors="replace")
        begin = file.tell()
        rest = file.read(LARGEST_HEADER).split(b"\n") if fields["ElementDataFile"] == "LIST" else []
    sizes = _sizes(fields, path, "DimSize", "NDims")
    channels = _integers(fields.get("ElementNumberOfChannels", "1"), path, "channels")[0]
    kind = fields.get("ElementType", "").removeprefix("MET_")
    if kind not in _META_TYPES or channels > 100:
        raise unreadable(path, f"found ElementType {fields.get('ElementType', '')[:40]!r}")
    scale = [fields.get(f"ElementToIntensityFunction{name}", "") for name in ("Slope", "Offset")]
    if not all(_PLAIN_SCALE[place].fullmatch(text) for place, text in enumerate(scale)):
        raise DataError(
            f"{path}: found values to be scaled (slope {scale[0][:20]!r}, offset {scale[1][:20]!r})"
            "; expected the values themselves, as SimpleITK stores them"
        )
    _check_units([fields.get("DistanceUnits", "")], path)
    name = fields["ElementDataFile"]
    spaced = {"ElementSpacing", "ElementSize"} & fields.keys()
    return _Header(
        remarks=[] if spaced else ["it states no spacing: voxels of 1 mm"],
        sizes=(channels * _META_TYPES[kind], *sizes),
        name="" if name.upper() == "LOCAL" else name,
        rest=rest,
        begin=begin,
        skipped=_integer(fields.get("HeaderSize", "0"), path, "HeaderSize"),
        packed=_is_true(fields, "CompressedData"),
        measured=_is_true(fields, "BinaryData", default=True),
    )


def _is_true(fields: dict[str, str], name: str, *, default: bool = False) -> bool:
    return fields.get(name, str(default)).strip()[:1] in ("T", "t", "1")


def _read_nrrd(path: Path) -> _Header:
    """Read an NRRD header; raise `DataError` for one that its reader cannot be trusted with."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not re.fullmatch(rb"NRRD000[1-5]\r?\n", file.readline(20)):
            raise unreadable(path, "it does not begin with NRRD000")
        while line := file.readline(LARGEST_HEADER).rstrip(b"\r\n"):
            if line.startswith(b"#") or b":=" in line:
                continue  # a comment, or a key of the user's
            name, _, value = line.partition(b":")
            field = name.decode(errors="replace").strip().lower().replace(" ", "")
            long = len(line) > LONGEST_NRRD_LINE and field != "content"
            if field not in _NRRD_FIELDS or long or file.tell() > LARGEST_HEADER:
                shown = line[:40].decode(errors="replace")
                raise unreadable(path, f"found the header line {shown!r}, expected a field of NRRD")
            fields[field] = value.decode(errors="replace").strip()
            if field == "datafile" and fields[field].startswith("LIST"):
                break
        begin = file.tell()
        rest = file.read(LARGEST_HEADER).split(b"\n") if fields.get("datafile") == "LIST" else []
    sizes = _sizes(fields, path, "sizes", "dimension")
    kind = " ".join(fields.get("type", "").lower().split())
    voxel_bytes = [size for pattern, size in _NRRD_TYPES if pattern.fullmatch(kind)]
    if not voxel_bytes:
        raise unreadable(path, f"found the type {kind[:40]!r}")
    encoding = fields.get("encoding", "").lower()
    for name in ("units", "spaceunits"):
        _check_units(_QUOTED.findall(fields.get(name, ""))[:3], path)
    remarks = []
    if not _ANATOMICAL.fullmatch(fields.get("space", "").lower()):
        remarks.append("it names no anatomical directions: axes as stored")
    if not {"spacings", "spacedirections"} & fields.keys():
        remarks.append("it states no spacing: voxels of 1 mm")
    return _Header(
        remarks=remarks,
        sizes=(*voxel_bytes, *sizes),
        name=fields.get("datafile", ""),
        rest=rest,
        begin=begin,
        skipped=_integer(fields.get("byteskip", "0"), path, "byte skip"),
        packed=encoding != "raw",
        measured=encoding in ("raw", "gz", "gzip") and "lineskip" not in fields,
    )


def _check_units(units: Iterable[str], path: Path) -> None:
    """Refuse sizes that are not in mm; where nothing is said they are."""
    for unit in units:
        if unit.strip().lower() not in ("", "?", "???", "mm", "millimeter", "millimetre"):
            raise DataError(f"{path}: found sizes in {unit[:20]!r}; expected mm")


def _sizes(fields: dict[str, str], path: Path, name: str, count: str) -> list[int]:
    """Return the sizes of a header, of which there must be as many as it states, 5 at most."""
    sizes = _integers(fields.get(name, ""), path, name)
    if _integers(fields.get(count, ""), path, count) != [len(sizes)] or len(sizes) > 5:
        raise unreadable(path, f"found {len(sizes)} sizes and {count} {fields[count][:9]!r}")
    return sizes


def _integers(text: str, path: Path, name: str) -> list[int]:
    """Return the sizes that a field states, each at least 1."""
    words = text.split()
    if not words or not all(word.isascii() and word.isdigit() and int(word[:18]) for word in words):
        raise unreadable(path, f"found {name} {text[:40]!r}, expected integers of at least 1")
    return [int(word[:18]) for word in words]


def _slice_files(name: str, rest: list[bytes], path: Path) -> list[str]:
    """Return the files that hold a slice each; none where a header names a single file.

    They stand in the remaining lines (LIST), or are a pattern, first, last and step for `sprintf`.
    """
    if name == "LIST":
        return [line.rstrip(b"\r").decode(errors="replace") for line in rest if line.strip()]
    if "%" not in name and not name.startswith("LIST"):
        return []
    match = _PATTERN.fullmatch(name)
    if not match or not name.isprintable():
        raise unreadable(
            path, f"found the data files {name[:40]!r}, expected a name as a%d.raw 1 9 1"
        )
    first, last, step = map(int, match.groups()[1:])
    return [match[1] % number for number in range(first, last + 1, step)]


def _check_slices(names: list[str], path: Path, sizes: Sequence[int]) -> None:
    """Refuse data files that are not one for each slice, all of a slice's length."""
    expected = math.prod(sizes[:-1])
    if len(names) != sizes[-1]:
        raise unreadable(path, f"found {len(names)} data files for {sizes[-1]} slices")
    for name in names:
        found = _size_of_data(path, name, 0)
        if found != expected:
            raise unreadable(path, f"found {found} bytes in {name[:80]}, expected {expected}")


def _size_of_data(path: Path, name: str, begin: int) -> int:
    """Return the bytes of a header's data: behind it, or in a file of their own."""
    if not name:
        return path.stat().st_size - begin
    try:
        return (path.parent / name).stat().st_size
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        raise unreadable(path, f"its data file {name[:80]} is missing") from None


def _integer(text: str, path: Path, name: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise unreadable(path, f"found {name} {text[:40]!r}, expected an integer")
    return int(text)


def _check_length(path: Path, header: _Header, found: int) -> None:
    """Refuse data shorter than the header says, or longer unless it skips all but the end (-1)."""
    expected = math.prod(header.sizes)
    if header.packed:
        if expected > found * _DEFLATE_MOST:
            raise unreadable(path, f"truncated: found {found} packed bytes for {expected}")
        return
    expected += max(header.skipped, 0)
    if found < expected:
        raise unreadable(path, f"truncated: found {found} of {expected} bytes of data")
    if header.skipped >= 0 and found > expected:
        raise DataError(
            f"{path}: found {found} bytes of data, its header says {expected}; expected sizes and "
            "type to fit the data"
        )


@contextmanager
def _library_messages_held() -> Iterator:
    """Hold what C libraries print to stderr; hand it on if the block succeeds, drop it if not.

    Gives a function that returns the bytes held so far. One block at a time: the file descriptor
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
