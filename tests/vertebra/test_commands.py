"""The commands as a user runs them, from phantom to report, and what they refuse."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import run

from common import cli
from common.data.geometry import Geometry
from common.data.volumes import read_volume, write_volume
from vertebra.__main__ import COMMAND_ALIASES, without_checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--preset", "quick", "--channels", "2"]
STEPS = ["--max_steps", "3", "--steps_per_evaluation", "2", "--eval_iters", "1",
         "--calibration_patches", "2", "--fix_statistics_after", "1",
         "--fix_statistics_over", "1"]  # fmt: skip
command = partial(run, "vertebra")


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A phantom data set and everything the commands make of it."""
    folder = tmp_path_factory.mktemp("vertebra")
    here = SimpleNamespace(
        folder=folder, phantom=folder / "phantom", crop=folder / "crop", run=folder / "run"
    )
    command("phantom", "--out", here.phantom, "--cases", 3, "--shape", "56,90,80").ok()
    trees = ["--output_isotropic", folder / "iso", "--output_crop", here.crop]
    ratio = ["--preset", "quick", "--split_ratio", 0.67]
    said = command("prepare", "--dataset", here.phantom, *trees, *ratio).ok()
    assert "train: 2 cases, numbers 1, 2\ntest: 1 case, numbers 3\n" in said
    command("train", "--dataset", here.crop, "--run", here.run, *TINY, *STEPS).ok()
    return here


@pytest.fixture(scope="session")
def converted(work, golden_dir):
    """The recorded small weights as a run; their patch is 128, their width 4."""
    path = work.folder / "converted"
    original = golden_dir / "vertebra" / "small_legacy.pth"
    command("convert", "--original", original, "--run", path).ok()
    return path


def test_run_folder(work):
    names = {path.name for path in work.run.iterdir() if path.name != ".lock"}
    assert names >= {"config.yaml", "manifest.json", "split.json", "log.csv", "checkpoints",
                     "model.keras", "prepared"}  # fmt: skip
    manifest = json.loads((work.run / "manifest.json").read_text())
    assert (manifest["status"], manifest["phantom"]) == ("finished", True)
    split = json.loads((work.run / "split.json").read_text())
    assert {name: [case["id"] for case in cases] for name, cases in split.items()} == {
        "train": ["case1", "case2"], "test": ["case3"]}  # fmt: skip
    log = (work.run / "log.csv").read_text().splitlines()
    assert len(log) == 3
    assert "val_dice" in log[0]


def test_passage(work):
    """predict -> evaluate -> export -> compare."""
    command("predict", "--run", work.run, "--remove_incomplete", "false", "--min_vol", 5).ok()
    path = work.run / "predictions" / "case3_pred.nrrd"
    scan = read_volume(work.crop / "test" / "img" / "case3.mhd")
    mask = read_volume(path)
    assert mask.array.shape == scan.array.shape
    np.testing.assert_allclose(mask.geometry.origin_mm, scan.geometry.origin_mm, atol=1e-4)
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["ended"]
    assert len(found["vertebrae"]) == np.unique(mask.array).size - 1
    said = command("evaluate", "--run", work.run).ok()
    assert "Synthetic phantom data" in said
    assert "The released code's average Dice" in said
    report = work.run / "report"
    assert (report / "index.html").is_file()
    counts = json.loads((report / "instances.json").read_text())
    assert counts["cases"][0]["vertebrae"] > 0
    command("export", "--run", work.run, "--to", work.folder / "models").ok()
    assert (work.folder / "models" / "vertebra" / "1" / "saved_model.pb").is_file()
    command("compare", "--preset", "quick", "--out", work.folder / "compared.json").ok()
    tables = json.loads((work.folder / "compared.json").read_text())
    assert len(tables["layers"]) == 50


def test_flips_and_an_ensemble_of_one(work, tmp_path):
    """A network twice is that network: the search goes the same way."""
    words = ["predict", "--run", work.run, "--remove_incomplete", "false", "--min_vol", 5]
    command(*words, "--output_dir", tmp_path / "one").ok()
    command(*words, "--run", work.run, "--output_dir", tmp_path / "two").ok()
    one, two = (tmp_path / name / "case3_pred.nrrd" for name in ("one", "two"))
    np.testing.assert_array_equal(read_volume(one).array, read_volume(two).array)
    found = [json.loads(path.with_suffix(".json").read_text()) for path in (one, two)]
    assert found[0]["visits"] == found[1]["visits"]
    assert found[1]["network"] == f"{work.run}, {work.run}"
    command(*words, "--flips", "x", "--largest_component", "--output_dir", tmp_path / "mean").ok()
    command(*words, "--entropy").refused("predict", "--entropy: the search keeps labels")


