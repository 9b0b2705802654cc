"""The three networks against the original's: every recorded activation, counts, geometry.

Recorded with Keras 2.1.6; tolerances are the spec's, beside them what was measured here.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.errors import OptionError
from sarcoma.config import CODE, PAPER, PORT, QUICK
from sarcoma.layers import MaxoutConv2D, bilinear_kernel
from sarcoma.model import build_model, shapes_alone
from sarcoma.original_weights import assign_original
from sarcoma.variants import build_full_unet2d

CASCADE = replace(CODE, architecture="cascade")
DILATED = replace(CODE, architecture="dilated")
SMALL_DILATED = replace(DILATED, dilated_filters=(4, 8, 16, 32, 32, 256))
NARROW = replace(QUICK, modalities=("ct",), architecture="dilated")


def assert_activations(model, inputs, recorded, prefix, *, atol, training=False, channels=None):
    """Compare every recorded layer's moments and samples; return how many there were."""
    names = sorted({key.split("/")[len(prefix.split("/")) - 1]
                    for key in recorded if key.startswith(prefix)})  # fmt: skip
    outputs = {name: model.get_layer(name).output for name in names}
    values = keras.Model(model.inputs, outputs)(inputs, training=training)
    for name, value in values.items():
        value = np.asarray(value)[: 1 if channels else None]
        flat = value.astype(np.float64).reshape(-1, value.shape[-1])[:, :channels]
        scale = max(1.0, np.abs(recorded[f"{prefix}{name}/mean"]).max())
        for key, found in (("mean", flat.mean(0)), ("std", flat.std(0))):
            expected = recorded[f"{prefix}{name}/{key}"]
            np.testing.assert_allclose(found, expected, atol=atol * scale, err_msg=name)
        if f"{prefix}{name}/val" in recorded:
            picked = np.asarray(values[name]).ravel()[recorded[f"{prefix}{name}/idx"]]
            expected = recorded[f"{prefix}{name}/val"]
            np.testing.assert_allclose(picked, expected, atol=20 * atol * scale, err_msg=name)
    return len(names)


class TestParameters:
    @pytest.mark.parametrize(
        ("config", "count"),
        [
            (CODE, 3_071_329),
            (replace(CODE, label_geometry="centre"), 3_106_241),
            (PORT, 3_106_529),
            (QUICK, 194_681),
            (CASCADE, 14_445_252),
            (replace(PORT, architecture="cascade"), 1_274_820),
            (replace(QUICK, architecture="cascade"), 106_356),
            (replace(QUICK, architecture="dilated"), 163_870),
        ],
    )
    def test_counts(self, config, count):
        assert build_model(config).count_params() == count

    def test_dilated_counts(self):
        """[S12] At full width, without making the variables."""
        with shapes_alone():
            model = build_model(DILATED)
            shapes = [w.shape for w in model.trainable_weights]
        assert sum(int(np.prod(shape)) for shape in shapes) == 134_267_934
        assert sum(int(np.prod(w.shape)) for w in model.non_trainable_weights) == 1024

    def test_cascade_is_all_trained(self, golden):
        """[S10] Keras saw 244 164 of the original's parameters; here 14 440 644 are trained."""
        changed = golden("cascade")["orig_changed_by_training"].tolist()
        assert {name.partition("/")[0] for name in changed} == {"conv_last", "2_conv_last"}
        model = build_model(CASCADE)
        seen = [w for w in model.weights if w.path.partition("/")[0].endswith("conv_last")]
        assert sum(int(np.prod(w.shape)) for w in seen) == 244_164
        trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        assert trained == 14_440_644


