"""A checkpoint that TensorFlow 0.12.1 wrote: by name, running means and raw weights apart."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from common.errors import DataError
from raseg.averages import WeightAverages
from raseg.config import CODE
from raseg.model import build_model, make_optimizer
from raseg.original_weights import (
    AVERAGE,
    assign_original,
    assign_training_state,
    read_original,
    variables_by_name,
)

THIN = replace(CODE, filters=(2, 4, 8, 16, 32))


@pytest.fixture(scope="module")
def tensors(shared):
    """The recorded checkpoint."""
    return read_original(shared / "golden" / "raseg" / "thin_ckpt")


def test_names_and_shapes_of_the_full_network(golden_dir):
    """Every weight of a recorded full-width checkpoint, with its shape, and no other."""
    listed = json.loads((golden_dir / "raseg" / "variables.json").read_text())
    assert len(listed) == 306
    recorded = {row["name"]: tuple(row["shape"]) for row in listed if AVERAGE in row["name"]}
    model = build_model(CODE, (16, 16, 4, 2))
    ours = {key + AVERAGE: tuple(v.shape) for key, v in variables_by_name(model).items()}
    assert ours == recorded
    assert len(ours) == 54


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["ema", "raw"])
def test_logits_of_the_checkpoint(tensors, recipe, golden, kind):
    """3e-6 was measured. The two sets differ on purpose: one cannot pass for the other."""
    expected = golden("thin_ckpt_expected")
    image, _ = recipe.make_volume((32, 32, 20), int(expected["seed_input"]))
    model = build_model(THIN, (32, 32, 20, 2))
    assign_original(model, tensors, weights=kind)
    found = np.asarray(model(recipe.whiten(image)[None]))[0]
    assert np.abs(found - expected[f"logits_{kind}"]).max() < 1e-4
    other = "raw" if kind == "ema" else "ema"
    assert np.abs(found - expected[f"logits_{other}"]).max() > 1e-2


@pytest.mark.shared
def test_what_is_left_over(tensors):
    model = build_model(THIN, (16, 16, 4, 2))
    left = assign_original(model, tensors)
    assert len(tensors) == 306
    assert len(left) == 306 - 54
    assert {"global_step", "total_loss/avg/biased", "down1/weights", "up1/biases/Adam_1"} <= set(
        left
    )


@pytest.mark.shared
def test_training_state(tensors, golden):
    """Adam's slots, the running means and the step arrive where training looks for them."""
    expected = golden("thin_ckpt_expected")
    model = build_model(THIN, (16, 16, 4, 2))
    assign_original(model, tensors, weights="raw")
    adam = make_optimizer(THIN, 51)
    averages = WeightAverages(model.trainable_variables, THIN.ema_decay)
    assign_training_state(adam, averages, model, tensors)
    assert int(adam.iterations) == 12
    names = {id(v): key for key, v in variables_by_name(model).items()}
    order = [names[id(v)] for v in model.trainable_variables]
    first = dict(
        zip(order, (v for v in adam.variables if v.name.endswith("momentum")), strict=True)
    )
    for key, (mean, largest) in zip(expected["names"], expected["adam_m_stats"], strict=True):
        value = np.asarray(first[str(key)], np.float64)
        assert value.mean() == pytest.approx(mean, rel=1e-4, abs=1e-12)
        assert np.abs(value).max() == pytest.approx(largest, rel=1e-5)
    means = dict(zip(order, averages.variables, strict=True))
    for key, (mean, deviation) in zip(expected["names"], expected["ema_stats"], strict=True):
        value = np.asarray(means[str(key)], np.float64)
        assert (value.mean(), value.std()) == pytest.approx((mean, deviation), rel=1e-4, abs=1e-9)


@pytest.mark.shared
def test_other_architecture_is_refused(tensors):
    model = build_model(CODE, (16, 16, 4, 2))
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(DataError, match=r"another architecture: h0_conv1/weights/Exp.* \(5, 5, 5"):
        assign_original(model, tensors)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.shared
def test_left_over_variable_is_refused(tensors):
    extra = {**tensors, "h9_conv1/weights/ExponentialMovingAverage": np.zeros(3, np.float32)}
    with pytest.raises(DataError, match="left over in the file: h9_conv1"):
        assign_original(build_model(THIN, (16, 16, 4, 2)), extra)


@pytest.mark.shared
def test_truncated_checkpoint(shared, tmp_path):
    source = shared / "golden" / "raseg" / "thin_ckpt"
    for path in source.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            data[: len(data) // 2] if ".data-" in path.name else data
        )
    with pytest.raises(DataError, match="truncated"):
        read_original(tmp_path)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(DataError, match="no checkpoint found"):
        read_original(tmp_path / "model.ckpt-1")


def test_export_without_slots_cannot_continue():
    model = build_model(THIN, (16, 16, 4, 2))
    plain = {key: np.asarray(v) for key, v in variables_by_name(model).items()}
    averages = WeightAverages(model.trainable_variables, 0.9)
    with pytest.raises(DataError, match="no Adam slots"):
        assign_training_state(keras.optimizers.Adam(), averages, model, plain)
