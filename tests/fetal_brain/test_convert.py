"""The original's weights, optimiser state and step, by name and to the bit."""

import json
import zipfile

import keras
import numpy as np
import pytest

from common.errors import DataError, RunError
from common.runs.folder import load_config, load_run
from fetal_brain.config import CODE, PAPER, PORT, QUICK, Config
from fetal_brain.convert import convert
from fetal_brain.model import build_model, make_optimizer
from fetal_brain.original_weights import (
    assign_optimizer,
    assign_original,
    read_original,
    variables_by_name,
)


@pytest.fixture(scope="module")
def recipe_slots(golden, initialisation, recipe):
    names = golden("model_train")["trainable_names"].tolist()
    return recipe.make_slots({name: initialisation[name]["shape"] for name in names})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, recipe_weights, recipe_slots):
    """A checkpoint in the original's format: the file that TensorFlow 1 savers write."""
    import tensorflow as tf

    tensors = recipe_weights | recipe_slots | {"global_step": np.int64(500)}
    prefix = tmp_path_factory.mktemp("trained") / "model.ckpt-500"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    return prefix


class TestRead:
    @pytest.mark.shared
    @pytest.mark.parametrize("part", ["", "model.ckpt-500", "model.ckpt-500.index"])
    def test_checkpoint_of_the_original(
        self, original_checkpoint, part, recipe_weights, recipe_slots
    ):
        """130 tensors, equal to what was put into them."""
        tensors = read_original(original_checkpoint / part)
        expected = recipe_weights | recipe_slots
        assert tensors.keys() == {*expected, "global_step"}
        assert len(tensors) == 130
        assert tensors["global_step"] == 500
        for name, value in expected.items():
            np.testing.assert_array_equal(tensors[name], value, err_msg=name, strict=True)

    @pytest.mark.shared
    @pytest.mark.parametrize("part", ["", "variables", "variables/variables"])
    def test_export_of_the_original(self, original_checkpoint, part, recipe_weights):
        """83 tensors: the network and the step, no momentum."""
        (export,) = (entry for entry in original_checkpoint.iterdir() if entry.is_dir())
        tensors = read_original(export / part)
        assert tensors.keys() == {*recipe_weights, "global_step"}
        for name, value in recipe_weights.items():
            np.testing.assert_array_equal(tensors[name], value, err_msg=name, strict=True)


class TestAssign:
    @pytest.mark.parametrize("config", [CODE, PORT], ids=["code", "port"])
    def test_all_82(self, checkpoint, recipe_weights, config):
        model = build_model(config)
        left = assign_original(model, read_original(checkpoint))
        assert len(left) == 48
        assert all(name.endswith("/Momentum") or name == "global_step" for name in left)
        assert len(variables_by_name(model)) == 82
        for name, variable in variables_by_name(model).items():
            np.testing.assert_array_equal(variable.numpy(), recipe_weights[name], err_msg=name)

    def test_missing_variable(self, recipe_weights):
        tensors = {k: v for k, v in recipe_weights.items() if k != "last/conv3d/kernel"}
        with pytest.raises(DataError, match=r"last/conv3d/kernel of shape \(1, 1, 1, 2, 2\) is"):
            assign_original(build_model(CODE), tensors)

    def test_left_over_variable(self, recipe_weights):
        tensors = recipe_weights | {"enc_unit_5/conv3d/kernel": np.zeros((1, 1, 1, 128, 256))}
        with pytest.raises(DataError, match="left over in the file: enc_unit_5/conv3d/kernel"):
            assign_original(build_model(CODE), tensors)


class TestAssignOptimizer:
    def test_momentum_and_step(self, checkpoint, recipe_slots):
        """Keras keeps the next step, -0.01 of the original's accumulator."""
        tensors = read_original(checkpoint)
        model, optimizer = build_model(CODE), make_optimizer(CODE)
        assign_optimizer(optimizer, model, tensors, 0.01)
        assert int(optimizer.iterations) == 500
        names = [name for name, v in variables_by_name(model).items() if v.trainable]
        assert len(optimizer.momentums) == len(names) == 47
        for name, momentum in zip(names, optimizer.momentums, strict=True):
            expected = -0.01 * recipe_slots[f"{name}/Momentum"]
            np.testing.assert_allclose(momentum.numpy(), expected, rtol=1e-6, err_msg=name)

    def test_export_has_none(self, recipe_weights):
        model = build_model(CODE)
        with pytest.raises(DataError, match="no momentum slots"):
            assign_optimizer(make_optimizer(CODE), model, recipe_weights, 0.01)

    def test_one_slot_missing(self, checkpoint):
        tensors = read_original(checkpoint)
        del tensors["last/conv3d/kernel/Momentum"]
        with pytest.raises(DataError, match=r"last/conv3d/kernel/Momentum .* is missing"):
            assign_optimizer(make_optimizer(CODE), build_model(CODE), tensors, 0.01)


