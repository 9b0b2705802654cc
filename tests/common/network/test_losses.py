"""Losses against hand values, closed forms and what the originals returned."""

import keras
import numpy as np
import pytest
from keras import ops

from common.network.losses import soft_dice, sparse_cross_entropy, stable_mean, stable_sum

RASEG = {"axes": (1, 2, 3), "smooth_numerator": 0.0, "smooth_denominator": 1e-5}
SARCOMA = {"axes": None, "smooth_numerator": 1.0, "smooth_denominator": 1.0}


def gradient(function, at):
    """d function(at) / d at through Keras' TensorFlow backend."""
    import tensorflow as tf

    at = tf.convert_to_tensor(at)
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at).numpy()


class TestStableReductions:
    def test_mean_of_a_constant_volume_is_the_constant(self):
        """One float32 reduction gives 78.66 here on a CPU; axis by axis 77.29981 was measured."""
        volume = np.full((1, 128, 128, 128, 2), 77.3, np.float32)
        np.testing.assert_allclose(stable_mean(volume, (0, 1, 2, 3)), [77.3, 77.3], rtol=1e-5)

    def test_sum_of_a_constant_volume_is_its_size(self):
        volume = np.full((128, 128, 128, 2), 0.1, np.float32)
        np.testing.assert_allclose(stable_sum(volume, (0, 1, 2)), [209715.2] * 2, rtol=1e-5)

    @pytest.mark.parametrize("axes", [None, 0, -1, (1,), (0, -1), (-3, 1), ()])
    def test_axes_mean_what_they_mean_to_numpy(self, axes):
        array = np.random.default_rng(0).normal(size=(3, 4, 5))
        np.testing.assert_allclose(stable_sum(array, axes), array.sum(axis=axes), rtol=1e-12)
        np.testing.assert_allclose(stable_mean(array, axes), array.mean(axis=axes), rtol=1e-12)

    def test_axis_that_is_not_there_is_refused(self):
        with pytest.raises(ValueError, match="axes"):
            stable_sum(np.zeros((2, 2)), 2)

    def test_whole_numbers_and_masks(self):
        mask = np.array([[True, True], [True, False]])
        assert float(stable_mean(mask)) == 0.75
        assert int(stable_sum(np.array([[1, 2], [3, 4]]))) == 10


