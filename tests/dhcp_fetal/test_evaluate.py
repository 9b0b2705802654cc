"""Scores from files: the right measures, the engine's three kinds of Dice beside them, the page."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from common.errors import DataError
from common.runs.folder import open_run
from dhcp_fetal.config import QUICK
from dhcp_fetal.data import describe_files
from dhcp_fetal.evaluate import evaluate
from dhcp_fetal.scoring import score
from dhcp_fetal.session import CaseFiles

SHAPE = (6, 7, 8)


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 1.0, 2.0, 1.0])), path)
    return path


@pytest.fixture
def case(tmp_path):
    """A prediction of 8 voxels, a reference of 12, 6 of them the same; half of it in the mask."""
    labels, found, mask = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    labels[0:3, 1:3, 1:3] = 1
    found[0:2, 1:3, 1:3] = 1
    found[0, 1:3, 1] = 0
    found[5, 5, 5:7] = 2
    mask[:, :, :4] = 1
    save(tmp_path / "predictions" / "one.nii.gz", found)
    return CaseFiles(
        (save(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=SHAPE)),),
        labels=save(tmp_path / "labels.nii.gz", labels),
        mask=save(tmp_path / "mask.nii.gz", mask),
        name="one",
    )


def test_scores_by_hand(case, tmp_path):
    """[G23] DICE1 2*6/(8+12); the two voxels outside the mask count only there."""
    (row,) = score(case, tmp_path / "predictions", QUICK, structure="cortex").rows
    assert row["label"] == "cortex"
    assert row["dice"] == row["dice1"] == pytest.approx(12 / 20)
    assert row["dice2"] == row["dice3"] == pytest.approx(12 / 18)
    assert row["volume_ml"] == pytest.approx(8 * 0.001)
    three = score(case, tmp_path / "predictions", replace(QUICK, classes=3), structure=None).rows
    assert [r["label"] for r in three] == ["foreground", "class 1", "class 2"]
    assert three[1]["dice1"] == pytest.approx(12 / 18)
    assert three[2]["dice"] == 0
    assert np.isnan(three[2]["dice1"])


def test_the_page_and_its_tables(case, tmp_path, capsys):
    run = tmp_path / "run"
    with open_run(run, paper="dhcp_fetal", options={}, config=QUICK, seed=0) as record:
        record.write_split({"training": [], "validation": [], "test": [describe_files(case)]})
    evaluate(run, predictions=tmp_path / "predictions", structure="cortex")
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["labels"]["cortex"]["dice"]["mean"] == pytest.approx(0.6)
    header = (run / "report" / "cases.csv").read_text().splitlines()[0]
    assert header.endswith("dice1,dice2,dice3")
    assert "DICE2 0.6667" in capsys.readouterr().out
    assert (run / "report" / "index.html").is_file()


def test_what_is_missing_is_named(case, tmp_path):
    with pytest.raises(DataError, match="one_Segm"):
        score(case, tmp_path / "predictions", QUICK, structure=None, suffix="_Segm")
    with pytest.raises(DataError, match="no reference"):
        score(replace(case, labels=None), tmp_path / "predictions", QUICK, structure=None)