def test_original_flags(work, converted, golden_dir):
    """[V30] [V31] The original's script and flags; no file is written where its search aborts."""
    out = work.folder / "pred"
    words = ["--test_dir", work.crop / "test" / "img", "--output_dir", out, "--patch_size", 128,
             "--sigma", 2, "--min_vol", 1000, "--max_alter", 20]  # fmt: skip
    weights = golden_dir / "vertebra" / "small_zip.pth"
    done = command("instance_segmentation", "--weights", weights, *words)
    done.refused("predict", "the released search broke down after 0 windows")
    done = command("predict", "--weights", weights, *words, "--skip_air", "true")
    done.refused("predict", "--skip_air: found it with the released search")
    assert not list(out.glob("*.nrrd"))


def test_calibrate(work, converted):
    """[V2] Per-site statistics are asked for in vain, then taken, then used."""
    few = ["--run", converted, "--image", work.crop / "test" / "img" / "case3.mhd",
           "--output_dir", work.folder / "calibrated", "--traversal", "port"]  # fmt: skip
    few += ["--inference_statistics", "per_site"]
    command("predict", *few).refused("predict", "calibrate")
    command("calibrate", "--run", converted, "--dataset", work.crop, "--patches", 1).ok()
    assert (converted / "checkpoints" / "calibration.json").is_file()
    command("predict", *few).ok()


def test_conversion_for_fixed_statistics(work, golden_dir):
    """[V17] Released weights say 0 or 1 with them, so nothing is left out on their word."""
    path = work.folder / "for_port"
    original = golden_dir / "vertebra" / "small_zip.pth"
    done = command("convert", "--original", original, "--run", path, "--preset", "port")
    assert "No vertebra is left out" in done.ok()
    assert "remove_incomplete: false" in (path / "config.yaml").read_text()


def test_non_isotropic_scan_is_resampled_and_mapped_back(work):
    """Said in one line; the mask lies on the scan's own grid."""
    scan = work.phantom / "case3.mhd"
    out = work.folder / "mapped"
    words = ["--run", work.run, "--image", scan, "--output_dir", out, "--min_vol", 5]
    text = command("predict", *words).ok()
    said = [line for line in text.splitlines() if "resampled" in line]
    assert said == ["case3.mhd: voxels of 1.4 x 1.4 x 2 mm were resampled to 3 mm and back"]
    mask, image = read_volume(out / "case3_pred.nrrd"), read_volume(scan)
    assert mask.array.shape == image.array.shape
    np.testing.assert_allclose(mask.geometry.spacing_mm, image.geometry.spacing_mm)
    np.testing.assert_allclose(mask.geometry.origin_mm, image.geometry.origin_mm)


def copy_of(work, tmp_path):
    """A copy of the source data that may be spoilt."""
    folder = tmp_path / "data"
    shutil.copytree(work.phantom, folder)
    return folder


def prepare_into(folder, tmp_path):
    trees = ["--output_isotropic", tmp_path / "iso", "--output_crop", tmp_path / "crop"]
    return command("prepare", "--dataset", folder, "--preset", "quick", *trees)


def spoil_no_raw(folder):
    (folder / "case2.raw").unlink()


def spoil_geometry(folder):
    volume = read_volume(folder / "case2_label.mhd")
    write_volume(folder / "case2_label.mhd", volume.array, Geometry((1.0, 1.0, 1.0)))


def spoil_shape(folder):
    volume = read_volume(folder / "case2_label.mhd")
    write_volume(folder / "case2_label.mhd", volume.array[1:], volume.geometry)


def spoil_no_vertebra(folder):
    volume = read_volume(folder / "case2_label.mhd")
    write_volume(folder / "case2_label.mhd", 0 * volume.array, volume.geometry)


def spoil_nan(folder):
    volume = read_volume(folder / "case2.mhd")
    array = volume.array.astype(np.float32)
    array[3, 4, 5] = np.nan
    write_volume(folder / "case2.mhd", array, volume.geometry)


def spoil_no_label(folder):
    (folder / "case2_label.mhd").unlink()


def spoil_fractions(folder):
    volume = read_volume(folder / "case2_label.mhd")
    array = volume.array.astype(np.float32) + np.float32(0.5)
    write_volume(folder / "case2_label.mhd", array, volume.geometry)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_no_raw, ["case2.mhd", "cannot be read"]),
        (spoil_geometry, ["case2.mhd", "case2_label.mhd", "expected one voxel grid", "spacing"]),
        (spoil_shape, ["case2_label.mhd", "shape"]),
        (spoil_no_vertebra, ["case2_label.mhd", "no vertebra is labelled"]),
        (spoil_nan, ["case2.mhd", "1 NaN or infinite voxels"]),
        (spoil_no_label, ["case2.mhd", "has no labels"]),
        (spoil_fractions, ["case2_label.mhd", "integer ids"]),
    ],
)
def test_bad_input(work, tmp_path, spoil, words):
    """One line that names the file, status 2, and nothing half-written left behind."""
    folder = copy_of(work, tmp_path)
    spoil(folder)
    done = prepare_into(folder, tmp_path)
    assert done.status == 2, done
    assert all(word in done.lines[0] for word in words), done.lines
    if spoil is not spoil_no_label:  # which is seen before any case is begun
        assert done.lines[1:] == [
            "vertebra prepare: no usable result for 1 of 3 cases: case2; nothing is left, since "
            "the split is over all of them"
        ]
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_nan_voxels_at_prediction(work, tmp_path):
    folder = copy_of(work, tmp_path)
    spoil_nan(folder)
    out = tmp_path / "pred"
    image = ["--image", folder / "case2.mhd", "--output_dir", out]
    command("predict", "--run", work.run, *image).refused("predict", "NaN")
    assert not list(out.glob("*"))


