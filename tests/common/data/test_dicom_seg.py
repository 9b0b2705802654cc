"""Label maps as DICOM Segmentation: read by other code than wrote them, and never mirrored."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK

import common.data.dicom_seg as dicom_seg
from common.data.dicom import read_headers
from common.data.dicom_seg import read_segments, write_segmentation
from common.data.volumes import read_geometry
from common.errors import DataError, WriteError
from tests.common.data.test_dicom import ORIENTATIONS, SHAPE, write_series

NAMES = {3: "vertebra 1", 7: "lesion"}


def complete(slice_):
    slice_.StudyInstanceUID, slice_.FrameOfReferenceUID = "1.2.9", "1.2.8"
    slice_.PatientID = "P1"


def made(tmp_path, orientation=ORIENTATIONS["axial"]):
    """A series, and labels without any symmetry."""
    write_series(tmp_path / "ct", orientation, change_all=complete)
    labels = np.zeros(SHAPE, np.int16)
    labels[1, 2:4, 1:6], labels[3, 0, 0], labels[1:4, 5, 4:] = 3, 7, 7
    path = tmp_path / "seg.dcm"
    write_segmentation(
        path, labels, tmp_path / "ct", names=NAMES, algorithm="vertebra", version="0.1.0"
    )
    return path, labels


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_is_where_the_scan_has_it(tmp_path, name):
    path, labels = made(tmp_path, ORIENTATIONS[name])
    shape, grid = read_geometry(tmp_path / "ct")
    found, farthest = read_segments(path, grid, shape)
    np.testing.assert_array_equal(np.array([0, 3, 7])[found], labels)
    assert farthest < 1e-5


def test_frames_refer_to_the_slices_they_lie_on(tmp_path):
    """By SimpleITK's decoder and the numbers of the series' own files."""
    path, labels = made(tmp_path)
    frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    content = pydicom.dcmread(path, stop_before_pixels=True)
    slices = read_headers(tmp_path / "ct")
    place = {str(header.SOPInstanceUID): z for z, header in enumerate(slices.headers)}
    seen = set()
    for frame, groups in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        z = place[str(source.ReferencedSOPInstanceUID)]
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        np.testing.assert_array_equal(frame > 0, labels[z] == [3, 7][number - 1])
        seen.add((z, number))
    assert seen == {(1, 1), (1, 2), (2, 2), (3, 2)}


def test_what_the_file_says_of_itself(tmp_path):
    path, _ = made(tmp_path)
    content = pydicom.dcmread(path)
    first, second = content.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("vertebra 1", "lesion")
    codes = [each.SegmentedPropertyTypeCodeSequence[0].CodeValue for each in (first, second)]
    assert codes == ["51282000", "108369006"]
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("vertebra", "0.1.0")
    assert "research use only" in content.SeriesDescription
    assert (content.PatientID, content.StudyInstanceUID) == ("P1", "1.2.9")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools)")
def test_a_validator_finds_nothing_wrong(tmp_path):
    path, _ = made(tmp_path)
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    assert "Segmentation" in said


def test_a_mirrored_file_is_never_kept(tmp_path, monkeypatch):
    path, labels = made(tmp_path)
    before, real = path.read_bytes(), dicom_seg._make
    monkeypatch.setattr(dicom_seg, "_make", lambda s, a, *more: real(s, a[:, :, ::-1], *more))
    with pytest.raises(WriteError, match=r"reads back with \d+ other voxels and slices"):
        write_segmentation(path, labels, tmp_path / "ct", names={}, algorithm="a", version="1")
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ct", "seg.dcm"]


def test_nothing_found_is_a_file_too(tmp_path):
    write_series(tmp_path / "ct", change_all=complete)
    path = tmp_path / "seg.dcm"
    empty = np.zeros(SHAPE, np.uint8)
    write_segmentation(path, empty, tmp_path / "ct", names={}, algorithm="a", version="1")
    shape, grid = read_geometry(tmp_path / "ct")
    assert not read_segments(path, grid, shape)[0].any()


def test_mistakes(tmp_path):
    write_series(tmp_path / "ct")
    labels = np.ones(SHAPE, np.uint8)
    words = {"names": {}, "algorithm": "a", "version": "1"}
    with pytest.raises(DataError, match="a series without StudyInstanceUID"):
        write_segmentation(tmp_path / "seg.dcm", labels, tmp_path / "ct", **words)
    with pytest.raises(DataError, match=r"labels of \(4, 6, 7\) voxels"):
        write_segmentation(tmp_path / "seg.dcm", labels[1:], tmp_path / "ct", **words)
    assert not (tmp_path / "seg.dcm").exists()
