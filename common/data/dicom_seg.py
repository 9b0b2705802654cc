"""Label maps as DICOM Segmentation, one segment per label, referring to the slices of the scan.

A mask that lies mirrored on its scan is the classic failure of this trade. Every file is therefore
read again before it is put in its place, by code that shares nothing with what wrote it, and
compared with the label map: every voxel, and where each slice lies.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom

from common.data.dicom import Slices, read_headers
from common.data.geometry import Geometry
from common.errors import DataError, OptionError, WriteError, one_line
from common.files import scratch_folder

try:
    import highdicom
except ModuleNotFoundError:
    raise OptionError(
        "DICOM Segmentation needs highdicom: pip install 'segmentation-reproductions[dicom]'"
    ) from None

RESEARCH = "research use only, not a medical device"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of DICOM Segmentation."""
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
FARTHEST_MM = 1e-3
"""That a slice may lie from where the scan has it; positions are written with 16 characters."""
_ANATOMY = ("123037004", "Anatomical structure")
_ABNORMAL = ("49755003", "Morphologically abnormal structure")
_TISSUE = ("85756007", "Body tissue structure")
TERMS = {
    "brain": (_ANATOMY, ("12738006", "Brain")),
    "cortex": (_ANATOMY, ("40146001", "Cerebral cortex")),
    "vertebra": (_ANATOMY, ("51282000", "Vertebra")),
    "lesion": (_ABNORMAL, ("108369006", "Neoplasm")),
    "synovitis": (_ABNORMAL, ("416209007", "Synovitis")),
}
"""SNOMED CT terms, category and type, by the first word of a label's name; others are tissue."""


def write_segmentation(
    path: Path,
    labels: np.ndarray,
    scan: Path,
    *,
    names: Mapping[int, str],
    algorithm: str,
    version: str,
) -> None:
    """Write a label map as a DICOM Segmentation; it is whole and right, or not there.

    Args:
        path: file to write; it is replaced.
        labels: (Z, Y, X) integers on the scan's grid, 0 is background.
        scan: series that was segmented; see `common.data.dicom_paths`.
        names: what each label is; one without a name is called "label <number>".
        algorithm, version: what found the labels.

    Raises:
        DataError: the scan is no series, or the labels have another shape.
        WriteError: the file cannot be written, or reads back as something else.
    """
    slices = read_headers(scan)
    if labels.shape != slices.shape:
        raise DataError(f"{scan}: found labels of {labels.shape} voxels; expected {slices.shape}")
    numbers = [int(number) for number in np.unique(labels) if number]
    called = {number: names.get(number, f"label {number}") for number in numbers or [1]}
    segments = np.zeros(labels.shape, np.uint16 if len(numbers) > 255 else np.uint8)
    for segment, number in enumerate(numbers, start=1):
        segments[labels == number] = segment
    content = _make(slices, segments, list(called.values()), algorithm, version)
    try:
        with scratch_folder(path) as folder:
            content.save_as(folder / path.name)
            check_read_back(folder / path.name, segments, slices)
            (folder / path.name).replace(path)
    except OSError as refusal:
        raise WriteError(f"{path} cannot be written ({one_line(refusal)})") from None


