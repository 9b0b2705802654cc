"""Every mistake of the user's: one line, exit status 2, nothing half-written."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import assert_no_network, run, run_alone, small_files_only, tree

from common.data.volumes import read_volume, write_volume
from fetal_brain.config import QUICK

pytestmark = pytest.mark.slow

command = partial(run, "fetal_brain")
command_alone = partial(run_alone, "fetal_brain")

# What may be wrong with the data. Each spoils the first row of a good list and names what the
# message must contain.


def scan_is_missing(folder, rows):
    rows[0][1] = folder / "absent.nii.gz"
    return "line 2", "absent.nii.gz", "does not exist"


def scan_is_truncated(folder, rows):
    whole = Path(rows[0][1]).read_bytes()
    rows[0][1] = folder / "short.nii.gz"
    rows[0][1].write_bytes(whole[: len(whole) // 2])
    return ("short.nii.gz: cannot be read",)


def scan_is_no_image(folder, rows):
    rows[0][1] = folder / "text.nii.gz"
    rows[0][1].write_text("not an image")
    return ("text.nii.gz: cannot be read",)


def columns_are_missing(folder, rows):
    for row in rows:
        del row[2]
    return ("found 2 columns", "id, image, segmentation")


def id_is_used_twice(folder, rows):
    rows[1][0] = rows[0][0]
    return "line 3", repr(rows[0][0]), "line 2"


def id_leads_elsewhere(folder, rows):
    rows[0][0] = "../../escaped"
    return "line 2", "'../../escaped'", "path separators"


def id_is_absolute(folder, rows):
    rows[0][0] = str(folder / "escaped")
    return "line 2", "path separators"


def label_has_another_shape(folder, rows):
    label = read_volume(rows[0][2])
    rows[0][2] = folder / "label.nii.gz"
    write_volume(rows[0][2], label.array[:-1], label.geometry)
    return "label.nii.gz", "(5, 64, 64) and (4, 64, 64)"


def label_lies_elsewhere(folder, rows):
    label = read_volume(rows[0][2])
    rows[0][2] = folder / "label.nii.gz"
    x, y, z = label.geometry.origin_mm
    write_volume(rows[0][2], label.array, replace(label.geometry, origin_mm=(x + 5, y, z)))
    return "label.nii.gz", "origin (x, y, z) in mm"


def label_has_other_ids(folder, rows):
    label = read_volume(rows[0][2])
    rows[0][2] = folder / "label.nii.gz"
    write_volume(rows[0][2], np.where(label.array == 2, 7, 0).astype(np.uint8), label.geometry)
    return "label.nii.gz: found the label ids 0, 7", "expected foreground 2"


def scan_has_nan(folder, rows):
    scan = read_volume(rows[0][1], np.float32)
    rows[0][1] = folder / "scan.nii.gz"
    scan.array[2, 30, 30] = np.nan
    write_volume(rows[0][1], scan.array, scan.geometry)
    return "scan.nii.gz", "NaN or infinite"


def scan_is_constant(folder, rows):
    scan = read_volume(rows[0][1])
    rows[0][1] = folder / "scan.nii.gz"
    write_volume(rows[0][1], np.full_like(scan.array, 9), scan.geometry)
    return ("scan.nii.gz: every voxel is 9",)


OF_THE_SCAN = (scan_is_missing, scan_is_truncated, scan_is_no_image, scan_has_nan, scan_is_constant)
OF_THE_LIST = (id_is_used_twice, id_leads_elsewhere, id_is_absolute, columns_are_missing)
OF_THE_LABEL = (label_has_another_shape, label_lies_elsewhere, label_has_other_ids)
BEFOREHAND = (*OF_THE_LIST, scan_is_missing)
"""What is seen before any case is begun."""


def spoil(work, folder, how):
    """Write a list that is spoiled in one way; return it and what a refusal must contain."""
    folder.mkdir()
    rows = work.rows()
    expected = how(folder, rows)
    header = ["id", "image", "segmentation"][: len(rows[0])]
    with (folder / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return folder / "list.csv", expected


OTHERS = [f"PHANTOM000{number}" for number in range(1, 5)]
"""The cases beside the one that is spoilt; one bad case does not stop them."""


class TestBadData:
    @pytest.mark.parametrize("how", [*OF_THE_SCAN, *OF_THE_LIST, *OF_THE_LABEL])
    @pytest.mark.parametrize("verb", ["prepare", "train"])
    def test_training_data(self, work, tmp_path, verb, how):
        listing, expected = spoil(work, tmp_path / "data", how)
        out = tmp_path / "out" / "folder"
        words = {"prepare": ["PREPARED", "--out"], "train": ["SMALL", "--run"]}[verb]
        done = command(verb, "--train_csv", listing, *work.fill(words), out)
        done.refused(verb, *expected)
        assert done.stdout == ""
        assert_no_network(out)
        stored = {path.parent.name for path in tmp_path.rglob("*.npy")}
        if verb == "prepare":
            assert stored == {*([] if how in BEFOREHAND else OTHERS)}
        assert "PHANTOM0000" not in stored
        assert {path.name for path in tmp_path.iterdir()} <= {"data", "out"}
        assert not (tmp_path / "data" / "escaped").exists()

    @pytest.mark.parametrize("how", [*OF_THE_SCAN, *OF_THE_LIST, *OF_THE_LABEL[:2]])
    def test_scans_to_segment(self, work, tmp_path, how):
        listing, expected = spoil(work, tmp_path / "data", how)
        out = tmp_path / "out" / "folder"
        done = command("predict", "--run", work.run, "--csv", listing, "--all_rows", "--out", out)
        done.refused("predict", *expected)
        others = [] if how in BEFOREHAND else OTHERS
        assert done.stdout.count("Dice=") == len(others)
        made = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert sorted(made) == [f"{name}.nii.gz" for name in others]
        assert not (tmp_path / "data" / "escaped").exists()
        assert {path.name for path in tmp_path.iterdir()} <= {"data", "out"}

    @pytest.mark.parametrize("how", [scan_is_truncated, scan_is_no_image, scan_has_nan])
    def test_single_scan(self, work, tmp_path, how):
        rows = work.rows()
        expected = how(tmp_path, rows)
        out = tmp_path / "out"
        done = command("predict", "--run", work.run, "--image", rows[0][1], "--out", out)
        done.refused("predict", *expected)
        assert not list(tmp_path.rglob("out/*"))

    @pytest.mark.parametrize("how", [*OF_THE_LIST, *OF_THE_LABEL[:2]])
    def test_reference_segmentations(self, work, tmp_path, how):
        listing, expected = spoil(work, tmp_path / "data", how)
        maps = tmp_path / "maps"
        maps.mkdir()
        for case_id, _, label in work.rows():
            shutil.copy(label, maps / f"{case_id}.nii.gz")
        before = tree(work.run)
        words = ["--run", work.run, "--csv", listing, "--all_rows", "--predictions", maps]
        done = command("evaluate", *words)
        if how is label_has_another_shape:
            expected = ("label.nii.gz", "(5, 64, 64) and (4, 64, 64)", "PHANTOM0000.nii.gz")
        done.refused("evaluate", *expected)
        assert done.stdout == ""
        assert tree(work.run) == before

    def test_missing_list(self, work, tmp_path):
        for words in (
            ["prepare", "--out", tmp_path / "out", "--train_csv"],
            ["train", "--run", tmp_path / "out", "--train_csv"],
            ["predict", "--run", work.run, "--csv"],
            ["evaluate", "--run", work.run, "--csv"],
        ):
            done = command(*words, tmp_path / "absent.csv")
            done.refused(words[0], "absent.csv does not exist", "CSV list")
        assert not list(tmp_path.iterdir())

    def test_missing_run(self, work, tmp_path):
        for verb in ("predict", "evaluate", "export", "compare"):
            done = command(verb, "--run", tmp_path / "absent")
            done.refused(verb, "absent is not a run folder")
        done = command("evaluate", "--run", work.run, "--predictions", tmp_path / "absent")
        done.refused("evaluate", "absent/PHANTOM0003.nii.gz", "No such file")

    @pytest.mark.parametrize("verb", ["prepare", "train"])
    def test_volume_smaller_than_the_patch(self, work, tmp_path, verb):
        """[F10] Refused where padding is off."""
        words = {"prepare": ["PREPARED", "--out"], "train": ["SMALL", "--run"]}[verb]
        words = [*words, tmp_path / "out", "--train_csv", "LIST", "--patch_shape", "3,128,128"]
        done = command(verb, *work.fill(words), "--pad_small_volumes", "false")
        done.refused(verb, "PHANTOM0000.nii.gz: found 5 x 64 x 64", "3 x 128 x 128")
        assert_no_network(tmp_path / "out")
        assert not list(tmp_path.rglob("*.npy"))

    def test_volume_smaller_than_the_window(self, work, tmp_path):
        """[F11] The original's way of inference needs a whole window."""
        done = command("predict", "--run", work.run, "--preset", "code", "--out", tmp_path / "out")
        expected = ("PHANTOM0003.nii.gz", "(5, 64, 64)", "smaller than the window")
        done.refused("predict", *expected)
        assert not list(tmp_path.rglob("out/*"))

    def test_inputs_are_never_written_over(self, work, tmp_path):
        """A label map is named like its scan and its reference: neither may be its folder."""
        folder = shutil.copytree(work.csv.parent, tmp_path / "phantom")
        before = tree(folder)
        for words in (
            ["--csv", folder / "phantom.csv", "--out", folder / "seg"],
            ["--csv", folder / "phantom.csv", "--mode", "PREDICT", "--out", folder / "imgs"],
            ["--image", folder / "imgs" / "PHANTOM0001.nii.gz", "--out", folder / "imgs"],
        ):
            done = command("predict", "--run", work.run, *words)
            done.refused("predict", "--out", "there is a file to read")
        assert tree(folder) == before

    def test_failing_stage_of_the_main_job_is_named(self, work, tmp_path):
        listing, _ = spoil(work, tmp_path / "data", scan_is_missing)
        done = command_alone("reproduce", "--data", tmp_path / "data", "--out", tmp_path / "out")
        assert done.status == 2
        assert done.stdout == ""
        said = done.stderr.splitlines()
        assert said[0].startswith("[fetal_brain 1/5] python -m fetal_brain prepare --train_csv")
        assert said[1].startswith(f"fetal_brain prepare: {listing}, line 2:")
        assert said[2:] == ["fetal_brain reproduce: prepare failed with status 2"]
        assert not (tmp_path / "out" / "run").exists()


