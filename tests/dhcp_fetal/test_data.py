"""Cases: finding, loading, refusing and normalising them."""

import warnings
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from common.data.inspection import Entry
from common.data.volumes import read_geometry, write_volume
from common.errors import DataError, OptionError
from dhcp_fetal import data
from dhcp_fetal.config import PORT
from dhcp_fetal.inspection import inspect_case
from dhcp_fetal.session import CaseFiles

SHAPE = (6, 7, 8)
TWO = replace(PORT, input_channels=2)


def save(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def scan(tmp_path):
    array = np.random.default_rng(0).normal(200, 30, SHAPE).astype(np.float32)
    return save(tmp_path / "scan.nii.gz", array)


@pytest.fixture
def mask(tmp_path):
    array = np.zeros(SHAPE)
    array[2:5, 2:5, 2:6] = 0.99999997
    return save(tmp_path / "mask.nii.gz", array)


def test_cases_of_a_folder_a_list_and_a_table(tmp_path, scan):
    other = save(tmp_path / "other.nii", np.zeros(SHAPE, np.uint8))
    found = data.find_cases(tmp_path)
    assert [data.name_of(files) for files in found] == ["other", "scan"]
    listing = tmp_path / "list.cfg"
    listing.write_text("# scans\nscan.nii.gz\n\n./other.nii\n")
    assert [files.channels for files in data.find_cases(listing)] == [(scan,), (other,)]
    table = tmp_path / "cases.csv"
    table.write_text(
        "channel_b,channel_a,ground_truth,prediction_filename\nscan.nii.gz,other.nii,,x.nii.gz\n"
    )
    (files,) = data.find_cases(table)
    assert files == CaseFiles((other, scan), name="x")


def test_folders_take_every_kind_of_volume(tmp_path, scan):
    """B.NII.GZ beside scan.nii.gz was passed over without a word."""
    array = nibabel.load(scan).get_fdata(dtype=np.float32)
    write_volume(tmp_path / "C.mha", array.T, read_geometry(scan)[1])
    write_volume(tmp_path / "B.NII.GZ", array.T, read_geometry(scan)[1])
    (tmp_path / ".hidden.nii").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("of no matter")
    cases = data.find_cases(tmp_path)
    assert [data.name_of(files) for files in cases] == ["B", "C", "scan"]
    for files in cases:
        np.testing.assert_array_equal(data.load_case(files, PORT).image[..., 0], array)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.IMA").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"found no case; .* found a\.IMA: expected a folder of its"
    ):
        data.find_cases(tmp_path / "other")


def test_nothing_and_double_names_are_refused(tmp_path, scan):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no case"):
        data.find_cases(tmp_path / "empty")
    listing = tmp_path / "list.cfg"
    listing.write_text("a/scan.nii.gz\nb/scan.nii.gz\n")
    with pytest.raises(DataError, match="'scan'"):
        data.find_cases(listing)


def test_absent_channels(scan):
    """[D7] -4 in v0.7.0, 0 in v0.8.4. [G16] Also the first one, where the engine fails."""
    for compat, value in (("v0.7.0", -4.0), ("v0.8.4", 0.0)):
        case = data.load_case(CaseFiles((None, scan)), replace(TWO, compat=compat))
        assert case.image.shape == (*SHAPE, 2)
        assert np.unique(case.image[..., 0]).tolist() == [value]
        assert case.image[..., 1].mean() == pytest.approx(200, abs=10)
    with pytest.raises(DataError, match="every channel"):
        data.load_case(CaseFiles((None, None)), TWO)


