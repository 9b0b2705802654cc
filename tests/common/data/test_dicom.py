"""Series and contours of DICOM: where the voxels come to lie, and what is refused."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from common.data.dicom import read_contours, read_series, to_indices
from common.data.geometry import Geometry, Volume
from common.errors import DataError

SHAPE = (5, 6, 7)
SPACING = (0.8, 1.2, 2.5)
AXIAL = (1.0, 0, 0, 0, 1.0, 0)
C, S = np.cos(0.3), np.sin(0.3)
ORIENTATIONS = {
    "axial": AXIAL,
    "flipped": (-1.0, 0, 0, 0, -1.0, 0),
    "sagittal": (0, 1.0, 0, 0, 0, -1.0),
    "oblique": (C, S, 0, -S * C, C * C, S),
}


def new_file(path, kind):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)


def write_series(folder, orientation=AXIAL, *, shape=SHAPE, uid="1.2.3", change=None):
    """Write slices under names that are not their order; return the values and the first place."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    voxels = rng.integers(-900, 1200, shape).astype(np.int16)
    normal = np.cross(orientation[:3], orientation[3:])
    first = np.array([10.0, -20.0, 30.0])
    for number in rng.permutation(shape[0]):
        path = folder / f"{uid}_{7 * int(number) % 11:02d}.dcm"
        slice_ = new_file(path, CTImageStorage)
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, generate_uid()
        slice_.SeriesInstanceUID, slice_.Modality = uid, "CT"
        slice_.ImageOrientationPatient = list(map(float, orientation))
        slice_.ImagePositionPatient = (first + number * SPACING[2] * normal).tolist()
        slice_.PixelSpacing = [SPACING[1], SPACING[0]]
        slice_.Rows, slice_.Columns = shape[1:]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.PixelRepresentation = 0
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.PixelData = (voxels[number] + 1024).astype("<u2").tobytes()
        if change and number == 2:
            change(slice_)
        slice_.save_as(path)
    return voxels, first


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_voxels_lie_where_the_headers_say(tmp_path, name):
    orientation = ORIENTATIONS[name]
    voxels, first = write_series(tmp_path / "ct", orientation)
    found = read_series(tmp_path / "ct")
    np.testing.assert_array_equal(found.volume.array, voxels)
    grid = found.volume.geometry
    np.testing.assert_allclose(grid.spacing_mm, SPACING, rtol=1e-6)
    axes = np.reshape(grid.direction, (3, 3))
    x, y = np.array(orientation[:3]), np.array(orientation[3:])
    index = np.array([3, 2, 4])
    here = first + 3 * 0.8 * x + 2 * 1.2 * y + 4 * 2.5 * np.cross(x, y)
    np.testing.assert_allclose(axes @ (index * grid.spacing_mm) + grid.origin_mm, here, atol=1e-5)
    np.testing.assert_allclose(to_indices(here[np.newaxis], grid), [index], atol=1e-5)
    assert [path.name for path in found.files] == [f"1.2.3_{7 * n % 11:02d}.dcm" for n in range(5)]


def move(mm):
    def change(slice_):
        slice_.ImagePositionPatient = [10.0, -20.0, 30.0 + mm]

    return change


def drop(name):
    return lambda slice_: delattr(slice_, name)


def put(**values):
    def change(slice_):
        for name, value in values.items():
            setattr(slice_, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (move(2.5), r"found 0 mm from .*\(0020,0032\); expected one slice at each place"),
        (move(5.5), r"found 3 mm from .*\(0020,0032\); expected 2.5 mm as between the others"),
        (drop("ImagePositionPatient"), r"found no ImagePositionPatient \(0020,0032\)"),
        (drop("PixelSpacing"), r"found no PixelSpacing \(0028,0030\)"),
        (put(SamplesPerPixel=3), r"found 3 samples per pixel \(0028,0002\)"),
        (put(Rows=9), r"found 9 x 7 pixels \(0028,0010\)"),
        (put(ImageOrientationPatient=[1.0, 0, 0, 0, 0, 1.0]), r"another orientation \(0020,0037\)"),
        (put(PixelSpacing=[1.0, 1.0]), r"another pixel spacing \(0028,0030\)"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path, change, expected):
    write_series(tmp_path / "ct", change=change)
    with pytest.raises(DataError, match=expected):
        read_series(tmp_path / "ct")


def test_missing_slices_and_a_single_one_are_refused(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "ct" / "1.2.3_03.dcm").unlink()  # number 2
    with pytest.raises(DataError, match=r"found 5 mm from .* slices are missing"):
        read_series(tmp_path / "ct")
    write_series(tmp_path / "one", shape=(1, 6, 7))
    with pytest.raises(DataError, match="found a single slice"):
        read_series(tmp_path / "one")


def test_a_tilted_gantry_is_refused(tmp_path):
    tilted = (1.0, 0, 0, 0, np.cos(0.1), np.sin(0.1))
    write_series(tmp_path / "ct")
    for path in (tmp_path / "ct").iterdir():
        slice_ = pydicom.dcmread(path)
        slice_.ImageOrientationPatient = list(map(float, tilted))
        slice_.save_as(path)
    with pytest.raises(DataError, match=r"tilted by 5\.7 degrees"):
        read_series(tmp_path / "ct")


def test_of_several_series_one_must_be_named(tmp_path):
    write_series(tmp_path / "ct")
    voxels, _ = write_series(tmp_path / "ct", uid="1.2.4")
    with pytest.raises(DataError, match=r"several series.*1\.2\.3 \(5 slices\), 1\.2\.4 \(5"):
        read_series(tmp_path / "ct")
    np.testing.assert_array_equal(read_series(tmp_path / "ct", series="1.2.4").volume.array, voxels)
    with pytest.raises(DataError, match=r"no series 1\.2\.5; expected 1\.2\.3, 1\.2\.4"):
        read_series(tmp_path / "ct", series="1.2.5")


def test_what_is_no_series_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="found no slices of DICOM"):
        read_series(tmp_path)
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x28\x00\x10\x00US\x02\x00")
    with pytest.raises(DataError, match=r"bad\.dcm|no slices"):
        read_series(tmp_path)


