"""One training on several devices: what Keras' own `fit` needs besides the strategy in force.

`common.runtime.configure_runtime` makes a strategy the one of the process. Each of its replicas has
its part of every batch and its part of the loss; gradients are added up. With what is here the
weights are those of one device but for the order of additions. Without a strategy nothing here
changes anything.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.data.batches import sharing_batches
from common.errors import RunError
from common.network.replicas import count_replicas, draw_own_part

STEPS_BETWEEN_CHECKPOINTS = 100
"""Within an epoch, where no other number is given: all workers take part in a checkpoint, so that
no clock can decide."""
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
"""What TensorFlow raises, one or the other, where another worker is gone."""


def is_shared() -> bool:
    """Return whether a strategy is in force."""
    return tf.distribute.has_strategy()


@contextmanager
def sharing_training(model: keras.Model) -> Iterator[None]:
    """Let Keras train a compiled model on all replicas within this block, as on one device.

    The losses must give one number per batch, as functions or with `reduction=None`: Keras leaves
    such a number as it is, and it is divided among the replicas here. A number that is no mean over
    examples must be the whole batch's on every replica (`common.network.replicas`).

    Raises:
        RunError: another worker has ended, by itself or not.
        ValueError: a loss is divided by Keras already.
    """
    if not is_shared():
        yield
        return
    _divide_loss(model)
    model.train_function = _make_step(model)
    # Keras would concatenate what each replica gives for the same images.
    model.predict_function = tf.function(lambda data: model.predict_step(data[0]))
    # Keras builds a model from a batch otherwise, in a way that fails with several workers
    # (keras issue 20585); `build_measures` has built all there is to be.
    model._distribute_strategy = None
    layers = list(model._flatten_layers())
    synchronised = [each for each in layers if hasattr(each, "synchronized")]
    for layer in synchronised:
        layer.synchronized = True
    dropped = [each for each in layers if isinstance(each, keras.layers.Dropout)]
    for layer in dropped:
        layer.call = partial(_drop_own_part, layer)
    try:
        yield
    except tf.errors.OpError as failure:
        if not isinstance(failure, LOST) and "Collective ops is aborted" not in failure.message:
            raise
        raise RunError(
            "another worker of this training has ended, or cannot be reached; give all workers the "
            "same command again: they go on from the last checkpoint"
        ) from failure
    finally:
        for layer in synchronised:  # the stored network is that of one device
            layer.synchronized = False
        for layer in dropped:
            del layer.call  # of this one; the class' own is left


def share_dataset(make_dataset: Callable[[int], tf.data.Dataset], first_step: int) -> tuple:
    """Return the training batches from a step on, for Keras, and what one device gets of them.

    Each worker draws its own part of the same numbered examples.
    """
    if not is_shared():
        dataset = make_dataset(first_step)
        return dataset, dataset.element_spec
    specs = []

    def make_part(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        replicas = context.num_replicas_in_sync // workers
        with sharing_batches(context.input_pipeline_id, workers, replicas):
            part = make_dataset(first_step)
        specs.append(part.element_spec)
        return part

    dataset = tf.distribute.get_strategy().distribute_datasets_from_function(make_part)
    return dataset, specs[0]


def check_same_step(step: int) -> None:
    """Raise `RunError` unless all workers begin at one step, hence have read one checkpoint."""
    if not is_shared():
        return
    steps = _gather([np.int64(step)] * len(_own_replicas())).tolist()
    if len(set(steps)) > 1:
        raise RunError(
            f"the workers begin at different steps ({', '.join(map(str, steps))}, by device); "
            "expected the run folder on a file system that all of them see"
        )


def measures_of(model: keras.Model) -> list[Any]:
    """Return the variables of a model's measures as a checkpoint holds them."""
    if not is_shared():
        return list(model.metrics_variables)
    return [ReplicaValues(variable) for variable in model.metrics_variables]


class ReplicaValues:
    """A measure's variable with the values of all replicas, which are added when it is read.

    A checkpoint that held their sum would go on with other roundings. All workers must read it
    together.
    """

    def __init__(self, variable: keras.Variable) -> None:
        self.path, self.dtype = variable.path, variable.dtype
        self._own = tf.distribute.get_strategy().experimental_local_results(variable.value)
        self.shape = (tf.distribute.get_strategy().num_replicas_in_sync, *variable.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return _gather([part.numpy() for part in self._own])

    def assign(self, values: np.ndarray) -> None:
        """Give every replica its value."""
        for number, part in zip(_own_replicas(), self._own, strict=True):
            part.assign(values[number])


def _own_replicas() -> list[int]:
    """Return the numbers of this process' replicas among all."""
    strategy = tf.distribute.get_strategy()
    numbers = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group)
    )
    return [int(number) for number in strategy.experimental_local_results(numbers)]


def _gather(own: Sequence[np.ndarray]) -> np.ndarray:
    """Return the arrays of all replicas, (replicas, ...), from those of this process."""
    strategy, local = tf.distribute.get_strategy(), dict(zip(_own_replicas(), own, strict=True))

    def place(context: tf.distribute.ReplicaContext) -> tf.Tensor:
        number, everyone = context.replica_id_in_sync_group, context.num_replicas_in_sync
        placed = np.zeros((everyone, *local[number].shape), local[number].dtype)
        placed[number] = local[number]
        return tf.constant(placed)

    # Adding zeros changes no bit, and needs no order among the replicas.
    placed = strategy.experimental_distribute_values_from_function(place)
    return strategy.reduce("SUM", placed, axis=None).numpy()


def _divide_loss(model: keras.Model) -> None:
    """Give every replica its part of the loss; penalties on weights are divided by Keras."""
    for loss in keras.tree.flatten(model.loss):
        if isinstance(loss, str) or getattr(loss, "reduction", None) is not None:
            raise ValueError(
                f"the loss {loss} is divided by Keras: give a function or no reduction"
            )
    compute = model.compute_loss

    @wraps(compute)
    def compute_part(*arguments, **options):
        return compute(*arguments, **options) / count_replicas()

    model.compute_loss = compute_part
    model._aggregate_additional_loss = keras.ops.sum  # divided with the rest


def _make_step(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Return Keras' training step on all replicas; what it logs is the mean over them."""
    strategy, names = tf.distribute.get_strategy(), []

    def train_part(data):
        logs = model.train_step(data)
        names[:] = logs
        return tf.stack([tf.cast(value, tf.float32) for value in logs.values()])

    @tf.function(reduce_retracing=True)
    def step(batches):
        logs = strategy.run(train_part, args=(next(batches),))
        means = strategy.reduce("MEAN", logs, axis=None)
        return dict(zip(names, tf.unstack(means), strict=True))

    return step


def _drop_own_part(layer: keras.layers.Dropout, inputs, training: bool = False):
    """Do as the layer does, with the whole batch's mask."""
    if not training or layer.rate <= 0:
        return inputs

    def draw(shape):
        whole = tf.ones(shape, inputs.dtype)
        return keras.random.dropout(whole, layer.rate, layer.noise_shape, layer.seed_generator)

    return inputs * draw_own_part(draw, keras.ops.shape(inputs))
