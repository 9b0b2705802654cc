"""Original beside port: the tables are what presets, layers and inference really are."""

import json
from dataclasses import fields, replace

import keras
import numpy as np
import pytest

from common.comparison import compare_presets, format_table
from common.errors import DataError, OptionError
from common.runs import open_run
from common.volumes import Geometry, write_volume
from fetal_brain.compare import (
    compare,
    compare_inference,
    compare_weights,
    list_layers,
)
from fetal_brain.config import PRESETS, QUICK, Config
from fetal_brain.convert import variables_by_name
from fetal_brain.data import Case
from fetal_brain.inference import build_for_any_plane

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
    assert said.endswith(f"JSON: {tmp_path / 'new' / 'tables.json'}\n")
    tables = json.loads((tmp_path / "new" / "tables.json").read_text())
    assert set(tables) == {"presets", "layers"}
    assert tables["layers"] == list_layers("quick")
