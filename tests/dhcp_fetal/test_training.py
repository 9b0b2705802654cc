"""A run from beginning to end: samples, schedules, resuming, tables and the original's files."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.errors import DataError, OptionError
from common.runs.folder import load_config, load_run
from common.runs.log import read_log
from common.runs.training_grid import TrainingGrid, recorded_grid
from dhcp_fetal import batches
from dhcp_fetal.cfg.fields import resolve_config
from dhcp_fetal.config import QUICK, Config
from dhcp_fetal.networks import load_run_network
from dhcp_fetal.session import CaseFiles
from dhcp_fetal.train import train

ROOT = Path(__file__).resolve().parents[2]

SMALL = replace(
    QUICK,
    filters=(4, 4),
    kernels=((3, 3, 3),) * 2,
    padding=("valid",) * 2,
    residual_layers=(2,),
    context_filters=((4, 4),),
    context_kernels=((3, 3, 3),) * 2,
    context_padding=("valid",) * 2,
    context_residual_layers=(),
    fc_filters=(),
    fc_kernels=((1, 1, 1),),
    fc_padding=("valid",),
    fc_dropout=(0.5,),
    train_segment=(9, 9, 9),
    validation_segment=(9, 9, 9),
    inference_segment=(17, 17, 17),
    rolling_batches=4,
    epochs=2,
    subepochs=2,
    segments_per_subepoch=14,
    batch_size=4,
    validation_cases=1,
    held_out_cases=1,
    validate_on_samples=True,
    validation_segments_per_subepoch=12,
    validation_batch_size=4,
    validate_on_volumes=True,
    affine_probability=0.5,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four small cases: a bright ball in noise."""
    folder = tmp_path_factory.mktemp("cases")
    rows = ["channel_t2w,ground_truth,roi_mask,prediction_filename"]
    for number in range(4):
        rng = np.random.default_rng(number)
        axes = [np.arange(n) - n / 2 + rng.uniform(-2, 2) for n in (20, 22, 18)]
        ball = np.sqrt(sum(np.square(np.meshgrid(*axes, indexing="ij")))) < 6
        for name, array in (
            ("t", rng.normal(size=ball.shape).astype(np.float32) + 3 * ball),
            ("g", ball.astype(np.uint8)),
            ("m", np.ones(ball.shape, np.uint8)),
        ):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{name}{number}.nii.gz")
        rows.append(f"t{number}.nii.gz,g{number}.nii.gz,m{number}.nii.gz,case{number}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(table, run, config=replace(SMALL, select_best_epoch=True), preset="quick", seed=3)
    return run


def test_a_run_leaves_what_the_next_stage_needs(finished):
    record = load_run(finished)
    assert record.status == "finished"
    assert [entry["id"] for entry in record.read_split()["test"]] == ["case3"]
    assert load_config(finished, Config) == replace(SMALL, select_best_epoch=True)
    network, config = load_run_network(finished)
    assert network.count_params() > 0
    assert config.filters == (4, 4)
    assert record.manifest["sampling"]["waited_s"] >= 0
    assert recorded_grid(finished) == TrainingGrid("RAS", (1.0, 1.0, 1.0))


def test_the_log_holds_samples_and_volumes(finished):
    """[D2] [G14] [G23] Six steps an epoch: 14 // 4 batches of each of two subepochs."""
    rows = read_log(finished)
    assert [row["step"] for row in rows] == [6, 12]
    for row in rows:
        assert {"loss", "accuracy", "val_accuracy", "val_dice_foreground"} <= set(row)
        assert 0 <= row["val_volume_dice_foreground"] <= 1
    assert rows[0]["learning_rate"] == pytest.approx(1e-3 * (1 - (1 - 2 / 3) / (4 / 3)) ** 0.9)
    assert rows[1]["learning_rate"] == 0


def test_the_best_epoch_is_kept(finished):
    """[G30]"""
    assert (finished / "checkpoints" / "best.keras").is_file()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network(table, finished, tmp_path):
    """[G18] [D12]"""
    train(table, tmp_path / "a", config=replace(SMALL, select_best_epoch=True), preset="quick",
          seed=3)  # fmt: skip
    first, second = (load_run_network(run)[0].get_weights() for run in (finished, tmp_path / "a"))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def make_source(table, config=SMALL, *, seed=1, way=batches.training_way, count=2):
    from dhcp_fetal.data import find_cases

    cache = batches.CaseCache(find_cases(table)[:count], config)
    return batches.SegmentSource(cache, way(config), seed=seed, batch_size=config.batch_size)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_network(table, finished, tmp_path):
    """SIGKILL after the first epoch; rows of batch statistics and the schedule go on, too."""
    run = tmp_path / "run"
    words = [sys.executable, "-m", "dhcp_fetal", "train", "--cases", table, "--run", run,
             "--config", finished / "config.yaml", "--seed", 3]  # fmt: skip
    with open(tmp_path / "output.txt", "w") as output:
        process = subprocess.Popen([str(word) for word in words], cwd=ROOT,
                                   stdout=output, stderr=subprocess.STDOUT)  # fmt: skip
    while process.poll() is None and not (run / "log.csv").is_file():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert load_run(run).status != "finished", (tmp_path / "output.txt").read_text()
    train(table, run, config=replace(SMALL, select_best_epoch=True), preset="quick", seed=3)
    assert [row["step"] for row in read_log(run)] == [6, 12]
    first, second = (load_run_network(one)[0].get_weights() for one in (finished, run))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_any_segment_can_be_drawn_again(table):
    """[G18] Whatever was drawn before; the next subepoch is other segments."""
    first, second = make_source(table), make_source(table)
    for index in (0, 5, 11):
        inputs, labels = first(index)
        assert [part.shape for part in inputs] == [(9, 9, 9, 1), (6, 6, 6, 1)]
        assert labels.shape == (5, 5, 5)
        for one, other in zip(
            (*inputs, labels), (*second(index)[0], second(index)[1]), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    later = make_source(table)(13)
    np.testing.assert_array_equal(later[0][0], first(13)[0][0])
    assert not np.array_equal(later[0][0], first(1)[0][0])


def test_a_subepoch_is_cut_ahead(table):
    """While one is trained on; nothing beyond the last."""
    source = make_source(table)
    source.subepochs = 2
    source.subepoch(0)
    assert sorted(source._ahead) == [0, 1]
    source.subepoch(1)
    assert sorted(source._ahead) == [0, 1]


def test_half_of_the_samples_are_foreground(table):
    """[D9] The centre of a segment is a voxel of its category."""
    plain = replace(
        SMALL, segments_per_subepoch=400, affine_probability=0.0, flip_probabilities=None
    )
    _, labels = make_source(table, plain).draw(0)
    centres = labels[:, 2, 2, 2]
    assert centres.mean() == pytest.approx(0.5, abs=0.02)


def test_cases_without_labels_are_refused(table):
    files = CaseFiles((table.parent / "t0.nii.gz",), name="bare")
    cache = batches.CaseCache([files], SMALL)
    with pytest.raises(DataError, match="bare has no labels"):
        cache.get(0, (9, 9, 9))


def test_options_by_hand_win_over_files(tmp_path):
    model = tmp_path / "model.cfg"
    model.write_text(
        "numberOfOutputClasses = 3\nnumberOfInputChannels = 1\nnumberFMsPerLayerNormal = [4, 4]\n"
        "kernelDimPerLayerNormal = [[3,3,3],[3,3,3]]\nsegmentsDimTrain = [9,9,9]\n"
    )
    config = resolve_config(replace(QUICK, epochs=7), "quick", model=model)
    assert (config.classes, config.epochs, config.normalisation) == (3, 7, "none")
    by_hand = resolve_config(replace(QUICK, normalisation="volume"), "quick", model=model)
    assert by_hand.normalisation == "volume"
    with pytest.raises(OptionError, match="-model"):
        resolve_config(QUICK, "quick", train=model)


def test_a_run_needs_cases_of_one_kind(table, tmp_path):
    with pytest.raises(OptionError, match="--cases"):
        train(None, tmp_path / "run", config=SMALL)
    with pytest.raises(OptionError, match="--run"):
        train(table, None, config=SMALL)
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_follows_samples_needs_them(table, tmp_path):
    """It was a KeyError after the first epoch. [G11]"""
    config = replace(QUICK, schedule="auto", validate_on_samples=False)
    with pytest.raises(OptionError, match="--schedule auto follows the accuracy on validation"):
        train(table, tmp_path / "run", config=config, preset="quick")


CFG_MODEL = """
modelName = "tiny"
numberOfOutputClasses = 2
numberOfInputChannels = 1
numberFMsPerLayerNormal = [4, 4]
kernelDimPerLayerNormal = [[3,3,3],[3,3,3]]
useSubsampledPathway = True
segmentsDimTrain = [9,9,9]
segmentsDimInference = [17,17,17]
"""
CFG_TRAIN = """
sessionName = "fromCfg"
folderForOutput = "../output"
channelsTraining = ["./t2w.cfg"]
gtLabelsTraining = "./labels.cfg"
numberOfEpochs = 1
numberOfSubepochs = 1
numberTrainingSegmentsLoadedOnGpuPerSubep = 8
batchsize_train = 4
typeOfLearningRateSchedule = 'auto'
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
channelsValidation = ["./t2w_val.cfg"]
gtLabelsValidation = "./labels_val.cfg"
namesForPredictionsPerCaseVal = "./names.cfg"
numberValidationSegmentsLoadedOnGpuPerSubep = 50
"""


def write_cfgs(folder, table):
    data = table.parent
    (folder / "cfg").mkdir()
    texts = {
        "model.cfg": CFG_MODEL,
        "train.cfg": CFG_TRAIN,
        "t2w.cfg": f"{data}/t0.nii.gz\n{data}/t1.nii.gz\n",
        "labels.cfg": f"{data}/g0.nii.gz\n{data}/g1.nii.gz\n",
        "t2w_val.cfg": f"{data}/t2.nii.gz\n",
        "labels_val.cfg": f"{data}/g2.nii.gz\n",
        "names.cfg": "pred_case2.nii.gz\n",
    }
    for name, text in texts.items():
        (folder / "cfg" / name).write_text(text)
    return folder / "cfg"


@pytest.mark.slow
def test_training_from_the_originals_files(table, tmp_path):
    """[G11] The schedule auto runs; results of validation have the original's names."""
    cfg = write_cfgs(tmp_path, table)
    train(config=QUICK, preset="quick", model_cfg=cfg / "model.cfg", train_cfg=cfg / "train.cfg")
    run = tmp_path / "output" / "fromCfg"
    assert load_config(run, Config).schedule == "auto"
    assert sorted(path.name for path in (run / "predictions").iterdir()) == [
        "pred_case2_ProbMapClass0.nii.gz",
        "pred_case2_ProbMapClass1.nii.gz",
        "pred_case2_Segm.nii.gz",
    ]
    (row,) = read_log(run)
    assert row["step"] == 2
    assert "val_accuracy" in row


def test_lists_of_different_length_are_refused(table, tmp_path):
    cfg = write_cfgs(tmp_path, table)
    (cfg / "labels.cfg").write_text("only/one.nii.gz\n")
    with pytest.raises(DataError, match=r"labels\.cfg: expected 2 entries .* found 1"):
        train(config=QUICK, preset="quick", model_cfg=cfg / "model.cfg",
              train_cfg=cfg / "train.cfg")  # fmt: skip
    assert not (tmp_path / "output").exists()
