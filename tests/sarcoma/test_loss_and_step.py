"""Loss, gradients and training steps against the original's.

Recorded with Keras 2.1.6 in graph mode; tolerances are the spec's, beside them what was measured.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from sarcoma.config import CODE
from sarcoma.early_stopping import EarlyStopping
from sarcoma.losses import batch_dice, dice_loss
from sarcoma.model import build_model, make_optimizer
from sarcoma.original_weights import assign_original
from sarcoma.patch_files import patch_dice

QUARTER = replace(CODE, filters=(8, 16, 32, 64))
CASES = ("perfect", "all_zero", "empty_true_full_pred", "full_true_empty_pred", "inverse", "soft",
         "half", "batch1", "batch18", "shifted", "tiny")  # fmt: skip


def make_trainer(config, recipe):
    """The network with the recipe's weights, compiled as it is trained."""
    model = build_model(config)
    assign_original(model, recipe.fill(recipe.keras2_names(model), recipe.SEED))
    model.compile(optimizer=make_optimizer(config), loss=dice_loss, jit_compile=False)
    return model


def train(model, recorded, steps):
    """Losses before each of some steps on the same batch."""
    y = recorded["y"].astype(np.float32)
    losses = []
    for _ in range(steps):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(recorded["x"], y)))
    return losses


def assert_weights(model, recorded, after, *, atol):
    """Compare the recorded samples of every variable."""
    for variable in model.weights:
        picked = np.ravel(variable)[recorded[f"grad/{variable.path}:0/idx"]]
        expected = recorded[f"{after}/{variable.path}:0"]
        np.testing.assert_allclose(picked, expected, atol=atol, err_msg=variable.path)


class TestDice:
    @pytest.mark.parametrize("case", CASES)
    def test_value_and_gradient(self, golden, case):
        """[S20] Over the whole batch; 3.0e-8 (value) and 1.2e-10 (gradient) were measured."""
        recorded = golden("dice")
        true, found = (tf.constant(recorded[f"{case}/{k}"]) for k in ("y_true", "y_pred"))
        np.testing.assert_allclose(
            batch_dice(true, found), recorded[f"{case}/dice_smooth1"], atol=1e-6
        )
        with tf.GradientTape() as tape:
            tape.watch(found)
            loss = dice_loss(true, found)
        gradient = tape.gradient(loss, found)
        np.testing.assert_allclose(gradient, recorded[f"{case}/dloss_dpred"], atol=1e-6)

    @pytest.mark.parametrize("batch", [1, 18, 32, 70])
    def test_evaluate_depends_on_the_batch(self, golden, batch):
        """[S20] The same 70 patches: 0.152 one by one, 0.175 at once."""
        recorded = golden("dice")
        found = patch_dice(recorded["evaluate/y_true"], recorded["evaluate/y_pred"], batch)
        np.testing.assert_allclose(found, recorded[f"evaluate/bs{batch}"], atol=1e-6)

    def test_whole_numbers_as_labels(self):
        """Keras 3 does not cast labels for a loss; ours does."""
        true = np.array([[1, 0]], np.uint8)
        np.testing.assert_allclose(
            batch_dice(true, np.array([[0.25, 0.5]], "f4")), 6 / 11, rtol=1e-6
        )


