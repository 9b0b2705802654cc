"""Data sets in BIDS layout become lists of cases."""

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError
from fetal_brain.bids import find_bids_cases
from fetal_brain.config import PORT
from fetal_brain.data import find_cases
from fetal_brain.prepare import prepare


def add(folder, subject, name, *masks, session=""):
    place = f"{subject}/{session}anat"
    for file in (folder / place / name, *(folder / "derivatives/drawn" / place / m for m in masks)):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_volume(file, np.ones((2, 3, 4), np.uint8), Geometry((1.0, 1.0, 3.0)))


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "bids"
    add(folder, "sub-01", "sub-01_run-2_T2w.nii.gz", "sub-01_run-2_T2w_desc-brain_mask.nii.gz")
    add(folder, "sub-01", "sub-01_run-1_T2w.nii.gz", "sub-01_run-1_desc-brain_mask.nii.gz")
    add(folder, "sub-02", "sub-02_ses-a_T2w.nii", "sub-02_ses-a_desc-brain_mask.nii",
        session="ses-a/")  # fmt: skip
    add(folder, "sub-03", "sub-03_T2w.nii.gz")  # without a mask
    add(folder, "sub-03", "sub-03_T1w.nii.gz", "sub-03_T1w_desc-brain_mask.nii.gz")
    return folder


def test_the_list_names_scans_masks_and_subjects(dataset, tmp_path, capsys):
    out = tmp_path / "lists" / "all.csv"
    prepare(dataset, out, config=PORT, layout="bids")
    assert capsys.readouterr().out == f"Listed: 3 cases of 2 subjects in {out}\n"
    cases = find_cases(out)
    assert [case.id for case in cases] == ["sub-01_run-1_T2w", "sub-01_run-2_T2w",
                                           "sub-02_ses-a_T2w"]  # fmt: skip
    assert [case.subject for case in cases] == ["01", "01", "02"]
    drawn = dataset / "derivatives" / "drawn"
    assert cases[0].label_path.samefile(drawn / "sub-01/anat/sub-01_run-1_desc-brain_mask.nii.gz")
    assert cases[2].image_path.samefile(dataset / "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii")
    first = out.read_text().splitlines()[1].split(",")
    assert first[1] == "../bids/sub-01/anat/sub-01_run-1_T2w.nii.gz"


def test_what_is_no_such_data_set_is_refused(dataset, tmp_path):
    with pytest.raises(DataError, match=r"found no scans; expected a data set in BIDS layout"):
        prepare(tmp_path / "bids" / "derivatives", tmp_path / "a.csv", config=PORT, layout="bids")
    with pytest.raises(DataError, match=r"prepared: expected a name ending in \.csv"):
        prepare(dataset, tmp_path / "prepared", config=PORT, layout="bids")
    add(dataset, "sub-02", "sub-02_ses-a_T2w.nii", "sub-02_ses-a_T2w_desc-b_mask.nii",
        session="ses-a/")  # fmt: skip
    with pytest.raises(DataError, match=r"sub-02_ses-a_T2w\.nii: found several masks: .*; exp"):
        find_bids_cases(dataset)
    bare = tmp_path / "bare"
    add(bare, "sub-09", "sub-09_T2w.nii.gz")
    with pytest.raises(DataError, match=r"found no mask of 1 scans.*sub-09_T2w_desc-brain_mask"):
        find_bids_cases(bare)


@pytest.mark.shared
def test_real_stacks_are_found(shared):
    cases = find_bids_cases(shared / "data" / "fetal_brain" / "mial")
    assert len(cases) == 6
    assert {case.subject for case in cases} == {"01"}
    assert all(case.id in case.label_path.name for case in cases)
