"""The network against what the original recorded with the same weights, layer by layer.

Tolerances are the spec's; beside them stands what was measured here (Keras 3.15, TensorFlow 2.21,
CPU). Recorded with TensorFlow 1.4.1.
"""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from common.errors import OptionError
from common.network.losses import sparse_cross_entropy
from common.runtime import has_avx512, onednn_in_force
from fetal_brain.config import CODE, PAPER, PORT, PRESETS
from fetal_brain.model import (
    build_model,
    linear_kernel,
    linear_taps,
    normalise,
    pool,
    upsample_linearly,
    upscore,
)
from fetal_brain.original_weights import assign_original, variables_by_name


@pytest.fixture(scope="module")
def network(recipe_weights):
    """The released code's network with the recorded weights; tests leave them as they are."""
    model = build_model(CODE)
    assign_original(model, recipe_weights)
    return model


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("model_eval")


@pytest.fixture(scope="module")
def batch(recipe, recorded):
    """The recorded batch, drawn again; its statistics say whether it is the same one."""
    image, label = recipe.make_batch(recipe.GOLDEN_BATCH)
    np.testing.assert_allclose(recipe.describe(image), recorded["x_stats"], atol=1e-9)
    assert label.sum() == recorded["y_sum"]
    return image, label


@pytest.fixture(scope="module")
def activations(network, recorded, recipe, batch):
    """{original operation: array} of all 55 operations at inference."""
    names = recorded["layer_names"]
    outputs = [network.get_layer(recipe.layer_of(name)).output for name in names]
    values = keras.Model(network.input, outputs).predict_on_batch(batch[0])
    return dict(zip(names, values, strict=True))


