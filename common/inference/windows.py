"""Sliding windows over a volume: where they lie, and stitching their outputs by averaging.

Volumes are (Z, Y, X, channels). The windows of a volume form a grid: along every axis they start at
0, stride, 2 stride, ... and the one that reaches the end is pushed back to end with the volume.
All functions are TensorFlow's, for sizes that are known only when a volume is there: what is called
with arrays here is what an exported model holds.

Source: DLTK dltk/utils.py, SlidingWindow and sliding_window_segmentation_inference, which hold the
whole volume in double precision; here the sums of a few slices are held at a time.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

Size = int | tf.Tensor


def window_starts(size: Size, window: Size, stride: int) -> tf.Tensor:
    """Return 0, stride, 2 stride, ...; the last start is moved back to size - window."""
    tf.debugging.assert_less_equal(window, size, "a window does not fit into the volume")
    count = -(-(size - window) // stride) + 1
    return tf.minimum(tf.range(count) * stride, size - window)


def window_corners(shape: tf.Tensor, window: Sequence[Size], stride: Sequence[int]) -> tf.Tensor:
    """Return the first voxel of every window, (n, 3) int32; the last axis varies fastest."""
    starts = [window_starts(shape[axis], window[axis], stride[axis]) for axis in range(3)]
    return tf.reshape(tf.stack(tf.meshgrid(*starts, indexing="ij"), axis=-1), (-1, 3))


def stitch_windows(
    volume: tf.Tensor,
    apply: Callable[[tf.Tensor], tf.Tensor],
    *,
    window: Sequence[Size],
    stride: Sequence[int],
    batch_size: int,
    channels: int,
    output_window: Sequence[Size] | None = None,
    count_last_window_twice: bool = False,
    keep: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    progress: Callable[[int, int], None] | None = None,
) -> tf.Tensor:
    """Apply a function to all windows of a volume and average its outputs where they overlap.

    Windows are taken by their start along the first axis, and a slice is finished as soon as no
    later window touches it. Beside the volume and the result, one batch is held and the sums of
    the slices that it touches, whatever the depth of the volume.

    Args:
        volume: (Z, Y, X, channels), at least the output window along every axis.
        apply: windows (b, *window, channels) -> outputs (b, *output_window, C), for any b up to
            `batch_size`.
        window: voxels of a window per axis (z, y, x).
        stride: voxels between windows per axis, the same in the volume and in the output.
        batch_size: windows per call of `apply`.
        channels: C, of the output.
        output_window: voxels of the output per axis, `window` if None. Where it is smaller by d,
            the volume is continued with zeros, d // 2 voxels before it and d - d // 2 after it.
        count_last_window_twice: evaluate and add the last window twice, as DLTK's loop does.
        keep: what is kept of finished slices: of their means (n, Y, X, C) float32, taken in
            float64, a tensor (n, ...), such as their labels.
        progress: called after every batch with the windows done and the windows in all. It is
            Python, so a graph with it cannot be exported.

    Returns:
        What was kept of all slices, (Z, ...).

    Raises:
        tf.errors.InvalidArgumentError: a window does not fit, or a stride leaves voxels out.
    """
    output_window = window if output_window is None else output_window
    shape = tf.shape(volume)[:3]
    corners = window_corners(shape, output_window, stride)
    longest = tf.minimum(stride, shape - output_window)
    tf.debugging.assert_less_equal(longest, output_window, "a stride leaves out voxels")
    if count_last_window_twice:
        corners = tf.concat([corners, corners[-1:]], axis=0)
    # A slice is finished before the first batch that begins behind it.
    stops = tf.concat([corners[batch_size::batch_size, 0], shape[:1]], axis=0)
    volume = continue_with_zeros(volume, window, output_window)

    def add_batch(number, sums, finished):
        batch = slice(number * batch_size, (number + 1) * batch_size)
        chosen = corners[batch]
        first, end = chosen[0, 0], chosen[-1, 0] + output_window[0]
        outputs = apply(cut_windows(volume, chosen, window))
        sums = tf.pad(sums, [[0, end - first - tf.shape(sums)[0]], [0, 0], [0, 0], [0, 0]])
        sums = add_windows(sums, outputs, chosen - [[first, 0, 0]], output_window)
        done = sums[: stops[number] - first]
        means = tf.cast(done[..., :channels] / done[..., channels:], tf.float32)
        if progress is not None:
            count = tf.shape(corners)[0]
            tf.py_function(progress, [tf.minimum(batch.stop, count), count], [])
        return number + 1, sums[stops[number] - first :], finished.write(number, keep(means))

    kept = keep(tf.zeros((1, 1, 1, channels)))
    finished = tf.TensorArray(
        kept.dtype, size=tf.size(stops), infer_shape=False,
        element_shape=(None, None, None, *kept.shape[3:]),
    )  # fmt: skip
    sums = tf.zeros([0, shape[1], shape[2], channels + 1], tf.float64)
    varying = tf.TensorShape((None, None, None, channels + 1))
    _, _, finished = tf.while_loop(
        lambda number, *_: number < tf.size(stops),
        add_batch,
        (0, sums, finished),
        shape_invariants=(tf.TensorShape(()), varying, tf.TensorShape(None)),
        parallel_iterations=1,
    )
    return finished.concat()


def continue_with_zeros(
    volume: tf.Tensor, window: Sequence[Size], output_window: Sequence[Size]
) -> tf.Tensor:
    """Surround a volume by what windows reach beyond their outputs, half of it on each side."""
    lost = [edge - part for edge, part in zip(window, output_window, strict=True)]
    return tf.pad(volume, [*([voxels // 2, voxels - voxels // 2] for voxels in lost), [0, 0]])


def cut_windows(volume: tf.Tensor, corners: tf.Tensor, window: Sequence[Size]) -> tf.Tensor:
    """Return the windows at some corners, (n, 3) int32, of a volume: (n, *window, channels)."""
    voxels = tf.reshape(volume, (-1, volume.shape[-1]))
    return tf.gather(voxels, number_voxels(tf.shape(volume), corners, window))


def add_windows(
    sums: tf.Tensor, outputs: tf.Tensor, corners: tf.Tensor, window: Sequence[Size]
) -> tf.Tensor:
    """Add outputs (n, *window, C) to the sums of their voxels, and ones to the last channel."""
    outputs = tf.cast(outputs, tf.float64)
    counted = tf.concat([outputs, tf.ones_like(outputs[..., :1])], axis=-1)
    places = number_voxels(tf.shape(sums), corners, window)[..., tf.newaxis]
    voxels = tf.reshape(sums, (-1, sums.shape[-1]))
    return tf.reshape(tf.tensor_scatter_nd_add(voxels, places, counted), tf.shape(sums))


def number_voxels(shape: tf.Tensor, corners: tf.Tensor, window: Sequence[Size]) -> tf.Tensor:
    """Return the flat indices of the voxels of windows in a volume, (n, *window) int32."""
    z, y, x = (corners[:, axis, tf.newaxis] + tf.range(window[axis]) for axis in range(3))
    rows = z[:, :, tf.newaxis] * shape[1] + y[:, tf.newaxis]
    return rows[..., tf.newaxis] * shape[2] + x[:, tf.newaxis, tf.newaxis]
