"""DICOM as clinics have it: a folder of slices as one volume, and contours as a mask.

What a header leaves open is not guessed: a series is refused, in one line that names file and tag,
where slices are missing, doubled or unevenly spaced, where the gantry was tilted, and where sizes
or orientations differ. Coordinates of DICOM are those of `common.data.geometry`: LPS, in mm.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from matplotlib.path import Path as Polygon

from common.data.dicom_paths import Place, find_series, is_dicom
from common.data.geometry import Geometry, Volume
from common.data.labels import ROUNDING
from common.errors import DataError, OptionError, one_line

try:
    import pydicom
except ModuleNotFoundError:
    raise OptionError(
        "DICOM needs pydicom: pip install 'segmentation-reproductions[dicom]'"
    ) from None

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # checked here
UNEVEN = 0.01
"""Part of the distance of two slices by which another one may differ."""
TILT_DEGREES = 0.1
"""Angle between the normal of the slices and the line along which they lie; beyond it the volume
is sheared."""
NEEDED = {
    "ImagePositionPatient": "(0020,0032)", "ImageOrientationPatient": "(0020,0037)",
    "PixelSpacing": "(0028,0030)", "Rows": "(0028,0010)", "Columns": "(0028,0011)",
    "SeriesInstanceUID": "(0020,000e)",
}  # fmt: skip


SECONDS_OF_DAY = 86400.0


@dataclass(frozen=True)
class Slices:
    """The headers of one series, in the order of the slices."""

    files: tuple[Path, ...]
    headers: tuple[pydicom.Dataset, ...]
    """Without their pixels."""
    geometry: Geometry
    shape: tuple[int, int, int]
    """(Z, Y, X)."""


@dataclass(frozen=True)
class Series:
    """The slices of one series as a volume."""

    volume: Volume
    """(Z, Y, X), rescaled by slope and intercept."""
    headers: tuple[pydicom.Dataset, ...]
    """Of the slices in their order, without their pixels."""
    files: tuple[Path, ...]
    """In the order of the slices."""

    @property
    def header(self) -> pydicom.Dataset:
        """That of the first slice."""
        return self.headers[0]


def read_voxels(path: Path, **_: Any) -> tuple[np.ndarray, Geometry]:
    """Read a series as `common.data.volumes.read_volume` gives it: PET in SUV, all else rescaled.

    Raises:
        DataError: see `read_series` and `in_suv`.
    """
    series = read_series(path)
    if series.header.get("Modality") == "PT":
        return in_suv(series), series.volume.geometry
    return series.volume.array, series.volume.geometry


def read_grid(path: Path, **_: Any) -> tuple[tuple[int, int, int], Geometry]:
    """Return shape (Z, Y, X) and geometry of a series from its headers."""
    slices = read_headers(path)
    return slices.shape, slices.geometry


def read_series(path: Path) -> Series:
    """Read a series, in whatever order its files are named.

    Args:
        path: a folder whose files, other than DICOM passed over, are slices of one series; a folder
            of several followed by the SeriesInstanceUID of one; or a file of the series.

    Raises:
        DataError: there is no series, or several and none is named; a slice lacks a tag; slices are
            missing, doubled, unevenly spaced, or differ in size or orientation; the gantry was
            tilted; the pixels are colours or cannot be decoded.
    """
    slices = read_headers(path)
    array = _read_pixels(slices)
    return Series(Volume(array, slices.geometry), slices.headers, slices.files)


def read_headers(path: Path) -> Slices:
    """Read the headers of a series and bring them into order; see `read_series`."""
    folder, series, file = find_series(path) or Place(Path(path))
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; expected a folder of DICOM")
    found: dict[str, list] = defaultdict(list)
    for each in sorted(each for each in folder.iterdir() if each.is_file()):
        header = _read_header(each)
        if header is not None:
            found[str(header.SeriesInstanceUID)].append((each, header))
            if each == file:
                series = str(header.SeriesInstanceUID)
    if not found:
        raise DataError(f"{folder}: found no slices of DICOM; expected those of a series")
    if series is None and len(found) > 1:
        known = ", ".join(f"{uid} ({len(slices)} slices)" for uid, slices in found.items())
        raise DataError(f"{folder}: found several series; expected one of them (--series): {known}")
    if series is not None and series not in found:
        raise DataError(f"{folder}: found no series {series}; expected {', '.join(found)}")
    return _order(found[series or next(iter(found))], folder)


def in_suv(series: Series) -> np.ndarray:
    """Return the values of a PET as standardised uptake by body weight, g/ml, float32.

    Activities in Bq/ml are divided by the dose, decayed to the time they are corrected to, per gram
    of the patient (QIBA's vendor-neutral rules).

    Raises:
        DataError: the units are others, the decay is not corrected, or a tag is missing.
    """
    header, where = series.header, series.files[0]
    units = str(header.get("Units", "")).strip()
    if units == "GML":
        kind = str(header.get("SUVType", "BW")).strip()
        if kind != "BW":
            raise DataError(f"{where}: found SUV by {kind} (0054,1006); expected BW, body weight")
        return series.volume.array.astype(np.float32)
    if units != "BQML":
        raise DataError(
            f"{where}: found a PET in {units or 'no units'}; expected BQML or GML (0054,1001)"
        )
    corrected = header.get("CorrectedImage") or []
    corrected = [corrected] if isinstance(corrected, str) else [str(each) for each in corrected]
    if "DECY" not in corrected or "ATTN" not in corrected:
        raise DataError(
            f"{where}: found the corrections {', '.join(corrected) or 'none'} (0028,0051); "
            "expected ATTN and DECY among them"
        )
    doses = header.get("RadiopharmaceuticalInformationSequence") or [pydicom.Dataset()]
    grams = 1000 * _positive(header, "PatientWeight", "(0010,1030)", where)
    dose = _positive(doses[0], "RadionuclideTotalDose", "(0018,1074)", where)
    half_life = _positive(doses[0], "RadionuclideHalfLife", "(0018,1075)", where)
    correction = str(header.get("DecayCorrection", "")).strip()
    if correction == "START":
        dose *= 0.5 ** (_seconds_since_injection(series, doses[0]) / half_life)
    elif correction != "ADMIN":
        raise DataError(
            f"{where}: found the decay corrected to {correction or 'no time'} (0054,1102); "
            "expected START or ADMIN"
        )
    return (series.volume.array * (grams / dose)).astype(np.float32)


def _positive(header: pydicom.Dataset, name: str, tag: str, where: Path) -> float:
    value = header.get(name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < np.inf:
        raise DataError(f"{where}: found {name} {tag} of {value}; expected it, for SUV")
    return number


def _seconds_since_injection(series: Series, dose: pydicom.Dataset) -> float:
    """Return the time from the injection to the beginning of the series.

    The series' own time is taken unless it is later than the first acquisition: some workstations
    write there when they made the series.
    """
    where = series.files[0]
    acquired = min(_time(header, "AcquisitionTime", "(0008,0032)", where)
                   for header in series.headers)  # fmt: skip
    began = min(_time(series.header, "SeriesTime", "(0008,0031)", where), acquired)
    if dose.get("RadiopharmaceuticalStartTime") in (None, ""):
        injected = _clock(str(dose.get("RadiopharmaceuticalStartDateTime", ""))[8:])
    else:
        injected = _clock(str(dose.RadiopharmaceuticalStartTime))
    if injected is None:
        raise DataError(
            f"{where}: found no RadiopharmaceuticalStartTime (0018,1072); expected it, for SUV"
        )
    return (began - injected) % SECONDS_OF_DAY  # a night may lie between


def _time(header: pydicom.Dataset, name: str, tag: str, where: Path) -> float:
    seconds = _clock(str(header.get(name, "")))
    if seconds is None:
        raise DataError(f"{where}: found {name} {tag} of {header.get(name)}; expected it, for SUV")
    return seconds


def _clock(text: str) -> float | None:
    """Return the seconds since midnight of a time of DICOM, HHMMSS.FFFFFF; None: it is none."""
    found = re.fullmatch(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)(?:[+-]\d{4})?", text.strip())
    return found and 3600.0 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def read_contours(path: Path, structure: str, like: Volume) -> np.ndarray:
    """Return the mask of a structure that an RTSTRUCT file draws on the slices of a scan.

    A voxel is inside where its centre is within the contour; contours of one slice that lie in each
    other cut holes.

    Args:
        path: file of the contours.
        structure: what its name begins with, whatever the case, such as "GTV_Mass".
        like: the scan.

    Returns:
        bool (Z, Y, X), of the scan's shape.

    Raises:
        DataError: it is no such file, has no or several such structures, or a contour lies between
            or outside the slices, or is not closed and planar.
    """
    content = _read(path)
    names = {
        int(roi.ROINumber): str(roi.ROIName) for roi in content.get("StructureSetROISequence", [])
    }
    wanted = [n for n, name in names.items() if name.lower().startswith(structure.lower())]
    if len(wanted) != 1:
        raise DataError(
            f"{path}: found the structures {', '.join(names.values()) or 'none'}; expected one "
            f"whose name begins with {structure}"
        )
    contours = [
        contour
        for roi in content.get("ROIContourSequence", [])
        if int(roi.ReferencedROINumber) == wanted[0]
        for contour in roi.get("ContourSequence", [])
    ]
    if not contours:
        raise DataError(f"{path}: {names[wanted[0]]} has no contours")
    mask = np.zeros(like.array.shape, bool)
    for contour in contours:
        if contour.get("ContourGeometricType") != "CLOSED_PLANAR":
            raise DataError(
                f"{path}: found a contour of the kind {contour.get('ContourGeometricType')} in "
                f"{names[wanted[0]]}; expected CLOSED_PLANAR (3006,0042)"
            )
        points = np.asarray(contour.ContourData, float).reshape(-1, 3)
        _fill(mask, to_indices(points, like.geometry), f"{path}: {names[wanted[0]]}")
    return mask


def to_indices(points_mm: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return points (n, 3) in mm as positions x, y, z in a volume, centres of voxels whole."""
    axes = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    return np.linalg.solve(axes, (points_mm - geometry.origin_mm).T).T


def _fill(mask: np.ndarray, points: np.ndarray, name: str) -> None:
    """Turn over, in a mask (Z, Y, X), the voxels within one contour of positions x, y, z."""
    slice_ = round(float(points[:, 2].mean()))
    if np.abs(points[:, 2] - slice_).max() > 0.1:
        raise DataError(
            f"{name}: found a contour from slice {points[:, 2].min():.2f} to "
            f"{points[:, 2].max():.2f}; expected it on one of the scan's"
        )
    depth, rows, columns = mask.shape
    low, high = points.min(axis=0), points.max(axis=0)
    if not 0 <= slice_ < depth or (low[:2] < -0.5).any() or (high[:2] > [columns, rows]).any():
        raise DataError(f"{name}: found a contour outside the scan; expected all within it")
    y, x = np.mgrid[:rows, :columns]
    inside = Polygon(points[:, :2]).contains_points(np.column_stack([x.ravel(), y.ravel()]))
    mask[slice_] ^= inside.reshape(rows, columns)


def _read(path: Path, *, pixels: bool = False) -> pydicom.Dataset:
    """Read a file of DICOM; `DataError` where it is none."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a file of DICOM") from None
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, KeyError, AttributeError,
            TypeError, NotImplementedError, MemoryError, RecursionError) as failure:  # fmt: skip
        raise DataError(f"{path}: not readable as DICOM ({one_line(failure)})") from None


def _read_header(path: Path) -> pydicom.Dataset | None:
    """Return the header of a slice; None for what is no DICOM or has no pixels."""
    if not is_dicom(path):
        return None
    header = _read(path)
    if "Rows" not in header and "ImagePositionPatient" not in header:
        return None  # contours, a directory, a report
    try:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise DataError(
                f"{path}: found {header.NumberOfFrames} frames in one file (0028,0008); expected a "
                "file per slice: convert it to .nii.gz, as dcm2niix does"
            )
        for name, tag in NEEDED.items():
            if header.get(name) in (None, ""):
                raise DataError(f"{path}: found no {name} {tag}")
        if (samples := int(header.get("SamplesPerPixel", 1))) != 1:
            raise DataError(f"{path}: found {samples} samples per pixel (0028,0002); expected 1")
        for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6),
                            ("PixelSpacing", 2)):  # fmt: skip
            values = np.asarray(header[name].value, float)
            if values.shape != (count,) or not np.isfinite(values).all():
                raise DataError(f"{path}: found {name} {NEEDED[name]} of {header[name].value}")
    except (ValueError, TypeError) as failure:
        raise DataError(f"{path}: not readable as DICOM ({one_line(failure)})") from None
    return header


def _order(slices: Sequence[tuple[Path, pydicom.Dataset]], folder: Path) -> Slices:
    """Bring slices into their order and find their grid."""
    first_path, first = slices[0]
    axes = np.asarray(first.ImageOrientationPatient, float)
    shape = (int(first.Rows), int(first.Columns))
    if len(slices) < 2:
        raise DataError(f"{folder}: found a single slice; expected the slices of a volume")
    for path, header in slices[1:]:
        differs = ""
        if (int(header.Rows), int(header.Columns)) != shape:
            differs = f"{header.Rows} x {header.Columns} pixels (0028,0010)"
        elif not np.allclose(np.asarray(header.ImageOrientationPatient, float), axes, atol=1e-4):
            differs = "another orientation (0020,0037)"
        elif not np.allclose(header.PixelSpacing, first.PixelSpacing, rtol=1e-4):
            differs = "another pixel spacing (0028,0030)"
        if differs:
            raise DataError(f"{path}: found {differs}; expected that of {first_path.name}")
    normal = np.cross(axes[:3], axes[3:])
    places = np.array([header.ImagePositionPatient for _, header in slices], float)
    order = np.argsort(places @ normal, kind="stable")
    paths, places = [slices[n][0] for n in order], places[order]
    headers = tuple(slices[n][1] for n in order)
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    for before, after, step in zip(paths, paths[1:], steps, strict=False):
        place = f"{step:.4g} mm from {before.name} (0020,0032)"
        if step < ROUNDING:
            raise DataError(f"{after}: found {place}; expected one slice at each place")
        if abs(step - usual) > max(UNEVEN * usual, 0.01):
            raise DataError(
                f"{after}: found {place}; expected {usual:.4g} mm as between the others: slices "
                "are missing or unevenly spaced"
            )
    along = (places[-1] - places[0]) / np.linalg.norm(places[-1] - places[0])
    if (tilt := np.degrees(np.arccos(np.clip(along @ normal, -1, 1)))) > TILT_DEGREES:
        raise DataError(
            f"{folder}: found slices tilted by {tilt:.1f} degrees against the line on which they "
            "lie (0020,0037); expected none: resample the series first"
        )
    rows_mm, columns_mm = map(float, first.PixelSpacing)
    direction = np.column_stack([axes[:3], axes[3:], normal])
    geometry = Geometry(
        (columns_mm, rows_mm, float(steps.mean())),
        tuple(places[0].tolist()), tuple(direction.ravel().tolist()),
    )  # fmt: skip
    return Slices(tuple(paths), headers, geometry, (len(paths), *shape))


def _read_pixels(slices: Slices) -> np.ndarray:
    """Return the rescaled values (Z, Y, X) of the slices."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in slices.files])
    warned = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        array = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        array = np.stack([_decode(path) for path in slices.files])
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(warned)
    if array.shape != slices.shape:
        folder = slices.files[0].parent
        raise DataError(f"{folder}: found {array.shape} voxels; expected {slices.shape}")
    return array


def _decode(path: Path) -> np.ndarray:
    """Return the rescaled values of a slice that SimpleITK cannot decode, by pydicom's plugins."""
    content = _read(path, pixels=True)
    syntax = getattr(content.file_meta.get("TransferSyntaxUID"), "name", "no transfer syntax")
    try:
        values = content.pixel_array.astype(np.float32)
    except Exception as failure:  # whatever a plugin raises
        raise DataError(
            f"{path}: the pixels cannot be decoded ({one_line(failure)[-200:]}); found {syntax} "
            "(0002,0010): decompress the series, or pip install 'pylibjpeg[all]'"
        ) from None
    return values * float(content.get("RescaleSlope", 1)) + float(
        content.get("RescaleIntercept", 0)
    )