def test_labels_are_rounded_and_checked(tmp_path, scan):
    labels = save(tmp_path / "labels.nii.gz", np.full(SHAPE, 1.99999))
    case = data.load_case(CaseFiles((scan,), labels=labels), replace(PORT, classes=3))
    assert np.unique(case.labels).tolist() == [2]
    with pytest.raises(DataError, match=r"labels\.nii\.gz: found the class 2, expected 0 to 1"):
        data.load_case(CaseFiles((scan,), labels=labels), PORT)
    unchecked = data.load_case(CaseFiles((scan,), labels=labels), PORT, check_labels=False)
    assert unchecked.labels.max() == 2
    negative = save(tmp_path / "negative.nii.gz", np.full(SHAPE, -1, np.int16))
    with pytest.raises(DataError, match="negative"):
        data.load_case(CaseFiles((scan,), labels=negative), PORT)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(65535, np.uint16), (40000, np.uint16), (32768, np.int32), (0.5, np.float32), (255, np.uint8)],
)
def test_a_region_of_any_number_and_type(tmp_path, scan, value, dtype):
    """65535 became -1 as int16 and 0.5 became 0: nothing was segmented, without a word. [G8]"""
    region = np.zeros(SHAPE, dtype)
    region[2:5, 2:5, 2:6] = value
    path = save(tmp_path / "roi.nii.gz", region)
    files = CaseFiles((scan,), mask=path)
    mask = data.load_case(files, PORT).mask
    np.testing.assert_array_equal(mask, (region > 0).astype(np.int16))
    entry = Entry("x")
    inspect_case(entry, files, PORT)
    assert (entry.verdict, entry.facts["mask"]) == ("ok", f"{36 / 336:.1%}")
    if value < 32768:
        multiplied = data.load_case(files, replace(PORT, multiply_by_mask=True)).mask
        np.testing.assert_array_equal(multiplied, np.rint(region))
    else:
        with pytest.raises(
            DataError, match=f"found the mask value {value}; expected at most 32767"
        ):
            data.load_case(files, replace(PORT, multiply_by_mask=True))


def test_fractions_are_no_labels(tmp_path, scan):
    """The engine rounds 1.4 to 1; resampled labels are a mistake, and the check says so, too."""
    path = save(tmp_path / "labels.nii.gz", np.full(SHAPE, 1.4))
    files = CaseFiles((scan,), labels=path)
    with pytest.raises(DataError, match=r"found the label value 1\.4; expected integer") as refusal:
        data.load_case(files, PORT)
    entry = Entry("x")
    inspect_case(entry, files, PORT)
    assert entry.faults == [str(refusal.value)]


def test_ids_of_the_label_files_may_be_chosen_and_joined(tmp_path, scan):
    """A parcellation becomes a binary cortex; ids in no class are background, in the check too."""
    ids = np.random.default_rng(0).choice([0, 3, 5, 7, 300], SHAPE).astype(np.int16)
    files = CaseFiles((scan,), labels=save(tmp_path / "labels.nii.gz", ids))
    config = replace(PORT, label_ids=(0, (5, 7)))
    np.testing.assert_array_equal(data.load_case(files, config).labels, np.isin(ids, (5, 7)))
    entry = Entry("x")
    inspect_case(entry, files, config)
    assert (entry.verdict, entry.facts["labels"]) == ("ok", "0, 1")
    three = replace(PORT, classes=3, label_ids=(0, 5, 3))
    np.testing.assert_array_equal(
        data.load_case(files, three).labels, 1 * (ids == 5) + 2 * (ids == 3)
    )
    with pytest.raises(DataError, match="found the label 300; expected 0 to 255"):
        data.load_case(files, PORT)
    with pytest.raises(OptionError, match="label_ids"):
        replace(PORT, label_ids=(0, 5, 3))


