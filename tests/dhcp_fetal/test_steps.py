"""Optimiser steps of the mini network, as both engine versions recorded them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common.errors import DataError
from dhcp_fetal import original_weights
from dhcp_fetal.layers import RollingBatchNormalisation
from dhcp_fetal.losses import EngineCost
from dhcp_fetal.model import build_model
from dhcp_fetal.optimisers import EngineRMSprop, EngineSGD, freeze_layers, make_optimiser

# Of ten recorded ways; the others, which all agreed as well, are combinations of these.
V084 = (
    "rms_nesterov_norm",
    "rms_nesterov_nonnorm",
    "adam",
    "rms_xentr_dsc_iou",
    "rms_freq",
    "rms_freeze",
)
V070 = ("rms_nesterov_norm", "sgd_classic_nonnorm")
VARIANTS = [("v0.8.4", name) for name in V084] + [("v0.7.0", name) for name in V070]
WEIGHTINGS = {None: "none", "freq": "frequency", "per_c": "fixed"}
PARTS = ("", "_sub_0", "_sub_1")


@pytest.fixture(scope="module")
def recorded(shared):
    files = {}
    for compat in ("v0.7.0", "v0.8.4"):
        path = shared / f"golden/dhcp_fetal/train_steps_{compat.replace('.', '')}.npz"
        with np.load(path) as file:
            files[compat] = {key: file[key] for key in file.files}
    return files


def configure(mini, compat, facts):
    """The mini network's configuration with the recorded way of training."""
    frozen = facts["frozen_block_indices_per_pathtype"]
    normal, context, fc = (tuple(index + 1 for index in part) for part in frozen)
    prms = facts["reweight"]["prms"]
    return replace(
        mini,
        compat=compat,
        optimiser=("sgd", "adam", "rmsprop")[facts["optimizer"]],
        learning_rate=facts["lr"],
        momentum=facts["momentum"],
        nesterov=bool(facts["nesterov"]),
        normalised_momentum=bool(facts["normalized"]),
        adam_betas=(facts["b1"], facts["b2"]),
        adam_epsilon=facts["adam_eps"],
        rms_decay=facts["rho"],
        rms_epsilon=facts["rms_eps"],
        cross_entropy_weight=facts["losses"]["xentr"],
        iou_weight=facts["losses"]["iou"],
        dice_weight=facts["losses"]["dsc"],
        class_weighting=WEIGHTINGS[facts["reweight"]["type"]],
        class_weights=prms and tuple(prms),
        class_weighting_epochs=tuple(facts["reweight"]["schedule"]),
        l1_weight=facts["L1"],
        l2_weight=facts["L2"],
        frozen_layers=normal,
        frozen_context_layers=context,
        frozen_fc_layers=fc,
    )


def make_trainer(config, data, recipe):
    model = build_model(config)
    named = original_weights.name_variables(model)
    weights = recipe.draw_weights(recipe.original_shapes(named), int(data["w_seed"]))
    for name in weights:
        if "RollingAverage" in name:
            weights[name][:] = 1.0 if "/var" in name else 0.0
    original_weights.assign_original(model, weights)
    freeze_layers(model, config)
    optimiser = make_optimiser(config)
    optimiser.build(model.trainable_variables)
    model.compile(optimizer=optimiser, loss=EngineCost(model, config), jit_compile=False)
    return model


def inputs_of(data, name):
    return [np.moveaxis(data[f"{name}_x{part}"], 1, -1) for part in PARTS]


def original_value(variable):
    value = np.asarray(variable)
    return value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 else value


def assert_variables(model, data, prefix, *, atol, skip=()):
    for name, variable in original_weights.name_variables(model):
        if name.startswith(skip) if skip else False:
            continue
        np.testing.assert_allclose(
            original_value(variable), data[f"{prefix}/{name}"], atol=atol, rtol=0, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("compat", "variant"), VARIANTS)
def test_six_steps_equal_the_engine(recorded, mini, recipe, compat, variant):
    """[D2] [D15] [G22] Costs 2e-5, probabilities 1e-4, weights 5e-5 and 2e-3 (5e-4 for v0.7.0).

    With Adam: probabilities 5e-3; its biases and first rolling mean have gradients that are 0 but
    for rounding, so that their steps are noise.
    """
    data = recorded[compat]
    facts = json.loads(str(data["meta_json"]))[variant]
    model = make_trainer(configure(mini, compat, facts), data, recipe)
    adam = variant == "adam"
    skip = ("net/b", "net/muBnsForRollingAverage") if adam else ()
    for step in range(6):
        batch = f"batch{step % 2}"
        model.reset_metrics()
        cost = model.train_on_batch(inputs_of(data, batch), data[f"{batch}_y"].astype(np.int32))
        assert cost == pytest.approx(float(data[f"{variant}/costs"][step]), abs=2e-5)
        prefix = f"{variant}/step{step + 1}"
        if f"{prefix}/test_prob" in data:
            found = np.moveaxis(np.asarray(model(inputs_of(data, "test"))), -1, 1)
            recorded_p = data[f"{prefix}/test_prob"]
            np.testing.assert_allclose(found, recorded_p, atol=5e-3 if adam else 1e-4)
        if step == 0:
            assert_variables(model, data, prefix, atol=5e-5, skip=skip)
    late = 5e-4 if compat == "v0.7.0" else 2e-3
    assert_variables(model, data, f"{variant}/step6", atol=late, skip=skip)


