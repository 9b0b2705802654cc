"""Finding cases by name, and what a folder may and may not hold."""

from dataclasses import replace

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError
from vertebra.config import PORT
from vertebra.data import Case, find_prepared_cases, find_source_cases, find_volumes, load_case

GRID = Geometry((1.0, 1.0, 1.0))

AS_IS = replace(PORT, intensity="as_is")


def write(folder, *names):
    """Small volumes of these names."""
    for name in names:
        array = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
        write_volume(folder / name, array, GRID)


def test_cases_by_number(tmp_path):
    write(tmp_path, "case10.mhd", "case10_label.mhd", "case2.mhd", "case2_label.mhd")
    (tmp_path / "notes.txt").write_text("of no matter")
    cases = find_source_cases(tmp_path)
    assert [case.number for case in cases] == [2, 10]
    assert cases[0].label_path.name == "case2_label.mhd"


def test_other_formats(tmp_path):
    write(tmp_path, "scan1.nii.gz", "scan1_label.nii.gz")
    assert find_source_cases(tmp_path)[0].id == "scan1"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no scans"),
        (["case1_label.mhd"], "has no scan"),
        (["case1.mhd"], "has no labels"),
        (["case.mhd", "case_label.mhd"], "no number"),
        (["a1.mhd", "a1_label.mhd", "b1.mhd", "b1_label.mhd"], "occurs twice"),
        (["a1.mhd", "a1.nrrd"], "one name"),
    ],
)
def test_refused_folders(tmp_path, names, words):
    write(tmp_path, *names)
    with pytest.raises(DataError, match=words):
        find_source_cases(tmp_path)


def test_absent_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        find_volumes(tmp_path / "none")


def test_prepared_cases_need_their_counterparts(tmp_path):
    for kind in ("img", "seg", "weight"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    with pytest.raises(DataError, match="no scans"):
        find_prepared_cases(tmp_path, "train")
    write(tmp_path / "train" / "img", "case1.mhd")
    write(tmp_path / "train" / "seg", "case1_label.mhd")
    with pytest.raises(DataError, match="weight"):
        find_prepared_cases(tmp_path, "train")
    write(tmp_path / "train" / "weight", "case1_weight.nrrd")
    case = find_prepared_cases(tmp_path, "train")[0]
    entry = {"id": case.id, "image_path": str(case.image_path), "label_path": None}
    assert Case.from_dict(entry) == Case("case1", case.image_path)


def test_constant_scan_and_negative_labels(tmp_path):
    write(tmp_path, "case1_label.mhd")
    write_volume(tmp_path / "case1.mhd", np.full((2, 2, 2), 7, np.int16), GRID)
    case = Case("case1", tmp_path / "case1.mhd", tmp_path / "case1_label.mhd")
    with pytest.raises(DataError, match="every voxel is 7"):
        load_case(case, AS_IS)
    write(tmp_path, "case1.mhd")
    write_volume(tmp_path / "case1_label.mhd", np.full((2, 2, 2), -1, np.int16), GRID)
    with pytest.raises(DataError, match="label -1"):
        load_case(case, AS_IS)


def test_labels_that_went_through_a_scale_factor_are_rounded(tmp_path):
    write(tmp_path, "case1.mhd")
    labels = np.arange(8.0, dtype=np.float32).reshape(2, 2, 2) * np.float32(0.99999988)
    write_volume(tmp_path / "case1_label.mhd", labels, GRID)
    case = Case("case1", tmp_path / "case1.mhd", tmp_path / "case1_label.mhd")
    _, found = load_case(case, AS_IS)
    np.testing.assert_array_equal(found.array, np.arange(8).reshape(2, 2, 2))
    write_volume(tmp_path / "case1_label.mhd", labels + np.float32(0.5), GRID)
    with pytest.raises(DataError, match=r"case1_label\.mhd: found the label value"):
        load_case(case, AS_IS)


def test_names_in_capitals_of_slicer_and_with_strange_digits(tmp_path):
    """case1_label.seg.nrrd was "expected case1_label.seg_label"; a superscript was a traceback."""
    write(tmp_path, "case1.nii.gz", "case1_label.seg.nrrd", "x\u00b22.mha", "x\u00b22_label.mha")
    (tmp_path / "case1.nii.gz").rename(tmp_path / "case1.NII.GZ")
    cases = find_source_cases(tmp_path)[:1]
    assert [case.id for case in cases] == ["case1"]
    assert cases[0].label_path.name == "case1_label.seg.nrrd"
    assert load_case(cases[0], AS_IS)[1].array.max() == 7


def test_messages_name_what_to_do(tmp_path):
    (tmp_path / "IM0001.dcm").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"found IM0001\.dcm: expected a folder of its own for each ser"
    ):
        find_source_cases(tmp_path)
    write(tmp_path, *(f"site2_case{n}{kind}.mha" for n in (1, 3) for kind in ("", "_label")))
    with pytest.raises(DataError, match="number 2 occurs twice, in site2_case1 and site2_case3"):
        find_source_cases(tmp_path)
