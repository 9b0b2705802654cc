"""The commands one after the other on a small file, and what they say to a user's mistake."""

import json
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
from commands import run as run_command
from scipy import ndimage

from common.data.volumes import read_volume
from common.errors import DataError, OptionError, RunError
from common.inference.extras import Extras
from common.runs.folder import load_config, load_run
from common.runs.log import read_log
from common.study.compare import compare_presets
from sarcoma.compare import compare
from sarcoma.config import CODE, PRESETS, QUICK, Config
from sarcoma.evaluate import evaluate
from sarcoma.inference import load_network
from sarcoma.original_weights import read_original
from sarcoma.patch_files import PREDICTED_PATCHES, TRUE_PATCHES, measure_patch_files
from sarcoma.predict import predict
from sarcoma.reproduce import find_file
from sarcoma.study.comparison import compare_flips, list_layers
from sarcoma.train import choose_patches, train

command = partial(run_command, "sarcoma")
TINY = replace(
    QUICK,
    training_patients=("A", "B"), validation_patients=("C",), test_patients=("D",),
    filters=(4, 8), cascade_filters=(1, 1, 2), dilated_filters=(1, 1, 1, 1, 1, 2),
    batch_size=4, epochs=2, steps_per_epoch=20, learning_rate=3e-3, cascade_step=14,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four patients of six 60 x 62 slices; a bright disc on PET is the lesion."""
    path = tmp_path_factory.mktemp("data") / "petct.h5"
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :62]
    with h5py.File(path, "w") as file:
        for index, patient in enumerate("ABCD"):
            disc = np.hypot(rows - 25 - 3 * index, columns - 35 + 4 * index) < 9
            label = np.zeros((6, 60, 62), np.uint8)
            label[2:5, disc] = 2
            file[f"label_data/{patient}"] = label
            file[f"pet_data/{patient}"] = rng.normal(0.3, 0.1, label.shape) + 2 * label
            file[f"ct_data/{patient}"] = rng.normal(0, 30, label.shape).astype(np.int16)
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run of the U-Net, its predictions and its report."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(data, path, config=TINY)
    predict(path, probabilities=True)
    evaluate(path)
    return path


class TestRun:
    def test_training(self, run):
        """The log, the split and what the run says about itself."""
        rows = read_log(run)
        assert [row["step"] for row in rows] == [20, 40]
        assert rows[-1]["loss"] < rows[0]["loss"] < 0
        assert rows[-1]["batch_dice"] == pytest.approx(-rows[-1]["loss"], abs=1e-4)
        record = load_run(run)
        assert record.status == "finished"
        assert [p["id"] for p in record.read_split()["test"]] == ["D"]
        assert load_config(run, Config) == TINY

    def test_label_map(self, run, data):
        """The true shape and grid; the bright disc is found."""
        volume = read_volume(run / "predictions" / "D.nii.gz")
        assert volume.array.shape == (6, 60, 62)
        assert volume.spacing_zyx_mm == (5.0, 5.0, 5.0)
        with h5py.File(data) as file:
            label = file["label_data/D"][()] > 0
        assert np.logical_and(volume.array, label).sum() > 0.5 * label.sum()
        probability = read_volume(run / "predictions" / "D_probability.nii.gz").array
        np.testing.assert_array_equal(probability > TINY.threshold, volume.array > 0)

    def test_report(self, run):
        """Dice and volume of each patient, and the original's Dice over patches [S20]."""
        report = json.loads((run / "report" / "report.json").read_text())
        assert report["cases"] == 1
        assert report["labels"]["lesion"]["dice"]["mean"] > 0.5
        cases = (run / "report" / "cases.csv").read_text()
        assert "reference_ml" in cases
        patches = json.loads((run / "report" / "patches.json").read_text())
        assert 0.3 < patches["dice"] <= 1
        assert "base64" in (run / "report" / "index.html").read_text()

    def test_patches(self, run):
        """[S9] As the original writes them, from test patches that exist."""
        true = np.load(run / "predictions" / TRUE_PATCHES)
        found = np.load(run / "predictions" / PREDICTED_PATCHES)
        assert true.shape == found.shape
        assert true.shape[1:] == (28, 28, 1)
        assert (true.dtype, found.dtype) == (np.int32, np.float32)
        assert 0.05 < true.mean() < 0.6

    @pytest.mark.slow
    def test_all_patients_of_a_file(self, run, data, tmp_path):
        predict(run, data, out=tmp_path / "all", patches=False)
        assert len(list((tmp_path / "all").glob("*.nii.gz"))) == 4
        evaluate(run, data, predictions=tmp_path / "all")
        text = (run / "report" / "cases.csv").read_text()
        assert "True" in text  # patients that were trained on are marked
        predict(run, data, patients=("B",), out=tmp_path / "one", patches=False)
        assert [p.name for p in (tmp_path / "one").iterdir()] == ["B.nii.gz"]

    def test_flips_and_an_ensemble_of_one(self, run, data, tmp_path):
        """A network twice is that network; slices cannot be flipped along z."""
        extras = Extras(ensemble=(str(run),), entropy=True, largest_component=True)
        predict(run, out=tmp_path, patches=False, probabilities=True, extras=extras)
        single, twice = (read_volume(folder / "D_probability.nii.gz").array
                         for folder in (run / "predictions", tmp_path))  # fmt: skip
        np.testing.assert_array_equal(twice, single)
        assert ndimage.label(read_volume(tmp_path / "D.nii.gz").array, np.ones((3, 3, 3)))[1] == 1
        doubt = read_volume(tmp_path / "D_entropy.nii.gz").array
        np.testing.assert_allclose(doubt[np.isclose(single, 0.5, atol=1e-3)], 1, atol=1e-3)
        with pytest.raises(OptionError, match="--flips: found z; expected some of x, y"):
            predict(run, out=tmp_path, extras=Extras(flips=("z",)))
        predict(run, out=tmp_path, patches=False, probabilities=True, extras=Extras(flips=("x",)))
        flipped = read_volume(tmp_path / "D_probability.nii.gz").array
        assert 0 < np.abs(flipped - single).max() < 1

    def test_window_alone(self, run, data, tmp_path):
        """[S24] Slices outside the window are background then."""
        predict(run, preset="code", out=tmp_path / "out", patches=False)
        array = read_volume(tmp_path / "out" / "D.nii.gz").array
        assert not array[[0, 1, 5]].any()

    def test_file_without_labels(self, run, data, tmp_path, capsys):
        path = tmp_path / "unlabelled.h5"
        with h5py.File(data) as source, h5py.File(path, "w") as file:
            for group in ("ct_data", "pet_data"):
                source.copy(f"{group}/A", file.require_group(group))
        predict(run, path, out=tmp_path / "out")
        said = capsys.readouterr().out
        assert "A.nii.gz: lesion" in said
        assert "no lesion is known" in said

    @pytest.mark.slow
    def test_compare(self, run, data, tmp_path, capsys):
        compare("code", run=run, out=tmp_path / "tables.json")
        tables = json.loads((tmp_path / "tables.json").read_text())
        assert {row["inference"] for row in tables["inference"]} >= {"as trained"}
        assert "conv2d_1/kernel:0" in capsys.readouterr().out
        with pytest.raises(OptionError, match="needs --run"):
            compare(original=tmp_path / "model.h5")

    def test_finished_run_is_kept(self, run, data):
        with pytest.raises(RunError, match="is finished"):
            train(data, run, config=TINY)

    def test_unknown_patient(self, run):
        with pytest.raises(DataError, match="--patients: STS_404 is unknown; found D"):
            predict(run, patients=("STS_404",))

    def test_evaluation_before_prediction(self, run, data, tmp_path):
        with pytest.raises(DataError, match="run predict first"):
            evaluate(run, predictions=tmp_path)

    def test_no_warning_of_patches_that_nobody_looks_at(self, capsys):
        """They are held back all the same: the switch does not change what is trained on."""
        pool, config = np.arange(10), replace(TINY, validation="patches", split_index=7)
        chosen, looked_at = choose_patches(pool, config, run_validation=False)
        assert (capsys.readouterr().err, len(looked_at)) == ("", 0)
        same, held_back = choose_patches(pool, config, run_validation=True)
        np.testing.assert_array_equal(chosen, same)
        assert (len(chosen), len(held_back)) == (7, 3)
        assert capsys.readouterr().err.startswith("warning: the validation patches are neighbours")

    def test_patches_of_two_runs(self, tmp_path):
        np.save(tmp_path / TRUE_PATCHES, np.zeros((3, 28, 28, 1), np.int32))
        np.save(tmp_path / PREDICTED_PATCHES, np.zeros((2, 28, 28, 1), np.float32))
        with pytest.raises(DataError, match="run predict again"):
            measure_patch_files(tmp_path)
        assert measure_patch_files(tmp_path / "none") is None


class TestOtherArchitectures:
    @pytest.mark.slow
    @pytest.mark.parametrize("architecture", ["cascade", "dilated"])
    def test_from_training_to_report(self, data, tmp_path, architecture):
        config = replace(TINY, architecture=architecture, batch_size=2)
        run = tmp_path / "run"
        train(data, run, config=config, max_steps=2, run_validation=False)
        assert len(load_network(run, config).weights) > 20
        predict(run)
        evaluate(run)
        assert (run / "report" / "index.html").is_file()


class TestWays:
    @pytest.mark.slow
    def test_validation_by_place(self, data, tmp_path, capsys):
        """[S2] The code's way, with its warning; [S16] one pass, [S1] flipped as in training."""
        config = replace(
            TINY, validation="patches", validation_patients=(), augment_validation=True,
            flip_labels=False, steps_per_epoch=5, epochs=1,
        )  # fmt: skip
        train(data, tmp_path / "run", config=config)
        assert "neighbours of training patches" in capsys.readouterr().err
        row = read_log(tmp_path / "run")[-1]
        assert row["val_dice"] == pytest.approx(-row["val_loss"])

    @pytest.mark.slow
    def test_early_stopping(self, data, tmp_path):
        """[S17] A fall smaller than asked for, twice in a row, ends training."""
        config = replace(TINY, epochs=6, steps_per_epoch=2, min_delta=5.0, patience=2)
        train(data, tmp_path / "run", config=config, run_validation=False)
        assert len(read_log(tmp_path / "run")) == 3

    @pytest.mark.slow
    @pytest.mark.shared
    def test_going_on_from_the_original(self, keras2_files, data, tmp_path):
        """Step and moments of the Keras 2 file: training begins at step 20."""
        config = replace(
            CODE, training_patients=("A",), test_patients=("D",), filters=(8, 16, 32, 64),
            steps_per_epoch=2, epochs=11, batch_size=4, early_stopping="off",
        )  # fmt: skip
        train(data, tmp_path / "run", config=config, original=keras2_files[0],
              run_validation=False)  # fmt: skip
        assert [row["step"] for row in read_log(tmp_path / "run")] == [22]
        network = load_network(tmp_path / "run", config)
        before = next(iter(read_original(keras2_files[0]).values()))
        moved = np.abs(np.array(network.weights[0]) - before).max()
        assert 0 < moved < 1e-3

    @pytest.mark.slow
    def test_resume(self, data, tmp_path):
        """Interrupted after 20 of 40 steps and started again: the same bits as in one go."""
        config = replace(TINY, augment=True)
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        train(data, whole, config=config, run_validation=False)

        def interrupt(self, epoch, logs=None):
            raise KeyboardInterrupt

        from sarcoma.early_stopping import EarlyStopping

        kept = EarlyStopping.on_epoch_begin
        EarlyStopping.on_epoch_begin = lambda self, epoch, logs=None: (
            interrupt(self, epoch) if epoch == 1 else None
        )
        try:
            with pytest.raises(KeyboardInterrupt):
                train(data, broken, config=config, run_validation=False)
        finally:
            EarlyStopping.on_epoch_begin = kept
        train(data, broken, config=config, run_validation=False)
        first, second = (load_network(path, config).get_weights() for path in (whole, broken))
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "--batch_size: found 0"),
            ({"epochs": 0}, "--epochs: found 0"),
            ({"early_stopping": "val_loss"}, "there is no validation loss"),
        ],
    )
    def test_refused_before_anything_is_written(self, data, tmp_path, options, message):
        with pytest.raises(OptionError, match=message):
            train(data, tmp_path / "run", config=replace(TINY, **options))
        assert not (tmp_path / "run").exists()


