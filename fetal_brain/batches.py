"""Training batches of patches."""

from collections.abc import Sequence

import tensorflow as tf

from common.data.batches import make_batches
from common.data.prepared_store import PreparedCase
from fetal_brain.config import Config, input_shape
from fetal_brain.sampling import TrainingSampler


def make_dataset(
    cases: Sequence[PreparedCase],
    config: Config,
    seed: int,
    *,
    first_step: int = 0,
    workers: int = 2,
) -> tf.data.Dataset:
    """Return the training batches from a step on to the last, `workers` patches drawn at a time.

    The batches of a resumed run are those of an unbroken one.
    """
    shape = input_shape(config)
    return make_batches(
        TrainingSampler(cases, config, seed=seed),
        element_spec=(tf.TensorSpec(shape, tf.float32), tf.TensorSpec(shape[:-1], tf.int32)),
        batch_size=config.batch_size,
        first_step=first_step,
        last_step=config.max_steps,
        workers=workers,
    )
