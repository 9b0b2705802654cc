"""The command line from phantom to export, and what it says to a user's mistakes."""

import io
import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from common.cli import main
from common.data.volumes import read_volume
from common.training.checkpoints import read_checkpoint
from raseg.__main__ import OPTION_ALIASES, VERB_ALIASES
from raseg.evaluate import dice_of_original
from raseg.phantom import phantom

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--filters", "2,4", "--epochs", "2", "--validation_volumes", "1"]


Done = namedtuple("Done", "returncode stdout stderr")


def command(folder, *words):
    """Run a command of raseg in a folder, in this process."""
    said, errors, here = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(said), redirect_stderr(errors):
            status = main(
                "raseg",
                argv=[str(word) for word in words],
                verb_aliases=VERB_ALIASES,
                option_aliases=OPTION_ALIASES,
            )
    finally:
        os.chdir(here)
    return Done(status, said.getvalue(), errors.getvalue())


def start(folder, *words):
    """Start a command of raseg as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "raseg", *map(str, words)], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ok(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done, *parts):
    """The mistake is one line on stderr, status 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with phantoms, binaries and a finished run, made through the command line."""
    folder = tmp_path_factory.mktemp("work")
    phantom(folder / "datasets", cases=8, seed=1, shape=(32, 32, 6))
    ok(command(folder, "make_datasets", "-t", "t", "-v", "2", "--validation_volumes", "1"))
    ok(command(folder, "raseg_train", "-t", "t", *TINY))
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
    text = ok(command(work, "raseg_predict", "--tag", "t", "--imgn", "6", "--probabilities"))
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
    ok(command(work, "predict", "--tag", "t"))  # both held-out volumes
    text = ok(command(work, "evaluate", "--tag", "t"))
    assert "Synthetic phantom data" in text
    report = work / "models" / "raseg_train_t" / "report"
    assert "dice_original" in (report / "cases.csv").read_text()
    assert "Dice (original)" in (report / "index.html").read_text()
    assert json.loads((report / "report.json").read_text())["cases"] == 2


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
    text = ok(command(work, "export", "--run", "models/raseg_train_t", "--to", "served"))
    assert "compared on phantom 6 (test), served without Keras:" in text
    assert "volume/labels: differs by 0.0e+00" in text
    assert (work / "served" / "raseg" / "1" / "saved_model.pb").is_file()


def test_draft_trains_and_predicts_patches(work, tmp_path):
    draft = ["--preset", "draft", "--patch_shape", "[16,16,4]", "--patches_per_volume", "4"]
    ok(command(work, "prepare", "--tag", "d", "--val", "6", *draft))
    ok(command(work, "train", "--tag", "d", *draft, "--filters", "2,4", "--max_steps", "2"))
    ok(command(work, "predict", "--tag", "d", "--imgn", "7", "--out", tmp_path))
    assert (tmp_path / "preds" / "d" / "img7_d.npy").is_file()
    ok(command(work, "export", "--run", "models/raseg_train_d", "--to", "served_d"))


def test_bone_marrow_oedema(tmp_path):
    phantom(tmp_path / "datasets", cases=3, shape=(32, 32, 6), task="bme")
    task = ["--task", "bme", "--validation_volumes", "0"]
    ok(command(tmp_path, "prepare", "--tag", "b", "--val", "1", *task))
    ok(command(tmp_path, "train", "--tag", "b", *task, "--filters", "2,4", "--max_steps", "1"))
    ok(command(tmp_path, "predict", "--tag", "b"))
    assert "Mean Dice" in ok(command(tmp_path, "evaluate", "--tag", "b"))


def test_killed_run_goes_on_to_the_bit(work):
    """Twice the same command, once killed in between: the same network."""
    words = ["train", "--tag", "t", "--filters", "2,4", "--epochs", "12"]
    whole = start(work, *words, "--run", "whole")
    assert whole.wait() == 0, whole.stderr.read()
    broken = start(work, *words, "--run", "broken")
    while broken.poll() is None and not (work / "broken/checkpoints/last.npz").is_file():
        time.sleep(0.02)
    broken.kill()
    broken.wait()
    assert json.loads((work / "broken/manifest.json").read_text())["status"] == "running"
    again = start(work, *words, "--run", "broken")
    assert again.wait() == 0, again.stderr.read()
    one, two = (read_checkpoint(work / f"{name}/checkpoints/last.npz").arrays
                for name in ("whole", "broken"))  # fmt: skip
    for group in ("model", "optimizer", "callbacks"):
        for a, b in zip(one[group], two[group], strict=True):
            np.testing.assert_array_equal(a, b)


def test_mistakes(work):
    """Each is one line, status 2, and nothing is left behind."""
    refused(command(work, "train", "--tag", "no"), "--tag no", "train_and_label_no_batch_1.bin")
    refused(command(work, "predict", "--tag", "t", "--imgn", "8"), "--imgn 8: expected 0 to 7")
    refused(command(work, "predict", "--tag", "t", "--imgn", "-1"), "--imgn -1: expected 0 to 7")
    refused(command(work, "predict", "--tag", "no"), "is not a run folder")
    refused(command(work, "prepare", "--tag", "x", "--val", "9"), "--val 9", "of 8 volumes")
    refused(command(work, "prepare", "--tag", "x"), "val")
    refused(command(work, "train", "--tag", "t", *TINY), "is finished")
    refused(command(work, "evaluate", "--tag", "t", "--imgn", "0"), "img0_t.npy does not exist")
    assert not list((work / "datasets" / "bins").glob("*_x_*"))


def test_truncated_binary(work, tmp_path):
    for path in (work / "datasets" / "bins").glob("*_t*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "train_and_label_t_batch_5.bin"
    path.write_bytes(path.read_bytes()[:-10])
    done = command(work, "train", "--tag", "t", *TINY, "--data_dir", tmp_path, "--run", "r")
    refused(done, "batch_5.bin: record 1 is truncated")
    assert not (work / "r").exists()


def test_compare(work):
    text = ok(command(work, "compare", "--run", "models/raseg_train_t"))
    assert "R2: ReLU on the logits" in text
    assert "h0_conv1/weights" in text


def test_help_is_quick():
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "raseg", "train", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert time.perf_counter() - begin < 60
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