GRID = Geometry((0.5, 2.0, 3.0), (10.0, 20.0, 30.0))
SCAN = Volume(np.zeros((4, 8, 20)), GRID)


def square(x, y, size, z):
    """Contour around the voxels from (x, y) on, `size` of them, in slice z; in mm."""
    corners = [(x, y), (x + size, y), (x + size, y + size), (x, y + size)]
    return [(10 + 0.5 * (a - 0.5), 20 + 2 * (b - 0.5), 30 + 3 * z) for a, b in corners]


def write_contours(path, structures, kind="CLOSED_PLANAR"):
    content = new_file(path, RTStructureSetStorage)
    content.StructureSetROISequence, content.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures, start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [float(value) for point in points for value in point]
            drawn.ContourSequence.append(contour)
        content.StructureSetROISequence.append(roi)
        content.ROIContourSequence.append(drawn)
    content.save_as(path)
    return path


def test_voxels_within_a_contour_are_the_mask_but_for_holes(tmp_path):
    contours = [square(2, 1, 5, 1), square(3, 2, 2, 1), square(0, 0, 1, 3)]
    path = write_contours(tmp_path / "RS.dcm", [("skin", []), ("gtv_mass_CT", contours)])
    expected = np.zeros(SCAN.array.shape, bool)
    expected[1, 1:6, 2:7] = True
    expected[1, 2:4, 3:5] = False
    expected[3, 0, 0] = True
    np.testing.assert_array_equal(read_contours(path, "GTV_Mass", SCAN), expected)


@pytest.mark.parametrize(
    ("structures", "expected"),
    [
        (
            [("GTV_Mass", [square(2, 1, 3, 1)]), ("GTV_Mass_2", [])],
            "GTV_Mass, GTV_Mass_2; exp",
        ),
        ([("edema", [square(2, 1, 3, 1)])], "found the structures edema; expected one"),
        ([("GTV_Mass", [])], "has no contours"),
        ([("GTV_Mass", [square(2, 1, 3, 1.4)])], "from slice 1.40 to 1.40; expected it on one"),
        ([("GTV_Mass", [square(2, 1, 3, 7)])], "found a contour outside the scan"),
        ([("GTV_Mass", [square(18, 1, 9, 1)])], "found a contour outside the scan"),
    ],
)
def test_contours_that_cannot_be_a_mask_are_refused(tmp_path, structures, expected):
    path = write_contours(tmp_path / "RS.dcm", structures)
    with pytest.raises(DataError, match=expected):
        read_contours(path, "GTV_Mass", SCAN)


def test_open_contours_and_other_files_are_refused(tmp_path):
    path = write_contours(tmp_path / "RS.dcm", [("GTV_Mass", [square(2, 1, 3, 1)])], "OPEN_PLANAR")
    with pytest.raises(DataError, match=r"of the kind OPEN_PLANAR .* CLOSED_PLANAR \(3006,0042\)"):
        read_contours(path, "GTV_Mass", SCAN)
    (tmp_path / "x.dcm").write_text("no DICOM")
    with pytest.raises(DataError, match=r"x\.dcm: not readable as DICOM"):
        read_contours(tmp_path / "x.dcm", "GTV_Mass", SCAN)
    with pytest.raises(DataError, match=r"none\.dcm does not exist"):
        read_contours(tmp_path / "none.dcm", "GTV_Mass", SCAN)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_one_line_or_read(tmp_path, seed):
    write_series(tmp_path / "ct")
    rng = np.random.default_rng(seed)
    path = sorted((tmp_path / "ct").iterdir())[seed % 5]
    content = bytearray(path.read_bytes())
    for place in rng.integers(132, len(content), 8):
        content[place] = rng.integers(256)
    path.write_bytes(content[: rng.integers(200, len(content) + 200)])
    lines = []
    try:
        read_series(tmp_path / "ct")
    except DataError as refusal:
        lines += str(refusal).splitlines()
    assert len(lines) <= 1