class TestStructure:
    @pytest.mark.parametrize(
        ("preset", "total", "trainable"),
        [
            ("code", 722_582, 721_338),
            ("port", 722_582, 721_338),
            ("paper", 170_556, 170_356),
            ("quick", 89_406, 88_866),
        ],
    )
    def test_parameter_counts(self, preset, total, trainable):
        """`code` and `port` are the original's own counts."""
        model = build_model(PRESETS[preset])
        assert model.count_params() == total
        assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == trainable

    def test_variables_are_the_original_s(self, network, initialisation, golden):
        """82 names and shapes of the original's graph, 47 of them trained."""
        variables = variables_by_name(network)
        shapes = {name: tuple(fact["shape"]) for name, fact in initialisation.items()}
        assert {name: tuple(v.shape) for name, v in variables.items()} == shapes
        trained = sorted(name for name, v in variables.items() if v.trainable)
        assert trained == golden("model_train")["trainable_names"].tolist()

    def test_initial_values_are_drawn_as_the_original_s(self, initialisation):
        """Uniform up to sqrt(3 / fan_in); the deviation of large kernels within 5 %."""
        for name, variable in variables_by_name(build_model(CODE)).items():
            value, fact = keras.ops.convert_to_numpy(variable), initialisation[name]
            if not name.endswith("conv3d/kernel") and not name.endswith("conv3d_1/kernel"):
                if "filter_conversion" not in name:
                    np.testing.assert_allclose(np.abs(value).max(), fact["absmax"], err_msg=name)
                    np.testing.assert_allclose(value.std(), fact["std"], atol=1e-7, err_msg=name)
                continue
            bound = np.sqrt(3 / np.prod(value.shape[:-1]))
            assert np.abs(value).max() <= bound, name
            assert fact["absmax"] <= bound * (1 + 1e-6), name
            if value.size > 4000:
                np.testing.assert_allclose(value.std(), fact["std"], rtol=0.05, err_msg=name)

    def test_input_and_output(self):
        model = build_model(CODE)
        assert model.input.name == "image"
        assert model.input_shape == (None, 3, 128, 128, 1)
        assert model.output_shape == (None, 3, 128, 128, 2)

    def test_paper_takes_slices_as_channels(self):
        """[F26] Nothing in the network reaches across the depth axis."""
        model = build_model(PAPER)
        assert model.input_shape == (None, 1, 128, 128, 3)
        assert model.output_shape == (None, 1, 128, 128, 2)
        kernels = [v for v in model.trainable_variables if v.name == "kernel"]
        assert {v.shape[0] for v in kernels} == {1}
        pools = [step for step in model.operations if type(step).__name__ == "MaxPool"]
        assert [step.pool_size for step in pools] == [4] * 3  # rows and columns of a slice
        # Nor are slices compared with each other.
        assert not any(type(step).__name__ == "Where" for step in model.operations)

    def test_biases_stand_where_normalisation_was(self):
        """[F27] One for each of the 15 layers that lost their shift, all zero at the start."""

        def shifts(model, leaf):
            return {
                layer.name.replace("batch_normalization", "conv3d")
                for layer in model.layers
                for variable in layer.weights
                if variable.name == leaf
            }

        plain = build_model(PAPER)
        assert len(shifts(plain, "bias")) == 15
        assert shifts(plain, "bias") == shifts(build_model(CODE), "beta")
        assert not shifts(plain, "gamma")
        assert not shifts(build_model(CODE), "bias")

    def test_dropout_acts_after_both_activations_of_the_last_scale(self):
        """[F2] In training alone; a rate of 0 leaves no layer."""
        names = [layer.name for layer in build_model(PORT).layers]
        assert [n for n in names if "dropout" in n] == [
            "enc_unit_4_dropout",
            "enc_unit_4_dropout_1",
        ]
        for suffix in ("", "_1"):
            place = names.index(f"enc_unit_4_dropout{suffix}")
            assert names[place - 1] == f"enc_unit_4_relu6{suffix}"
        assert not any("dropout" in layer.name for layer in build_model(CODE).layers)

        model = build_model(replace(PORT, batch_normalisation=False), (1, 16, 16, 1))
        image = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 1)).astype(np.float32)
        first, second = (np.array(model(image, training=True)) for _ in range(2))
        assert np.abs(first - second).max() > 1e-6
        first, second = (np.array(model(image, training=False)) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_other_scales(self):
        """Three scales halve the plane once; the last one never pools."""
        config = replace(CODE, filters=(4, 6, 8), kernels=(3, 3, 1), label_ids=(0, 1, 2))
        model = build_model(config, (3, 10, 14, 1))
        assert model.output_shape == (None, 3, 10, 14, 3)
        assert model.get_layer("enc_unit_2_relu6_1").output.shape == (None, 3, 5, 7, 8)

    @pytest.mark.parametrize("shape", [(3, 128, 100, 1), (3, 100, None, 1)])
    def test_plane_that_cannot_be_halved(self, shape):
        """The original fails while it builds: 26 against 25 rows."""
        with pytest.raises(OptionError, match=r"100.*multiples of 8"):
            build_model(CODE, shape)

    def test_scales_of_different_number(self):
        with pytest.raises(OptionError, match="one entry per scale"):
            build_model(replace(CODE, filters=(32, 32)))

    def test_l2_terms(self, recipe_weights, recorded):
        """[F1] The 17 terms that the original collects, 0.26094 in all; 2.4e-6 was measured."""
        model = build_model(replace(PORT, l2_weight=5e-4))
        assign_original(model, recipe_weights)
        terms = {
            f"{layer.name}/kernel": float(layer.losses[0]) for layer in model.layers if layer.losses
        }
        expected = dict(
            zip(
                (name.rpartition("/")[0].replace("/", "_") for name in recorded["reg_names"]),
                recorded["reg_losses"],
                strict=True,
            )
        )
        assert terms.keys() == {f"{name}/kernel" for name in expected}
        for name, value in expected.items():
            np.testing.assert_allclose(terms[f"{name}/kernel"], value, rtol=1e-5, err_msg=name)
        assert build_model(CODE).losses == []


class TestLayers:
    def test_taps_worked_out_by_hand(self):
        assert linear_taps(1) == [1]
        assert linear_taps(2) == [0.25, 0.75, 0.75, 0.25]
        np.testing.assert_allclose(linear_taps(3), np.array([1, 3, 5, 5, 3, 1]) / 6)

    @pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 3, 2), (1, 4, 4)])
    def test_upsampling(self, golden, stride):
        """Kernel (equal) and result as recorded (4.8e-7 was measured)."""
        layers, key = golden("layers"), "x".join(map(str, stride))
        np.testing.assert_allclose(linear_kernel(stride, 2), layers[f"upkernel_{key}"], atol=1e-6)
        image = layers["upsample_in"]
        result = run(lambda x: upsample_linearly(x, stride), image)
        np.testing.assert_allclose(result, layers[f"upsample_{key}_out"], atol=1e-5)

    def test_upsampling_dims_the_border(self):
        """[F6] 0.75 x[i-1] + 0.25 x[i] and zero outside: a plane of ones is 0.75 at its edge."""
        row = np.array([4.0, 8, 16], np.float32).reshape(1, 1, 1, 3, 1)
        result = run(lambda x: upsample_linearly(x, (1, 1, 2)), row)
        np.testing.assert_allclose(result.ravel(), [3, 5, 7, 10, 14, 12])
        plane = run(lambda x: upsample_linearly(x, (1, 2, 2)), np.ones((1, 1, 3, 3, 1)))[
            0, 0, ..., 0
        ]
        np.testing.assert_allclose(plane[0], [0.5625, 0.75, 0.75, 0.75, 0.75, 0.5625])
        np.testing.assert_allclose(plane[2], [0.75, 1, 1, 1, 1, 0.75])

    @pytest.mark.parametrize("case", ["even", "odd", "deep", "flat"])
    def test_pooling(self, golden, case):
        layers = golden("layers")
        result = run(pool, layers[f"pool_{case}_in"])
        np.testing.assert_array_equal(result, layers[f"pool_{case}_out"])

    def test_pooling_reaches_forward_only(self):
        """[F4] Slice z holds the maximum of z and z + 1; rows 2i - 1 to 2i + 2."""
        volume = np.zeros((1, 4, 8, 8, 1), np.float32)
        volume[0, 2, 4, 4] = 1
        found = np.argwhere(run(pool, volume)[0, ..., 0])
        assert {tuple(index) for index in found} == {
            (z, y, x) for z in (1, 2) for y in (1, 2) for x in (1, 2)
        }
        apart = np.argwhere(run(lambda x: pool(x, flat=True), volume)[0, ..., 0])
        assert {index[0] for index in apart} == {2}

    def test_pooling_of_unknown_depth(self, golden):
        """Another kernel computes it, with the same result."""
        layers = golden("layers")
        volume = keras.Input((None, None, None, layers["pool_deep_in"].shape[-1]))
        result = keras.Model(volume, pool(volume))(layers["pool_deep_in"])
        np.testing.assert_array_equal(result, layers["pool_deep_out"])

    @pytest.mark.parametrize("stride", [(1, 2, 2), (1, 1, 1)])
    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_upscore(self, golden, mode, stride):
        """With two channels, and with seven that are first brought to two; 9.5e-7 was measured."""
        layers = golden("layers")
        key = f"upscore_{mode}_{'x'.join(map(str, stride))}"
        x, skip = (keras.Input(layers[f"{key}_{part}"].shape[1:]) for part in ("x", "skip"))
        output = upscore(x, skip, 2, stride=stride, config=CODE, scale=0)
        model = keras.Model([x, skip], output)
        variables = variables_by_name(model)
        given = [name for name in layers if name.startswith(f"{key}_var_up.")]
        assert len(given) == len(variables) - 1
        for name in given:
            variables[ours(name)].assign(layers[name])
        result = model([layers[f"{key}_x"], layers[f"{key}_skip"]], training=mode == "train")
        np.testing.assert_allclose(result, layers[f"{key}_out"], atol=1e-5)
        after = [name for name in layers if name.startswith(f"{key}_after_up.")]
        assert len(after) == (2 if mode == "train" else 0)
        for name in after:
            np.testing.assert_allclose(variables[ours(name)], layers[name], atol=1e-5)

    def test_batch_normalisation(self, golden):
        """[F3] The moving variance takes the population variance; 1.2e-7 was measured."""
        layers = golden("layers")
        image = keras.Input(layers["bn_in"].shape[1:])
        model = keras.Model(image, normalise(image, config=CODE, name="bn"))
        np.testing.assert_allclose(
            model(layers["bn_in"], training=True), layers["bn_train_out"], atol=1e-5
        )
        for variable in model.variables:
            np.testing.assert_allclose(variable, layers[f"bn_after_{variable.name}"], atol=1e-6)


