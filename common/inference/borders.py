"""Continuing a volume beyond its border, for windows that reach over it."""

from collections.abc import Sequence

import tensorflow as tf


def extend(array: tf.Tensor, least: Sequence[int | tf.Tensor], value=0) -> tf.Tensor:
    """Continue the first axes of an array at their far end where they are shorter than asked.

    Args:
        array: of any type.
        least: sizes per axis, for as many axes as are extended.
        value: what it is continued with.
    """
    missing = tf.maximum(tf.stack(least) - tf.shape(array)[: len(least)], 0)
    around = tf.stack([tf.zeros_like(missing), missing], axis=1)
    rest = tf.zeros((array.shape.rank - len(least), 2), tf.int32)
    padded = tf.pad(array, tf.concat([around, rest], axis=0), constant_values=value)
    return tf.ensure_shape(padded, (*[None] * len(least), *array.shape[len(least) :]))


def reflect(array: tf.Tensor, axis: int, before: int | tf.Tensor, after: int | tf.Tensor):
    """Reflect an axis at both ends by any number of elements, as numpy's `pad` does."""
    size = tf.shape(array)[axis]
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(tf.range(-before, size + after), period)
    return tf.gather(array, tf.where(index < size, index, period - index), axis=axis)