class TestSoftDice:
    def test_hand_values(self):
        """t = 1 1 0 0, p = .5 1 .5 0: overlap 1.5, sizes 2 and 2."""
        label = np.array([[1, 1, 0, 0]], np.float32)
        prediction = np.array([[0.5, 1, 0.5, 0]], np.float32)
        raseg = soft_dice(label, prediction, axes=1, smooth_numerator=0, smooth_denominator=1e-5)
        np.testing.assert_allclose(raseg, [3 / 4.00001], rtol=1e-7)
        np.testing.assert_allclose(soft_dice(label, prediction, **SARCOMA), 4 / 5, rtol=1e-7)

    def test_empty_maps(self):
        """Without a numerator the overlap of nothing with nothing is 0, with equal ones it is 1."""
        empty = np.zeros((2, 2, 2, 2), np.float32)
        np.testing.assert_array_equal(soft_dice(empty, empty, **RASEG), [0, 0])
        assert float(soft_dice(empty, empty, **SARCOMA)) == 1

    def test_empty_label_leaves_no_gradient_per_sample(self):
        prediction = np.full((1, 2, 2, 2), 0.4, np.float32)
        slope = gradient(lambda p: soft_dice(np.zeros_like(prediction), p, **RASEG), prediction)
        np.testing.assert_array_equal(slope, np.zeros_like(prediction))

    def test_per_sample_and_whole_batch_differ(self):
        """Samples of one and of three voxels: means of overlaps are no overlap of unions."""
        label = np.array([[[[1.0, 0]]], [[[1, 1]]]], np.float32)
        prediction = np.array([[[[1.0, 0]]], [[[1, 0]]]], np.float32)
        per_sample = soft_dice(label, prediction, **RASEG)
        np.testing.assert_allclose(per_sample, [1, 2 / 3], atol=1e-5)
        whole = soft_dice(label, prediction, **SARCOMA)
        np.testing.assert_allclose(whole, 5 / 6, rtol=1e-6)

    @pytest.mark.parametrize("constants", [RASEG, SARCOMA], ids=["raseg", "sarcoma"])
    def test_gradient_is_the_closed_form(self, constants):
        """With N / D the overlap: d/dp = (2 t D - N) / D^2."""
        random = np.random.default_rng(1)
        label = (random.random((2, 3, 4, 5)) < 0.3).astype(np.float64)
        prediction = random.random((2, 3, 4, 5))
        axes = constants["axes"] or (0, 1, 2, 3)
        above = 2 * (label * prediction).sum(axes, keepdims=True) + constants["smooth_numerator"]
        below = (label + prediction).sum(axes, keepdims=True) + constants["smooth_denominator"]
        expected = (2 * label * below - above) / below**2
        measured = gradient(lambda p: soft_dice(label, p, **constants), prediction)
        np.testing.assert_allclose(measured, expected, rtol=1e-12, atol=1e-15)

    def test_label_of_any_number_type(self):
        prediction = np.array([[0.2, 0.9]], np.float32)
        for dtype in (np.uint8, np.int32, np.int64, bool, np.float64):
            dice = soft_dice(np.array([[0, 1]], dtype), prediction, **SARCOMA)
            np.testing.assert_allclose(dice, 2.8 / 3.1, rtol=1e-6)

    def test_half_precision_is_summed_in_float32(self):
        """In bfloat16, 1024 ones and one more are 1024."""
        label = ops.ones((1, 1, 1, 1025), "bfloat16")
        dice = soft_dice(label, label, **SARCOMA)
        assert keras.backend.standardize_dtype(dice.dtype) == "float32"
        assert float(dice) == 1
        one_sided = soft_dice(ops.zeros((1, 1, 1, 1025), "bfloat16"), label, **SARCOMA)
        np.testing.assert_allclose(one_sided, 1 / 1026, rtol=1e-6)

    def test_shapes_that_would_broadcast_are_refused(self):
        with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 3, 1\)"):
            soft_dice(np.zeros((2, 3)), np.zeros((2, 3, 1)), **SARCOMA)
        with pytest.raises(ValueError, match="differ in shape"):
            soft_dice(np.zeros((2, 1)), np.zeros((2, 3)), **SARCOMA)

    @pytest.mark.shared
    def test_raseg_tables(self, shared):
        """Overlap and gradient in the logits as TensorFlow 0.12 gave them, ten cases."""
        with np.load(shared / "golden" / "raseg" / "tables.npz") as file:
            tables = {key: file[key] for key in file.files if key.startswith("dice/")}
        cases = sorted({key.split("/")[1] for key in tables})
        assert len(cases) == 10

        for case in cases:
            label = tables[f"dice/{case}/labels"]

            def loss(logits, label=label):
                foreground = ops.softmax(logits)[..., 1]
                return -stable_mean(soft_dice(label, foreground, **RASEG))

            logits = tables[f"dice/{case}/logits"]
            dice = tables[f"dice/{case}/dice"]
            np.testing.assert_allclose(-loss(logits), dice, atol=1e-6, err_msg=case)
            slope = tables[f"dice/{case}/grad"]
            np.testing.assert_allclose(gradient(loss, logits), slope, atol=1e-7, err_msg=case)

    @pytest.mark.shared
    def test_sarcoma_tables(self, shared):
        """Overlap and gradient as Keras 2.1.6 gave them; labels are uint8 in some cases."""
        with np.load(shared / "golden" / "sarcoma" / "dice.npz") as file:
            tables = {key: file[key] for key in file.files}
        cases = sorted(key.split("/")[0] for key in tables if key.endswith("/dice_smooth1"))
        assert len(cases) == 11

        for case in cases:
            label, prediction = tables[f"{case}/y_true"], tables[f"{case}/y_pred"]
            dice = tables[f"{case}/dice_smooth1"]
            np.testing.assert_allclose(
                soft_dice(label, prediction, **SARCOMA), dice, atol=1e-6, err_msg=case
            )
            small = soft_dice(
                label, prediction, axes=None, smooth_numerator=1e-5, smooth_denominator=1e-5
            )
            np.testing.assert_allclose(
                small, tables[f"{case}/dice_smooth1e-05"], atol=1e-6, err_msg=case
            )
            slope = gradient(
                lambda p, label=label: -soft_dice(label, p, **SARCOMA),
                prediction.astype(np.float32),
            )
            np.testing.assert_allclose(
                slope, tables[f"{case}/dloss_dpred"], atol=1e-6, err_msg=case
            )


