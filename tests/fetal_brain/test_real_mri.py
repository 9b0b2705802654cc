"""Training on four real brain MRIs (BraTS 2015), shortened; whole runs stand in the paper card."""

import csv
import json

import pytest

from common import cli

SUBJECTS = {
    "brats_2013_pat0005_1": "train",
    "brats_2013_pat0006_1": "train",
    "brats_2013_pat0003_1": "validation",
    "brats_2013_pat0004_1": "validation",
}


@pytest.fixture(scope="module")
def brain_list(shared, tmp_path_factory):
    """A list as a user would write it: FLAIR and brain mask of four subjects."""
    path = tmp_path_factory.mktemp("brats") / "brain.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "segmentation"])
        for name, subset in SUBJECTS.items():
            folder = shared / "data" / "brats" / subset / name
            writer.writerow(
                [name, folder / "Flair_subtrMeanDivStd.nii.gz", folder / "brainmask.nii.gz"]
            )
    return path


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.shared
def test_brain_of_a_held_out_subject(brain_list, tmp_path):
    """Three subjects train a narrow network for 120 steps, the fourth is segmented whole: 0.98."""
    run = tmp_path / "run"
    options = ["--preset", "quick", "--label-ids", "0,1", "--held_out_cases", 1]
    options += ["--validation_cases", 0, "--learning_rate", 0.05, "--offset_sigma", 0.05]
    options += ["--dropout", 0, "--l2_weight", 0, "--patch_shape", "3,64,64"]
    options += ["--max_steps", 120, "--steps_per_evaluation", 60]
    for words in (
        ["train", "--train_csv", brain_list, "--run", run, *options],
        ["predict", "--run", run],
        ["evaluate", "--run", run],
    ):
        assert cli.main("fetal_brain", argv=list(map(str, words))) == 0
    report = json.loads((run / "report" / "report.json").read_text())
    assert not report["phantom"]
    assert report["labels"]["foreground"]["dice"]["mean"] > 0.9
