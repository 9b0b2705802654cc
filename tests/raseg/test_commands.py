"""The command line from phantom to export, and what it says to a user's mistakes."""

import csv
import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import run, start

from common.data.volumes import read_volume
from common.training.checkpoints import read_checkpoint
from raseg.masks import dice_of_original
from raseg.phantom import phantom

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--filters", "2,4", "--epochs", "2", "--validation_volumes", "1"]


command = partial(run, "raseg")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with phantoms, binaries and a finished run, made through the command line."""
    folder = tmp_path_factory.mktemp("work")
    phantom(folder / "datasets", cases=8, seed=1, shape=(32, 32, 6))
    command("make_datasets", "-t", "t", "-v", "2", "--validation_volumes", "1", cwd=folder).ok()
    command("raseg_train", "-t", "t", *TINY, cwd=folder).ok()
    return folder


def test_run_folder(work):
    run = work / "models" / "raseg_train_t"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["phantom"] is True
    assert len(manifest["data_files"]) == 6
    split = json.loads((run / "split.json").read_text())
    assert [entry["volume"] for entry in split["test"]] == [6, 7]
    rows = (run / "log.csv").read_text().splitlines()
    assert rows[0].split(",") == ["epoch", "step", "dice", "loss", "val_dice", "learning_rate"]
    assert len(rows) == 3


def test_network_is_the_running_mean(work):
    """Of the callbacks' variables in the checkpoint, not of the raw weights."""
    import keras

    run = work / "models" / "raseg_train_t"
    checkpoint = read_checkpoint(run / "checkpoints" / "last.npz")
    saved = keras.models.load_model(run / "model.keras", compile=False).get_weights()
    for average, weight in zip(checkpoint.arrays["callbacks"], saved, strict=True):
        np.testing.assert_array_equal(average, weight)
    raw = checkpoint.arrays["model"]
    assert any((a != b).any() for a, b in zip(raw, saved, strict=True))


def test_predict_and_evaluate(work):
    """Files where the original puts them, a NIfTI in the phantom's geometry, the report."""
    text = command("raseg_predict", "--tag", "t", "--imgn", "6", "--probabilities", cwd=work).ok()
    out = work / "models" / "raseg_train_t" / "predictions"
    mask = np.load(out / "preds" / "t" / "img6_t.npy")
    assert mask.dtype == np.float64
    assert mask.shape == (32, 32, 6)
    assert "12 pictures" in text
    pictures = sorted(path.name for path in (out / "pictures" / "t" / "img6").iterdir())
    assert len(pictures) == 12
    assert {"img6d0_t_true.png", "img6d5_t_pred.png"} <= set(pictures)
    nifti = read_volume(out / "img6.nii.gz")
    np.testing.assert_array_equal(nifti.array, mask.transpose(2, 0, 1))
    spacing = json.loads((work / "datasets" / "geometry.json").read_text())["spacing_mm"]
    assert nifti.spacing_zyx_mm == pytest.approx((spacing[2], spacing[0], spacing[1]))
    probability = np.load(out / "preds" / "t" / "img6_t_probability.npy")
    np.testing.assert_array_equal(probability > 0.5, mask > 0)
    command("predict", "--tag", "t", cwd=work).ok()  # both held-out volumes
    text = command("evaluate", "--tag", "t", cwd=work).ok()
    assert "Synthetic phantom data" in text
    report = work / "models" / "raseg_train_t" / "report"
    assert "dice_original" in (report / "cases.csv").read_text()
    assert "Dice (original)" in (report / "index.html").read_text()
    assert json.loads((report / "report.json").read_text())["cases"] == 2