class TestUnet2d:
    @pytest.fixture(scope="class")
    @staticmethod
    def network(golden, recipe):
        recorded, model = golden("unet2d_full"), build_model(CODE)
        weights = recipe.fill(recipe.keras2_names(model), recipe.SEED)
        assert sorted(weights) == sorted(recorded["wsum_names"])
        for name, total in zip(recorded["wsum_names"], recorded["wsum"], strict=True):
            assert weights[name].astype(np.float64).sum() == total, name
        assign_original(model, weights)
        return model, recorded

    def test_prediction(self, network):
        """0 was measured with oneDNN, 1.4e-6 with TensorFlow's own kernels."""
        model, recorded = network
        found = model.predict_on_batch(recorded["x"])
        np.testing.assert_allclose(found, recorded["pred"], atol=3e-6)

    def test_layers(self, network):
        model, recorded = network
        count = assert_activations(model, recorded["x"], recorded, "act/", atol=1e-5)
        assert count == len(model.layers) - 1

    def test_finest_skip_is_unused(self):
        """[S15] conv2d_2 feeds the first pooling and nothing else; the port's decoder uses it."""
        for config, users in ((CODE, 1), (PORT, 2)):
            layer = build_model(config).get_layer("conv2d_2")
            assert len(layer._outbound_nodes) == users

    def test_geometry(self):
        """[S4] Which input row an output row is about: 2 i + 0.5 in the code, 14 + i in the port.

        Measured with constant weights, through which a gradient spreads evenly.
        """
        import tensorflow as tf

        def centre_of(config, row):
            model = build_model(replace(config, modalities=("ct",), filters=(2, 2, 2)))
            model.set_weights([np.full(w.shape, 0.05) for w in model.get_weights()])
            patch = tf.Variable(np.ones((1, 56, 56, 1), np.float32))
            with tf.GradientTape() as tape:
                value = model(patch)[0, row, 14, 0]
            found = np.abs(tape.gradient(value, patch).numpy()[0, ..., 0]).sum(1)
            return float((found * np.arange(56)).sum() / found.sum())

        for row in (8, 14, 20):
            assert abs(centre_of(CODE, row) - (2 * row + 0.5)) < 1.5
            assert abs(centre_of(PORT, row) - (14 + row)) < 1.5
        assert abs(centre_of(CODE, 20) - centre_of(PORT, 20)) > 5

    def test_sizes_that_cannot_be_halved(self):
        with pytest.raises(OptionError, match="multiples of 8"):
            build_model(CODE, (52, 56, 1))


class TestNotebook:
    """The other branch's network: normalisation, one level more, pooled to half the size."""

    def test_prediction(self, golden, recipe):
        """0 and 8.1e-5 (batch statistics of 16 layers in float32) were measured."""
        recorded = golden("variants")
        model = build_model(replace(CODE, label_geometry="pooled", batch_normalisation=True))
        trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        assert [model.count_params(), trained] == recorded["bn_unet/params"].tolist()
        shapes = recipe.keras2_names(model)
        assert sorted(shapes) == sorted(recorded["bn_unet/names"])
        assign_original(model, recipe.fill(shapes, recipe.SEED + 67))
        for phase, atol in ((0, 1e-5), (1, 3e-4)):
            found = np.asarray(model(recorded["bn_unet/x"], training=bool(phase)))
            np.testing.assert_allclose(found, recorded[f"bn_unet/pred_phase{phase}"], atol=atol)


class TestFullUnet:
    """The other branch's `Unet2d`, as large at the end as at the beginning."""

    @pytest.mark.parametrize(("classes", "columns", "key"), [(2, 48, "pred"), (3, 32, "pred_c3")])
    def test_prediction(self, golden, recipe, classes, columns, key):
        """0 and 1.2e-7 were measured."""
        recorded = golden("variants")
        model = build_full_unet2d((4, 8, 16, 32, 64), (32, columns, 1), classes=classes)
        seed = recipe.SEED + (71 if classes == 2 else 79)
        assign_original(model, recipe.fill(recipe.keras2_names(model), seed))
        found = model.predict_on_batch(recorded["unet2d_oop/x"][:, :, :columns])
        np.testing.assert_allclose(found, recorded[f"unet2d_oop/{key}"], atol=1e-5)

    def test_counts(self, golden):
        recorded = golden("variants")
        small = build_full_unet2d((4, 8, 16, 32, 64), (32, 48, 1))
        assert small.count_params() == recorded["unet2d_oop/params"]
        with shapes_alone():
            whole = build_full_unet2d((64, 128, 256, 512, 1024), (96, 96, 1))
        count = sum(int(np.prod(w.shape)) for w in whole.weights)
        assert count == recorded["unet2d_oop/default_params"]


