"""Keras 2 files of the original: read by order, every shape checked, nothing run."""

import shutil
from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest

from common.errors import DataError, RunError
from common.runs.folder import load_config, load_run
from sarcoma.config import CODE, PORT, Config
from sarcoma.convert import convert
from sarcoma.inference import load_network
from sarcoma.losses import dice_loss
from sarcoma.model import build_model, make_optimizer
from sarcoma.original_weights import (
    assign_optimizer,
    assign_original,
    filters_of,
    read_optimizer,
    read_original,
)
from sarcoma.tf_keras_check import predict_with_tf_keras

QUARTER = replace(CODE, filters=(8, 16, 32, 64))


@pytest.fixture
def small_file(tmp_path):
    """A file of Keras 2's layout that is quick to damage."""
    import tf_keras

    layers = tf_keras.layers
    image = layers.Input((8, 8, 1))
    x = layers.Conv2D(2, 3, padding="same", name="conv2d")(image)
    x = layers.BatchNormalization()(x)
    model = tf_keras.Model(image, layers.Conv2D(1, 1, name="conv2d_1")(x))
    path = tmp_path / "small.h5"
    model.save(str(path), save_format="h5")
    return path


@pytest.mark.shared
class TestRealFiles:
    """Saved by Keras 2.1.6 (with Adam's moments) and tf-keras 2.21, loss `dice_coef_loss`."""

    @pytest.mark.parametrize("which", [0, 1])
    def test_outputs(self, keras2_files, golden, which):
        """[S9] The custom loss is not asked for; difference 0 was measured."""
        tensors, recorded = read_original(keras2_files[which]), golden("unet2d_w4")
        assert len(tensors) == 36
        assert filters_of(tensors) == (8, 16, 32, 64)
        model = build_model(QUARTER)
        went_to = assign_original(model, tensors)
        assert model.count_params() == recorded["n_params"]
        assert len(set(went_to.values())) == 36
        found = model.predict_on_batch(recorded["x"])
        np.testing.assert_allclose(found, recorded["h5_pred"], atol=1e-5)

    def test_names_do_not_matter(self, keras2_files):
        """[S27] `conv2d_1` is the second layer of one file and the first of the other."""
        first, second = (read_original(path) for path in keras2_files)
        assert list(first)[:2] == ["conv2d_1/kernel:0", "conv2d_1/bias:0"]
        assert list(second)[:4:2] == ["conv2d/kernel:0", "conv2d_1/kernel:0"]
        for one, other in zip(first.values(), second.values(), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("which", [0, 1])
    def test_tf_keras_agrees(self, keras2_files, golden, which):
        """Another reader of the same file: difference 0 was measured."""
        recorded = golden("unet2d_w4")
        found = predict_with_tf_keras(keras2_files[which], recorded["x"])
        np.testing.assert_allclose(found, recorded["h5_pred"], atol=1e-5)

    @pytest.mark.slow
    def test_optimiser_goes_on(self, keras2_files, recipe, golden):
        """Twenty steps of ours end in the state that Keras 2.1.6 saved, as far as rounding allows.

        The moments of the first variable after 20 chaotic steps differ by up to a few per cent.
        """
        slots = read_optimizer(keras2_files[0])
        assert slots["iterations"] == 20
        assert len(slots["m"]) == len(slots["v"]) == 36
        assert all((v >= 0).all() for v in slots["v"])
        model = build_model(QUARTER)
        assign_original(model, read_original(keras2_files[0]))
        recorded = golden("unet2d_w4")
        rate = float(recorded["lrB"])
        config = replace(QUARTER, learning_rate=rate)
        model.compile(optimizer=make_optimizer(config), loss=dice_loss, jit_compile=False)
        assign_optimizer(model.optimizer, model, slots)
        before = [np.array(w) for w in model.trainable_weights]
        model.train_on_batch(recorded["x"], recorded["y"].astype(np.float32))
        assert int(model.optimizer.iterations) == 21
        # Adam's rule by hand, with the file's moments and the new ones.
        for weight, old, m, v in zip(
            model.trainable_weights, before, model.optimizer._momentums,
            model.optimizer._velocities, strict=True,
        ):  # fmt: skip
            step = rate * np.sqrt(1 - 0.999**21) / (1 - 0.9**21)
            expected = old - step * np.array(m) / (np.sqrt(np.array(v)) + 1e-7)
            np.testing.assert_allclose(weight, expected, atol=1e-6)
        fresh = (1 - 0.9) * 1.0
        kept = np.abs(np.array(model.optimizer._momentums[0]) - 0.9 * slots["m"][0]).max()
        assert kept < fresh

    def test_no_moments(self, keras2_files):
        """The file of tf-keras holds a step and no moments."""
        slots = read_optimizer(keras2_files[1])
        assert (slots["m"], slots["v"]) == ([], [])

    def test_command(self, keras2_files, golden, tmp_path, capsys):
        """The U-Net's channels come from the file; the run folder then predicts."""
        convert(keras2_files[0], tmp_path / "run", config=CODE)
        said = capsys.readouterr().out
        assert "Assigned 36 variables, 192409 numbers" in said
        assert "differ from those of tf-keras by at most 0.0e+00" in said
        config = load_config(tmp_path / "run", Config)
        assert config.filters == (8, 16, 32, 64)
        assert load_run(tmp_path / "run").manifest["step"] == 20
        recorded = golden("unet2d_w4")
        found = load_network(tmp_path / "run", config).predict_on_batch(recorded["x"])
        np.testing.assert_allclose(found, recorded["h5_pred"], atol=1e-5)
        with pytest.raises(RunError, match="finished"):
            convert(keras2_files[0], tmp_path / "run", config=CODE)

    def test_another_geometry_is_refused(self, keras2_files, tmp_path):
        """The port's decoder has one level more: nothing is assigned, no folder made."""
        with pytest.raises(DataError, match="is of another architecture"):
            convert(keras2_files[0], tmp_path / "run", config=replace(PORT, modalities=("ct",)))
        assert not (tmp_path / "run").exists()

    def test_two_modalities_are_refused(self, keras2_files, tmp_path):
        with pytest.raises(DataError, match=r"conv2d_1/kernel:0 has shape \(3, 3, 1, 8\)"):
            convert(
                keras2_files[0], tmp_path / "run", config=replace(CODE, modalities=("ct", "pet"))
            )


class TestOrder:
    def test_nothing_is_assigned_when_one_does_not_fit(self, recipe):
        model = build_model(QUARTER)
        weights = recipe.fill(recipe.keras2_names(model), 0)
        weights["conv2d_16/kernel:0"] = np.zeros((1, 1, 8, 2), np.float32)
        before = model.get_weights()
        with pytest.raises(DataError, match=r"conv2d_16/kernel:0 has shape \(1, 1, 8, 2\)"):
            assign_original(model, weights, source="model.h5")
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_kinds_must_agree(self, recipe):
        """A bias of the right shape at a kernel's or gamma's place is not taken."""
        model = build_model(QUARTER)
        weights = recipe.fill(recipe.keras2_names(model), 0)
        renamed = {name.replace("conv2d_9/bias", "conv2d_9/beta"): a for name, a in weights.items()}
        with pytest.raises(DataError, match="conv2d_9/beta:0 stands where conv2d_9/bias"):
            assign_original(model, renamed)

    def test_number_must_agree(self, recipe):
        model = build_model(QUARTER)
        weights = recipe.fill(recipe.keras2_names(model), 0)
        weights.popitem()
        with pytest.raises(DataError, match="found 35 arrays, expected 36"):
            assign_original(model, weights)

    def test_cascade_by_order(self, recipe):
        """A port's own variables, layer by layer, fit themselves."""
        model = build_model(replace(CODE, architecture="cascade", cascade_filters=(2, 2, 3)))
        tensors = {w.path: np.array(w) + 1 for layer in model.layers for w in layer.weights}
        assert assign_original(model, tensors) == {name: name for name in tensors}


class TestBadFiles:
    def test_absent(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            read_original(tmp_path / "model.h5")

    def test_no_hdf5(self, tmp_path):
        (tmp_path / "model.h5").write_text("text")
        with pytest.raises(DataError, match="cannot be read; expected an HDF5 file"):
            read_original(tmp_path / "model.h5")

    def test_no_model(self, petct):
        with pytest.raises(DataError, match="has no layer_names: expected a model saved by Keras"):
            read_original(petct)

    def test_missing_array(self, small_file):
        with h5py.File(small_file, "a") as file:
            del file["model_weights/conv2d/conv2d/kernel:0"]
        with pytest.raises(DataError, match="names the array conv2d/kernel:0 but does not hold it"):
            read_original(small_file)

    def test_missing_layer(self, small_file):
        with h5py.File(small_file, "a") as file:
            del file["model_weights/conv2d"]
        with pytest.raises(DataError, match="names the layer conv2d but lacks its weights"):
            read_original(small_file)

    @pytest.mark.parametrize("name", ["model_weights", "model_weights/conv2d"])
    def test_weights_of_another_file(self, small_file, tmp_path, name):
        other = shutil.copy(small_file, tmp_path / "other.h5")
        with h5py.File(small_file, "a") as file:
            del file[name]
            file[name] = h5py.ExternalLink(str(other), f"/{name}")
        with pytest.raises(DataError) as refusal:
            read_original(small_file)
        said = f"{small_file}: /{name} is a link to another file; expected the data"
        assert str(refusal.value) == said

    def test_moments_without_weights(self, small_file):
        """h5py says KeyError."""
        with h5py.File(small_file, "a") as file:
            del file["model_weights"]
            file["optimizer_weights/step"] = 3
            file["optimizer_weights"].attrs["weight_names"] = ["step"]
        with pytest.raises(DataError, match=r"small\.h5 is damaged: .*model_weights"):
            read_optimizer(small_file)

    def test_truncated(self, small_file):
        small_file.write_bytes(small_file.read_bytes()[:3000])
        with pytest.raises(DataError, match=r"small\.h5"):
            read_original(small_file)

    def test_weights_alone(self, small_file, tmp_path):
        """What `save_weights` writes has no group model_weights."""
        with h5py.File(small_file) as file, h5py.File(tmp_path / "w.h5", "w") as out:
            for key, value in file["model_weights"].attrs.items():
                out.attrs[key] = value
            for name in file["model_weights"]:
                file.copy(f"model_weights/{name}", out)
        first, second = read_original(small_file), read_original(tmp_path / "w.h5")
        assert list(first) == list(second)
        assert [kind.rpartition("/")[2] for kind in first][:3] == [
            "kernel:0", "bias:0", "gamma:0",
        ]  # fmt: skip

    def test_code_in_a_file_is_not_run(self, small_file, tmp_path):
        """A lambda layer would run what the file holds: its arrays are read, nothing is built."""
        path = tmp_path / "lambda.h5"
        shutil.copy(small_file, path)
        with h5py.File(path, "a") as file:
            text = file.attrs["model_config"]
            text = text.decode() if isinstance(text, bytes) else text
            file.attrs["model_config"] = text.replace('"Conv2D"', '"Lambda"')
        assert len(read_original(path)) == 8
        with pytest.raises(ValueError, match="layers of the kind Lambda"):
            predict_with_tf_keras(path, np.zeros((1, 8, 8, 1), np.float32))

    def test_keras_3_itself_fails(self, keras2_files):
        """Why the file is read here and not by Keras 3: it refuses later tf-keras' files."""
        with pytest.raises(Exception, match=r"groups|Conv2DTranspose"):
            keras.models.load_model(str(keras2_files[1]), compile=False)
