"""Training as `train` sets it up: an original's checkpoint goes on, overlaps are said."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import DataError, OptionError
from common.runtime import has_avx512
from fetal_brain.config import CODE, QUICK
from fetal_brain.data import Case, split_cases
from fetal_brain.inference import build_for_any_plane
from fetal_brain.learning import compile_model, go_on_from, refuse_wrong_bfloat16
from fetal_brain.original_weights import variables_by_name
from fetal_brain.phantom import phantom
from fetal_brain.train import train, warn_of_overlap

SMALL = replace(
    QUICK, filters=(4, 4, 8), kernels=(3, 3, 1), patch_shape=(3, 16, 16), batch_size=2,
    learning_rate=0.01,
    held_out_cases=1, l2_weight=0.0, dropout=0.0, max_steps=8, steps_per_evaluation=4,
)  # fmt: skip
PUSHED = "enc_unit_1/conv3d/kernel"


@pytest.fixture(scope="module")
def tensors():
    """What a checkpoint of the original holds after 7 steps; one kernel was pushed hard."""
    keras.utils.set_random_seed(2)
    model = build_for_any_plane(SMALL)
    names = variables_by_name(model)
    values = {name: variable.numpy() for name, variable in names.items()}
    slots = {f"{n}/Momentum": np.zeros(v.shape, "f4") for n, v in names.items() if v.trainable}
    slots[f"{PUSHED}/Momentum"] += 100.0
    return {**values, **slots, "global_step": np.int64(7)}


@pytest.fixture(scope="module")
def checkpoint(tensors, tmp_path_factory):
    import tensorflow as tf

    prefix = tmp_path_factory.mktemp("original") / "model.ckpt-7"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    return prefix


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    phantom(folder, cases=3, seed=1, shape=(3, 64, 64))
    return folder / "phantom.csv"


def test_weights_momentum_and_step_are_taken_over(checkpoint, tensors):
    model = build_for_any_plane(SMALL)
    compile_model(model, SMALL, xla=False)
    go_on_from(checkpoint, model, SMALL)
    for name, variable in variables_by_name(model).items():
        np.testing.assert_array_equal(variable.numpy(), tensors[name], err_msg=name)
    assert int(model.optimizer.iterations) == 7
    pushed = [m.numpy() for m in model.optimizer.momentums if np.abs(m.numpy()).max() > 0]
    assert len(pushed) == 1
    np.testing.assert_allclose(pushed[0], -1.0)


@pytest.mark.slow
def test_training_goes_on_where_the_original_stopped(checkpoint, tensors, listing, tmp_path):
    """Step 8 is the only one: w - lr (0.9 slot + gradient), of which 0.9 is the slot's share."""
    train(listing, tmp_path / "run", config=SMALL, preset="quick", original=checkpoint)
    network = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    trained = variables_by_name(network)
    change = trained[PUSHED].numpy() - tensors[PUSHED]
    np.testing.assert_allclose(change, -0.9, atol=0.1)
    other = "enc_unit_0/conv3d/kernel"
    change = trained[other].numpy() - tensors[other]
    assert 0 < np.abs(change).max() < 0.1
    with (tmp_path / "run" / "log.csv").open(newline="") as stream:
        assert [(row["epoch"], row["step"]) for row in csv.DictReader(stream)] == [("2", "8")]


def test_an_export_holds_no_momentum(tensors, tmp_path, listing):
    import tensorflow as tf

    kept = {name: value for name, value in tensors.items() if not name.endswith("/Momentum")}
    prefix = tmp_path / "variables"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(kept),
        shape_and_slices=[""] * len(kept),
        tensors=[tf.constant(value) for value in kept.values()],
    )
    with pytest.raises(DataError, match="no momentum slots: expected a training checkpoint"):
        train(listing, tmp_path / "run", config=SMALL, preset="quick", original=prefix)
    assert not (tmp_path / "run" / "model.keras").exists()


def test_overlap_is_said_on_stderr(tmp_path, capsys):
    """[F12] 36 rows: 30 are trained on, the last 7 deployed, so row 30 is both."""
    cases = [Case(f"c{i}", tmp_path / "scan.nii.gz", tmp_path / "label.nii.gz") for i in range(36)]
    warn_of_overlap(split_cases(cases, CODE))
    said = capsys.readouterr()
    assert said.err == "warning: trained on and tested on as well: c29\n"
    assert said.out == ""
    apart = replace(CODE, allow_training_cases_in_test=False, training_cases=28)
    warn_of_overlap(split_cases(cases, apart), phantom=True)
    assert capsys.readouterr().err == ""
    warn_of_overlap(split_cases(cases, apart))
    assert capsys.readouterr().err.startswith("note: no subjects are known")


@pytest.mark.slow
def test_loss_and_metric_of_the_compiled_model():
    """Cross-entropy of the mean over all voxels, plus the L2 terms of PORT alone [F1]."""
    labels = np.zeros((1, 3, 16, 16), np.int32)
    labels[:, :, :4] = 1
    image = np.random.default_rng(0).normal(size=(1, 3, 16, 16, 1)).astype(np.float32)
    found = {}
    for weight in (0.0, 5e-4):
        keras.utils.set_random_seed(4)
        config = replace(SMALL, l2_weight=weight)
        model = build_for_any_plane(config)
        compile_model(model, config, xla=False)
        logits = model.predict_on_batch(image).astype(np.float64)
        kernels = [v.numpy() for v in model.trainable_variables if v.name == "kernel"]
        values = model.evaluate(image, labels, return_dict=True, verbose=0)
        normaliser = np.log(np.exp(logits).sum(axis=-1))
        chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        penalty = weight * sum((kernel.astype(np.float64) ** 2).sum() / 2 for kernel in kernels)
        assert values["loss"] == pytest.approx((normaliser - chosen).mean() + penalty, rel=1e-5)
        predicted = logits.argmax(axis=-1)
        overlap = 2 * ((predicted == 1) & (labels == 1)).sum()
        dice = overlap / ((predicted == 1).sum() + (labels == 1).sum())
        assert values["dice"] == pytest.approx(dice, rel=1e-6)
        found[weight] = values["loss"]
    assert found[5e-4] > found[0.0] + 1e-4


def test_bfloat16_is_refused_where_its_gradients_are_wrong(monkeypatch):
    """Kernels may not be deeper than the patch; see tests/common/network/test_bfloat16.py."""
    if tf.config.list_physical_devices("GPU") or not has_avx512(environment={}):
        pytest.skip("wrong with AVX-512 alone")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    with pytest.raises(OptionError, match="kernels of 5 slices where the network has 3"):
        refuse_wrong_bfloat16(QUICK)
    refuse_wrong_bfloat16(replace(QUICK, kernels=(3, 3, 3, 3, 1)))
    refuse_wrong_bfloat16(replace(QUICK, slices_as_channels=True))