class TestCommandLine:
    def test_help(self):
        """[S7] [S8] Every script of the original runs, under its own name."""
        said = command("--help").ok()
        for verb in ("phantom", "prepare", "train", "predict", "evaluate", "export", "convert"):
            assert f"  {verb} " in said

    @pytest.mark.parametrize("name", ["data_gen", "data-gen", "evaluation"])
    def test_original_names(self, name):
        said = command(name, "--help").ok()
        assert "--config" in said or "--run" in said

    def test_mistake_is_one_line(self, tmp_path):
        (tmp_path / "a.h5").write_text("no HDF5")
        done = command("train", "--data", tmp_path / "a.h5", "--run", tmp_path / "run")
        done.refused("train", "expected an HDF5 file")
        assert not (tmp_path / "run").exists()

    def test_unknown_architecture(self, tmp_path):
        done = command("train", "--architecture", "resnet", "--run", tmp_path / "run")
        done.refused("train", "architecture", "unet2d")


class TestTables:
    def test_presets(self):
        rows = {row["field"]: row for row in compare_presets(PRESETS)}
        assert rows["flip_labels"]["code"] is False
        assert rows["flip_labels"]["port"] is True
        assert rows["batch_size"]["differs"] == "yes" if QUICK.batch_size != 18 else True

    def test_layers(self):
        rows = list_layers(replace(CODE, architecture="dilated"))
        assert sum(row["parameters"] for row in rows) == 134_268_958

    def test_flips(self, petct):
        """[S1] Masks against their flipped selves: far from 1 unless nothing is flipped."""
        found = {row["flip"]: row["dice"] for row in compare_flips(petct)}
        assert found["none"] == 1
        assert found["both"] < found["mean of the four"] < 0.9

    def test_every_preset_trains_something(self):
        assert set(PRESETS) == {"paper", "code", "port", "quick"}

    def test_finding_the_file(self, data, tmp_path):
        assert find_file(data) == data
        assert find_file(data.parent) == data
        with pytest.raises(DataError, match="found 0 HDF5 files"):
            find_file(tmp_path)
