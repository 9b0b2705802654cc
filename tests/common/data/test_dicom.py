"""Series and contours of DICOM: where the voxels come to lie, and what is refused."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    RTStructureSetStorage,
    generate_uid,
)

from common.data.dicom import read_contours, read_series, to_indices
from common.data.geometry import Geometry, Volume
from common.data.tables import find_file, read_table
from common.data.volumes import files_of, is_volume, read_geometry, read_volume, stem_of
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


def write_series(
    folder, orientation=AXIAL, *, shape=SHAPE, uid="1.2.3", change=None, change_all=None,
    voxels=None, grid=None,
):  # fmt: skip
    """Write slices under names that are not their order; return the values and the first place.

    `voxels` and `grid`: those of a volume instead of random ones on a grid of the orientation.
    """
    folder.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(0)
    if voxels is None:
        voxels = rng.integers(-900, 1200, shape).astype(np.int16)
    spacing, first = SPACING, np.array([10.0, -20.0, 30.0])
    normal = np.cross(orientation[:3], orientation[3:])
    if grid is not None:
        axes = np.reshape(grid.direction, (3, 3))
        orientation, normal = np.concatenate([axes[:, 0], axes[:, 1]]), axes[:, 2]
        spacing, first = grid.spacing_mm, np.array(grid.origin_mm)
    for number in rng.permutation(len(voxels)):
        path = folder / f"{uid}_{7 * int(number) % 11:02d}.dcm"
        if grid is not None:
            path = folder / f"{uid}_{len(voxels) - number:04d}.dcm"
        slice_ = new_file(path, CTImageStorage)
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, generate_uid()
        slice_.SeriesInstanceUID, slice_.Modality = uid, "CT"
        slice_.ImageOrientationPatient = list(map(float, orientation))
        slice_.ImagePositionPatient = (first + number * spacing[2] * normal).tolist()
        slice_.PixelSpacing = [spacing[1], spacing[0]]
        slice_.Rows, slice_.Columns = voxels.shape[1:]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.PixelRepresentation = 0
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.PixelData = (voxels[number].astype(int) + 1024).astype("<u2").tobytes()
        if change_all:
            change_all(slice_)
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
    np.testing.assert_array_equal(read_series(tmp_path / "ct" / "1.2.4").volume.array, voxels)
    (file,) = (tmp_path / "ct").glob("1.2.4_00.dcm")
    assert {path.name[:5] for path in read_series(file).files} == {"1.2.4"}
    with pytest.raises(DataError, match=r"no series 1\.2\.5; expected 1\.2\.3, 1\.2\.4"):
        read_series(tmp_path / "ct" / "1.2.5")


def test_what_is_no_series_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="found no slices of DICOM"):
        read_series(tmp_path)
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x28\x00\x10\x00US\x02\x00")
    with pytest.raises(DataError, match=r"bad\.dcm|no slices"):
        read_series(tmp_path)


def test_a_folder_of_dicom_is_a_scan_wherever_a_path_is(tmp_path):
    """Read, sized, hashed and named like any file, and found in folders and tables."""
    voxels, _ = write_series(tmp_path / "scans" / "P1")
    folder = tmp_path / "scans" / "P1"
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, voxels)
    shape, geometry = read_geometry(folder)
    assert (shape, geometry) == (SHAPE, volume.geometry)
    assert sorted(files_of(folder)) == sorted(folder.iterdir())
    one = files_of(folder)[2]
    assert [stem_of(path) for path in (folder, one, folder / "1.2.3")] == ["P1"] * 3
    assert [path.name for path in folder.parent.iterdir() if is_volume(path)] == ["P1"]
    np.testing.assert_array_equal(read_volume(one).array, voxels)
    table = tmp_path / "list.csv"
    table.write_text("id,image,segmentation\nP1,scans/P1,scans/P1/1.2.3\nP2,scans,scans\n")
    rows = read_table(table)
    for cell in rows.rows[0].cells[1:]:
        assert find_file(rows, rows.rows[0], cell, what="image") == tmp_path / cell
    with pytest.raises(DataError, match=r"is a folder: .*; expected a file, or a folder of DICOM"):
        find_file(rows, rows.rows[1], "scans", what="image")
    with pytest.raises(DataError, match="a folder without DICOM, expected"):
        read_volume(tmp_path)


def uptake(dose=370e6, half_life=6586.2, start="100000.00", weight=70.0, **tags):
    def change(slice_):
        slice_.Modality, slice_.Units, slice_.CorrectedImage = "PT", "BQML", ["DECY", "ATTN"]
        slice_.DecayCorrection, slice_.PatientWeight = "START", weight
        slice_.SeriesTime, slice_.AcquisitionTime = "110000", "110000.5"
        injected = Dataset()
        injected.RadionuclideTotalDose, injected.RadionuclideHalfLife = dose, half_life
        injected.RadiopharmaceuticalStartTime = start
        slice_.RadiopharmaceuticalInformationSequence = [injected]
        for name, value in tags.items():
            setattr(slice_, name, value)

    return change


def test_activity_becomes_uptake_by_body_weight(tmp_path):
    """70 kg and 370 MBq an hour before: the dose has decayed to 2 ** (-3600 / 6586.2) of it."""
    voxels, _ = write_series(tmp_path / "pet", change_all=uptake())
    voxels = voxels.astype(float)
    expected = voxels * 70000 / (370e6 * 2 ** (-3600 / 6586.2))
    np.testing.assert_allclose(read_volume(tmp_path / "pet").array, expected, rtol=1e-6)
    write_series(tmp_path / "night", change_all=uptake(start="233000", SeriesTime="003000"))
    half_night = voxels * 70000 / (370e6 * 2 ** (-3600 / 6586.2))
    np.testing.assert_allclose(read_volume(tmp_path / "night").array, half_night, rtol=1e-6)
    write_series(tmp_path / "admin", change_all=uptake(DecayCorrection="ADMIN"))
    np.testing.assert_allclose(
        read_volume(tmp_path / "admin").array, voxels * 70000 / 370e6, rtol=1e-6
    )
    write_series(tmp_path / "suv", change_all=uptake(Units="GML"))
    np.testing.assert_array_equal(read_volume(tmp_path / "suv").array, voxels)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (uptake(weight=None), r"found PatientWeight \(0010,1030\) of None"),
        (uptake(dose=0), r"found RadionuclideTotalDose \(0018,1074\) of 0"),
        (uptake(half_life=""), r"found RadionuclideHalfLife \(0018,1075\)"),
        (uptake(start=""), r"no RadiopharmaceuticalStartTime \(0018,1072\)"),
        (uptake(AcquisitionTime=""), r"found AcquisitionTime \(0008,0032\)"),
        (uptake(Units="CNTS"), r"a PET in CNTS; expected BQML or GML \(0054,1001\)"),
        (uptake(CorrectedImage=["ATTN"]), r"corrections ATTN \(0028,0051\)"),
        (uptake(DecayCorrection="NONE"), r"corrected to NONE \(0054,1102\)"),
        (uptake(Units="GML", SUVType="LBM"), r"SUV by LBM \(0054,1006\)"),
    ],
)  # fmt: skip
def test_uptake_without_a_tag_is_refused_by_its_name(tmp_path, change, expected):
    write_series(tmp_path / "pet", change_all=change)
    with pytest.raises(DataError, match=expected):
        read_volume(tmp_path / "pet")


def test_frames_of_one_file_are_refused(tmp_path):
    def many(slice_):
        slice_.NumberOfFrames = 5

    write_series(tmp_path / "ct", change_all=many)
    with pytest.raises(DataError, match=r"5 frames in one file \(0028,0008\); .* dcm2niix"):
        read_volume(tmp_path / "ct")


def test_what_cannot_be_decoded_names_its_syntax_and_a_cure(tmp_path):
    def encapsulated(slice_):
        slice_.file_meta.TransferSyntaxUID = HTJ2KLossless
        slice_.PixelData = encapsulate([b"none of it"])
        slice_["PixelData"].is_undefined_length = True

    write_series(tmp_path / "ct", change_all=encapsulated)
    with pytest.raises(DataError, match=r"High-Throughput JPEG 2000.*pip install 'pylibjpeg"):
        read_volume(tmp_path / "ct")


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
