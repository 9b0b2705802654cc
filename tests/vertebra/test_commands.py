"""The commands as a user runs them, from phantom to report, and what they refuse."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.cli import main
from common.data.volumes import Geometry, read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--preset", "quick", "--channels", "2"]
STEPS = ["--max_steps", "3", "--steps_per_evaluation", "2", "--eval_iters", "1",
         "--calibration_patches", "2", "--fix_statistics_after", "1",
         "--fix_statistics_over", "1"]  # fmt: skip
ALIASES = {"verb_aliases": {"instance_segmentation": "predict"},
           "option_aliases": {"--lr": "--learning_rate"}}  # fmt: skip


def run(*words):
    """Status of one command."""
    return main("vertebra", argv=[str(word) for word in words], **ALIASES)


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A phantom data set and everything the commands make of it."""
    folder = tmp_path_factory.mktemp("vertebra")
    here = SimpleNamespace(
        folder=folder, phantom=folder / "phantom", crop=folder / "crop", run=folder / "run"
    )
    assert run("phantom", "--out", here.phantom, "--cases", 3, "--shape", "56,90,80") == 0
    trees = ["--output_isotropic", folder / "iso", "--output_crop", here.crop]
    ratio = ["--preset", "quick", "--split_ratio", 0.67]
    assert run("prepare", "--dataset", here.phantom, *trees, *ratio) == 0
    assert run("train", "--dataset", here.crop, "--run", here.run, *TINY, *STEPS) == 0
    return here


@pytest.fixture(scope="session")
def converted(work, golden_dir):
    """The recorded small weights as a run; their patch is 128, their width 4."""
    path = work.folder / "converted"
    original = golden_dir / "vertebra" / "small_legacy.pth"
    assert run("convert", "--original", original, "--run", path) == 0
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


def test_passage(work, capsys):
    """predict -> evaluate -> export -> compare."""
    assert run("predict", "--run", work.run, "--remove_incomplete", "false", "--min_vol", 5) == 0
    path = work.run / "predictions" / "case3_pred.nrrd"
    scan = read_volume(work.crop / "test" / "img" / "case3.mhd")
    mask = read_volume(path)
    assert mask.array.shape == scan.array.shape
    np.testing.assert_allclose(mask.geometry.origin_mm, scan.geometry.origin_mm, atol=1e-4)
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["ended"]
    assert len(found["vertebrae"]) == np.unique(mask.array).size - 1
    assert run("evaluate", "--run", work.run) == 0
    said = capsys.readouterr().out
    assert "Synthetic phantom data" in said
    assert "The released code's average Dice" in said
    report = work.run / "report"
    assert (report / "index.html").is_file()
    counts = json.loads((report / "instances.json").read_text())
    assert counts["cases"][0]["vertebrae"] > 0
    assert run("export", "--run", work.run, "--to", work.folder / "models") == 0
    assert (work.folder / "models" / "vertebra" / "1" / "saved_model.pb").is_file()
    assert run("compare", "--preset", "quick", "--out", work.folder / "compared.json") == 0
    tables = json.loads((work.folder / "compared.json").read_text())
    assert len(tables["layers"]) == 50


def test_original_flags(work, converted, golden_dir, capsys):
    """[V30] [V31] The original's script and flags; no file is written where its search aborts."""
    out = work.folder / "pred"
    words = ["--test_dir", work.crop / "test" / "img", "--output_dir", out, "--patch_size", 128,
             "--sigma", 2, "--min_vol", 1000, "--max_alter", 20]  # fmt: skip
    weights = golden_dir / "vertebra" / "small_zip.pth"
    assert run("instance_segmentation", "--weights", weights, *words) == 2
    said = capsys.readouterr().err
    assert "the released search broke down after 0 windows" in said
    assert not list(out.glob("*.nrrd"))


def test_calibrate(work, converted, capsys):
    """[V2] Per-site statistics are asked for in vain, then taken, then used."""
    few = ["--run", converted, "--image", work.crop / "test" / "img" / "case3.mhd",
           "--output_dir", work.folder / "calibrated", "--traversal", "port"]  # fmt: skip
    assert run("predict", *few, "--inference_statistics", "per_site") == 2
    assert "calibrate" in capsys.readouterr().err
    assert run("calibrate", "--run", converted, "--dataset", work.crop, "--patches", 1) == 0
    assert (converted / "checkpoints" / "calibration.json").is_file()
    assert run("predict", *few, "--inference_statistics", "per_site") == 0


