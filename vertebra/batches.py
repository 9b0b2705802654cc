"""Training batches of patches."""

from collections.abc import Sequence

import tensorflow as tf

from common.data.batches import make_batches
from common.data.prepared_store import PreparedCase
from vertebra.config import Config
from vertebra.sampling import TrainingSampler


def make_dataset(
    cases: Sequence[PreparedCase], config: Config, seed: int, *, first_step: int, workers: int = 2
) -> tf.data.Dataset:
    """Return the training patches from a step on to the last, `workers` drawn at the same time.

    The patches of a resumed run are those of an unbroken one.
    """
    pair = tf.TensorSpec((*(config.patch_size,) * 3, 2), tf.float32)
    return make_batches(
        TrainingSampler(cases, config, seed=seed),
        element_spec=(pair, {"mask": pair, "completeness": tf.TensorSpec((1,), tf.float32)}),
        batch_size=1,
        first_step=first_step,
        last_step=config.max_steps,
        workers=workers,
    )