class TestFullWidth:
    """Three steps of the released network, batch of four, rate 1e-5."""

    @pytest.fixture(scope="class")
    @staticmethod
    def recorded(golden):
        return golden("unet2d_full")

    def test_gradient(self, recorded, recipe):
        """Of a variable's largest entry 3.3e-6 was measured; norms 5.0e-6."""
        model = make_trainer(CODE, recipe)
        with tf.GradientTape() as tape:
            loss = dice_loss(recorded["y"], model(recorded["x"], training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            name = f"grad/{variable.path}:0"
            picked, whole = np.ravel(gradient)[recorded[f"{name}/idx"]], np.asarray(gradient)
            atol = 1e-4 * np.abs(whole).max()
            np.testing.assert_allclose(picked, recorded[f"{name}/val"], atol=atol, err_msg=name)
            np.testing.assert_allclose(np.linalg.norm(whole), recorded[f"{name}/l2"], rtol=1e-4)

    @pytest.mark.slow
    def test_three_steps(self, recorded, recipe):
        """Losses 1.5e-8, weights 7.5e-4 of the rate, prediction 1.5e-6 were measured."""
        model = make_trainer(CODE, recipe)
        losses = train(model, recorded, 1)
        assert_weights(model, recorded, "w_after1", atol=0.05 * CODE.learning_rate)
        losses += train(model, recorded, 2)
        assert_weights(model, recorded, "w_after3", atol=0.05 * CODE.learning_rate)
        np.testing.assert_allclose(losses, recorded["train_loss"], atol=1e-6)
        found = model.predict_on_batch(recorded["x"])
        np.testing.assert_allclose(found, recorded["pred_after"], atol=1e-5)
        after = float(dice_loss(recorded["y"], found))
        np.testing.assert_allclose(after, recorded["loss_after"], atol=1e-6)


class TestQuarterWidth:
    @pytest.fixture(scope="class")
    @staticmethod
    def recorded(golden):
        return golden("unet2d_w4")

    @pytest.mark.slow
    def test_ten_steps(self, recorded, recipe):
        """Phase A, rate 2e-4: losses 4e-6 were measured, weights 0.08 of the rate.

        One weight of 737 samples was 0.125 of the rate off: its gradient is near zero, and Adam
        scales it up to the size of all others.
        """
        rate = float(recorded["lr"])
        model = make_trainer(replace(QUARTER, learning_rate=rate), recipe)
        losses = train(model, recorded, len(recorded["train_loss"]))
        np.testing.assert_allclose(losses, recorded["train_loss"], atol=1e-5)
        assert_weights(model, recorded, "w_after10", atol=0.25 * rate)

    @pytest.mark.slow
    def test_chaotic_steps(self, recorded, recipe):
        """Phase B, rate 1e-3, diverges with rounding: the first ten losses are compared.

        2.2e-4 was measured.
        """
        rate = float(recorded["lrB"])
        model = make_trainer(replace(QUARTER, learning_rate=rate), recipe)
        losses = train(model, recorded, 10)
        np.testing.assert_allclose(losses, recorded["trainB_loss"][:10], atol=2e-3)


class TestBatchNormalisation:
    def test_moving_averages(self, golden):
        """What Keras 2.1.6 did (debiased averages) and what Keras 3 does, both from one recording.

        After the first update the original's average is the batch's value; ours is one per cent of
        it. Only the notebook's network and the cascade have normalisation; inference is the same.
        """
        recorded = golden("variants")
        x = recorded["bn_update/x"]
        layer = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3)
        layer(x, training=True)
        batch_mean = x.mean((0, 1, 2))
        np.testing.assert_allclose(recorded["bn_update/after_k"][0][:3], batch_mean, atol=1e-5)
        np.testing.assert_allclose(layer.moving_mean, 0.01 * batch_mean, atol=1e-6)


class TestEarlyStopping:
    @pytest.mark.parametrize("number", range(12))
    def test_sequences(self, golden, number):
        """[S17] The epoch at which training ends for recorded losses; -1: it does not."""
        recorded = golden("earlystop")
        callback = EarlyStopping("loss", min_delta=3e-4, patience=2)
        callback.set_model(type("Model", (), {"stop_training": False})())
        stopped = -1
        for epoch, loss in enumerate(recorded[f"seq{number}"]):
            callback.on_epoch_end(epoch, {"loss": float(loss)})
            if callback.model.stop_training:
                stopped = epoch
                break
        assert stopped == recorded["stopped_epoch"][number]

    def test_memory_is_in_its_variables(self):
        """So that a checkpoint holds it."""
        callback = EarlyStopping("loss", min_delta=3e-4, patience=2)
        callback.set_model(type("Model", (), {"stop_training": False})())
        callback.on_epoch_end(0, {"loss": -0.5})
        callback.on_epoch_end(1, {"loss": -0.5})
        assert [float(v.numpy()) for v in callback.variables] == [-0.5, 1.0]