class TestSparseCrossEntropy:
    def test_hand_values(self):
        """ln 2 where both logits are equal; ln(1 + e^-2) and 2 more for a difference of 2."""
        logits = np.array([[[0.0, 0], [2, 0]], [[0, 2], [5, 5]]], np.float32)
        labels = np.array([[1, 0], [0, 0]])
        easy, hard = np.log1p(np.exp(-2)), np.log1p(np.exp(-2)) + 2
        expected = (2 * np.log(2) + easy + hard) / 4
        np.testing.assert_allclose(sparse_cross_entropy(labels, logits), expected, rtol=1e-6)

    def test_large_logits_stay_finite(self):
        logits = np.array([[1e4, -1e4]], np.float32)
        assert float(sparse_cross_entropy(np.array([0]), logits)) == 0
        assert float(sparse_cross_entropy(np.array([1]), logits)) == 2e4

    def test_gradient_is_softmax_minus_label(self):
        random = np.random.default_rng(2)
        logits, labels = random.normal(size=(2, 3, 4, 5, 3)), random.integers(0, 3, (2, 3, 4, 5))
        softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = (softmax - np.eye(3)[labels]) / labels.size
        measured = gradient(lambda x: sparse_cross_entropy(labels, x), logits)
        np.testing.assert_allclose(measured, expected, atol=1e-15)

    def test_mean_over_a_whole_volume(self):
        """Two million equal voxels: ln 2 to the sixth digit."""
        logits = np.zeros((1, 128, 128, 128, 2), np.float32)
        labels = np.zeros((1, 128, 128, 128), np.int32)
        np.testing.assert_allclose(sparse_cross_entropy(labels, logits), np.log(2), rtol=1e-6)

    def test_shapes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"shape|rank"):
            sparse_cross_entropy(np.zeros((2, 3, 3)), np.zeros((2, 3, 4, 2), np.float32))
        with pytest.raises(ValueError, match=r"shape|rank"):
            sparse_cross_entropy(np.zeros((2, 3)), np.zeros((2, 3, 4, 2), np.float32))

    def test_as_the_loss_of_a_compiled_model(self):
        """Keras hands labels over as float32."""
        model = keras.Sequential([keras.Input((4, 2)), keras.layers.Identity()])
        model.compile(loss=sparse_cross_entropy, jit_compile=False)
        logits = np.random.default_rng(3).normal(size=(2, 4, 2)).astype(np.float32)
        labels = np.array([[0, 1, 1, 0], [1, 0, 0, 1]], np.uint8)
        expected = float(sparse_cross_entropy(labels, logits))
        np.testing.assert_allclose(model.evaluate(logits, labels, verbose=0), expected, rtol=1e-6)

    def test_recorded_values(self, golden_dir):
        """TensorFlow 1.4 with labels at random; equal to the bit where measured."""
        with np.load(golden_dir / "fetal_brain" / "metrics.npz") as file:
            logits, labels = file["ce_logits"], file["ce_labels"]
            voxels, mean = file["ce_map"], file["ce_mean"]
        np.testing.assert_allclose(sparse_cross_entropy(labels, logits), mean, atol=1e-6)
        measured = [
            float(sparse_cross_entropy(label[None], logit[None]))
            for label, logit in zip(labels.ravel(), logits.reshape(-1, 2), strict=True)
        ]
        np.testing.assert_allclose(measured, voxels.ravel(), atol=1e-6)