def test_a_region_of_another_shape_is_refused(tmp_path, scan):
    """Names both files and both shapes, z first."""
    other = save(tmp_path / "roi.nii.gz", np.ones((6, 7, 9), np.uint8))
    with pytest.raises(DataError, match=r"scan\.nii.* and .*roi\.nii.*\(8, 7, 6\).*\(9, 7, 6"):
        data.load_case(CaseFiles((scan,), mask=other), PORT)
    moved = np.eye(4)
    moved[0, 3] = 2.0
    aside = save(tmp_path / "aside.nii.gz", np.ones(SHAPE, np.uint8), moved)
    with pytest.raises(DataError, match="2 mm"):
        data.load_case(CaseFiles((scan,), mask=aside), PORT)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("channel_t2w,ground_truth,roi_maks\n", "roi_mask"),
        ("channel_t2w,roi_mask\nscan.nii.gz,scan.nii.gz,x\n", r"cases\.csv, line 2: found 3"),
        ("channel_t2w,ground_truth,roi_mask\nscan.nii.gz,x\n", r"cases\.csv, line 2: found 2"),
    ],
)
def test_columns_and_rows_that_would_be_dropped_are_refused(tmp_path, scan, rows, said):
    """A misspelt column trained without a mask; a long first row was a traceback."""
    (tmp_path / "cases.csv").write_text(rows)
    with pytest.raises(DataError, match=said):
        data.find_cases(tmp_path / "cases.csv")


def test_blanks_capitals_and_semicolons_are_forgiven(tmp_path, scan):
    (tmp_path / "cases.csv").write_text(
        "Channel_T2w; Ground_truth ;ROI mask\nscan.nii.gz; scan.nii.gz ;scan.nii.gz\n"
    )
    assert data.find_cases(tmp_path / "cases.csv") == (CaseFiles((scan,), labels=scan, mask=scan),)


def test_another_number_of_channels_is_refused(scan):
    with pytest.raises(DataError, match="found 1 channels, expected 2"):
        data.load_case(CaseFiles((scan,)), TWO)


def test_weight_maps_are_stacked_and_not_negative(tmp_path, scan):
    weights = save(tmp_path / "w.nii.gz", np.full(SHAPE, 0.5, np.float32))
    case = data.load_case(CaseFiles((scan,), weight_maps=(weights, weights)), PORT)
    assert case.weight_maps.shape == (2, *SHAPE)
    bad = save(tmp_path / "bad.nii.gz", np.full(SHAPE, -0.5, np.float32))
    with pytest.raises(DataError, match="bad"):
        data.load_case(CaseFiles((scan,), weight_maps=(bad,)), PORT)


def test_normalisation_over_the_volume_or_the_brain(scan, mask):
    """[G25] The mask holds 0.99999997, as those of BraTS do."""
    case = data.load_case(CaseFiles((scan,), mask=mask), PORT)
    assert np.unique(case.mask).tolist() == [0, 1]
    brain = data.prepare_case(case, PORT)
    inside = case.mask > 0
    assert brain[inside].mean() == pytest.approx(0, abs=1e-5)
    assert brain[inside].std() == pytest.approx(1, abs=1e-5)
    volume = data.prepare_case(case, replace(PORT, normalisation="volume"))
    assert volume.mean() == pytest.approx(0, abs=1e-5)
    assert volume.std() == pytest.approx(1, abs=1e-5)
    assert abs(volume[inside].mean()) > 1e-3
    again = data.normalise(volume, "volume")
    np.testing.assert_allclose(again, volume, atol=1e-5)


def test_a_constant_scan_becomes_0():
    assert not data.normalise(np.full((4, 4, 4, 1), 7.0, np.float32), "volume").any()


def test_raw_numbers_are_warned_of(scan):
    case = data.load_case(CaseFiles((scan,)), PORT)
    with pytest.warns(UserWarning, match="expects scans of mean 0"):
        data.prepare_case(case, replace(PORT, normalisation="none"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.normalise(data.prepare_case(case, PORT), "none")


def test_the_last_rows_are_held_out(tmp_path):
    cases = tuple(CaseFiles((tmp_path / f"{n}.nii",)) for n in range(6))
    split = data.split_cases(cases, replace(PORT, held_out_cases=2, validation_cases=1))
    assert split == {"training": cases[:3], "validation": cases[3:4], "test": cases[4:]}
    again = [data.files_from(data.describe_files(files)) for files in cases]
    assert [a.channels for a in again] == [files.channels for files in cases]
    with pytest.raises(DataError, match="found 6 cases"):
        data.split_cases(cases, replace(PORT, held_out_cases=6))
