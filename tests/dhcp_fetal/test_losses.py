"""Losses, class weights and measures: by hand and as the engine recorded them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from keras import ops

from dhcp_fetal import losses, measures
from dhcp_fetal.config import PORT, QUICK
from dhcp_fetal.model import build_model


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("losses_schedules_metrics")


def one_hot(labels, classes):
    return np.eye(classes, dtype=np.float32)[labels]


@pytest.mark.parametrize("case", range(5))
def test_losses_equal_the_engine(recorded, case):
    """1e-6; 2.4e-7 was measured."""
    probabilities = np.moveaxis(recorded[f"l{case}_p"], 1, -1)
    truth = one_hot(recorded[f"l{case}_y"], probabilities.shape[-1])
    weights = recorded[f"l{case}_w"]
    found = {
        "xentr": losses.cross_entropy(truth, probabilities),
        "xentr_w": losses.cross_entropy(truth, probabilities, weights),
        "iou": losses.iou_loss(truth, probabilities),
        "dsc": losses.dice_loss(truth, probabilities),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, recorded[f"l{case}_{name}"], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", range(5))
def test_counts_equal_the_engine(recorded, case):
    predicted = recorded[f"l{case}_p"].argmax(axis=1)
    labels = recorded[f"l{case}_y"]
    counts = measures.count_classes(labels, predicted, recorded[f"l{case}_p"].shape[1])
    np.testing.assert_array_equal(counts, recorded[f"l{case}_rp_rn_tp_tn"])


def test_class_weights_over_epochs(recorded):
    """Of the batch or fixed, in a straight line to 1. 1e-6; 2.4e-7 was measured."""
    truth = one_hot(recorded["cw_y"], 3)
    kinds = {"freq": "frequency", "per_c": "fixed"}
    for entry in json.loads(str(recorded["class_weights_json"])):
        config = replace(
            PORT,
            classes=3,
            class_weighting=kinds[entry["type"]],
            class_weights=entry["prms"] and tuple(entry["prms"]),
            class_weighting_epochs=tuple(entry["schedule"]),
        )
        for epoch, expected in enumerate(entry["weights_at_num_epochs_trained"]):
            found = losses.class_weights(truth, epoch, config)
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=f"epoch {epoch}")
    assert losses.class_weights(truth, 0, PORT) is None


def test_penalty_by_hand():
    """L1 |w|, L2 w squared without a half, of all kernels and of nothing else."""
    kernels = [np.array([1.0, -2.0]), np.array([3.0])]
    config = replace(PORT, l1_weight=0.1, l2_weight=0.01)
    np.testing.assert_allclose(losses.kernel_penalty(kernels, config), 0.6 + 0.14, rtol=1e-6)


def test_frozen_kernels_count():
    """[G22]"""
    model = build_model(QUICK)
    full = float(losses.kernel_penalty(losses.EngineCost(model, QUICK).kernels, QUICK))
    for layer in model.layers:
        layer.trainable = not layer.name.startswith("normal_1_")
    cost = losses.EngineCost(model, QUICK)
    assert len(cost.kernels) == 4 + 4 + 2
    assert float(losses.kernel_penalty(cost.kernels, QUICK)) == full > 0


def test_cost_adds_the_terms_that_are_asked_for():
    config = replace(QUICK, l1_weight=0.0, l2_weight=0.0, dice_weight=0.5, iou_weight=2.0)
    cost = losses.EngineCost(build_model(config), config)
    labels = np.array([0, 1, 1, 0]).reshape(1, 4, 1, 1)
    probabilities = np.array([0.9, 0.2, 0.3, 0.6]).reshape(1, 4, 1, 1, 1).astype(np.float32)
    probabilities = np.concatenate([probabilities, 1 - probabilities], axis=-1)
    truth = one_hot(labels, 2)
    expected = (
        losses.cross_entropy(truth, probabilities)
        + 2.0 * losses.iou_loss(truth, probabilities)
        + 0.5 * losses.dice_loss(truth, probabilities)
    )
    np.testing.assert_allclose(cost(labels, probabilities), expected, rtol=1e-6)
    only = replace(config, cross_entropy_weight=None, iou_weight=None)
    np.testing.assert_allclose(
        losses.EngineCost(build_model(only), only)(labels, probabilities),
        0.5 * losses.dice_loss(truth, probabilities),
        rtol=1e-6,
    )


def test_a_certain_mistake_stays_finite():
    truth = one_hot(np.zeros((1, 2, 2, 2), int), 2)
    assert float(losses.cross_entropy(truth, truth[..., ::-1])) == pytest.approx(-np.log(1e-6))
    assert float(ops.abs(losses.cross_entropy(truth, truth))) < 1e-6


def test_sample_measures_equal_the_engine(recorded):
    """[G23] What the engine prints as Class-0 is the foreground."""
    monitor = json.loads(str(recorded["accmonitor_json"]))
    counts = np.array(monitor["rp_rn_tp_tn"])
    found = measures.measure_samples(counts)
    assert found["accuracy"] == pytest.approx(monitor["mean_emp_acc"], abs=1e-6)
    for index, measure in enumerate(measures.MEASURES):
        foreground = monitor["foreground"][index]
        assert found[f"{measure}_foreground"] == pytest.approx(foreground, abs=1e-6)
        for label in (1, 2):
            expected = monitor["per_class_acc_sens_prec_spec_dice"][label][index]
            assert found[f"{measure}_{label}"] == pytest.approx(expected, abs=1e-6)


def test_absent_classes_are_undefined_and_left_out_of_means():
    counts = measures.count_classes(np.zeros(4, int), np.array([0, 1, 0, 0]), 3)
    assert counts.tolist() == [[4, 0, 3, 0], [0, 4, 0, 3], [0, 4, 0, 4]]
    found = measures.measure_samples(counts)
    assert np.isnan(found["dice_1"])
    assert np.isnan(found["precision_2"])
    assert found["specificity_1"] == 0.75
    means = measures.average_measures([found, {**found, "dice_1": 0.5}])
    assert means["dice_1"] == 0.5
    assert np.isnan(means["dice_2"])


def test_three_kinds_of_dice_equal_the_engine(recorded):
    """[G23] Index 0 of the record is the foreground."""
    expected = json.loads(str(recorded["dice_json"]))
    found = measures.engine_dice(
        recorded["dice_pred"], recorded["dice_gt"], recorded["dice_roi"], len(expected["dice1"])
    )
    for kind in range(3):
        for row, name in enumerate(found):
            value = expected[f"dice{kind + 1}"][row]
            if value == "N/A":
                assert np.isnan(found[name][kind])
            else:
                assert found[name][kind] == pytest.approx(value, abs=1e-12)
