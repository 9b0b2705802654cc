"""The network against what the original computed, layer by layer, and its sizes."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.errors import OptionError
from raseg.config import CODE, DRAFT, PAPER, PORT, PRESETS
from raseg.layers import BatchStatistics
from raseg.model import DiceLoss, build_model, cut_to
from raseg.original_weights import variables_by_name


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("paper", 23_689_474),
        ("code", 23_680_706),
        ("port", 23_680_706),
        ("draft", 6_180_546),
        ("quick", 542_962),
    ],
)
def test_parameter_count(preset, count):
    """The original's own counts; the draft's is 5 879 490 and, for two kernels of 5 instead of 3,
    (125 - 27) * (64 + 32) * 32 = 301 056 more."""
    assert build_model(PRESETS[preset], (8, 8, 4, 2)).count_params() == count


def test_parameter_count_of_the_variants():
    bme = replace(PAPER, task="bme")
    assert build_model(bme, (8, 8, 4, 1)).count_params() == 23_685_474
    older = replace(DRAFT, top_kernels=(5, 3))
    assert build_model(older, (8, 8, 4, 2)).count_params() == 5_879_490


def test_default_input_shape():
    assert build_model(replace(CODE, filters=(2, 2))).input_shape == (None, 512, 512, 20, 2)
    draft = build_model(replace(DRAFT, task="bme", filters=(2, 2)))
    assert draft.input_shape == (None, 128, 128, 16, 1)


def check_against(recorded, model, image, label, *, logits, activations, loss):
    """Compare logits, every recorded layer and the loss."""
    scopes = [str(name) for name in recorded["layers"]]
    present = {layer.name for layer in model.layers}
    ends = [f"{name}_cut" if f"{name}_cut" in present else name for name in scopes]
    probe = keras.Model(model.input, [model.get_layer(name).output for name in ends])
    values = [np.asarray(value) for value in probe(image)]
    outputs = dict(zip(scopes, values, strict=True))
    found = outputs["logits"][0]
    assert np.abs(found - recorded["logits"]).max() < logits
    for scope in scopes:
        if f"act/{scope}/val" not in recorded:
            continue
        i, j, k = recorded[f"act/{scope}/idx"].T
        value = outputs[scope][0]
        assert value.shape == tuple(recorded[f"act/{scope}/shape"])
        expected = recorded[f"act/{scope}/val"]
        limit = activations * max(np.abs(value).max(), 1e-6)
        assert np.abs(value[i, j, k] - expected).max() < limit, scope
        mean = value.mean(axis=(0, 1, 2), dtype=np.float64)
        assert np.abs(mean - recorded[f"act/{scope}/mean"]).max() < limit, scope
    assert abs(float(DiceLoss(CODE)(label, found[None])) - float(recorded["loss"])) < loss
    agree = (found.argmax(-1) == recorded["logits"].argmax(-1)).mean()
    assert agree >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_a", "thin_a", "draft4_a"])
def test_every_layer_equals_the_original(rebuild, name):
    """1.1e-5 was measured between TensorFlow 0.12.1 and 2.21, and here; ten times that."""
    model, recorded, image, label = rebuild(name)
    check_against(recorded, model, image, label, logits=1e-4, activations=1e-4, loss=1e-5)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["small_b", "small_c"])
def test_every_layer_equals_the_original_at_other_odd_sizes(rebuild, name):
    """36-18-9-5-3 and 44-22-11-6-3 in plane; 12-6-3-2-1 slices."""
    model, recorded, image, label = rebuild(name)
    check_against(recorded, model, image, label, logits=1e-4, activations=1e-4, loss=1e-5)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["bn_a", "bn_bme_a"])
def test_batch_statistics(rebuild, name):
    """Eight values per channel at the lowest level amplify rounding: 6.5e-3 between two versions
    of TensorFlow."""
    model, recorded, image, label = rebuild(name)
    check_against(recorded, model, image, label, logits=3e-2, activations=1e-2, loss=1e-4)
    assert np.abs(np.asarray(model(image))[0] - recorded["logits"]).mean() < 2e-3


@pytest.mark.slow
def test_wrong_crop_is_caught(rebuild):
    """Cutting the first element instead of the last moves logits far beyond the tolerance, while
    the argmax agrees in more than 99 of 100 voxels."""
    model, recorded, image, _ = rebuild("small_a")
    clone = keras.models.clone_model(model, clone_function=crop_first)
    clone.set_weights(model.get_weights())
    found = np.asarray(clone(image))[0]
    assert np.abs(found - recorded["logits"]).max() > 1e-3
    assert (found.argmax(-1) == recorded["logits"].argmax(-1)).mean() > 0.99


def crop_first(layer):
    """Turn every cropping of the end into one of the beginning."""
    if isinstance(layer, keras.layers.Cropping3D):
        cropping = [(after, before) for before, after in layer.cropping]
        return keras.layers.Cropping3D(cropping, name=layer.name)
    return layer.__class__.from_config(layer.get_config())


def test_alignment_on_one_axis():
    """Worked out by hand: [1 2 3 4 5] with taps (1, 10), and back to five elements."""
    down = keras.layers.Conv3D(1, 2, strides=2, padding="same", use_bias=False)
    line = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1, 1)
    down.build(line.shape)
    taps = np.zeros((2, 2, 2, 1, 1), np.float32)
    taps[:, 0, 0, 0, 0] = 1, 10
    down.kernel.assign(taps)
    halved = np.asarray(down(line))
    assert halved.ravel().tolist() == [21, 43, 5]
    up = keras.layers.Conv3DTranspose(1, 2, strides=2, padding="same", use_bias=False)
    short = np.arange(1, 4, dtype=np.float32).reshape(1, 3, 1, 1, 1)
    up.build(short.shape)
    up.kernel.assign(taps)
    assert np.asarray(cut_to(up(short), line, name="cut")).ravel().tolist() == [1, 10, 2, 20, 3]


def test_any_size_equals_fixed_size(recipe):
    """Sizes known only at run time are cut by another layer: the same numbers."""
    config = replace(CODE, filters=(2, 3, 4))
    fixed, free = build_model(config, (13, 10, 7, 2)), build_model(config, (None, None, None, 2))
    free.set_weights(fixed.get_weights())
    image = np.random.default_rng(0).normal(size=(2, 13, 10, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(free(image)), np.asarray(fixed(image)), atol=1e-6)


def test_relu_logits(rebuild):
    """The original's logits are never negative; the port's are the same before that clip."""
    model, recorded, image, _ = rebuild("thin_a")
    open_ended = build_model(replace(PORT, filters=(2, 4, 8, 16, 32)), model.input_shape[1:])
    open_ended.set_weights(model.get_weights())
    found = np.asarray(open_ended(image))[0]
    assert recorded["logits"].min() == 0
    assert found.min() < -0.01
    np.testing.assert_allclose(np.maximum(found, 0), recorded["logits"], atol=1e-4)


def test_initial_weights():
    """A normal of deviation 0.05 cut at two deviations has deviation 0.044 and no larger value."""
    keras.utils.set_random_seed(0)
    kernel = np.asarray(variables_by_name(build_model(CODE, (8, 8, 4, 2)))["h4_conv1/weights"])
    assert abs(kernel.std() - 0.04398) < 2e-4
    assert np.abs(kernel).max() <= 0.1


def test_batch_statistics_use_the_batch_at_prediction_too():
    layer = BatchStatistics()
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 5, 2)).astype(np.float32)
    expected = (x - x.mean((0, 1, 2, 3))) / np.sqrt(x.var((0, 1, 2, 3)) + 1e-5)
    np.testing.assert_allclose(np.asarray(layer(x, training=False)), expected, atol=1e-5)


def test_logits_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(replace(PAPER, filters=(2, 2)), (4, 4, 4, 2))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"


def test_too_few_levels():
    with pytest.raises(OptionError, match="two levels or more"):
        build_model(replace(CODE, filters=(8,)), (8, 8, 8, 2))
