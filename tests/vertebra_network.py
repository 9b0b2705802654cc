"""The vertebra network on a recorded patch, here or in a process whose memory goes back."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import keras
import numpy as np
import tensorflow as tf

from vertebra.model import connect
from vertebra.original_weights import assign_original


def run_all_apart(config, weights, patch):
    """`run_all` in a process of its own: TensorFlow never gives back what it once took."""
    with ProcessPoolExecutor(1, get_context("spawn"), compute_one_by_one) as pool:
        return pool.submit(run_all, config, weights, patch).result()


def compute_one_by_one():
    """Run one operation at a time, so that no activation is held for longer than it must be."""
    tf.config.threading.set_inter_op_parallelism_threads(1)


def run_all(config, weights, patch):
    """All named tensors of the network for a patch (1, 2, z, y, x), the original's layout.

    Of blocks with several channels the mean and deviation of each, since at full width a block's
    activation is half a gigabyte.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    patch = np.moveaxis(patch, 1, -1).astype(np.float32)
    inputs = keras.Input(patch.shape[1:])
    model = keras.Model(inputs, connect(inputs, config))
    assign_original(model, weights)

    @tf.function
    def run(patch):
        tensors = model(patch, training=False)
        return {name: moments(tensor) if "@" in name and tensor.shape[-1] > 1 else tensor
                for name, tensor in tensors.items()}  # fmt: skip

    return {name: tensor.numpy() for name, tensor in run(tf.constant(patch)).items()}


def moments(tensor):
    """Mean and population deviation of the channels of (1, z, y, x, channels): (2, channels).

    In float64, plane by plane: float32 sums over a volume are wrong in the third digit.
    """

    def average(function):
        def of_plane(number):
            return tf.reduce_mean(function(tf.cast(tensor[0, number], tf.float64)), (0, 1))

        # By number: `map_fn` would copy the planes themselves, all at once.
        numbers = tf.range(tensor.shape[1])
        return tf.reduce_mean(tf.map_fn(of_plane, numbers, fn_output_signature=tf.float64), axis=0)

    mean = average(lambda plane: plane)
    return tf.stack([mean, tf.sqrt(average(lambda plane: (plane - mean) ** 2))])
