"""Training steps against the original's: activations, loss, gradients, weights, averages.

Recorded with TensorFlow 1.4.1 (the ten steps with 1.15.5) on batches of two patches. The tolerances
are the spec's; beside them stands what was measured here (Keras 3.15, TensorFlow 2.21, CPU).
"""

import keras
import numpy as np
import pytest

from common.network.losses import sparse_cross_entropy
from fetal_brain.config import CODE
from fetal_brain.model import build_model, make_optimizer
from fetal_brain.original_weights import (
    assign_optimizer,
    assign_original,
    read_original,
    variables_by_name,
)

pytestmark = pytest.mark.slow

DEAD_KERNEL = "upscore_0/conv3d/kernel"
"""[F7] Normalisation removes all but its sign, so what is recorded as its gradient is rounding."""


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("model_train")


@pytest.fixture(scope="module")
def batch(recipe):
    return recipe.make_batch(recipe.GOLDEN_BATCH)


@pytest.fixture(scope="module")
def make_trainer():
    """Return a function: weights -> the network with them, compiled as it is trained.

    It is one network, set back each time, whose step is traced once.
    """
    model = build_model(CODE)
    optimizer = make_optimizer(CODE)
    optimizer.build(model.trainable_variables)
    # XLA is slow on a CPU.
    model.compile(optimizer=optimizer, loss=sparse_cross_entropy, jit_compile=False)

    def begin(weights):
        assign_original(model, weights)
        for variable in (optimizer.iterations, *optimizer.momentums):
            variable.assign(np.zeros_like(variable))
        return model

    return begin


def take_step(model, batch):
    """One step; the loss before it."""
    model.reset_metrics()
    return float(model.train_on_batch(*batch))


def state_of(model):
    """Arrays by the original's names: variables, and slots as the original accumulates them."""
    variables = {name: np.array(v) for name, v in variables_by_name(model).items()}
    trained = [name for name, v in variables_by_name(model).items() if v.trainable]
    slots = {
        name: np.array(momentum) / -CODE.learning_rate
        for name, momentum in zip(trained, model.optimizer.momentums, strict=True)
    }
    return variables, slots


@pytest.fixture(scope="module")
def two_steps(make_trainer, recipe_weights, batch):
    """Losses and states of the first two steps, both on the same batch."""
    model = make_trainer(recipe_weights)
    steps = [(take_step(model, batch), *state_of(model)) for _ in range(2)]
    return *steps, int(model.optimizer.iterations)


@pytest.fixture(scope="module")
def activations(recipe_weights, recorded, recipe, batch):
    model = build_model(CODE)
    assign_original(model, recipe_weights)
    names = recorded["layer_names"]
    outputs = [model.get_layer(recipe.layer_of(name)).output for name in names]
    values = keras.Model(model.input, outputs)(batch[0], training=True)
    return {name: np.array(v) for name, v in zip(names, values, strict=True)}


@pytest.fixture(scope="module")
def resumed(make_trainer, original_checkpoint, batch):
    tensors = read_original(original_checkpoint)
    model = make_trainer(tensors)
    assign_optimizer(model.optimizer, model, tensors, CODE.learning_rate)
    return take_step(model, batch), *state_of(model), int(model.optimizer.iterations)


def assert_variables(variables, recorded, recipe, *, step, atol):
    for row, name in enumerate(recorded["trainable_names"]):
        picked = recipe.pick(variables[name], 8)
        expected = recorded[f"{step}_var_samples"][row]
        np.testing.assert_allclose(picked, expected, atol=atol, err_msg=name)
        measured = recipe.describe_variable(variables[name])
        expected = recorded[f"{step}_var_stats"][row]
        np.testing.assert_allclose(measured, expected, atol=atol, rtol=1e-4, err_msg=name)


def assert_slots(slots, recorded, recipe, *, step, atol, rtol):
    for row, name in enumerate(recorded["trainable_names"]):
        if name == DEAD_KERNEL:
            continue
        picked = recipe.pick(slots[name], 8)
        expected = recorded[f"{step}_slot_samples"][row]
        np.testing.assert_allclose(picked, expected, atol=atol, err_msg=name)
        norm = recipe.describe_variable(slots[name])[2]
        expected = recorded[f"{step}_slot_stats"][row][2]
        np.testing.assert_allclose(norm, expected, rtol=rtol, err_msg=name)


def assert_moving_statistics(variables, recorded, *, step, atol):
    names = [key for key in recorded if key.startswith(f"{step}_bn_")]
    assert len(names) == 30
    for key in names:
        name = key.removeprefix(f"{step}_bn_").replace(".", "/")
        np.testing.assert_allclose(variables[name], recorded[key], atol=atol, err_msg=name)


