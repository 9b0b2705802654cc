"""`fit` around Keras' own: rows, schedules, early stops, failures, and what is left behind."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import make_batches
from common.data.rng import rng_for
from common.errors import DataError, OptionError, RunError, TrainingDivergedError
from common.runs.folder import open_run
from common.runs.log import read_log
from common.runtime import configure_runtime
from common.training.checkpoints import read_checkpoint, write_checkpoint
from common.training.loop import CHECKPOINT, fit


def make_dataset(first_step, last_step=1000, draw=None):
    def draw_example(index):
        image = rng_for(1, index).normal(size=4).astype(np.float32)
        return image, image.sum(keepdims=True)

    vector = tf.TensorSpec((4,), tf.float32)
    return make_batches(
        draw or draw_example,
        element_spec=(vector, tf.TensorSpec((1,), tf.float32)),
        batch_size=2,
        first_step=first_step,
        last_step=last_step,
    )


def make_model(optimizer=None, model_class=keras.Model, dropout=0.5, **compile_options):
    keras.utils.set_random_seed(3)
    image = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu")(image)
    x = keras.layers.Dropout(dropout)(x)
    model = model_class(image, keras.layers.Dense(1)(x))
    options = {"loss": "mse", "metrics": ["mae"], "jit_compile": False} | compile_options
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.01, momentum=0.9), **options)
    return model


def train(path, model=None, *, max_steps=10, then=None, **options):
    """Train in a run folder, then raise what is asked for; give the model and the rows."""
    model = model or make_model()
    settings = {"make_dataset": make_dataset, "steps_per_epoch": 4, "checkpoint_every": 3}
    settings |= {"progress": False} | options
    with open_run(path, paper="example", options={}, config={}, seed=0) as run:
        rows = fit(model, settings.pop("make_dataset"), run=run, max_steps=max_steps, **settings)
        if then:
            raise then
    return model, rows


def state_of(model):
    return b"".join(np.asarray(v).tobytes() for v in [*model.variables, *model.optimizer.variables])


class StopAt(keras.callbacks.Callback):
    """Raises after a step, as a power cut would come: before anything is kept of it."""

    def __init__(self, step, failure):
        super().__init__()
        self.step, self.failure = step, failure

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise self.failure


def test_rows_count_steps_and_follow_the_schedule(tmp_path):
    """Staircase by hand: 0.1 * 0.5 ** floor(t / 3) at t = 4, 8, 10."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True)
    model, rows = train(
        tmp_path / "run",
        make_model(keras.optimizers.SGD(schedule)),
        evaluate=lambda: {"val_dice": np.float32(0.5)},
    )
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8), (3, 10)]
    np.testing.assert_allclose([r["learning_rate"] for r in rows], [0.05, 0.025, 0.0125])
    assert list(rows[0]) == ["epoch", "step", "loss", "mae", "val_dice", "learning_rate"]
    assert int(model.optimizer.iterations) == 10
    assert read_log(tmp_path / "run") == rows
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["training"] == {"steps": 10, "stopped_early": False}


def test_a_row_is_the_mean_over_its_epoch(tmp_path):
    """With a frozen network every batch's error can be worked out from the data alone."""
    model = make_model(keras.optimizers.SGD(0.0), dropout=0.0)
    errors = [
        float(np.mean(np.square(np.asarray(model(image)) - target)))
        for image, target in make_dataset(0, 10)
    ]
    _, rows = train(tmp_path / "run", model)
    means = [np.mean(errors[:4]), np.mean(errors[4:8]), np.mean(errors[8:])]
    np.testing.assert_allclose([row["loss"] for row in rows], means, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5, 8, 9, 10])
def test_a_broken_run_ends_like_an_unbroken_one(tmp_path, step):
    """Before the first checkpoint, within epochs, at the end of one, at the very end."""
    whole, rows = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", callbacks=[StopAt(step, KeyboardInterrupt())])
    model, rows_again = train(tmp_path / "broken")
    assert rows_again == rows
    assert state_of(model) == state_of(whole)
    logs = [(tmp_path / name / "log.csv").read_bytes() for name in ("whole", "broken")]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_run_broken_in_an_evaluation_ends_like_an_unbroken_one(tmp_path):
    answers = iter([0.5, None])

    def evaluate():
        if (answer := next(answers, 0.5)) is None:
            raise KeyboardInterrupt
        return {"val_dice": answer}

    whole, rows = train(tmp_path / "whole", evaluate=lambda: {"val_dice": 0.5})
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", evaluate=evaluate, checkpoint_every=2)
    model, rows_again = train(tmp_path / "broken", evaluate=evaluate, checkpoint_every=2)
    assert rows_again == rows
    assert state_of(model) == state_of(whole)