def test_flips_and_an_ensemble_of_one(work, tmp_path):
    """A network twice is that network; the doubt is that of the probabilities beside it."""
    run = work / "models" / "raseg_train_t"
    words = ["predict", "--tag", "t", "--imgn", 6, "--pictures", "false", "--probabilities"]
    one, two, mean = (tmp_path / name for name in ("one", "two", "mean"))
    command(*words, "--run", run, "--out", one, cwd=work).ok()
    command(*words, "--run", run, "--run", run, "--entropy", "--out", two, cwd=work).ok()
    command(*words, "--run", run, "--flips", "x,z", "--out", mean, cwd=work).ok()
    for name in ("img6_t", "img6_t_probability"):
        single, twice, flipped = (np.load(out / "preds" / "t" / f"{name}.npy")
                                  for out in (one, two, mean))  # fmt: skip
        np.testing.assert_array_equal(twice, single)
        assert (flipped != single).any() or name == "img6_t"
    doubt = np.load(two / "preds" / "t" / "img6_t_entropy.npy")
    np.testing.assert_allclose(doubt, -sum(p * np.log2(p) for p in (single, 1 - single)), atol=1e-6)
    assert json.loads((mean / "extras.json").read_text())["flips"] == ["x", "z"]
    done = command(*words, "--run", run, "--run", tmp_path, "--out", tmp_path / "no", cwd=work)
    done.refused("predict", f"{tmp_path} is not a run folder")
    shutil.copy(run / "model.keras", tmp_path / "x.keras")
    done = command(*words, "--weights", tmp_path / "x.keras", "--out", tmp_path / "no", cwd=work)
    done.refused("predict", "x.keras: fits no network of raseg's presets (port, paper, code, draft")