class TestMaxout:
    @pytest.mark.parametrize("case", ["valid3x3", "same13x13", "same2x4", "valid7x7nf3"])
    def test_layer(self, golden, case):
        """[S10] 0 (inference) and 1.4e-6 (batch statistics) were measured."""
        recorded = golden("maxout")
        rows, columns, output_dim, pieces, same = recorded[f"{case}/cfg"].tolist()
        layer = MaxoutConv2D(
            (rows, columns), output_dim, pieces, "same" if same else "valid", name="mx"
        )
        x = recorded[f"{case}/x"]
        assert layer.compute_output_shape(x.shape) == recorded[f"{case}/phase0"].shape
        layer.build(x.shape)
        for phase in (0, 1):
            for variable in layer.weights:
                variable.assign(recorded[f"{case}/{variable.path}"])
            found = np.asarray(layer(x, training=bool(phase)))
            np.testing.assert_allclose(found, recorded[f"{case}/phase{phase}"], atol=1e-5)

    def test_strided_groups(self):
        """Candidates of map d are d and d + D: with 4 channels and 2 pieces 0, 2 and 1, 3."""
        layer = MaxoutConv2D((1, 1), 2, 2)
        layer.build((None, 1, 1, 4))
        layer.conv.kernel.assign(np.eye(4).reshape(1, 1, 4, 4))
        layer.bn.moving_variance.assign(np.full(4, 1 - 1e-3))
        found = layer(np.array([1.0, 8.0, 5.0, 2.0]).reshape(1, 1, 1, 4))
        np.testing.assert_allclose(np.ravel(found), [5.0, 8.0], rtol=1e-6)

    @pytest.mark.slow
    def test_trains_and_saves(self, tmp_path):
        """[S10] In the original neither happens: each loading draws new kernels."""
        model = build_model(replace(QUICK, architecture="cascade", modalities=("ct",)))
        before = {w.path: np.array(w) for w in model.weights}
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        rng = np.random.default_rng(0)
        x = [rng.normal(size=(4, size, size, 1)).astype(np.float32) for size in (56, 28)]
        model.train_on_batch(x, np.array([0, 1, 1, 0]))
        same = [w.path for w in model.weights if np.array_equal(before[w.path], np.array(w))]
        assert same == []
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
        np.testing.assert_array_equal(loaded.predict_on_batch(x), model.predict_on_batch(x))


class TestCascade:
    @pytest.fixture(scope="class")
    @staticmethod
    def network(golden, recipe):
        recorded, model = golden("cascade"), build_model(CASCADE)
        shapes = {
            str(name): tuple(int(n) for n in str(shape).strip("()").split(",") if n.strip())
            for name, shape in zip(recorded["names"], recorded["shapes"], strict=True)
        }
        weights = recipe.fill(shapes, recipe.SEED)
        for name, total in zip(recorded["names"], recorded["wsum"], strict=True):
            assert weights[name].astype(np.float64).sum() == total, name
        recipe.assign(model, weights)
        x = np.random.RandomState(recipe.SEED + 3).standard_normal((2, 56, 56, 1))
        x = x.astype(np.float32)
        return model, [x, x[:, 14:42, 14:42]], recorded

    @pytest.mark.parametrize("phase", [0, 1])
    def test_layers(self, network, phase):
        """All 19 layers; 2.4e-10 (inference) and 1.7e-6 (batch statistics) were measured."""
        model, inputs, recorded = network
        state = [np.array(w) for w in model.weights]
        count = assert_activations(
            model, inputs, recorded, f"phase{phase}/act/", atol=1e-5, training=bool(phase)
        )
        assert count >= 17
        model.set_weights(state)

    def test_probabilities(self, network):
        """1.2e-7 was measured."""
        model, inputs, recorded = network
        first = keras.Model(model.inputs, model.get_layer("softmax").output)(inputs)
        np.testing.assert_allclose(first, recorded["phase0/softmax"], atol=1e-4)
        last = model.predict_on_batch(inputs)
        np.testing.assert_allclose(last, recorded["phase0/2_softmax"][:, 0, 0], atol=1e-5)

    def test_two_paths(self):
        """[S11] 13 x 13 VALID on the input meets the local path: 56 - 12 = 44, 28 - 12 = 16."""
        model = build_model(replace(PAPER, architecture="cascade"))
        assert model.get_layer("global").output.shape == (None, 44, 44, 160)
        assert model.get_layer("global").input is model.inputs[0]
        assert model.get_layer("2_global").output.shape == (None, 16, 16, 160)
        serial = build_model(CASCADE).get_layer("global").input
        assert serial.shape == (None, 44, 44, 64)

    def test_another_size_is_refused(self):
        with pytest.raises(OptionError, match="56 x 56"):
            build_model(CASCADE, (64, 64, 1))