class TestForward:
    def test_all_55_operations(self, activations, recorded, recipe):
        """Measured: statistics 6.8e-5, fractions of zeros and sixes 5.1e-6, values 7.8e-5."""
        assert len(activations) == 55
        for row, (name, value) in enumerate(activations.items()):
            assert value.shape == tuple(recorded["layer_shapes"][row]), name
            measured, expected = recipe.describe(value), recorded["layer_stats"][row]
            np.testing.assert_allclose(measured[:4], expected[:4], atol=1e-3, err_msg=name)
            np.testing.assert_allclose(measured[4:], expected[4:], atol=1e-4, err_msg=name)
            samples = recorded["layer_samples"][row]
            np.testing.assert_allclose(recipe.pick(value, 16), samples, atol=2e-3, err_msg=name)

    def test_logits(self, activations, recorded):
        """1.1e-4 was measured; batch statistics amplify rounding."""
        logits = activations["last/conv3d/Conv3D"]
        picked = logits.ravel()[recorded["logits_idx"]]
        np.testing.assert_allclose(picked, recorded["logits_val"], atol=2e-3)
        moments = np.stack([logits.mean((0, 1, 2, 3)), logits.std((0, 1, 2, 3))], axis=1)
        np.testing.assert_allclose(moments, recorded["logits_meanstd"], atol=1e-4)

    def test_loss(self, activations, recorded, batch):
        """6e-8 was measured."""
        loss = float(sparse_cross_entropy(batch[1], activations["last/conv3d/Conv3D"]))
        np.testing.assert_allclose(loss, recorded["loss_before"], rtol=1e-5)


class TestSteps:
    def test_losses(self, two_steps, recorded):
        """6e-8 and 1.3e-4 were measured."""
        first, second, iterations = two_steps
        np.testing.assert_allclose(first[0], recorded["losses"][0], rtol=1e-5)
        np.testing.assert_allclose(second[0], recorded["losses"][1], rtol=1e-3)
        assert iterations == recorded["global_step"]

    def test_first_step(self, two_steps, recorded, recipe):
        """Measured: variables 4.7e-6, gradients 4.7e-4, norms 2.5e-3, moving statistics 6e-7."""
        _, variables, slots = two_steps[0]
        assert_variables(variables, recorded, recipe, step="step1", atol=5e-5)
        assert_slots(slots, recorded, recipe, step="step1", atol=5e-3, rtol=1e-2)
        assert_moving_statistics(variables, recorded, step="step1", atol=1e-5)

    def test_second_step(self, two_steps, recorded, recipe):
        """Measured: variables 2.0e-5, slots 1.8e-3, norms 7.8e-3, moving statistics 8.3e-5.

        The spec sets no tolerance for variables and slots here; with other weights the gradients
        differed by up to 15 %, since clips and maxima flip on rounding.
        """
        _, variables, slots = two_steps[1]
        assert_variables(variables, recorded, recipe, step="step2", atol=2e-4)
        assert_slots(slots, recorded, recipe, step="step2", atol=2e-2, rtol=5e-2)
        assert_moving_statistics(variables, recorded, step="step2", atol=5e-4)

    def test_momentum_is_carried_over(self, two_steps, recipe_weights):
        """w2 - w1 = -lr (0.9 slot1 + gradient2) = -lr slot2, the original's rule, to rounding."""
        (_, after_first, first_slots), (_, after_second, slots), _ = two_steps
        name = "enc_unit_2/conv3d/kernel"
        change = after_second[name] - after_first[name]
        np.testing.assert_allclose(change, -0.01 * slots[name], atol=1e-7)
        start = recipe_weights[name]
        np.testing.assert_allclose(after_first[name] - start, -0.01 * first_slots[name], atol=1e-7)
        assert np.abs(slots[name] - 0.9 * first_slots[name]).max() > 1e-4

    def test_ten_steps(self, make_trainer, recipe_weights, recipe, golden):
        """Relative to the recorded losses at most 2.5e-3 was measured; 2 % is the spec's."""
        model = make_trainer(recipe_weights)
        losses = [take_step(model, recipe.make_batch(recipe.SEED + 200 + k)) for k in range(10)]
        np.testing.assert_allclose(losses, golden("train10")["losses"], rtol=2e-2)


@pytest.mark.shared
class TestResume:
    """The original's checkpoint of step 500, its momentum included, and one step more."""

    def test_loss_and_step(self, resumed, recorded):
        """6e-8 was measured."""
        np.testing.assert_allclose(resumed[0], recorded["resume_loss"], rtol=1e-5)
        assert resumed[3] == recorded["resume_global_step"] == 501

    def test_state(self, resumed, recorded, recipe):
        """Measured: variables 4.7e-6, slots 4.7e-4, norms 2.5e-3, moving statistics 6e-7."""
        _, variables, slots, _ = resumed
        assert_variables(variables, recorded, recipe, step="resume", atol=5e-5)
        assert_slots(slots, recorded, recipe, step="resume", atol=5e-3, rtol=1e-2)
        assert_moving_statistics(variables, recorded, step="resume", atol=1e-5)

    def test_old_momentum_takes_part(self, resumed, two_steps, recipe, golden):
        """The slot is 0.9 of the restored one more than the gradient alone."""
        names = golden("model_train")["trainable_names"].tolist()
        weights, slots = resumed[1], resumed[2]
        restored = recipe.make_slots({name: weights[name].shape for name in names})
        name = "enc_unit_2/conv3d/kernel"
        carried = slots[name] - two_steps[0][2][name]
        np.testing.assert_allclose(carried, 0.9 * restored[f"{name}/Momentum"], atol=1e-5)