def test_a_run_that_fails_after_training_trains_no_more(tmp_path):
    first = make_model()
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", first, max_steps=6, then=ZeroDivisionError)
    again, rows = train(tmp_path / "run", max_steps=6, make_dataset=None)
    assert [row["step"] for row in rows] == [4, 6]
    assert state_of(again) == state_of(first)


def test_training_begins_at_the_optimisers_own_step(tmp_path):
    """A converted model with slots goes on where the original stopped."""
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(5)
    first_steps = []

    def make(first_step):
        first_steps.append(first_step)
        return make_dataset(first_step)

    _, rows = train(tmp_path / "run", model, make_dataset=make)
    assert first_steps == [5, 8]
    assert [row["step"] for row in rows] == [8, 10]


def test_a_step_is_traced_once(tmp_path):
    """Keras alone traces it twice, since its first trace makes the variables of the measures."""
    calls = []

    def loss(y, predicted):
        calls.append(tf.executing_eagerly())
        return tf.square(y - predicted)

    train(tmp_path / "run", make_model(loss=loss))
    assert calls.count(False) == 1


def test_no_example_is_drawn_twice(tmp_path):
    drawn = []

    def draw(index):
        drawn.append(index)
        return np.ones(4, np.float32), np.ones(1, np.float32)

    train(tmp_path / "run", max_steps=8, make_dataset=lambda step: make_dataset(step, 8, draw))
    assert sorted(drawn) == list(range(16))


class Patience(keras.callbacks.Callback):
    """Stops after a number of epochs; what it remembers is in `variables`."""

    def __init__(self, epochs):
        super().__init__()
        self.left = keras.Variable(epochs, trainable=False, dtype="int32")
        self.variables = [self.left]

    def on_epoch_end(self, epoch, logs=None):
        assert logs["val_dice"] == 0.25, "the evaluation's measures come first"
        self.left.assign_sub(1)
        if int(self.left) == 0:
            self.model.stop_training = True


@pytest.mark.slow
def test_an_early_stop_survives_interruptions(tmp_path):
    options = {"max_steps": 100, "evaluate": lambda: {"val_dice": 0.25}}
    whole, rows = train(tmp_path / "whole", callbacks=[Patience(3)], **options)
    assert [row["step"] for row in rows] == [4, 8, 12]
    path = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(path, callbacks=[Patience(3), StopAt(6, KeyboardInterrupt())], **options)
    with pytest.raises(ZeroDivisionError):
        train(path, callbacks=[Patience(3)], then=ZeroDivisionError, **options)
    model, rows_again = train(path, callbacks=[Patience(3)], **options)
    assert rows_again == rows
    assert state_of(model) == state_of(whole)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["training"] == {"steps": 12, "stopped_early": True}


class OwnStep(keras.Model):
    """A model that trains itself and keeps a variable of its own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def train_step(self, data):
        image, target = data
        with tf.GradientTape() as tape:
            error = keras.ops.mean(keras.ops.square(self(image, training=True) - target))
        gradients = tape.gradient(error, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.seen.assign_add(1.0)
        return {"loss": error, "seen": self.seen}


def test_a_models_own_training_step(tmp_path):
    options = {"model_class": OwnStep, "loss": None, "metrics": None}
    whole, rows = train(tmp_path / "whole", make_model(**options))
    assert [row["seen"] for row in rows] == [4, 8, 10]
    with pytest.raises(KeyboardInterrupt):
        train(
            tmp_path / "broken", make_model(**options), callbacks=[StopAt(6, KeyboardInterrupt())]
        )
    model, rows_again = train(tmp_path / "broken", make_model(**options))
    assert rows_again == rows
    assert state_of(model) == state_of(whole)


def test_a_loss_that_is_no_number_names_the_step(tmp_path):
    def draw(index):
        value = np.inf if index == 12 else 1.0
        return np.ones(4, np.float32), np.full(1, value, np.float32)

    with pytest.raises(TrainingDivergedError, match="the loss is inf at step 7;"):
        train(tmp_path / "run", make_dataset=lambda first: make_dataset(first, draw=draw))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / CHECKPOINT)
    assert kept.position["step"] == 6
    assert all(np.isfinite(array).all() for array in kept.arrays["model"])


def test_a_checkpoint_that_says_nothing_of_training_is_one_line(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", callbacks=[StopAt(6, KeyboardInterrupt())])
    path = tmp_path / "run" / "checkpoints" / CHECKPOINT
    write_checkpoint(path, {}, {"step": "six", "stopped": False})
    with pytest.raises(RunError) as refusal:
        train(tmp_path / "run")
    assert str(refusal.value) == (
        f"{path} is of no training: found {{'step': 'six', 'stopped': False}} in its header"
    )


def test_a_users_mistake_in_the_data_comes_out_as_itself(tmp_path):
    def draw(index):
        if index == 9:
            raise DataError("case p04: label 7 is not among the labels 0, 1")
        return np.ones(4, np.float32), np.ones(1, np.float32)

    with pytest.raises(DataError, match=r"^case p04: label 7 is not among the labels 0, 1$"):
        train(tmp_path / "run", make_dataset=lambda first: make_dataset(first, draw=draw))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_dataset_that_ends_too_soon_is_our_mistake(tmp_path):
    with pytest.raises(ValueError, match="ended at step 6, before the epoch's 8"):
        train(tmp_path / "run", make_dataset=lambda first: make_dataset(first, last_step=6))


def test_another_models_checkpoint_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", callbacks=[StopAt(6, KeyboardInterrupt())])
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    other.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss="mse", metrics=["mae"])
    before = state_of_weights(other)
    with pytest.raises(RunError, match=r"last\.npz.*expected 4: it is another model's"):
        train(tmp_path / "run", other)
    narrow = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    narrow.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss="mse", metrics=["mae"])
    with pytest.raises(RunError, match=r"has shape \(4, 8\), expected \(4, 2\)"):
        train(tmp_path / "run", narrow, checkpoint_every=None)
    assert len(before) == len(other.weights)


def state_of_weights(model):
    return [np.asarray(weight) for weight in model.weights]


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", callbacks=[StopAt(6, KeyboardInterrupt())])
    file = tmp_path / "run" / "checkpoints" / CHECKPOINT
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"last\.npz is damaged") as caught:
        train(tmp_path / "run")
    assert "\n" not in str(caught.value)


class FillDisk(keras.callbacks.Callback):
    """From a step on, no file grows beyond 3000 bytes."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))


