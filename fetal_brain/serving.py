"""The signatures of the exported network: whole scans and patches, as TensorFlow graphs.

The sliding window of `fetal_brain.inference` written with TensorFlow loops, so that a server needs
neither Python nor this package. Axis order (Z, Y, X).
"""

import keras
import numpy as np
import tensorflow as tf

from common.export import Endpoint, Example
from common.normalisation import whiten
from fetal_brain.config import Config
from fetal_brain.inference import PLANE_MULTIPLE, make_apply, segment, window_probabilities
from fetal_brain.predict import write_ids
from fetal_brain.sampling import patch_shapes


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (Z, Y, X) float32 in scanner units -> labels (Z, Y, X) uint8 (int32
    where an id does not fit).
    `probabilities`: the same image -> probabilities (Z, Y, X, C) float32.
    `patches`: x, whitened patches in the network's own shape -> logits, y_prob, y_ (int64), the
    original's names.

    Args:
        network: a network of `build_for_any_plane(config)`.
        config: its configuration; the inference fields become part of the graph.
    """
    image = tf.TensorSpec((None, None, None), tf.float32, name="image")
    patches = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="x")
    ids = tf.constant(served_ids(config))

    def serve_labels(image):
        classes = tf.argmax(segment_in_graph(network, image, config), axis=-1)
        return {"labels": tf.gather(ids, classes)}

    def serve_probabilities(image):
        return {"probabilities": segment_in_graph(network, image, config)}

    def serve_patches(x):
        logits = network(x, training=False)
        return {
            "logits": logits,
            "y_prob": tf.nn.softmax(logits),
            "y_": tf.argmax(logits, axis=-1),  # [F24]
        }

    return [
        Endpoint("serving_default", serve_labels, [image]),
        Endpoint("probabilities", serve_probabilities, [image]),
        Endpoint("patches", serve_patches, [patches]),
    ]


def make_examples(network: keras.Model, config: Config) -> dict[str, Example]:
    """Return what every signature is compared on: seeded noise with a bright body.

    Expected are the results of the Python path that `predict` takes, and of Keras on the patches.
    """
    rng = np.random.default_rng(0)
    least = config.patch_shape
    if not config.pad_small_volumes:
        least = np.maximum(least, config.window)
    depth, rows, columns = least
    scan = rng.normal(300.0, 60.0, (depth + 2, rows + 9, columns + 20)).astype(np.float32)
    scan[:, rows // 4 : rows // 2, columns // 4 : columns // 2] += 250.0
    slabs = [slab for _, slab in segment(make_apply(network, config), whiten(scan), config)]
    probabilities = np.concatenate(slabs)
    labels = served_ids(config)[probabilities.argmax(axis=-1)]
    patch = rng.normal(size=(2, *patch_shapes(config)[0])).astype(np.float32)
    logits = network.predict_on_batch(patch)
    return {
        "serving_default": Example({"image": scan}, {"labels": labels}),
        "probabilities": Example({"image": scan}, {"probabilities": probabilities}),
        "patches": Example({"x": patch}, {"logits": logits, "y_": logits.argmax(axis=-1)}),
    }


def served_ids(config: Config) -> np.ndarray:
    """Return what each class is served as, (classes,) uint8, or int32 where an id does not fit."""
    ids = write_ids(np.arange(len(config.label_ids)), config)
    return ids.astype(np.uint8) if 0 <= ids.min() and ids.max() <= 255 else ids


def segment_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the averaged class probabilities of a raw scan as a graph of TensorFlow operations.

    Slices are finished one after the other: only the running sums of one window's depth are kept,
    as in `fetal_brain.inference.segment`.

    Args:
        network: a network of `build_for_any_plane(config)`.
        image: (Z, Y, X) float32, scanner units.
        config: uses the inference fields.

    Returns:
        (Z, Y, X, C) float32.
    """
    shape = tf.shape(image)
    padded, window = pad_to_windows(whiten_in_graph(image), config)
    depth = config.window[0]
    reach = 1 if config.slices_as_channels else depth
    if config.slices_as_channels:  # the middle slice is segmented: one slice of zeros around
        margin = depth - reach
        padded = tf.pad(padded, [[margin // 2, margin - margin // 2], [0, 0], [0, 0]])
    steps = tf.shape(padded)[0] - depth + 1
    starts = window_starts_in_graph(steps + depth - 1, depth, config.window_stride[0])
    plane = tf.shape(padded)[1:]
    classes = len(config.label_ids)

    def finish_slice(first, sums, counts, slices):
        chosen = tf.reduce_any(tf.equal(starts, first))
        added, weights = tf.cond(
            chosen,
            lambda: segment_slab(network, padded[first : first + depth], window, config,
                                 last=tf.equal(first, steps - 1)),
            lambda: (tf.zeros_like(sums), tf.zeros_like(counts)),
        )  # fmt: skip
        sums, counts = sums + added, counts + weights
        slices = slices.write(first, tf.cast(sums[0] / counts[0], tf.float32))
        sums = tf.concat([sums[1:], tf.zeros_like(sums[:1])], axis=0)
        counts = tf.concat([counts[1:], tf.zeros_like(counts[:1])], axis=0)
        return (first + 1, tf.ensure_shape(sums, (reach, None, None, classes)),
                tf.ensure_shape(counts, (reach, None, None, 1)), slices)  # fmt: skip

    total = steps + reach - 1
    sums = tf.zeros([reach, plane[0], plane[1], classes], tf.float64)
    counts = tf.zeros([reach, plane[0], plane[1], 1], tf.float64)
    _, sums, counts, slices = tf.while_loop(
        lambda first, *_: first < steps,
        finish_slice,
        (
            0,
            tf.ensure_shape(sums, (reach, None, None, classes)),
            tf.ensure_shape(counts, (reach, None, None, 1)),
            tf.TensorArray(tf.float32, size=total, element_shape=(None, None, classes)),
        ),
    )
    for offset in range(reach - 1):
        last = tf.cast(sums[offset] / counts[offset], tf.float32)
        slices = slices.write(steps + offset, last)
    return slices.stack()[: shape[0], : shape[1], : shape[2]]


def segment_slab(network, slab: tf.Tensor, window, config: Config, *, last: tf.Tensor):
    """Apply the network to every in-plane window of one slab.

    Args:
        network: the network.
        slab: (window depth, Y, X) float32, whitened.
        window: rows and columns of the window, scalar tensors.
        config: uses `window_stride`, `count_last_window_twice`.
        last: scalar bool, True for the volume's last slab [F5].

    Returns:
        Sum of probabilities (reach, Y, X, C) and of weights (reach, Y, X, 1), float64.
    """
    rows, columns = tf.shape(slab)[1], tf.shape(slab)[2]
    row_starts = window_starts_in_graph(rows, window[0], config.window_stride[1])
    column_starts = window_starts_in_graph(columns, window[1], config.window_stride[2])
    corners = tf.stack(tf.meshgrid(row_starts, column_starts, indexing="ij"), axis=-1)
    corners = tf.reshape(corners, [-1, 2])
    count = tf.shape(corners)[0]

    def add_window(index, sums, weights):
        row, column = corners[index, 0], corners[index, 1]
        piece = slab[:, row : row + window[0], column : column + window[1]]
        found = window_probabilities(network, piece[tf.newaxis, ..., tf.newaxis], config)[0]
        twice = tf.logical_and(last, tf.equal(index, count - 1)) & config.count_last_window_twice
        weight = tf.where(twice, tf.constant(2.0, tf.float64), 1.0)  # [F5]
        around = [
            [0, 0],
            [row, rows - row - window[0]],
            [column, columns - column - window[1]],
            [0, 0],
        ]
        found = tf.cast(found, tf.float64) * weight
        sums += tf.pad(found, around)
        weights += tf.pad(tf.ones_like(found[..., :1]) * weight, around)
        return index + 1, tf.ensure_shape(sums, sums_shape), tf.ensure_shape(weights, count_shape)

    reach = 1 if config.slices_as_channels else config.window[0]
    classes = len(config.label_ids)
    sums_shape, count_shape = (reach, None, None, classes), (reach, None, None, 1)
    sums = tf.ensure_shape(tf.zeros([reach, rows, columns, classes], tf.float64), sums_shape)
    weights = tf.ensure_shape(tf.zeros([reach, rows, columns, 1], tf.float64), count_shape)
    _, sums, weights = tf.while_loop(
        lambda index, *_: index < count, add_window, (0, sums, weights)
    )
    return sums, weights


def whiten_in_graph(image: tf.Tensor) -> tf.Tensor:
    """Return zero mean and unit variance over all voxels, statistics in float64."""
    values = tf.cast(image, tf.float64)
    deviation = tf.math.reduce_std(values)
    whitened = tf.math.divide_no_nan(values - tf.reduce_mean(values), deviation)
    return tf.cast(whitened, tf.float32)


def pad_to_windows(image: tf.Tensor, config: Config) -> tuple[tf.Tensor, tuple]:
    """Extend a scan as `fetal_brain.inference.plan_windows` does; return it and the window."""
    shape = tf.shape(image)
    window = []
    for axis in (1, 2):
        rounded = -(-shape[axis] // PLANE_MULTIPLE) * PLANE_MULTIPLE
        edge = config.window[axis]
        window.append(tf.where(shape[axis] > edge, edge, rounded))
    sizes = (config.window[0], *window)
    extra = [[0, tf.maximum(size - shape[axis], 0)] for axis, size in enumerate(sizes)]
    return tf.pad(image, extra, constant_values=tf.reduce_min(image)), tuple(window)


def window_starts_in_graph(size, window, stride: int) -> tf.Tensor:
    """Return the starts 0, stride, 2 stride, ...; the last is moved back to end at `size`."""
    count = tf.maximum(-(-(size - window) // stride), 0) + 1
    return tf.minimum(tf.range(count) * stride, size - window)
