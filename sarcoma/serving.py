"""The signatures of the exported network: whole volumes and patches, as TensorFlow graphs.

What `sarcoma.data` and `sarcoma.inference` do, written with TensorFlow alone, so that a server
needs neither Python nor this package. Axis order (Z, Y, X).
"""

import keras
import numpy as np
import tensorflow as tf

from common.export import Endpoint, Example
from sarcoma.config import PATCH, Config
from sarcoma.data import LoadedPatient, prepare_patient
from sarcoma.inference import MARGIN, lesion_probability, make_apply, segment, steps_of
from sarcoma.sampling import centre_slice, sizes_of


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (Z, Y, X, C) float32 in the file's units, the modalities in the order
    of the configuration -> labels (Z, Y, X) uint8. `probabilities`: the same image ->
    probabilities (Z, Y, X) float32. `patches`: x, standardised inputs of the network ->
    y, its output; of the cascade x is the first input, its centre is cut in the graph.

    Args:
        network: a network of `build_for_inference(config)`.
        config: its configuration; the inference fields become part of the graph.
    """
    channels = len(config.modalities)
    image = tf.TensorSpec((None, None, None, channels), tf.float32, name="image")
    edge = None if config.architecture == "dilated" else PATCH
    patches = tf.TensorSpec((None, edge, edge, channels), tf.float32, name="x")

    def serve_labels(image):
        found = segment_in_graph(network, image, config) > config.threshold
        return {"labels": tf.cast(found, tf.uint8)}

    def serve_probabilities(image):
        return {"probabilities": segment_in_graph(network, image, config)}

    def serve_patches(x):
        if config.architecture == "cascade":
            return {"y": network([x, x[:, centre_slice(), centre_slice()]], training=False)}
        return {"y": network(x, training=False)}

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
    shape = (2, 61, 70, len(config.modalities))
    scan = rng.normal(-200.0, 80.0, shape).astype(np.float32)
    scan[:, 20:50, 15:55] += 260.0
    images = {name: scan[..., i] for i, name in enumerate(config.modalities)}
    prepared = prepare_patient(LoadedPatient(images, None), config)
    probability = segment(make_apply(network, config), prepared, config)
    labels = (probability > config.threshold).astype(np.uint8)
    size = sizes_of(config).input
    x = rng.normal(size=(2, size, size, len(config.modalities))).astype(np.float32)
    inputs = [x, x[:, centre_slice(), centre_slice()]] if config.architecture == "cascade" else x
    return {
        "serving_default": Example({"image": scan}, {"labels": labels}),
        "probabilities": Example({"image": scan}, {"probabilities": probability}),
        "patches": Example({"x": x}, {"y": network.predict_on_batch(inputs)}),
    }


def segment_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the probability of lesion as a graph of TensorFlow operations, slice by slice.

    Args:
        network: a network of `build_for_inference(config)`.
        image: (Z, Y, X, C) float32, the file's units.
        config: uses the inference fields.
    Returns:
        (Z, Y, X) float32.
    """
    prepared = standardise_in_graph(image, config)
    segment_slice = stitch_slice if config.architecture != "dilated" else reflect_slice
    return tf.map_fn(
        lambda plane: segment_slice(network, plane, config),
        prepared,
        fn_output_signature=tf.TensorSpec((None, None), tf.float32),
        parallel_iterations=1,
    )


def standardise_in_graph(image: tf.Tensor, config: Config) -> tf.Tensor:
    """Do as `sarcoma.data.prepare_patient`, statistics in float64 [S30]."""
    axes = [1, 2] if config.standardise == "slice" else [0, 1, 2]
    values = tf.cast(image, tf.float64)
    values -= tf.reduce_mean(values, axes, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(values), axes, keepdims=True))
    count = tf.reduce_prod(tf.gather(tf.shape(image), axes))
    least = 1 / tf.sqrt(tf.cast(count, tf.float64))
    return tf.cast(values / tf.maximum(deviation, least), tf.float32)


def stitch_slice(network: keras.Model, plane: tf.Tensor, config: Config) -> tf.Tensor:
    """Average the outputs of all patches of one slice, as `sarcoma.inference.segment` does.

    Windows along rows and along columns are independent, so sums are products with 0/1 matrices.

    Args:
        network: U-Net or cascade.
        plane: (Y, X, C) float32, standardised.
        config: uses window_stride, cascade_step and windows_per_batch.
    Returns:
        (Y, X) float32.
    """
    output, stride, shift = steps_of(config)
    rows, columns = tf.shape(plane)[0], tf.shape(plane)[1]
    before = (PATCH - output) // 2
    after = PATCH - output - before
    extra = [tf.maximum(output - size, 0) for size in (rows, columns)]
    padding = [[before + shift, after + more] for more in extra]
    plane = tf.pad(plane, [*padding, [0, 0]])
    starts = [starts_in_graph(size + shift + more, output, stride)
              for size, more in zip((rows, columns), extra, strict=True)]  # fmt: skip
    patches = plane
    for axis, start in ((0, starts[0]), (2, starts[1])):  # (r, 56, c, 56, C) in two gatherings
        patches = tf.gather(patches, start[:, None] + tf.range(PATCH), axis=axis)
    patches = tf.transpose(patches, [0, 2, 1, 3, 4])
    found = tf.map_fn(  # a row of patches at a time
        lambda row: lesion_probability(network, row, config)[..., 0],
        tf.ensure_shape(patches, (None, None, PATCH, PATCH, plane.shape[-1])),
        fn_output_signature=tf.TensorSpec((None, output, output), tf.float32),
        parallel_iterations=1,
    )
    sizes = [size + shift + more for size, more in zip((rows, columns), extra, strict=True)]
    covers = [tf.one_hot(s[:, None] + tf.range(output), size, dtype=tf.float64)
              for s, size in zip(starts, sizes, strict=True)]  # fmt: skip
    sums = tf.einsum("riy,rcij,cjx->yx", covers[0], tf.cast(found, tf.float64), covers[1])
    weights = tf.tensordot(*(tf.reduce_sum(cover, [0, 1]) for cover in covers), axes=0)
    return tf.cast(sums / weights, tf.float32)[:rows, :columns]


def reflect_slice(network: keras.Model, plane: tf.Tensor, config: Config) -> tf.Tensor:
    """Segment one slice with the dilated network, as `sarcoma.inference.segment_reflected`."""
    sizes = tf.unstack(tf.shape(plane)[:2])
    lows = []
    for axis, size in enumerate(sizes):
        covered = 8 * -(-size // 8)
        low = (covered - size) // 2
        index = tf.range(-low - MARGIN // 2, covered - low + MARGIN // 2)
        period = tf.maximum(2 * (size - 1), 1)
        folded = tf.math.floormod(index, period)
        plane = tf.gather(plane, tf.where(folded < size, folded, period - folded), axis=axis)
        lows.append(low)
    found = lesion_probability(network, plane[tf.newaxis], config)[0, ..., 0]
    return found[lows[0] : lows[0] + sizes[0], lows[1] : lows[1] + sizes[1]]


def starts_in_graph(size, window: int, stride: int) -> tf.Tensor:
    """Return what `common.windows.window_starts` does, for a size that is known when served."""
    count = tf.maximum(-(-(size - window) // stride), 0) + 1
    return tf.minimum(tf.range(count) * stride, size - window)


__all__ = ["make_endpoints", "make_examples", "segment_in_graph"]