def test_units_are_said_where_no_spacing_is_known(work, tmp_path):
    """Tables said mm and ml of voxels and thousands of them."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(work / "datasets", data, ignore=shutil.ignore_patterns("geometry.json"))
    shutil.copytree(work / "models" / "raseg_train_t", run)
    words = ["--tag", "t", "--run", run, "--data", data, "--imgn", 7]
    command("predict", *words, cwd=work).ok()
    text = command("evaluate", *words, cwd=work).ok()
    page = (run / "report" / "index.html").read_text()
    for said in (text, page):
        assert "HD95 (voxels)" in said
        assert "volume difference (1000 voxels)" in said
        assert "(mm)" not in said
        assert "(ml)" not in said
    (row,) = csv.DictReader((run / "report" / "cases.csv").open())
    label = np.load(data / "images_and_labels.npy")[7, 1] > 0
    assert float(row["reference_kvoxels"]) == pytest.approx(label.sum() / 1000)
    assert not [name for name in row if name.endswith(("_mm", "_ml"))]


def test_pictures_show_the_truth_in_the_originals_colours(work):
    """brg at weight 0.2 over bone: blue is background, green the mask."""
    from matplotlib.image import imread

    out = work / "models" / "raseg_train_t" / "predictions"
    picture = imread(out / "pictures" / "t" / "img6" / "img6d3_t_true.png")
    label = np.load(work / "datasets" / "images_and_labels.npy")[6, 1, :, :, 3] == 1
    assert label.any()
    assert (picture[label][:, 1] - picture[label][:, 2]).mean() > 0.1
    assert (picture[~label][:, 2] - picture[~label][:, 1]).mean() > 0.1


def test_export(work):
    text = command("export", "--run", "models/raseg_train_t", "--to", "served", cwd=work).ok()
    assert "SavedModel without Keras vs the network on phantom 6 (test):" in text
    assert "volume/labels: max difference 0.0e+00" in text
    assert (work / "served" / "raseg" / "1" / "saved_model.pb").is_file()


def test_draft_trains_and_predicts_patches(work, tmp_path):
    draft = ["--preset", "draft", "--patch_shape", "[16,16,4]", "--patches_per_volume", "4"]
    command("prepare", "--tag", "d", "--val", "6", *draft, cwd=work).ok()
    command("train", "--tag", "d", *draft, "--filters", "2,4", "--max_steps", "2", cwd=work).ok()
    command("predict", "--tag", "d", "--imgn", "7", "--out", tmp_path, cwd=work).ok()
    assert (tmp_path / "preds" / "d" / "img7_d.npy").is_file()
    command("export", "--run", "models/raseg_train_d", "--to", "served_d", cwd=work).ok()


def test_bone_marrow_oedema(tmp_path):
    phantom(tmp_path / "datasets", cases=3, shape=(32, 32, 6), task="bme")
    task = ["--task", "bme", "--validation_volumes", "0"]
    command("prepare", "--tag", "b", "--val", "1", *task, cwd=tmp_path).ok()
    command("train", "--tag", "b", *task, "--filters", "2,4", "--max_steps", "1", cwd=tmp_path).ok()
    command("predict", "--tag", "b", cwd=tmp_path).ok()
    assert "Mean Dice" in command("evaluate", "--tag", "b", cwd=tmp_path).ok()


def test_killed_run_goes_on_to_the_bit(work):
    """Twice the same command, once killed in between: the same network."""
    words = ["train", "--tag", "t", *TINY, "--epochs", "12"]
    broken = start("raseg", *words, "--run", "broken", cwd=work)
    while broken.poll() is None and not (work / "broken/checkpoints/last.npz").is_file():
        time.sleep(0.02)
    broken.kill()
    broken.wait()
    assert json.loads((work / "broken/manifest.json").read_text())["status"] == "running"
    for name in ("broken", "whole"):
        command(*words, "--run", name, cwd=work).ok()
    one, two = (read_checkpoint(work / f"{name}/checkpoints/last.npz").arrays
                for name in ("whole", "broken"))  # fmt: skip
    for group in ("model", "optimizer", "callbacks"):
        for a, b in zip(one[group], two[group], strict=True):
            np.testing.assert_array_equal(a, b)


def test_mistakes(work):
    """Each is one line, status 2, and nothing is left behind."""
    command("train", "--tag", "no", cwd=work).refused(
        "train", "--tag no", "train_and_label_no_batch_1.bin"
    )
    command("predict", "--tag", "t", "--imgn", "8", cwd=work).refused(
        "predict", "--imgn 8: expected 0 to 7"
    )
    command("predict", "--tag", "t", "--imgn", "-1", cwd=work).refused(
        "predict", "--imgn -1: expected 0 to 7"
    )
    command("predict", "--tag", "no", cwd=work).refused("predict", "is not a run folder")
    command("prepare", "--tag", "x", "--val", "9", cwd=work).refused(
        "prepare", "--val 9", "of 8 volumes"
    )
    command("prepare", "--tag", "x", cwd=work).refused("prepare", "val")
    command("train", "--tag", "t", *TINY, cwd=work).refused("train", "is finished")
    command("evaluate", "--tag", "t", "--imgn", "0", cwd=work).refused(
        "evaluate", "img0_t.npy is missing", "run predict", "--imgn"
    )
    assert not list((work / "datasets" / "bins").glob("*_x_*"))


def test_truncated_binary(work, tmp_path):
    for path in (work / "datasets" / "bins").glob("*_t*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "train_and_label_t_batch_5.bin"
    path.write_bytes(path.read_bytes()[:-10])
    done = command("train", "--tag", "t", *TINY, "--data_dir", tmp_path, "--run", "r", cwd=work)
    done.refused("train", "batch_5.bin: record 1 is truncated")
    assert not (work / "r").exists()


def test_compare(work):
    text = command("compare", "--run", "models/raseg_train_t", cwd=work).ok()
    assert "R2: ReLU on the logits" in text
    assert "h0_conv1/weights" in text


def test_help_loads_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "raseg", "train", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--tag" in done.stdout
    for heavy in ("tensorflow", "keras", "numpy", "matplotlib"):
        assert f" {heavy}\n" not in done.stderr


def test_dice_of_the_original(golden):
    """1e-5 in the denominator; empty masks have Dice 0."""
    recorded = golden("patches_metrics")
    cases = [key.partition("/")[2] for key in recorded if key.startswith("dsc/")]
    assert cases
    for case in cases:
        source = f"metrics/{case}"
        if f"{source}/label" in recorded:
            label, mask = recorded[f"{source}/label"], recorded[f"{source}/pred"]
            expected = float(recorded[f"dsc/{case}"])
            assert dice_of_original(mask, label) == pytest.approx(expected, abs=1e-9)
    assert dice_of_original(np.zeros(3), np.zeros(3)) == 0
    assert dice_of_original(np.array([1, 1, 0]), np.array([1, 0, 0])) == pytest.approx(
        2 / 3, rel=1e-5
    )