class TestDilated:
    def load(self, recorded, case, recipe, config, classes):
        """Build a recorded case: recipe, identity-like context, bilinear enlargement."""
        size = int(recorded[f"{case}/n"])
        model = build_model(config, (size, size, 1), classes=classes)
        variables = {f"{v.path}:0": v for layer in model.layers for v in layer.weights}
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        assert sorted(shapes) == sorted(str(n) for n in recorded[f"{case}/names"])
        totals = dict(zip(recorded[f"{case}/names"], recorded[f"{case}/wsum"], strict=True))
        for name, array in recipe.draw_each(shapes, recipe.SEED + 31):
            if name.startswith("ctx_upsample") and name.endswith("kernel:0"):
                array = np.array(bilinear_kernel(classes), np.float32)
            elif name.startswith("ctx_") and name.endswith("kernel:0"):
                identity = np.zeros_like(array)
                middle = array.shape[0] // 2
                identity[middle, middle] = np.eye(classes)
                array = identity + np.float32(0.05) * array
            total = array.sum(dtype=np.float64)
            np.testing.assert_allclose(total, totals[name], rtol=1e-6)
            variables[name].assign(array)
        count = int(recorded[f"{case}/nb"])
        x = np.random.RandomState(recipe.SEED + 37).standard_normal((count, size, size, 1))
        return model, x.astype(np.float32)

    @pytest.mark.parametrize(("case", "classes"), [("w16_c2_n404", 2), ("w16_c3_n476", 3)])
    def test_layers(self, golden, recipe, case, classes):
        """Every layer; 2.9e-6 and 1.2e-7 were measured at the output."""
        recorded = golden("dilated")
        model, x = self.load(recorded, case, recipe, SMALL_DILATED, classes)
        found = model.predict_on_batch(x)
        np.testing.assert_allclose(found, recorded[f"{case}/pred"], atol=1e-5)
        ours = {layer.name for layer in model.layers}
        part = {k: v for k, v in recorded.items()
                if k.startswith(f"{case}/act/") and k.split("/")[2] in ours}  # fmt: skip
        count = assert_activations(model, x, part, f"{case}/act/", atol=1e-5, channels=64)
        assert count > 25

    @pytest.mark.alone
    @pytest.mark.slow
    @pytest.mark.full_size
    @pytest.mark.shared
    def test_full_width(self, shared, recipe):
        """134 268 958 parameters, 1.5 GB; 1.2e-7 was measured."""
        with np.load(shared / "golden" / "sarcoma" / "dilated.npz") as file:
            recorded = {k: file[k] for k in file.files if k.startswith("full_c2_n404/")}
        model, x = self.load(recorded, "full_c2_n404", recipe, DILATED, 2)
        assert model.count_params() == 134_268_958
        found = model.predict_on_batch(x)
        np.testing.assert_allclose(found, recorded["full_c2_n404/pred"], atol=1e-5)

    @pytest.mark.parametrize(("size", "cells"), [(380, 1), (387, 1), (388, 2), (404, 4), (476, 13)])
    def test_sizes(self, size, cells):
        model = build_model(NARROW, (size, size, 1))
        assert model.output_shape == (None, 8 * cells, 8 * cells, 2)

    def test_too_small(self):
        """[S12] The original ends in a negative size at conv4_1 for its own 56 x 56 patches."""
        with pytest.raises(OptionError, match="at least 380"):
            build_model(NARROW, (56, 56, 1))

    def test_enlargement(self, golden):
        """[S13] Repetition and the kernel equal the transposed convolution; 0 was measured."""
        recorded = golden("upsample")
        repeated = recorded["in"].repeat(8, axis=1).repeat(8, axis=2)
        kernel = np.array(bilinear_kernel(2), np.float32)
        found = keras.ops.conv(repeated, kernel, padding="same")
        np.testing.assert_allclose(found, recorded["out"], atol=1e-5)
        np.testing.assert_allclose(kernel[4, :, 0, 0] * 8, recorded["tap1d"], atol=1e-7)
        inside = (slice(None), slice(4, -4), slice(4, -4))
        resized = recorded["resize_half_pixel"]
        np.testing.assert_allclose(np.asarray(found)[inside], resized[inside], atol=1e-5)

    def test_enlargement_is_fixed(self):
        """[S13] Bilinear in the port, random in the code, trained in neither."""
        for voice, bilinear in ((PORT, True), (CODE, False)):
            config = replace(
                NARROW,
                context_upsampling=voice.context_upsampling,
                context_init=voice.context_init,
            )
            layer = build_model(config).get_layer("ctx_upsample")
            assert not layer.trainable_weights
            assert np.allclose(layer.kernel, bilinear_kernel(2)) == bilinear

    def test_context_begins_as_identity(self):
        """[S14] Scores above zero pass unchanged through all ten context layers."""
        model = build_model(NARROW)
        context = keras.Model(model.get_layer("final").output, model.get_layer("ctx_final").output)
        scores = np.random.default_rng(0).uniform(0, 3, (1, 4, 4, 2)).astype(np.float32)
        np.testing.assert_array_equal(context(scores), scores)
        glorot = build_model(replace(NARROW, context_init="glorot"))
        kernel = np.array(glorot.get_layer("ctx_conv1_1").kernel)
        assert np.count_nonzero(kernel) == kernel.size


def test_unknown_architecture():
    with pytest.raises(OptionError, match="unet2d, cascade or dilated"):
        build_model(replace(CODE, architecture="deeplab"))