class TestDisk:
    @pytest.mark.parametrize(
        "words",
        [
            ["phantom", "--cases", 1, "--shape", "3,64,64", "--out"],
            ["prepare", "--train_csv", "LIST", "PREPARED", "--out"],
            ["train", "--train_csv", "LIST", "SMALL", "--run"],
            ["predict", "--run", "RUN", "--out"],
            ["export", "--run", "RUN", "--to"],
            ["compare", "--run", "RUN", "--out"],
        ],
        ids=lambda words: words[0],
    )
    def test_unwritable_folder(self, work, tmp_path, words):
        """Below a file no folder can be, whoever asks."""
        (tmp_path / "file").write_text("mine")
        before = tree(work.run)
        done = command(*work.fill(words), tmp_path / "file" / "x" / "y")
        done.refused(words[0], str(tmp_path / "file"))
        assert done.stdout == ""
        assert tree(tmp_path).keys() == {"file"}
        assert tree(work.run) == before

    @pytest.mark.parametrize(
        ("words", "limit"),
        [
            (["phantom", "--cases", 1, "--shape", "3,64,64", "--out"], 3000),
            (["prepare", "--train_csv", "LIST", "PREPARED", "--out"], 20_000),
            (["predict", "--run", "RUN", "--out"], 400),
            (["export", "--run", "RUN", "--to"], 20_000),
            (["compare", "--run", "RUN", "--out"], 400),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else str(value),
    )
    def test_full_disk(self, work, tmp_path, words, limit):
        out = tmp_path / "out"
        with small_files_only(limit):
            done = command(*work.fill(words), out)
        done.refused(words[0], str(tmp_path), "cannot be written")
        left = set() if words[0] != "prepare" else {"out/prepared.json", "out/.lock"}
        assert set(tree(tmp_path)) <= left
        if words[0] == "prepare":
            assert json.loads((out / "prepared.json").read_text())["cases"] == {}

    def test_full_disk_spares_the_report_before(self, work, tmp_path):
        run = shutil.copytree(work.run, tmp_path / "run")
        before = tree(run)
        with small_files_only(5000):
            done = command("evaluate", "--run", run)
        done.refused("evaluate", "index.html cannot be written")
        assert tree(run) == before

    def test_full_disk_while_training(self, work, tmp_path):
        words = ["--config", work.run / "config.yaml", "--run", tmp_path / "run"]
        with small_files_only(20_000):
            done = command("train", *words)
        done.refused("train", str(tmp_path / "run"), "cannot be written")
        assert_no_network(tmp_path / "run")

    def test_full_disk_leaves_no_half_network(self, work, other_checkpoint, tmp_path):
        words = ["--original", other_checkpoint, *work.PREPARED, "--filters", "6,4,8"]
        with small_files_only(20_000):
            done = command("convert", *words, "--run", tmp_path / "run")
        done.refused("convert", "model.keras cannot be written")
        assert_no_network(tmp_path / "run")
        command("convert", *words, "--run", tmp_path / "run").ok()
        assert (tmp_path / "run" / "model.keras").is_file()


OTHER = replace(QUICK, filters=(6, 4, 8), kernels=(3, 3, 1), patch_shape=(3, 32, 32))
"""The network of these tests, but for the channels of its first scale."""


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint in the original's format whose first kernel has other sizes."""
    import tensorflow as tf

    from fetal_brain.model import build_model
    from fetal_brain.original_weights import variables_by_name

    prefix = tmp_path_factory.mktemp("other") / "model.ckpt-7"
    model = build_model(OTHER)
    tensors = {name: variable.value for name, variable in variables_by_name(model).items()}
    tensors["global_step"] = tf.constant(7, tf.int64)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return prefix


class TestOtherArchitecture:
    DIFFERENCE = "enc_unit_0/conv3d/kernel has shape (3, 3, 3, 1, 6), expected (3, 3, 3, 1, 4)"

    def test_convert(self, work, other_checkpoint, tmp_path):
        out = tmp_path / "run"
        done = command("convert", "--original", other_checkpoint, *work.PREPARED, "--run", out)
        done.refused("convert", str(other_checkpoint), self.DIFFERENCE)
        assert not out.exists()

    def test_train(self, work, other_checkpoint, tmp_path):
        words = ["--config", work.run / "config.yaml", "--original", other_checkpoint]
        done = command("train", *words, "--run", tmp_path / "run")
        done.refused("train", str(other_checkpoint), self.DIFFERENCE)
        assert_no_network(tmp_path / "run")

    def test_compare(self, work, other_checkpoint, tmp_path):
        out = tmp_path / "out.json"
        done = command("compare", "--run", work.run, "--original", other_checkpoint, "--out", out)
        done.refused("compare", str(other_checkpoint), self.DIFFERENCE)
        done = command("compare", "--original", other_checkpoint)
        done.refused("compare", "--original needs --run")
        assert not out.exists()

    def test_network_of_another_run(self, work, tmp_path):
        from fetal_brain.inference import build_for_any_plane

        run = shutil.copytree(work.run, tmp_path / "run")
        other = build_for_any_plane(OTHER)
        other.save(run / "model.keras")
        before = tree(tmp_path)
        for words in (["predict"], ["export", "--to", tmp_path / "models"]):
            done = command(*words, "--run", run)
            done.refused(words[0], "model.keras is another architecture")
        assert tree(tmp_path) == before
