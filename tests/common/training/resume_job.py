"""A small training as a paper's `train` does it; `test_resume.py` starts, kills and restarts it.

usage: resume_job.py RUN EDGE STEPS
Prints the number of every step that is done.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import keras
import numpy as np
import tensorflow as tf

from common.data.batches import make_batches
from common.data.rng import rng_for
from common.runs.folder import open_run
from common.runtime import configure_runtime
from common.training.loop import fit

BATCH, STEPS_PER_EPOCH = 2, 8


class WeightAverage(keras.callbacks.Callback):
    """An exponential average of the weights before each update, warmed up as in TensorFlow 1."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.variables = [keras.Variable(w, trainable=False) for w in model.trainable_variables]

    def on_train_batch_begin(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        decay = min(0.9999, (1 + step) / (10 + step))
        for average, weight in zip(self.variables, self.model.trainable_variables, strict=True):
            average.assign_sub((1 - decay) * (average - weight))


class StepPrinter(keras.callbacks.Callback):
    """Tells the test, which waits for it, how far training is."""

    def on_train_batch_end(self, batch, logs=None):
        print(int(self.model.optimizer.iterations), flush=True)


def build_model(edge: int) -> keras.Model:
    image = keras.Input((edge, edge, edge, 1), name="image")
    x = image
    for level in range(3):
        x = keras.layers.Conv3D(12, 3, padding="same", name=f"conv_{level}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{level}")(x)
        x = keras.layers.ReLU(name=f"relu_{level}")(x)
        x = keras.layers.Dropout(0.3, name=f"dropout_{level}")(x)
    logits = keras.layers.Conv3D(2, 1, name="logits")(x)
    # Its size makes writing a checkpoint long enough to be killed in.
    bulk = keras.layers.Dense(400, name="bulk_in")(keras.layers.Flatten()(image[:, ::4, ::4, ::4]))
    bulk = keras.layers.Dense(2, kernel_initializer="zeros", name="bulk_out")(bulk)
    logits = logits + keras.layers.Reshape((1, 1, 1, 2))(bulk)
    return keras.Model(image, logits)


def make_dataset(edge: int, first_step: int, last_step: int) -> tf.data.Dataset:
    def draw(index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = rng_for(7, index)
        image = rng.normal(size=(edge, edge, edge, 1)).astype(np.float32)
        corner = rng.integers(0, edge // 2, 3)
        inside = tuple(slice(low, low + edge // 2) for low in corner)
        label = np.zeros((edge, edge, edge), np.int32)
        label[inside] = 1
        image[inside] += 1.5
        return image, label

    return make_batches(
        draw,
        element_spec=(
            tf.TensorSpec((edge, edge, edge, 1), tf.float32),
            tf.TensorSpec((edge, edge, edge), tf.int32),
        ),
        batch_size=BATCH,
        first_step=first_step,
        last_step=last_step,
    )


def main(path: str, edge: int, steps: int) -> None:
    config = {"edge": edge, "steps": steps}
    with open_run(path, paper="job", options={}, config=config, seed=3) as run:
        run.record(runtime=configure_runtime(seed=3))
        model = build_model(edge)
        schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.7, staircase=True)
        model.compile(
            optimizer=keras.optimizers.Adam(schedule),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=run.manifest["runtime"]["xla"],
        )
        average = WeightAverage(model)
        held_out = next(iter(make_dataset(edge, 10_000, 10_001)))

        def evaluate() -> dict[str, float]:
            logits = model(held_out[0], training=False)
            return {"val_mean": float(np.mean(np.asarray(logits, np.float64)))}

        rows = fit(
            model,
            lambda first_step: make_dataset(edge, first_step, steps),
            run=run,
            max_steps=steps,
            steps_per_epoch=STEPS_PER_EPOCH,
            checkpoint_every=3,
            evaluate=evaluate,
            pictures=lambda: {"slice": np.zeros((8, 8, 3), np.uint8)},
            callbacks=[average, StepPrinter()],
        )
        assert [row["step"] for row in rows] == [*range(8, steps, 8), steps]
        state = [*model.variables, *model.optimizer.variables, *average.variables]
        np.savez(run.path / "final.npz", *[np.asarray(variable) for variable in state])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