def test_conversion_for_fixed_statistics(work, golden_dir, capsys):
    """[V17] Released weights say 0 or 1 with them, so nothing is left out on their word."""
    path = work.folder / "for_port"
    original = golden_dir / "vertebra" / "small_zip.pth"
    assert run("convert", "--original", original, "--run", path, "--preset", "port") == 0
    assert "No vertebra is left out" in capsys.readouterr().out
    assert "remove_incomplete: false" in (path / "config.yaml").read_text()


def test_non_isotropic_scan_is_resampled_and_mapped_back(work, capsys):
    """Said in one line; the mask lies on the scan's own grid."""
    scan = work.phantom / "case3.mhd"
    out = work.folder / "mapped"
    assert run("predict", "--run", work.run, "--image", scan, "--output_dir", out,
               "--min_vol", 5) == 0  # fmt: skip
    said = [line for line in capsys.readouterr().out.splitlines() if "resampled" in line]
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
    return run("prepare", "--dataset", folder, "--preset", "quick", *trees)


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
def test_bad_input(work, tmp_path, capsys, spoil, words):
    """One line that names the file, status 2, and nothing half-written left behind."""
    folder = copy_of(work, tmp_path)
    spoil(folder)
    capsys.readouterr()
    assert prepare_into(folder, tmp_path) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vertebra")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_nan_voxels_at_prediction(work, tmp_path, capsys):
    folder = copy_of(work, tmp_path)
    spoil_nan(folder)
    out = tmp_path / "pred"
    status = run("predict", "--run", work.run, "--image", folder / "case2.mhd",
                 "--output_dir", out)  # fmt: skip
    assert status == 2
    assert "NaN" in capsys.readouterr().err
    assert not list(out.glob("*"))


def test_weights_of_another_width(work, tmp_path, golden_dir, capsys):
    """[V5] The network of the run has 2 channels, the file 4."""
    original = golden_dir / "vertebra" / "small_zip.pth"
    status = run("train", "--dataset", work.crop, "--run", tmp_path / "run", *TINY, *STEPS,
                 "--original", original)  # fmt: skip
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "another architecture" in line
    assert "expected (3, 3, 3, 2, 2)" in line


def test_prepared_for_another_grid(work, tmp_path, capsys):
    status = run("train", "--dataset", work.crop, "--run", tmp_path / "run", *TINY, *STEPS,
                 "--spacing_mm", 1.0)  # fmt: skip
    assert status == 2
    assert "prepare with the same preset" in capsys.readouterr().err


def test_foreign_folder_is_not_replaced(work, tmp_path, capsys):
    (tmp_path / "crop").mkdir()
    (tmp_path / "crop" / "thesis.txt").write_text("all of it")
    assert prepare_into(work.phantom, tmp_path) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "crop" / "thesis.txt").is_file()


def test_evaluation_by_name(work, tmp_path, capsys):
    """[V20] Masks are found by the scan's name, whatever else lies in the folder; a perfect one."""
    labels = work.crop / "test" / "seg"
    volume = read_volume(labels / "case3_label.mhd")
    (tmp_path / "pred").mkdir()
    write_volume(tmp_path / "pred" / "case3_pred.nrrd", volume.array, volume.geometry)
    write_volume(tmp_path / "pred" / "aaa_pred.nrrd", volume.array, volume.geometry)
    run_copy = tmp_path / "run"
    shutil.copytree(work.run, run_copy)
    assert run("evaluate", "--run", run_copy, "--label_dir", labels,
               "--pred_dir", tmp_path / "pred") == 0  # fmt: skip
    said = capsys.readouterr().out
    count = np.unique(volume.array).size - 1
    assert f"{count} of {count} vertebrae found" in said
    assert "precision 1.000  recall 1.000  f1 1.000" in said
    assert f"average Dice: {count / (count + 1):.3f}" in said


def test_help_is_quick():
    """No TensorFlow on the way to it: 0.3 s measured, 2 s allowed on a busy machine."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vertebra", "train", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tensorflow" not in done.stderr
    assert "--elastic_alpha" in done.stdout
    assert time.monotonic() - start < 10
