"""Training batches of patches."""

from typing import Any

import tensorflow as tf

from common.data.batches import make_batches
from sarcoma.config import LABEL, Config
from sarcoma.sampling import PatchSampler, sizes_of


def element_spec(config: Config) -> Any:
    """Return the `tf.TensorSpec` of one example's x and y."""
    sizes, channels = sizes_of(config), len(config.modalities)
    image = tf.TensorSpec((sizes.input, sizes.input, channels), tf.float32)
    if config.architecture == "cascade":
        centre = tf.TensorSpec((LABEL, LABEL, channels), tf.float32)
        return (image, centre), tf.TensorSpec((), tf.int32)
    if config.architecture == "dilated":
        return image, tf.TensorSpec((sizes.output, sizes.output), tf.int32)
    return image, tf.TensorSpec((sizes.output, sizes.output, 1), tf.float32)


def make_dataset(
    sampler: PatchSampler, *, first_step: int, last_step: int, workers: int = 2
) -> tf.data.Dataset:
    """Return the training batches from a step on, `workers` patches drawn at the same time.

    The batches of a resumed run are those of an unbroken one.
    """
    return make_batches(
        sampler,
        element_spec=element_spec(sampler.config),
        batch_size=sampler.config.batch_size,
        first_step=first_step,
        last_step=last_step,
        workers=workers,
    )
