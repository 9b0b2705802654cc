"""Checkpoints of the engine: every variable finds its place, by number."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import DataError
from dhcp_fetal import original_weights
from dhcp_fetal.cfg.fields import from_cfg
from dhcp_fetal.config import CODE, PORT
from dhcp_fetal.model import build_model


@pytest.fixture(scope="module")
def checkpoint(golden_dir):
    return golden_dir / "dhcp_fetal" / "mini_v070.model.ckpt"


@pytest.fixture(scope="module")
def tensors(checkpoint):
    return original_weights.read_original(checkpoint)


@pytest.fixture
def model(mini):
    return build_model(replace(mini, compat="v0.7.0"))


def test_all_ways_to_name_a_checkpoint(checkpoint, tensors, tmp_path):
    for ending in (".index", ".data-00000-of-00001"):
        again = original_weights.read_original(checkpoint.with_name(checkpoint.name + ending))
        assert sorted(again) == sorted(tensors)
        source = checkpoint.with_name(checkpoint.name + ending)
        (tmp_path / source.name).write_bytes(source.read_bytes())
    assert sorted(original_weights.read_original(tmp_path)) == sorted(tensors)


def test_numbers_lead_to_the_right_layers(model, tensors):
    """W_10 comes after W_9, not after W_1; kernels become channels-last without a flip."""
    original_weights.assign_original(model, tensors)
    places = {
        "W": "normal_1_conv",
        "W_3": "normal_4_conv",
        "W_4": "context_1_1_conv",
        "W_10": "context_2_3_conv",
        "W_12": "fc_1_conv",
        "W_14": "fc_3_conv",
    }
    for name, layer in places.items():
        kernel = tensors[f"net/{name}"]
        ours = model.get_layer(layer).kernel.numpy()
        assert ours.shape == (*kernel.shape[2:], kernel.shape[1], kernel.shape[0])
        assert ours[0, 1, -1, 1, 2] == kernel[2, 1, 0, 1, -1] if kernel.shape[2] == 3 else True
    biases = ["normal_1_bias", "context_1_1_bias", "context_2_1_bias", "softmax_bias"]
    for number, layer in enumerate(biases):
        recorded = tensors["net/b" + (f"_{number}" if number else "")]
        np.testing.assert_array_equal(model.get_layer(layer).bias, recorded)
    norm = model.get_layer("fc_2_norm")
    np.testing.assert_array_equal(norm.gamma, tensors["net/gBn_10"])
    np.testing.assert_array_equal(norm.beta, tensors["net/bBn_10"])
    np.testing.assert_array_equal(norm.rolling_variance, tensors["net/varBnsForRollingAverage_10"])
    np.testing.assert_array_equal(model.get_layer("fc_3_prelu").alpha, tensors["net/aPrelu_11"])


def test_the_rolling_row_begins_at_0(model, tensors):
    """[G10]"""
    model.get_layer("fc_1_norm").row.assign(3)
    original_weights.assign_original(model, tensors)
    assert int(model.get_layer("fc_1_norm").row) == 0


def test_every_variable_of_the_model_is_assigned(model, tensors):
    named = dict(original_weights.name_variables(model))
    ours = {v.path for v in model.variables if v.name not in ("row", "seed_generator_state")}
    assert {variable.path for variable in named.values()} == ours
    assert set(named) <= set(tensors)


@pytest.mark.parametrize("name", ["net/W_15", "net/W_x", "trainer/unheard_of", "net/extra"])
def test_a_tensor_too_many_is_refused(model, tensors, name):
    with pytest.raises(DataError, match=name):
        original_weights.assign_original(model, tensors | {name: np.zeros(3, np.float32)})


def test_a_tensor_too_few_is_refused_and_nothing_assigned(model, tensors):
    before = model.get_weights()
    fewer = {name: array for name, array in tensors.items() if name != "net/gBn_7"}
    with pytest.raises(DataError, match="gBn_7"):
        original_weights.assign_original(model, fewer)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_classifier_of_another_version_is_refused(mini, tensors):
    """[D1] v0.8.4 builds a 1x1x1 kernel from the same file, and does not fit."""
    config = replace(mini, fc_kernels=((1, 1, 1),) * 3, fc_padding=("valid",) * 3)
    with pytest.raises(DataError, match="W_12"):
        original_weights.assign_original(build_model(config), tensors)


def slot_shapes(shapes, base):
    """Shapes of the original's optimiser slots in their order."""
    count = sum(name.startswith(f"trainer/{base}") for name in shapes)
    names = [f"trainer/{base}" + (f"_{j}" if j else "") for j in range(count)]
    return [tuple(shapes[name]) for name in names]


def original_shape(variable):
    shape = tuple(variable.shape)
    return (shape[4], shape[3], *shape[:3]) if len(shape) == 5 else shape


def test_slots_of_v070_follow_its_order(model, tensors):
    """[D14] Kernel first."""
    shapes = {name: array.shape for name, array in tensors.items()}
    expected = slot_shapes(shapes, "velocities_for_mom")
    ours = {
        compat: [original_shape(v) for v in original_weights.list_trainable(model, compat=compat)]
        for compat in ("v0.7.0", "v0.8.4")
    }
    assert ours["v0.7.0"] == expected
    assert ours["v0.8.4"] != expected
    assert len(expected) == len(model.trainable_variables)


@pytest.mark.shared
@pytest.mark.parametrize("network", ["bdn", "cgm"])
def test_the_published_index_maps_completely(fetal_files, network):
    """Names and shapes of all 408 variables; their values are not published with the index."""
    import tensorflow as tf

    index = fetal_files / network / "checkpoint" / f"{network}.model.ckpt"
    shapes = dict(tf.train.list_variables(str(index)))
    assert len(shapes) == 408
    model = build_model(CODE)
    hollow = {n: np.broadcast_to(np.float32(0.25), shape) for n, shape in shapes.items()}
    original_weights.assign_original(model, hollow)
    for _, variable in original_weights.name_variables(model):
        assert float(np.min(variable)) == float(np.max(variable)) == 0.25
    kinds = ("accu_grad_squared", "velocities_for_mom")
    for base in kinds:
        ordered = original_weights.list_trainable(model, compat="v0.7.0")
        assert slot_shapes(shapes, base) == [original_shape(v) for v in ordered]
    other = build_model(replace(PORT, fc_kernels=((1, 1, 1),) * 3, fc_padding=("valid",) * 3))
    with pytest.raises(DataError, match="W_24"):
        original_weights.assign_original(other, hollow)


@pytest.mark.shared
def test_slots_of_v084_follow_its_order(shared, example_files):
    """[D14] Kernel last."""
    import tensorflow as tf

    path = shared / "golden/dhcp_fetal/tiny/tinyCnn.step400.model.ckpt"
    shapes = dict(tf.train.list_variables(str(path)))
    model = build_model(from_cfg(example_files / "tinyCnn/model/modelConfig.cfg"))
    ordered = original_weights.list_trainable(model, compat="v0.8.4")
    assert slot_shapes(shapes, "accu_grad_squared") == [original_shape(v) for v in ordered]
