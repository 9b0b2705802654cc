"""A small training on one device or several; `test_strategy.py` starts, kills and restarts it.

usage: strategy_job.py RUN WAY FEATURES STEPS
WAY is one, mirrored (two logical devices) or multiworker (TF_CONFIG); FEATURES some of
norm,dropout.
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
from common.errors import UserError
from common.network.losses import sparse_cross_entropy
from common.network.meters import LabelDice
from common.runs.folder import open_run
from common.runtime import configure_runtime
from common.training.loop import fit

BATCH, STEPS_PER_EPOCH, EDGE = 4, 5, 8


class StepPrinter(keras.callbacks.Callback):
    """Tells the test, which waits for it, how far training is."""

    def on_train_batch_end(self, batch, logs=None):
        print(int(self.model.optimizer.iterations.numpy()), flush=True)


def build_model(features: list[str]) -> keras.Model:
    x = image = keras.Input((EDGE, EDGE, EDGE, 1))
    for level, filters in enumerate((4, 4)):
        penalty = keras.regularizers.L2(1e-3)
        x = keras.layers.Conv3D(filters, 3, padding="same", kernel_regularizer=penalty)(x)
        if "norm" in features:
            x = keras.layers.BatchNormalization(name=f"norm_{level}")(x)
        x = keras.layers.ReLU()(x)
        if "dropout" in features:
            x = keras.layers.Dropout(0.3)(x)
    return keras.Model(image, keras.layers.Conv3D(2, 1)(x))


def make_dataset(first_step: int, last_step: int) -> tf.data.Dataset:
    def draw(index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = rng_for(7, index)
        image = rng.normal(size=(EDGE, EDGE, EDGE, 1)).astype(np.float32)
        label = (image[..., 0] > rng.uniform()).astype(np.int32)
        return image, label

    image = tf.TensorSpec((EDGE, EDGE, EDGE, 1), tf.float32)
    label = tf.TensorSpec((EDGE, EDGE, EDGE), tf.int32)
    return make_batches(
        draw, element_spec=(image, label), batch_size=BATCH, first_step=first_step,
        last_step=last_step,
    )  # fmt: skip


def main(path: str, way: str, features: str, steps: int) -> None:
    strategy = None if way == "one" else way
    if way == "mirrored":
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    with open_run(
        path, paper="job", options={}, config={"steps": steps}, seed=3, strategy=strategy
    ) as run:
        run.record(runtime=configure_runtime(seed=3, intra_op_threads=1, strategy=strategy))
        model = build_model(features.split(","))
        schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.7, staircase=True)
        model.compile(
            optimizer=keras.optimizers.Adam(schedule, epsilon=1e-3),
            loss=sparse_cross_entropy,
            metrics=[LabelDice(1, name="dice")],
            jit_compile=False,
        )
        held_out = next(iter(make_dataset(10_000, 10_001)))[0].numpy()

        def evaluate() -> dict[str, float]:
            logits = model.predict_on_batch(held_out)
            assert len(logits) == BATCH
            return {"val_mean": float(np.mean(logits, dtype=np.float64))}

        fit(
            model,
            lambda first_step: make_dataset(first_step, steps),
            run=run,
            max_steps=steps,
            steps_per_epoch=STEPS_PER_EPOCH,
            checkpoint_every=2,
            evaluate=evaluate,
            callbacks=[StepPrinter()],
            progress=False,
        )
        state = [*model.variables, *model.optimizer.variables]
        np.savez(run.path / "final.npz", *[np.asarray(variable) for variable in state])


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
