"""How training begins, weighs its losses, fixes its statistics, and goes on after a kill."""

import os
import signal
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from commands import run, start

from common.data.prepared_store import write_prepared_case
from vertebra.config import PORT, QUICK
from vertebra.learning import FixStatistics, choose_begin, compile_model, fixed_share, is_fixed
from vertebra.model import build_model, normalisations
from vertebra.phantom_spine import make_scan
from vertebra.sampling import TrainingSampler
from vertebra.validation import make_overlay_pictures, make_validation
from vertebra.weighting import weight_map

TINY = replace(QUICK, channels=2)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A prepared phantom on 3 mm voxels."""
    image, labels = make_scan((40, 48, 48), (3.0, 3.0, 3.0), np.random.default_rng(0))
    arrays = {"image": image.array, "label": labels.array.astype(np.int32)}
    arrays["weight"] = weight_map(labels.array, TINY)
    return write_prepared_case(tmp_path_factory.mktemp("prepared"), "case1", arrays)


def test_begin():
    """[V38] Kernels for the memory a thousand times larger; last scale and shift 4 and -4."""
    model = build_model(TINY)
    before = np.array(model.get_layer("conv_initial").conv_0.kernel)
    choose_begin(model, TINY)
    after = np.array(model.get_layer("conv_initial").conv_0.kernel)
    np.testing.assert_array_equal(after[..., 0, :], before[..., 0, :])
    np.testing.assert_allclose(after[..., 1, :], 1000 * before[..., 1, :], rtol=1e-6)
    last = model.get_layer("conv_final").norm_5
    assert (float(last.gamma[0]), float(last.beta[0])) == (4, -4)
    x = np.random.default_rng(0).random((1, 5, 5, 5, 1)).astype(np.float32)
    np.testing.assert_allclose(model.get_layer("conv_final").conv_3(x), x, rtol=1e-6)
    plain = build_model(TINY)
    values = plain.get_weights()
    choose_begin(plain, replace(TINY, memory_gain=1.0, sparse_begin=False))
    for old, new in zip(values, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_fresh_weights_are_spread_as_the_originals():
    """Uniform within 1/sqrt(inputs of a convolution), biases too."""
    keras.utils.set_random_seed(0)
    model = build_model(PORT)
    conv = model.get_layer("conv_up").conv_0
    bound = (128 * 27) ** -0.5
    for values in (np.array(conv.kernel), np.array(conv.bias)):
        assert np.abs(values).max() <= bound
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.2)
    assert np.abs(np.array(model.get_layer("dense").kernel)).max() <= 1 / 8


def test_weight_of_the_completeness(case):
    """[V35] The loss is the mask's plus so many times the completeness'."""
    patch, targets = TrainingSampler([case], TINY, seed=0)(0)
    model = build_model(TINY)
    compile_model(model, replace(TINY, completeness_weight=50.0), xla=False)
    batch = {name: array[None] for name, array in targets.items()}
    logs = model.test_on_batch(patch[None], batch, return_dict=True)
    expected = logs["mask_loss"] + 50 * logs["completeness_loss"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("step", "share"), [(0, 0), (5, 0), (7, 0.5), (9, 1), (100, 1)])
def test_statistics_are_fixed_little_by_little(step, share):
    """[V2] None before their step, all of them some steps later, by the step alone."""
    assert fixed_share(step, 5, 4) == share
    config = replace(TINY, fix_statistics_after=5, fix_statistics_over=4)
    model = build_model(config)
    compile_model(model, config, xla=False)
    fixing = FixStatistics(config)
    fixing.set_model(model)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(step)
    fixing.on_train_batch_begin(0)
    assert {float(layer.fixed) for _, layer in normalisations(model)} == {share}
    assert is_fixed(model) == (share == 1)


def test_statistics_of_the_sites_follow_training():
    """[V2] Of a site all values count alike: the variance holds the spread between patches too."""
    model = build_model(TINY)
    layer = dict(normalisations(model))["conv_final.5"]
    x = np.random.default_rng(0).normal(2.0, 3.0, (1, 8, 8, 8, 1)).astype(np.float32)
    layer.site_means[0].assign([1.0])
    layer.site_variances[0].assign([4.0])
    layer(x, site=0, training=True)
    np.testing.assert_allclose(layer.site_means[0], [0.98 + 0.02 * x.mean()], rtol=1e-5)
    spread = x.var() + (x.mean() - 1) ** 2
    np.testing.assert_allclose(layer.site_variances[0], [0.98 * 4 + 0.02 * spread], rtol=1e-5)


@pytest.mark.slow
def test_validation_and_picture(case):
    """[V1] With its own choice of statistics; the same patches each time."""
    config = replace(TINY, eval_iters=2, validation_statistics="moving")
    model = build_model(config)
    measure = make_validation(model, [case], config, seed=0)
    first = measure()
    assert set(first) == {"val_mask_loss", "val_completeness_loss", "val_dice", "val_agreement"}
    assert measure() == first
    other = make_validation(model, [case], replace(config, validation_statistics="batch"), seed=0)
    assert other() != first
    picture = make_overlay_pictures(model, [case], config, seed=0)()["patch"]
    assert picture.shape == (32, 32, 3)
    assert make_validation(model, [], config, seed=0) is None


@pytest.mark.slow
@pytest.mark.full_size
def test_killed_run_ends_bit_for_bit_like_an_unbroken_one(tmp_path):
    """[V23] [V31] Killed after its first checkpoint, across the step that fixes the statistics."""
    phantom = ["--out", tmp_path / "phantom", "--cases", 3, "--shape", "56,90,80"]
    run("vertebra", "phantom", *phantom).ok()
    trees = ["--output_isotropic", tmp_path / "iso", "--output_crop", tmp_path / "crop"]
    dataset = ["--dataset", tmp_path / "phantom", "--preset", "quick"]
    run("vertebra", "prepare", *dataset, *trees).ok()
    options = ["--dataset", tmp_path / "crop", "--preset", "quick", "--channels", 2,
               "--max_steps", 14, "--steps_per_evaluation", 3, "--eval_iters", 1,
               "--fix_statistics_after", 5, "--fix_statistics_over", 5]  # fmt: skip
    broken = start("vertebra", "train", "--run", tmp_path / "broken", *options)
    log = tmp_path / "broken" / "log.csv"
    patience = time.monotonic() + 240
    while not log.is_file() and broken.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(broken.pid, signal.SIGKILL)
    broken.wait()
    assert not (tmp_path / "broken" / "model.keras").exists()
    for name in ("broken", "whole"):
        run("vertebra", "train", "--run", tmp_path / name, *options).ok()
    first, second = (keras.models.load_model(tmp_path / name / "model.keras", compile=False)
                     for name in ("whole", "broken"))  # fmt: skip
    assert is_fixed(first)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert log.read_text() == (tmp_path / "whole" / "log.csv").read_text()
