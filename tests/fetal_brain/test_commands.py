"""The commands as a user runs them, from phantom to report, and what a run folder protects."""

import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import filelock
import numpy as np
import pytest
from commands import assert_no_network, run, run_alone, tree

from common.data.dicom_seg import read_segments
from common.data.volumes import read_geometry, read_volume, stem_of, write_volume
from common.serving.segment import segment
from fetal_brain.config import QUICK
from tests.common.data.test_dicom import write_series

pytestmark = pytest.mark.slow

command = partial(run, "fetal_brain")
command_alone = partial(run_alone, "fetal_brain")
PHANTOM_NOTICE = "Synthetic phantom data: these numbers say nothing about patients."


class TestPassage:
    """phantom -> prepare -> train -> predict -> evaluate -> export -> compare."""

    def test_every_command_says_what_came_out(self, work):
        said = {verb: done.stdout.splitlines() for verb, done in work.said.items()}
        assert said["phantom"] == [f"Synthetic cases: {work.csv}"]
        assert said["prepare"] == [f"Prepared cases: 5 in {work.prepared}"]
        assert said["train"] == [f"Trained network: {work.run / 'model.keras'}"]
        assert [line.startswith("Dice=") for line in said["predict"]] == [True, True]
        assert said["evaluate"][-3].startswith("Mean Dice of brain: 0.")
        assert said["evaluate"][-2] == PHANTOM_NOTICE
        assert said["evaluate"][-1] == f"Report: {work.run / 'report' / 'index.html'}"
        assert said["export"][-1] == f"SavedModel: {work.folder / 'models' / 'fetal_brain' / '1'}"
        assert said["compare"][-1] == f"JSON: {work.folder / 'compared.json'}"

    def test_only_progress_on_stderr(self, work):
        said = {verb: done.lines for verb, done in work.said.items()}
        epochs = said.pop("train")
        assert [line.partition(":")[0] for line in epochs] == [
            "epoch 1, step 2 of 4",
            "epoch 2, step 4 of 4",
        ]
        assert not any(said.values())

    def test_training_and_prediction_say_once_what_they_take(self, work):
        """After the first step, and after the first of two scans."""
        lines = {verb: [line for line in done.stderr.splitlines() if line.startswith("measured: ")]
                 for verb, done in work.said.items()}  # fmt: skip
        assert {verb for verb, said in lines.items() if said} == {"train", "predict"}
        (train,), (predict,) = lines["train"], lines["predict"]
        assert " for 2 more at this load, without validation; peak memory " in train
        assert "the first scan took" in predict
        assert " for 1 more of its size at this load; peak memory " in predict
        assert train.endswith(" GiB")
        assert predict.endswith(" GiB")

    def test_run_folder(self, work):
        names = {path.name for path in work.run.iterdir() if path.name != ".lock"}
        assert names == {
            "config.yaml", "manifest.json", "split.json", "log.csv", "tensorboard",
            "checkpoints", "model.keras", "predictions", "report",
        }  # fmt: skip
        manifest = json.loads((work.run / "manifest.json").read_text())
        assert (manifest["status"], manifest["phantom"]) == ("finished", True)
        assert manifest["runtime"]["deterministic"] is True
        split = json.loads((work.run / "split.json").read_text())
        ids = {subset: [case["id"] for case in cases] for subset, cases in split.items()}
        assert ids == {
            "training": ["PHANTOM0000", "PHANTOM0001"],
            "validation": ["PHANTOM0002"],
            "test": ["PHANTOM0003", "PHANTOM0004"],
        }
        log = (work.run / "log.csv").read_text().splitlines()
        assert log[0] == "epoch,step,dice,loss,val_dice,learning_rate"
        assert [line.split(",")[:2] for line in log[1:]] == [["1", "2"], ["2", "4"]]

    def test_label_maps_have_the_ids_and_the_geometry_of_their_scans(self, work):
        files = sorted((work.run / "predictions").iterdir())
        assert [path.name for path in files] == ["PHANTOM0003.nii.gz", "PHANTOM0004.nii.gz"]
        for path in files:
            found = read_volume(path)
            scan = read_volume(work.csv.parent / "imgs" / path.name)
            for name in ("spacing_mm", "origin_mm", "direction"):
                one, other = (getattr(volume.geometry, name) for volume in (found, scan))
                # NIfTI keeps an oblique direction as a quaternion in float32.
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6, err_msg=name)
            assert found.array.shape == work.SHAPE
            assert found.array.dtype == np.int32
            assert set(np.unique(found.array)) == {0, 2}

    def test_dice_of_predict_and_of_evaluate_is_that_of_the_files(self, work):
        with (work.run / "report" / "cases.csv").open(newline="") as stream:
            cases = {row["id"]: row for row in csv.DictReader(stream)}
        assert set(cases) == {"PHANTOM0003", "PHANTOM0004"}
        for line in work.said["predict"].stdout.splitlines():
            score, shape, _, path = re.fullmatch(
                r"Dice=(.*); input_dim=(.*); time=(.*); output_fn=(.*);", line
            ).groups()
            name = Path(path).name
            found = read_volume(path).array == 2
            expected = read_volume(work.csv.parent / "seg" / name).array == 2
            overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
            assert float(score) == pytest.approx(overlap, abs=1e-12)
            assert float(cases[name[:11]]["dice"]) == pytest.approx(overlap, abs=1e-12)
            assert cases[name[:11]]["in_training_set"] == "False"
            assert shape == "(1, 5, 64, 64, 1)"

    def test_report_says_phantom_at_every_figure(self, work):
        report = json.loads((work.run / "report" / "report.json").read_text())
        assert report["phantom"] is True
        assert report["cases"] == report["labels"]["brain"]["dice"]["n"] == 2
        page = (work.run / "report" / "index.html").read_text()
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
        assert len(captions) == page.count("<img ") == 3  # learning curve, two cases
        assert all(PHANTOM_NOTICE in caption for caption in captions)
        assert page.count(PHANTOM_NOTICE) == len(captions) + 1
        assert not re.search(r"(src|href)=\"(?!data:)", page)

    def test_exported_model_is_whole(self, work):
        folder = work.folder / "models" / "fetal_brain" / "1"
        assert {"saved_model.pb", "variables", "model.keras"} <= {p.name for p in folder.iterdir()}
        model, trained = folder / "model.keras", work.run / "model.keras"
        assert model.read_bytes() == trained.read_bytes()
        assert [path.name for path in folder.parent.iterdir()] == ["1"]

    def test_compared_tables(self, work):
        tables = json.loads((work.folder / "compared.json").read_text())
        assert set(tables) == {"presets", "layers", "inference"}
        ways = [(row["case"], row["inference"]) for row in tables["inference"]]
        cases = ("PHANTOM0003", "PHANTOM0004")
        assert ways == [(c, way) for c in cases for way in ("port", "code", "code without F5")]

    def test_deploy_as_the_original(self, work, tmp_path):
        """No third column is needed, -1 stands for the unknown Dice, the last rows are taken."""
        text = "".join(f"{row[0]},{row[1]}\n" for row in work.rows())
        (tmp_path / "list.csv").write_text("iFIND_id,image\n" + text)
        words = ["--csv", tmp_path / "list.csv", "--mode", "PREDICT", "-c", 0, "--verbose"]
        done = command("deploy", "-p", work.run, *words, "--out", tmp_path / "out")
        done.ok()
        lines = done.stdout.splitlines()
        assert [line.partition(";")[0] for line in lines] == ["Dice=-1.0", "Dice=-1.0"]
        for name in ("PHANTOM0003.nii.gz", "PHANTOM0004.nii.gz"):
            expected = read_volume(work.run / "predictions" / name).array
            np.testing.assert_array_equal(read_volume(tmp_path / "out" / name).array, expected)

    def test_label_maps_of_another_preset_are_read_alike(self, work, tmp_path):
        """[F8] 0 and 1 instead of 0 and 2; the run's network and windows are the same."""
        maps = tmp_path / "maps"
        maps.mkdir()
        for path in (work.run / "predictions").iterdir():
            volume = read_volume(path)
            write_volume(maps / path.name, volume.array // 2, volume.geometry)
        run = shutil.copytree(work.run, tmp_path / "run")
        command("evaluate", "--run", run, "--predictions", maps).ok()
        assert tree(run)["report/cases.csv"] == tree(work.run)["report/cases.csv"]


class TestRunFolder:
    def test_saved_configuration_replays_to_identical_weights(self, work, tmp_path):
        config = work.run / "config.yaml"
        done = command_alone("train", "--config", config, "--run", tmp_path / "again")
        done.ok()
        name = "checkpoints/last.npz"
        with np.load(work.run / name) as one, np.load(tmp_path / "again" / name) as other:
            assert one.files == other.files
            assert len(one.files) > 40
            unlike = [key for key in one.files if one[key].tobytes() != other[key].tobytes()]
        assert not unlike
        assert (tmp_path / "again" / "log.csv").read_bytes() == (work.run / "log.csv").read_bytes()

    def test_finished_run_is_not_overwritten_unasked(self, work):
        before = tree(work.run)
        done = command("train", "--config", work.run / "config.yaml", "--run", work.run)
        done.refused("train", str(work.run), "is finished", "--overwrite")
        assert tree(work.run) == before

    def test_second_run_at_once_is_refused(self, work, tmp_path):
        (tmp_path / "run").mkdir()
        with filelock.FileLock(tmp_path / "run" / ".lock"):
            for further in ((), ("--overwrite",)):
                words = ["--config", work.run / "config.yaml", "--run", tmp_path / "run"]
                done = command("train", *words, *further)
                done.refused("train", "is in use by another process")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]

    def test_yes_no_option(self, work, tmp_path):
        """[F16] no means no; --restart alone means yes and spares files that no run made."""
        run = shutil.copytree(work.run, tmp_path / "run")
        (run / "notes.txt").write_text("mine")
        before = tree(run)
        words = ["train", "--config", work.run / "config.yaml", "--run", run, "--max_steps", 1]
        done = command(*words, "--restart", "perhaps")
        done.refused("train", "--overwrite", "perhaps")
        assert tree(run) == before
        done = command(*words, "--run_validation", "False", "--restart")
        done.ok()
        assert (run / "notes.txt").read_text() == "mine"
        assert not (run / "predictions").exists()
        header, *rows = (run / "log.csv").read_text().splitlines()
        assert header == "epoch,step,dice,loss,learning_rate"
        assert len(rows) == 1

    def test_failed_run_has_no_network(self, work, tmp_path):
        """[F22] The error is said, the folder says failed, and nothing can be made of it."""
        run = tmp_path / "run"
        words = ["--config", work.run / "config.yaml", "--run", run, "--learning_rate", 1e30]
        done = command("train", *words)
        done.refused("train", "the loss is ", "expected a finite number")
        assert_no_network(run)
        assert "the loss is " in json.loads((run / "manifest.json").read_text())["error"]
        for words in (["predict"], ["export", "--to", tmp_path / "models"], ["compare"]):
            done = command(*words, "--run", run)
            done.refused(words[0], "model.keras is missing")
        assert not (tmp_path / "models").exists()

    def test_network_file_loads_where_this_project_is_not(self, work):
        """No loss, metric or layer of ours is named in it."""
        with zipfile.ZipFile(work.run / "model.keras") as archive:
            text = archive.read("config.json").decode()
        assert "LabelDice" not in text
        assert "sparse_cross_entropy" not in text

    def test_shortened_options_are_refused(self, work):
        """--window would else be --window_stride to one who forgot how it goes on."""
        for words in (["train", "--restart_order", "true"], ["predict", "--probab"]):
            command(*words).refused(words[0], words[1])

    def test_version_of_an_export_is_a_number_from_1(self, work, tmp_path):
        for version in (0, -3):
            words = ["--run", work.run, "--to", tmp_path / "to", "--version", version]
            command("export", *words).refused("export", "--version", str(version))
        assert not list(tmp_path.iterdir())

    def test_an_export_holds_the_options_of_predict(self, work, tmp_path):
        """Flips and an ensemble in the graph, the rest by the client: the files of `predict`."""
        extras = ["--flips", "x", "--run", work.run, "--largest_component", "--entropy"]
        words = ["--run", work.run, *extras, "--to", tmp_path / "models"]
        said = command("export", *words).ok()
        assert "patches/" not in said
        model = tmp_path / "models" / "fetal_brain" / "1"
        passport = json.loads((model / "passport.json").read_text())
        assert passport["signatures"].keys() == {"serving_default", "probabilities", "volume"}
        assert passport["extras"]["flips"] == ["x"]
        assert passport["extras"]["largest_component"] is True
        (other,) = passport["extras"]["ensemble"]
        assert other["weights"] == passport["weights"]
        assert str(work.run) not in json.dumps(passport)
        assert passport["metrics"] is None
        assert (model / "model_2.keras").read_bytes() == (work.run / "model.keras").read_bytes()
        scan = work.rows()[0][1]
        command("predict", scan, "--out", tmp_path, "--run", work.run, *extras).ok()
        segment([Path(scan)], output=tmp_path / "b.nii.gz", model=model)
        for kind in ("", "_entropy"):
            found = read_volume(tmp_path / f"b{kind}.nii.gz").array
            expected = read_volume(tmp_path / f"{stem_of(Path(scan))}{kind}.nii.gz").array
            np.testing.assert_allclose(found, expected, atol=1e-5)
        words = ["--run", work.run, *extras, "--to", tmp_path / "models", "--formats", "litert"]
        command("export", *words).refused("export", "--formats")

    def test_mode_train_is_refused(self, work):
        """[F17] Nor is any other word a mode [F16]."""
        before = tree(work.run)
        for mode in ("TRAIN", "Eval"):
            done = command("deploy", "-p", work.run, "--csv", work.csv, "--mode", mode)
            done.refused("predict", "--mode", "'EVAL', 'PREDICT'", mode)
        assert tree(work.run) == before


