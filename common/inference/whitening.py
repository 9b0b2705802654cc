"""Zero mean and unit variance as a TensorFlow graph, for functions that take scans as they are."""

from collections.abc import Callable

import tensorflow as tf


def sum_in_double(array: tf.Tensor, transform: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Sum a function of float64 slices over all but the last axis; one slice is held at a time."""

    def of_slice(plane):
        values = transform(tf.cast(plane, tf.float64))
        return tf.reduce_sum(values, axis=list(range(array.shape.rank - 2)))

    spec = tf.TensorSpec((array.shape[-1],), tf.float64)
    sums = tf.map_fn(of_slice, array, fn_output_signature=spec, parallel_iterations=1)
    return tf.reduce_sum(sums, axis=0)


def whiten_in_graph(array: tf.Tensor, *, least_deviation: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Give every channel zero mean and unit variance over all voxels, statistics in float64.

    Args:
        array: (first axis, ..., channels) float32.
        least_deviation: what is divided by at least; 0: a constant channel becomes zeros.

    Returns:
        The same shape, float32.
    """
    count = tf.cast(tf.reduce_prod(tf.shape(array)[:-1]), tf.float64)
    mean = sum_in_double(array, lambda values: values) / count
    squares = sum_in_double(array, lambda values: tf.square(values - mean))
    deviation = tf.maximum(tf.sqrt(squares / count), least_deviation)
    axes = list(range(array.shape.rank - 1))
    # Not `deviation == 0`: the mean of equal numbers may be off by one rounding.
    constant = tf.equal(tf.reduce_min(array, axes), tf.reduce_max(array, axes))

    def of_slice(plane):
        values = tf.math.divide_no_nan(tf.cast(plane, tf.float64) - mean, deviation)
        return tf.where(constant, 0.0, tf.cast(values, tf.float32))

    spec = tf.TensorSpec(array.shape[1:], tf.float32)
    return tf.map_fn(of_slice, array, fn_output_signature=spec, parallel_iterations=1)
