"""Sliding windows as TensorFlow graphs, for signatures that take whole scans.

What `common.inference.windows` does with numpy, one axis at a time and with sizes that are known
only when the graph is served.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf


def window_starts(size, window, stride: int) -> tf.Tensor:
    """Return the starts 0, stride, 2 stride, ...; the last is moved back to end at `size`."""
    count = tf.maximum(-(-(size - window) // stride), 0) + 1
    return tf.minimum(tf.range(count) * stride, size - window)


def cut_axis(array: tf.Tensor, axis: int, starts: tf.Tensor, edge) -> tf.Tensor:
    """Replace an axis by two: the windows along it, and the voxels of each."""
    return tf.gather(array, starts[:, tf.newaxis] + tf.range(edge), axis=axis)


def add_axis(windows: tf.Tensor, axis: int, starts: tf.Tensor, size) -> tf.Tensor:
    """Sum windows where they overlap, the reverse of `cut_axis`.

    Args:
        windows: with the windows along `axis` and the voxels of each along the next one.
        axis: of the result.
        starts: first voxel of each window.
        size: voxels of the axis in the result.
    """
    rest = [other for other in range(windows.shape.rank) if other not in (axis, axis + 1)]
    in_front = tf.transpose(windows, [axis, axis + 1, *rest])
    shape = tf.shape(in_front)
    places = tf.reshape(starts[:, tf.newaxis] + tf.range(shape[1]), [-1])
    flat = tf.reshape(in_front, tf.concat([[shape[0] * shape[1]], shape[2:]], axis=0))
    sums = tf.math.unsorted_segment_sum(flat, places, size)
    order = [*range(1, axis + 1), 0, *range(axis + 1, windows.shape.rank - 1)]
    return tf.transpose(sums, order)


def apply_in_batches(
    apply: Callable[[tf.Tensor], tf.Tensor],
    windows: tf.Tensor,
    *,
    batch_size: int,
    output_shape: Sequence[int | None],
) -> tf.Tensor:
    """Apply a function to a few windows at a time; memory does not grow with their number.

    Args:
        apply: (b, ...) -> (b, *output_shape), for any b up to batch_size.
        windows: (n, ...).
        batch_size: windows at a time.
        output_shape: of one output, as far as it is known.

    Returns:
        (n, *output_shape) float32.
    """
    count = tf.shape(windows)[0]
    rounds = -(-count // batch_size)
    outputs = tf.TensorArray(
        tf.float32, size=rounds, infer_shape=False, element_shape=(None, *output_shape)
    )

    def one_batch(number, outputs):
        batch = windows[number * batch_size : (number + 1) * batch_size]
        return number + 1, outputs.write(number, apply(batch))

    _, outputs = tf.while_loop(
        lambda number, _: number < rounds, one_batch, (0, outputs), parallel_iterations=1
    )
    return tf.ensure_shape(outputs.concat(), (None, *output_shape))


def sum_in_double(array: tf.Tensor, transform: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Sum a function of float64 values over all but the last axis, one slice in memory at a time.

    Args:
        array: (first axis, ..., last axis), any real dtype.
        transform: of the float64 values of one slice along the first axis.

    Returns:
        (last axis,) float64.
    """

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


def join_tiles(
    compute: Callable[..., tf.Tensor], counts: Sequence[tf.Tensor], *, channels: int
) -> tf.Tensor:
    """Put together a volume from disjoint tiles that lie on a grid, each computed once.

    Args:
        compute: numbers of a tile along the three axes, scalar tensors -> tile
            (first, second, third, channels) float32; tiles of one row agree in their other edges.
        counts: tiles along each axis, scalar tensors.
        channels: of a tile.

    Returns:
        The volume, float32. Beside it and its copy, one tile is in memory.
    """
    unknown = (None, None, None, channels)

    def along(axis: int, numbers: tuple) -> tf.Tensor:
        if axis == 3:
            return tf.ensure_shape(compute(*numbers), unknown)
        front = [axis, *(other for other in range(4) if other != axis)]
        shape = tuple(unknown[other] for other in front)
        parts = tf.TensorArray(
            tf.float32, size=counts[axis], infer_shape=False, element_shape=shape
        )

        def add(number, parts):
            part = tf.transpose(along(axis + 1, (*numbers, number)), front)
            return number + 1, parts.write(number, part)

        _, parts = tf.while_loop(
            lambda number, _: number < counts[axis], add, (0, parts), parallel_iterations=1
        )
        back = [*range(1, axis + 1), 0, *range(axis + 1, 4)]
        return tf.ensure_shape(tf.transpose(parts.concat(), back), unknown)

    return along(0, ())