def test_weights_of_another_width(work, tmp_path, golden_dir):
    """[V5] The network of the run has 2 channels, the file 4."""
    original = golden_dir / "vertebra" / "small_zip.pth"
    done = command("train", "--dataset", work.crop, "--run", tmp_path / "run", *TINY, *STEPS,
                   "--original", original)  # fmt: skip
    done.refused("train", "another architecture", "expected (3, 3, 3, 2, 2)")


def test_prepared_for_another_grid(work, tmp_path):
    done = command("train", "--dataset", work.crop, "--run", tmp_path / "run", *TINY, *STEPS,
                   "--spacing_mm", 1.0)  # fmt: skip
    done.refused("train", "prepare with the same preset")


def test_foreign_folder_is_not_replaced(work, tmp_path):
    (tmp_path / "crop").mkdir()
    (tmp_path / "crop" / "thesis.txt").write_text("all of it")
    prepare_into(work.phantom, tmp_path).refused("prepare", "thesis.txt")
    assert (tmp_path / "crop" / "thesis.txt").is_file()


def test_evaluation_by_name(work, tmp_path):
    """[V20] Masks are found by the scan's name, whatever else lies in the folder; a perfect one."""
    labels = work.crop / "test" / "seg"
    volume = read_volume(labels / "case3_label.mhd")
    (tmp_path / "pred").mkdir()
    write_volume(tmp_path / "pred" / "case3_pred.nrrd", volume.array, volume.geometry)
    write_volume(tmp_path / "pred" / "aaa_pred.nrrd", volume.array, volume.geometry)
    run_copy = shutil.copytree(work.run, tmp_path / "run")
    folders = ["--label_dir", labels, "--pred_dir", tmp_path / "pred"]
    said = command("evaluate", "--run", run_copy, *folders).ok()
    count = np.unique(volume.array).size - 1
    assert f"{count} of {count} vertebrae found" in said
    assert "precision 1.000  recall 1.000  f1 1.000" in said
    assert f"average Dice: {count / (count + 1):.3f}" in said


def test_evaluation_without_a_run(tmp_path, capsys):
    """The original's `eval`: two folders; the report names the network that made the masks."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "masks").mkdir()
    labels = np.zeros((12, 8, 8), np.int16)
    labels[1:5, 2:6, 2:6], labels[7:11, 2:6, 2:6] = 100, 200
    geometry = Geometry((2.0, 2.0, 2.0))
    write_volume(tmp_path / "labels" / "case1_label.mhd", labels, geometry)
    write_volume(tmp_path / "masks" / "case1_pred.nrrd", labels * (labels > 100), geometry)
    (tmp_path / "masks" / "case1_pred.json").write_text('{"network": "/there/weights.pth"}')
    words = ["eval", "--label_dir", tmp_path / "labels", "--pred_dir", tmp_path / "masks"]
    assert cli.main("vertebra", argv=list(map(str, words)), command_aliases=COMMAND_ALIASES) == 0
    said = capsys.readouterr().out
    assert "case1  1 of 2 vertebrae found (IoU 0.5) with 1 finds, foreground Dice 0.667" in said
    assert "The released code's average Dice: 0.333" in said  # (0 + 0 + 1) / 3
    report = tmp_path / "masks" / "report"
    assert json.loads((report / "instances.json").read_text())["recall"] == 0.5
    page = (report / "index.html").read_text()
    assert "/there/weights.pth" in page
    assert str(tmp_path / "masks") in page


def test_two_folders_of_the_original_are_one_run(monkeypatch, capsys):
    """`--weight W --checkpoints K`: W is the run, and that K is passed over is said."""
    words = ["train", "--weight", "W", "--checkpoints", "K", "--lr", "1e-3"]
    assert without_checkpoints(words) == ["train", "--weight", "W", "--lr", "1e-3"]
    assert capsys.readouterr().err == (
        "--checkpoints: passed over; snapshots lie in checkpoints/ of the run\n"
    )
    assert without_checkpoints(["train", "--checkpoints=K", "--run=W"]) == ["train", "--run=W"]
    alone = ["train", "--checkpoints", "K"]
    assert without_checkpoints(alone) == alone


def test_help_loads_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vertebra", "train", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tensorflow" not in done.stderr
    assert "--elastic_alpha" in done.stdout