@pytest.mark.parametrize(("full_at", "kept", "logged"), [(5, 4, [4]), (8, 6, [4, 8])])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, full_at, kept, logged):
    """At step 8 the log has its row already, which must not be there twice in the end."""
    whole, rows = train(tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError, match=r"last\.npz cannot be written: File too large$"):
            train(tmp_path / "run", callbacks=[FillDisk(full_at)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert read_checkpoint(checkpoints / CHECKPOINT).position["step"] == kept
    assert [path.name for path in checkpoints.iterdir()] == [CHECKPOINT]
    assert [row["step"] for row in read_log(tmp_path / "run")] == logged
    model, rows_again = train(tmp_path / "run")
    assert rows_again == rows
    assert state_of(model) == state_of(whole)


def test_tensorboard_has_every_epoch_and_its_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = np.zeros((5, 7, 3), np.uint8)
    _, rows = train(
        tmp_path / "run", evaluate=lambda: {"val_dice": 0.5}, pictures=lambda: {"case_a": picture}
    )
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    losses = [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss")]
    assert [step for step, _ in losses] == [4, 8, 10]
    np.testing.assert_allclose([loss for _, loss in losses], [row["loss"] for row in rows])
    width, height, *pngs = tf.make_ndarray(events.Tensors("case_a")[0].tensor_proto)
    assert (int(width), int(height)) == (7, 5)
    np.testing.assert_array_equal(tf.io.decode_png(pngs[0]), picture)
    assert "val_dice" in events.Tags()["tensors"]


def test_progress_is_a_line_per_epoch_on_stderr(tmp_path, capsys):
    train(tmp_path / "run", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert lines[2].startswith("epoch 3, step 10 of 10: loss ")


def test_a_seed_out_of_range_is_the_users_mistake():
    for seed in (-1, 2**32):
        with pytest.raises(OptionError, match=f"--seed is {seed}; expected 0 to 4294967295"):
            configure_runtime(seed=seed)


RUNTIME = """
import json, sys
import tensorflow as tf, keras
from common.runtime import configure_runtime
if "late" in sys.argv:
    tf.ones(1) + 1
facts = configure_runtime(seed=5, deterministic="free" not in sys.argv,
                          mixed_precision="mixed" in sys.argv, intra_op_threads=2)
layer = keras.layers.Dense(1)
print(json.dumps([facts, layer.compute_dtype, layer.variable_dtype]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected", "dtypes"),
    [
        (["mixed"], {"deterministic": True, "inter_op_threads": 1, "precision": "mixed_bfloat16"},
         ["bfloat16", "float32"]),
        (["free"], {"deterministic": False, "inter_op_threads": 0, "precision": "float32"},
         ["float32", "float32"]),
        (["late"], {"deterministic": False, "inter_op_threads": 0, "intra_op_threads": 0},
         ["float32", "float32"]),
    ],
)  # fmt: skip
def test_runtime_facts_are_those_in_force(words, expected, dtypes):
    done = subprocess.run(
        [sys.executable, "-c", RUNTIME, *words],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts, *found = json.loads(done.stdout)
    assert {key: facts[key] for key in expected} == expected
    assert found == dtypes
    assert facts["xla"] is (bool(facts["gpus"]) and words == ["free"])
    late = "late" in words
    assert len(facts["notes"]) == (2 if late else 0)
    assert facts["intra_op_threads"] == (0 if late else 2)
