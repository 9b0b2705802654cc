"""TensorFlow functions as functions of arrays: `predict` and validation run what is exported."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf


def on_arrays(function: Callable, *inputs: tf.TensorSpec) -> Callable:
    """Return a TensorFlow function as one from arrays to arrays, compiled once for all sizes.

    Args:
        function: tensors -> a tensor, or a dict or tuple of tensors.
        inputs: what it takes; sizes that may vary are None. Arrays are cast to these dtypes.
    """
    compiled = tf.function(function, input_signature=inputs, autograph=False)

    def run(*arrays: np.ndarray):
        tensors = [
            tf.identity(np.asarray(array, spec.dtype.as_numpy_dtype))  # a constant keeps two copies
            for array, spec in zip(arrays, inputs, strict=True)
        ]
        return tf.nest.map_structure(np.asarray, compiled(*tensors))

    return run


def compiled_on_gpu(network: keras.Model) -> Callable:
    """Return a network's pass at inference, compiled by XLA where there is a GPU.

    On a CPU XLA would take several times as long, and an exported graph must not ask for it.
    """
    if not tf.config.list_physical_devices("GPU"):
        return network

    @tf.function(jit_compile=True)
    def call(inputs, training=False):
        return network(inputs, training=training)

    return call
