"""Original beside port: the tables are what presets, layers and inference really are."""

import json
import shutil
from dataclasses import fields, replace

import keras
import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError, OptionError
from common.report.page import read_sections
from common.report.tables import format_table
from common.runs.folder import open_run
from common.study.compare import compare_presets
from common.study.dice_definitions import metrics_table
from fetal_brain.compare import compare
from fetal_brain.config import PRESETS, QUICK, Config
from fetal_brain.data import Case
from fetal_brain.inference import build_for_any_plane
from fetal_brain.original_weights import variables_by_name
from fetal_brain.study.comparison import (
    compare_inference,
    compare_weights,
    list_layers,
    read_prediction,
)

GRID = Geometry(spacing_mm=(1.0, 1.0, 3.0))
SMALL = replace(QUICK, filters=(4, 4, 8), kernels=(3, 3, 1), patch_shape=(3, 16, 16))


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(5)
    return build_for_any_plane(SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory, network):
    """A run with a network nobody trained and one held-out case."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(1)
    write_volume(folder / "scan.nii.gz", random.normal(100, 30, (5, 30, 40)).astype("f4"), GRID)
    write_volume(folder / "label.nii.gz", 2 * random.integers(0, 2, (5, 30, 40), np.uint8), GRID)
    case = Case("a", folder / "scan.nii.gz", folder / "label.nii.gz")
    with open_run(folder / "run", paper="fetal_brain", options={}, config=SMALL, seed=0) as record:
        record.write_split({"training": [], "validation": [], "test": [case]})
        network.save(folder / "run" / "model.keras")
    return folder / "run"


def write_checkpoint(path, tensors):
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def test_presets_side_by_side_with_differing_fields_first():
    rows = compare_presets(PRESETS)
    assert {row["field"] for row in rows} == {field.name for field in fields(Config)}
    for row in rows:
        values = [getattr(config, row["field"]) for config in PRESETS.values()]
        assert [row[name] for name in PRESETS] == values
        assert (row["differs"] == "yes") == any(value != values[0] for value in values)
    marks = [row["differs"] for row in rows]
    assert marks == sorted(marks, reverse=True)
    assert {"yes", ""} == set(marks)


def test_layers_are_the_original_s_variables(initialisation):
    rows = list_layers("code")
    shapes = {row["original"]: [int(n) for n in row["shape"].split("x")] for row in rows}
    assert shapes == {name: list(entry["shape"]) for name, entry in initialisation.items()}
    assert sum(row["parameters"] for row in rows) == 722_582
    trained = sum(row["trained"] == "yes" for row in rows)
    assert (len(rows), trained) == (82, 47)
    assert {row["original"] for row in list_layers("paper")} > {"enc_unit_0/conv3d/bias"}


@pytest.mark.slow
def test_inference_both_ways(run):
    """[F29] Where one window covers the plane, only the doubled last window makes a difference."""
    rows = {row["inference"]: row for row in compare_inference(run)}
    assert set(rows) == {"port", "code", "code without F5"}
    assert rows["port"]["voxels unlike port"] == rows["code without F5"]["voxels unlike port"] == 0
    assert rows["code without F5"]["dice"] == rows["port"]["dice"]
    assert all(row["case"] == "a" and row["seconds"] >= 0 for row in rows.values())
    assert 0 < rows["port"]["dice"] < 1


def test_weights_differ_by_what_was_added(run, network, tmp_path):
    tensors = {name: v.numpy() for name, v in variables_by_name(network).items()}
    tensors["enc_unit_1/conv3d/kernel"] = tensors["enc_unit_1/conv3d/kernel"].copy()
    tensors["enc_unit_1/conv3d/kernel"][0, 0, 0, 0, 0] -= 0.5
    write_checkpoint(tmp_path / "model.ckpt-3", {**tensors, "global_step": np.int64(3)})
    rows = {row["variable"]: row["largest difference"]
            for row in compare_weights(run, tmp_path / "model.ckpt-3")}  # fmt: skip
    assert rows.keys() == tensors.keys() - {"global_step"}
    assert rows.pop("enc_unit_1/conv3d/kernel") == pytest.approx(0.5, abs=1e-6)
    assert set(rows.values()) == {0.0}


def test_weights_need_a_run_and_a_checkpoint(run, tmp_path):
    with pytest.raises(OptionError, match="--original needs --run"):
        compare_weights(None, tmp_path)
    with pytest.raises(DataError, match="absent"):
        compare_weights(run, tmp_path / "absent")


def test_tables_as_text_and_as_json(tmp_path, capsys):
    assert format_table([{"a": 1, "long": "x"}, {"a": 234, "long": ""}]) == (
        "a    long\n1    x\n234"
    )
    compare("quick", out=tmp_path / "new" / "tables.json")
    said = capsys.readouterr().out
    assert said.startswith("presets\nfield ")
    assert "Not shown: activations, effects, metrics, formulas" in said
    assert said.endswith(f"JSON: {tmp_path / 'new' / 'tables.json'}\n")
    tables = json.loads((tmp_path / "new" / "tables.json").read_text())
    assert set(tables) == {"presets", "layers"}
    listed = {row["original"]: row for row in tables["layers"]}
    for row in list_layers("quick"):
        assert row.items() <= listed[row["original"]].items()
    assert listed["enc_unit_0/conv3d/kernel"]["its shape"] == "5x5x5x1x32"
    assert listed["enc_unit_0/conv3d/kernel"]["shape"] == "5x5x5x1x8"
    assert "82 variables, 722,582 numbers. Port: 82 variables, 89,406 numbers" in said


@pytest.mark.slow
def test_a_page_with_every_part(run, tmp_path, capsys):
    """The whole command on a run: the network of nobody's training is enough to see the switches.

    [F5] [F29] Of the switches of inference, the size of a batch alone changes nothing.
    """
    to = tmp_path / "compare"
    compare("code", run=run, to=to)
    said = capsys.readouterr().out
    assert "No divergence in 55 layers" in said
    assert said.endswith(f"Page: {to / 'index.html'}\n")
    assert all(len(line) <= 120 for line in said.splitlines() if str(to) not in line)
    stored = json.loads((to / "compare.json").read_text())
    assert list(stored["parts"]) == [
        "presets", "layers", "activations", "effects", "metrics", "formulas", "inference",
    ]  # fmt: skip
    parts = {name: part["rows"] for name, part in stored["parts"].items()}
    assert len(parts["activations"]) == 55
    effects = {row["switch"]: row for row in parts["effects"]}
    assert effects["windows_per_batch"]["changed"] == "0 %"
    assert effects["count_last_window_twice"]["changed"] != "0 %"
    assert effects["training_cases"]["code"].startswith("refused: the list has 36 rows")
    assert effects["allow_training_cases_in_test"]["code"].endswith("4 tested and trained on")
    assert effects["dropout"]["code"].endswith("differ by up to 0")
    assert effects["output_label_ids"]["flip"] == "True -> False"
    titles = [section.title for section in read_sections(to / "sections.json")]
    assert titles == [part["title"] for part in stored["parts"].values()]
    assert (to / "index.html").read_text().count("<img ") == 2
    assert sorted(path.name for path in to.iterdir()) == [
        "compare.json", "index.html", "sections.json",
    ]  # fmt: skip


def test_a_runs_own_prediction_is_scored(run, tmp_path):
    """Nothing of a run without label maps; with one, a column of its own."""
    assert read_prediction(run) is None
    from common.data.volumes import read_volume
    from common.runs.folder import load_run

    (entry,) = load_run(run).read_split()["test"]
    copied = shutil.copytree(run, tmp_path / "run")
    label = read_volume(entry["label_path"])
    (copied / "predictions").mkdir()
    write_volume(copied / "predictions" / "a.nii.gz", label.array, label.geometry)
    column = {row["measure"]: row["run: a"] for row in metrics_table(read_prediction(copied)).rows}
    assert column["Dice (common.evaluation.metrics)"] == "1.000"
    assert column["vertebra eval.py"] == "0.500"