class TestInference:
    def test_all_55_operations(self, activations, recorded, recipe):
        """Measured: statistics 2.4e-5, fractions of zeros and sixes 5.1e-6, values 1.2e-5."""
        assert len(activations) == 55
        for row, (name, value) in enumerate(activations.items()):
            assert value.shape == tuple(recorded["layer_shapes"][row]), name
            measured, expected = recipe.describe(value), recorded["layer_stats"][row]
            np.testing.assert_allclose(measured[:4], expected[:4], atol=1e-3, err_msg=name)
            np.testing.assert_allclose(measured[4:], expected[4:], atol=1e-4, err_msg=name)
            samples = recorded["layer_samples"][row]
            np.testing.assert_allclose(recipe.pick(value, 16), samples, atol=5e-4, err_msg=name)

    def test_logits_and_probabilities(self, activations, recorded):
        """1.0e-5 and 3.7e-6 were measured; with other weights up to five times that."""
        logits = activations["last/conv3d/Conv3D"]
        picked = logits.ravel()[recorded["logits_idx"]]
        np.testing.assert_allclose(picked, recorded["logits_val"], atol=5e-5)
        moments = np.stack([logits.mean((0, 1, 2, 3)), logits.std((0, 1, 2, 3))], axis=1)
        np.testing.assert_allclose(moments, recorded["logits_meanstd"], atol=1e-4)
        probabilities = np.array(keras.ops.softmax(logits)).ravel()[recorded["y_prob_idx"]]
        np.testing.assert_allclose(probabilities, recorded["y_prob_val"], atol=5e-5)

    @pytest.mark.shared
    def test_every_logit(self, activations, shared):
        """All 196 608; 1.03e-5 was measured."""
        with np.load(shared / "golden" / "fetal_brain" / "model_eval.npz") as file:
            logits = file["logits"]
        np.testing.assert_allclose(activations["last/conv3d/Conv3D"], logits, atol=5e-5)

    def test_labels(self, activations, recorded):
        """At most 5 of 98 304 voxels may differ; none did."""
        labels = activations["last/conv3d/Conv3D"].argmax(axis=-1)
        expected = np.unpackbits(recorded["y__packed"], count=labels.size)
        assert expected.sum() == recorded["y__sum"]
        assert (labels.ravel() != expected).sum() <= 5

    def test_loss(self, activations, recorded, batch):
        """1.4e-5 was measured, the original's own rounding: in float64 its logits give ours."""
        loss = float(sparse_cross_entropy(batch[1], activations["last/conv3d/Conv3D"]))
        np.testing.assert_allclose(loss, recorded["loss"], rtol=1e-4)
        np.testing.assert_allclose(loss, 1.4829741, rtol=1e-6)

    def test_other_plane_and_depth(self, recorded, recipe, recipe_weights):
        """Five slices of 64 x 96 through a network of unknown size; 1.05e-5 was measured."""
        model = build_model(CODE, (None, None, None, 1))
        assign_original(model, recipe_weights)
        image = np.random.RandomState(recipe.SEED + 7).standard_normal((1, 5, 64, 96, 1))
        logits = model.predict_on_batch(image.astype(np.float32))
        assert logits.shape == (1, 5, 64, 96, 2)
        picked = logits.ravel()[recorded["alt_idx"]]
        np.testing.assert_allclose(picked, recorded["alt_val"], atol=5e-4)
        moments = np.stack([logits.mean((0, 1, 2, 3)), logits.std((0, 1, 2, 3))], axis=1)
        np.testing.assert_allclose(moments, recorded["alt_meanstd"], atol=1e-4)

    def test_mixed_precision_ends_in_float32(self, recipe_weights, activations, batch):
        """bfloat16 inside, float32 at the end: 99.8 % of the labels are equal, 98.8 % with
        TensorFlow's own kernels, which add up in bfloat16."""
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = build_model(CODE)
            assign_original(model, recipe_weights)
        finally:
            keras.config.set_dtype_policy("float32")
        logits = model.predict_on_batch(batch[0])
        assert logits.dtype == np.float32
        exact = activations["last/conv3d/Conv3D"]
        equal = (logits.argmax(-1) == exact.argmax(-1)).mean()
        assert equal > (0.99 if onednn_in_force() and has_avx512() else 0.98)
        assert np.abs(logits - exact).max() > 1e-4

    @pytest.mark.slow
    def test_saved_model_file_needs_nothing_of_ours(self, network, tmp_path):
        """A process that cannot import this project loads it and computes the same."""
        image = np.random.default_rng(0).normal(size=(1, 3, 128, 128, 1)).astype(np.float32)
        np.save(tmp_path / "image.npy", image)
        network.save(tmp_path / "model.keras")
        program = (
            "import sys\n"
            "sys.modules['common'] = sys.modules['fetal_brain'] = None\n"
            "import keras, numpy as np\n"
            "model = keras.models.load_model('model.keras')\n"
            "np.save('logits.npy', model.predict_on_batch(np.load('image.npy')))\n"
        )
        subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True)
        expected = network.predict_on_batch(image)
        np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


def run(function, image):
    """The function of a tensor, applied to an array through a model of its own."""
    tensor = keras.Input(image.shape[1:])
    return np.array(keras.Model(tensor, function(tensor))(np.asarray(image, np.float32)))


def ours(name):
    """`upscore_train_1x2x2_var_up.conv3d.kernel` -> `upscore_0/conv3d/kernel`."""
    return "upscore_0/" + name.partition("_up.")[2].replace(".", "/")