@pytest.mark.slow
@pytest.mark.shared
def test_freezing_keeps_what_is_named_and_moves_statistics(recorded, mini, recipe):
    data = recorded["v0.8.4"]
    facts = json.loads(str(data["meta_json"]))["rms_freeze"]
    config = configure(mini, "v0.8.4", facts)
    model = make_trainer(config, data, recipe)
    frozen = [layer for layer in model.layers if layer.variables and not layer.trainable]
    assert frozen
    before = {v.path: np.array(v) for layer in frozen for v in layer.variables}
    model.train_on_batch(inputs_of(data, "batch0"), data["batch0_y"].astype(np.int32))
    for layer in frozen:
        rolling = isinstance(layer, RollingBatchNormalisation)
        for variable in layer.variables:
            same = np.array_equal(before[variable.path], variable)
            assert same != (rolling and variable.name in ("rolling_mean", "row")) or (
                variable.name == "rolling_variance"
            ), variable.path


def test_training_goes_on_from_a_checkpoint(mini, golden_dir):
    """[D14] Slots find their variables; another optimiser's are refused."""
    tensors = original_weights.read_original(golden_dir / "dhcp_fetal" / "mini_v070.model.ckpt")
    model = build_model(replace(mini, compat="v0.7.0"))
    for config, fits in ((mini, True), (replace(mini, optimiser="sgd"), False)):
        optimiser = make_optimiser(config)
        optimiser.build(model.trainable_variables)
        model.compile(optimizer=optimiser, loss="mse")
        if not fits:
            with pytest.raises(DataError, match=r"accu_grad_squared.*-resetopt"):
                original_weights.assign_slots(model, tensors, compat="v0.7.0")
            continue
        original_weights.assign_slots(model, tensors, compat="v0.7.0")
        paths = [v.path for v in model.trainable_variables]
        first = paths.index(model.get_layer("normal_1_conv").kernel.path)
        expected = tensors["trainer/accu_grad_squared"].transpose(2, 3, 4, 1, 0)
        np.testing.assert_array_equal(optimiser.squares[first], expected)
        bias = paths.index(model.get_layer("softmax_bias").bias.path)
        count = len(paths) - 1
        np.testing.assert_array_equal(
            optimiser.velocities[bias], tensors[f"trainer/velocities_for_mom_{count}"]
        )


def step_by_hand(optimiser, gradients):
    """Positions of one variable after each of some gradients."""
    import keras

    variable = keras.Variable(np.array([1.0], np.float32))
    optimiser.build([variable])
    places = []
    for gradient in gradients:
        optimiser.apply([np.array([gradient], np.float32)])
        places.append(float(variable.numpy()[0]))
    return places


def test_classic_momentum_by_hand():
    """v = -0.1, then 0.5 (-0.1) - 0.1 = -0.15; theta = 0.9, then 0.75."""
    optimiser = EngineSGD(0.1, momentum=0.5, nesterov=False, normalised=False)
    assert step_by_hand(optimiser, [1.0, 1.0]) == pytest.approx([0.9, 0.75])


def test_normalised_nesterov_by_hand():
    """c lr g = 0.05; v = -0.05, moves by 0.5 v - 0.05 = -0.075; v = -0.075, moves by -0.0875."""
    optimiser = EngineSGD(0.1, momentum=0.5, nesterov=True, normalised=True)
    assert step_by_hand(optimiser, [1.0, 1.0]) == pytest.approx([0.925, 0.8375])


def test_epsilon_is_inside_the_root():
    """a = 0.1 g^2 = 0.4; step = 0.1 * 2 / sqrt(0.4 + 0.09) = 0.2 / 0.7."""
    optimiser = EngineRMSprop(
        0.1, momentum=0.0, nesterov=False, normalised=True, decay=0.9, epsilon=0.09
    )
    assert step_by_hand(optimiser, [2.0]) == pytest.approx([1.0 - 0.2 / 0.7])
