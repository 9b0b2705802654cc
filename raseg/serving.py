"""The signatures of the exported network: raw volumes in, labels and probabilities out.

Axis order (row, column, slice, channel). Normalisation is part of the graph, so that a server needs
neither Python nor this package. For the draft's patches the tiles of `raseg.patches` are laid by a
loop in the graph.
"""

import keras
import numpy as np
import tensorflow as tf

from common.export import Endpoint, Example
from raseg.config import CHANNELS, Config
from raseg.inference import make_predict, to_mask, to_probability
from raseg.sampling import normalise_in_graph


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (rows, columns, slices, channels) float32 in scanner units -> labels
    (rows, columns, slices) uint8. `probabilities`: the same image -> probability of the foreground
    (rows, columns, slices) float32. `logits`: images (batch, rows, columns, slices, channels),
    normalised -> logits.

    Args:
        network: of `build_for_any_size(config)`.
        config: its configuration; patch_shape and predict_from_stored become part of the graph.
    """
    channels = len(CHANNELS[config.task])
    image = tf.TensorSpec((None, None, None, channels), tf.float32, name="image")
    images = tf.TensorSpec((None, None, None, None, channels), tf.float32, name="images")

    def serve_labels(image):
        logits = logits_in_graph(network, image, config)
        return {"labels": tf.cast(logits[..., 1] > logits[..., 0], tf.uint8)}

    def serve_probabilities(image):
        logits = logits_in_graph(network, image, config)
        return {"probabilities": tf.sigmoid(logits[..., 1] - logits[..., 0])}

    def serve_logits(images):
        return {"logits": network(images, training=False)}

    return [
        Endpoint("serving_default", serve_labels, [image]),
        Endpoint("probabilities", serve_probabilities, [image]),
        Endpoint("logits", serve_logits, [images]),
    ]


def logits_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the logits of a raw volume as a graph of TensorFlow operations.

    Args:
        network: of `build_for_any_size(config)`.
        image: (rows, columns, slices, channels) float32, scanner units.
        config: see `make_endpoints`.
    """
    if config.predict_from_stored:
        image = truncate(image)  # [R6] As the binaries do.
    if config.patch_shape is not None:
        return tiles_in_graph(network, image, config.patch_shape)
    return network(normalise_in_graph(image)[None], training=False)[0]


def truncate(image: tf.Tensor) -> tf.Tensor:
    """Cut fractions off towards zero."""
    return tf.sign(image) * tf.floor(tf.abs(image))


def tiles_in_graph(network: keras.Model, image: tf.Tensor, patch) -> tf.Tensor:
    """Return the logits of a volume patch by patch; see `raseg.patches.predict_tiles`.

    A later patch overwrites nothing: along each axis only what is new of it is kept.
    """
    shape = tf.shape(image)
    extra = [[0, tf.maximum(edge - shape[axis], 0)] for axis, edge in enumerate(patch)]
    image = tf.pad(image, [*extra, [0, 0]])
    size = tf.shape(image)
    starts = [tile_starts(size[axis], patch[axis]) for axis in range(3)]

    def predict_at(row, column, slice_):
        piece = image[row : row + patch[0], column : column + patch[1], slice_ : slice_ + patch[2]]
        piece = tf.ensure_shape(piece, (*patch, image.shape[-1]))
        return network(normalise_in_graph(piece)[None], training=False)[0]

    def join(values, axis, edge, starts):
        """Concatenate equal blocks, the last cut to what is new of it."""
        count = tf.shape(starts)[0]
        done = tf.concat([[0], starts[:-1] + edge], axis=0)

        def add(index, joined):
            block = values(starts[index])
            begin = [0, 0, 0, 0]
            begin[axis] = done[index] - starts[index]
            new = block[tuple(slice(low, None) for low in begin)]
            return index + 1, tf.concat([joined, new], axis)

        growing = (tf.TensorShape(()), tf.TensorShape((None, None, None, 2)))
        first = (tf.constant(1), values(starts[0]))
        return tf.while_loop(lambda index, _: index < count, add, first, growing)[1]

    def slab(slice_):
        def stripe(row):
            return join(lambda column: predict_at(row, column, slice_), 1, patch[1], starts[1])

        return join(stripe, 0, patch[0], starts[0])

    whole = join(slab, 2, patch[2], starts[2])
    return whole[: shape[0], : shape[1], : shape[2]]


def tile_starts(size, edge: int) -> tf.Tensor:
    """Return 0, edge, 2 edge, ...; the last is moved back to end at `size`."""
    count = -(-size // edge)
    return tf.minimum(tf.range(count) * edge, size - edge)


def make_examples(network: keras.Model, config: Config) -> dict[str, Example]:
    """Return what every signature is compared on: seeded noise with a bright body.

    Expected are the results of the Python path that `predict` takes, and of Keras.
    """
    rng = np.random.default_rng(0)
    rows, columns, slices = config.patch_shape or (37, 30, 11)
    shape = (rows + rows // 2, columns, slices + 1, len(CHANNELS[config.task]))
    image = rng.uniform(100, 400, shape).astype(np.float32)
    image[rows // 4 : rows // 2, columns // 4 : columns // 2] += 500
    logits = make_predict(network, config)(image)
    batch = rng.normal(size=(1, 16, 24, 8, shape[-1])).astype(np.float32)
    expected = network.predict_on_batch(batch)
    return {
        "serving_default": Example({"image": image}, {"labels": to_mask(logits)}),
        "probabilities": Example({"image": image}, {"probabilities": to_probability(logits)}),
        "logits": Example({"images": batch}, {"logits": expected}),
    }