class TestOneScan:
    """predict SCAN -o LABELS, from any format to any."""

    def test_a_file(self, work, tmp_path):
        name = "PHANTOM0003.nii.gz"
        scan, out = work.csv.parent / "imgs" / name, tmp_path / "labels.mha"
        command("predict", scan, "-o", out, "--run", work.run).ok()
        expected = read_volume(work.run / "predictions" / name).array
        np.testing.assert_array_equal(read_volume(out).array, expected)
        assert [path.name for path in tmp_path.iterdir()] == ["labels.mha"]

    def test_a_network_file(self, work, tmp_path):
        """That of a run is the run; one from elsewhere is known by its shapes."""
        from common.network.trained import save_network
        from fetal_brain.inference import build_for_any_plane

        name = "PHANTOM0003.nii.gz"
        scan, out, bare = work.csv.parent / "imgs" / name, tmp_path / name, tmp_path / "x.keras"
        command("predict", scan, "-o", out, "--weights", work.run / "model.keras").ok()
        assert out.read_bytes() == (work.run / "predictions" / name).read_bytes()
        save_network(build_for_any_plane(QUICK), bare)
        done = command("predict", scan, "-o", out, "--weights", bare)
        done.ok()
        assert f"note: {bare} says nothing of its configuration; preset quick fits" in done.stderr

    def test_a_series_and_a_segmentation_of_it(self, work, tmp_path):
        """Of two series in the folder one is named; the labels lie on its slices."""
        name = "PHANTOM0003.nii.gz"
        scan = read_volume(work.csv.parent / "imgs" / name)
        for uid in ("1.2.3", "1.2.4"):
            write_series(
                tmp_path / "scan", voxels=scan.array, grid=scan.geometry, uid=uid,
                change_all=complete,
            )  # fmt: skip
        words = ("predict", tmp_path / "scan", "-o", tmp_path / "seg.dcm", "--run", work.run)
        command(*words).refused("predict", "found several series")
        command(*words, "--series", "1.2.4").ok()
        found, farthest = read_segments(
            tmp_path / "seg.dcm", *reversed(read_geometry(tmp_path / "scan" / "1.2.4"))
        )
        expected = read_volume(work.run / "predictions" / name).array
        np.testing.assert_array_equal(2 * found, expected)
        assert farthest < 1e-3

    def test_mistakes(self, work, tmp_path):
        scan = work.csv.parent / "imgs" / "PHANTOM0003.nii.gz"
        for words, expected in (
            ((scan, "-o", "labels.txt"), "labels.txt: unknown kind of volume"),
            ((scan, "-o", tmp_path / "seg.dcm"), "is no series of DICOM; expected one"),
            ((scan, "-o", scan), "is the scan itself"),
            ((scan, "-o", tmp_path / "no" / "a.nii"), "expected a folder that exists"),
            (("-o", tmp_path / "a.nii"), "expected one scan, as in predict SCAN -o"),
            ((scan, "-o"), "-o: expected the file of labels"),
            ((scan, "-o", tmp_path / "a.nii", "--out", tmp_path), "were both given"),
            ((scan, "--series", "1.2"), "expected --image, the folder with that series"),
        ):
            command("predict", *words, "--run", work.run).refused("predict", expected)
        assert not list(tmp_path.iterdir())


def complete(slice_):
    slice_.StudyInstanceUID, slice_.FrameOfReferenceUID = "1.2.9", "1.2.8"


def test_a_prediction_loads_nothing_needless(work, tmp_path):
    """Told by the process itself, so that what TensorFlow and Keras load counts as well."""
    code = (
        "import sys; from common.cli import main; status = main('fetal_brain', argv=sys.argv[1:]); "
        "print(status, *(name for name, module in sys.modules.items() if module))"
    )
    words = ["predict", "--run", work.run, "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
    )
    status, *loaded = done.stdout.splitlines()[-1].split()
    assert status == "0", done.stderr
    assert {"tensorflow", "keras", "nibabel"} <= set(loaded)
    needless = {"matplotlib", "pandas", "scipy.sparse", "scipy.ndimage", "sklearn", "tensorboard",
                "tf_keras", "torch", "jinja2", "SimpleITK"}  # fmt: skip
    assert not needless & set(loaded)
