"""Real scans: the engine's tinyCnn example from its own files, laid where its lists point."""

import shutil
from dataclasses import replace

import pytest

from common.runs.log import read_log
from dhcp_fetal.config import PORT
from dhcp_fetal.train import train


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.shared
def test_the_tiny_example_learns_from_its_own_files(shared, example_files, tmp_path):
    """60 of the example's 400 steps, at three times its rate.

    The whole example, by hand: foreground DICE1 .903 after its 2 epochs (engine: .891 to .897).
    """
    shutil.copytree(example_files / "tinyCnn", tmp_path / "configFiles/tinyCnn")
    data = tmp_path / "dataForExamples/brats2015TrainingData"
    data.mkdir(parents=True)
    for subset in ("train", "validation"):
        (data / subset).symlink_to(shared / "data/brats" / subset)
    config = PORT
    short = {
        "epochs": 1,
        "subepochs": 1,
        "segments_per_subepoch": 600,
        "validation_segments_per_subepoch": 100,
        "affine_probability": 0.01,
        "learning_rate": 0.003,
    }
    folder = tmp_path / "configFiles/tinyCnn"
    run = tmp_path / "run"
    train(
        run=run,
        config=replace(config, **short),
        preset="port",
        model_cfg=folder / "model/modelConfig.cfg",
        train_cfg=folder / "train/trainConfigWithValidation.cfg",
        seed=1,
    )
    (row,) = read_log(run)
    assert row["step"] == 60
    assert row["val_volume_dice_foreground"] > 0.6  # .702 was measured
    names = {path.name for path in (run / "predictions").iterdir()}
    assert "pred_brats_2013_pat0003_1_Segm.nii.gz" in names