class TestConvert:
    def test_run_folder(self, checkpoint, tmp_path, recipe_weights, capsys):
        convert(checkpoint, tmp_path / "run", config=CODE)
        model = keras.models.load_model(tmp_path / "run" / "model.keras")
        for name, variable in variables_by_name(model).items():
            np.testing.assert_array_equal(variable.numpy(), recipe_weights[name], err_msg=name)
        assert load_config(tmp_path / "run", Config) == CODE
        assert load_run(tmp_path / "run").manifest["status"] == "finished"
        said = capsys.readouterr().out
        assert "Assigned 82 variables, 722582 numbers" in said
        assert "47 momentum slots and the step 500" in said

    def test_file_holds_no_code_of_ours(self, checkpoint, tmp_path):
        """Every class in it is Keras' own, so that it loads without this project."""
        convert(checkpoint, tmp_path / "run", config=PORT, preset="port")
        with zipfile.ZipFile(tmp_path / "run" / "model.keras") as archive:
            config = json.loads(archive.read("config.json"))
        modules = set(_find_modules(config))
        assert modules
        assert all(module is None or module.startswith("keras") for module in modules)

    def test_other_architecture(self, checkpoint, tmp_path):
        """Names the first variable that differs and both shapes; writes nothing."""
        expected = r"model\.ckpt-500 .*: enc_unit_0/conv3d/kernel has shape \(5, 5, 5, 1, 32\), "
        with pytest.raises(DataError, match=expected + r"expected \(5, 5, 5, 1, 8\)"):
            convert(checkpoint, tmp_path / "small", config=QUICK)
        with pytest.raises(DataError, match=expected + r"expected \(1, 5, 5, 3, 32\)"):
            convert(checkpoint, tmp_path / "paper", config=PAPER)
        assert not list(tmp_path.iterdir())

    def test_truncated(self, checkpoint, tmp_path):
        for file in checkpoint.parent.iterdir():
            content = file.read_bytes()
            is_data = ".data-" in file.name
            (tmp_path / file.name).write_bytes(content[:-1000] if is_data else content)
        with pytest.raises(DataError, match="truncated"):
            convert(tmp_path / checkpoint.name, tmp_path / "run", config=CODE)
        assert not (tmp_path / "run").exists()

    def test_existing_run_is_kept_unless_overwritten(self, checkpoint, tmp_path):
        convert(checkpoint, tmp_path / "run", config=CODE)
        before = (tmp_path / "run" / "manifest.json").read_text()
        with pytest.raises(RunError, match="is finished"):
            convert(checkpoint, tmp_path / "run", config=CODE)
        assert (tmp_path / "run" / "manifest.json").read_text() == before
        convert(checkpoint, tmp_path / "run", config=CODE, overwrite=True)

    def test_largest_export(self, checkpoint, tmp_path):
        """Folders are named by the second they were made; 999 is older than 1000."""
        for name, step in (("999", b""), ("1000", b"")):
            folder = tmp_path / name / "variables"
            folder.mkdir(parents=True)
            for file in checkpoint.parent.iterdir():
                ending = file.name.removeprefix("model.ckpt-500")
                content = step if name == "999" else file.read_bytes()
                (folder / f"variables{ending}").write_bytes(content)
        assert len(read_original(tmp_path)) == 130


def _find_modules(config):
    """Modules of all classes named in a saved model's configuration."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config.get("module")
            assert config.get("registered_name") in (None, config["class_name"])
        for value in config.values():
            yield from _find_modules(value)
    elif isinstance(config, list):
        for value in config:
            yield from _find_modules(value)
