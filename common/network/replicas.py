"""What layers and losses need where several devices share a batch: sums and draws over all of it.

Each device, a replica of the network, has its part of the batch, all parts of one size. Without a
strategy, and on other backends than TensorFlow, everything here leaves its argument as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


def count_replicas() -> int:
    """Return how many devices share the step that is being computed; 1 outside of such a step."""
    if keras.config.backend() != "tensorflow":
        return 1
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def sum_over_replicas(x):
    """Return the sum of a tensor's values on all replicas, which all of them receive.

    Its gradient is the sum of the replicas' gradients, as it is where each of them has its share of
    the loss (`common.training.strategy`).
    """
    if count_replicas() == 1:
        return x
    return tf.distribute.get_replica_context().all_reduce("SUM", x)


def mean_over_replicas(x):
    """Return the mean of a tensor's values on all replicas; see `sum_over_replicas`."""
    return x if count_replicas() == 1 else sum_over_replicas(x) / count_replicas()


def draw_own_part(draw: Callable[[Sequence], Any], shape: Sequence):
    """Draw random numbers for the whole batch and return those of this replica's part.

    All replicas have the same random state: each would draw the numbers of the first otherwise.

    Args:
        draw: shape -> tensor of that shape.
        shape: (batch, ...) of this replica's part.
    """
    replicas = count_replicas()
    if replicas == 1:
        return draw(shape)
    part = tf.distribute.get_replica_context().replica_id_in_sync_group
    return draw((replicas * shape[0], *shape[1:]))[part * shape[0] : (part + 1) * shape[0]]