def _make(slices: Slices, segments: np.ndarray, names: list[str], algorithm: str, version: str):
    """Return the dataset of a map of segments, numbered from 1."""
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm, version=version,
        family=pydicom.sr.codedict.codes.DCM.ArtificialIntelligence,
    )  # fmt: skip
    described = []
    for number, name in enumerate(names, start=1):
        category, kind = TERMS.get(name.split()[0].lower(), (_ANATOMY, _TISSUE))
        described.append(
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=_code(category),
                segmented_property_type=_code(kind),
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=identification,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the patient's name, which is the scan's
        return _assemble(slices, segments, described, algorithm, version)


def _assemble(slices: Slices, segments: np.ndarray, described: list, algorithm: str, version: str):
    return highdicom.seg.Segmentation(
        source_images=[_completed(each, slices.geometry) for each in slices.headers],
        pixel_array=segments,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=int(slices.headers[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="segmentation-reproductions",
        manufacturer_model_name=algorithm,
        software_versions=version,
        device_serial_number="none",
        series_description=f"{algorithm}: {RESEARCH}"[:64],
        content_description=RESEARCH,
        omit_empty_frames=bool(segments.any()),
    )


def _code(term: tuple[str, str]) -> highdicom.sr.CodedConcept:
    return highdicom.sr.CodedConcept(value=term[0], scheme_designator="SCT", meaning=term[1])


def _completed(header: pydicom.Dataset, grid: Geometry) -> pydicom.Dataset:
    """Return a header with the entries of patient and study that may be empty but not absent."""
    header = pydicom.Dataset(header)
    if not header.get("SliceThickness"):
        header.SliceThickness = grid.spacing_mm[2]
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not header.get(name):
            raise DataError(
                f"found a series without {name}; expected one, which a segmentation refers to"
            )
    return header


def check_read_back(path: Path, segments: np.ndarray, slices: Slices) -> None:
    """Raise `WriteError` unless a file says of every voxel what the segments do."""
    found, farthest = read_segments(path, slices.geometry, slices.shape)
    wrong = int(np.count_nonzero(found != segments))
    if wrong or not farthest <= FARTHEST_MM:
        raise WriteError(
            f"{path.name}: reads back with {wrong} other voxels and slices {farthest:.3g} mm from "
            "the scan's; expected none, and the file was not kept"
        )


def read_segments(
    path: Path, grid: Geometry, shape: tuple[int, int, int]
) -> tuple[np.ndarray, float]:
    """Read a DICOM Segmentation onto the grid of its scan, frame by frame, as the headers say.

    Args:
        path: file with binary segments.
        grid, shape: those of the scan.

    Returns:
        map of segment numbers (Z, Y, X), and how far in mm the corner of any frame lies from the
        voxel it belongs to.

    Raises:
        DataError: it is no such file, or its frames have other axes or spacings.
    """
    content = pydicom.dcmread(path)
    if content.SOPClassUID != SEGMENTATION or content.SegmentationType != "BINARY":
        raise DataError(f"{path}: expected a DICOM Segmentation of binary segments")
    rows, columns = int(content.Rows), int(content.Columns)
    count = int(content.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(content.PixelData, np.uint8), bitorder="little")
    frames = bits[: count * rows * columns].reshape(count, rows, columns)
    shared = content.SharedFunctionalGroupsSequence[0]
    axes = np.reshape(grid.direction, (3, 3))
    found, farthest = np.zeros(shape, np.uint16), 0.0
    for frame, groups in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        plane = _first(shared, groups, "PlaneOrientationSequence").ImageOrientationPatient
        spacing = _first(shared, groups, "PixelMeasuresSequence").PixelSpacing
        turned = np.abs(np.asarray(plane, float) - np.concatenate([axes[:, 0], axes[:, 1]])).max()
        if turned > 1e-4 or not np.allclose(spacing, grid.spacing_mm[1::-1], rtol=1e-4):
            raise DataError(f"{path}: found a frame with other axes or spacings than the scan's")
        offset = np.asarray(position, float) - grid.origin_mm
        z = round(float(offset @ axes[:, 2]) / grid.spacing_mm[2])
        farthest = max(
            farthest, float(np.linalg.norm(offset - z * grid.spacing_mm[2] * axes[:, 2]))
        )
        if not 0 <= z < shape[0]:
            raise DataError(f"{path}: found a frame outside the scan")
        identified = _first(shared, groups, "SegmentIdentificationSequence")
        segment = int(identified.ReferencedSegmentNumber)
        found[z][frame > 0] = segment
    return found, farthest


def _first(shared: pydicom.Dataset, groups: pydicom.Dataset, name: str) -> pydicom.Dataset:
    return (groups.get(name) or shared.get(name))[0]
