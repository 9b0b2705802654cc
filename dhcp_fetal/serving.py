"""The signatures of an exported network, as TensorFlow graphs: segments and whole volumes.

The whole-volume signature does in TensorFlow what `tiles.predict_volume` does in numpy: reflection,
the engine's tiles in the engine's order, contexts with the border's intensity. A server needs
neither Python nor this package. Arrays are (x, y, z, channels).
"""

from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from common.export import Endpoint, Example
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.data import normalise
from dhcp_fetal.inference import make_apply
from dhcp_fetal.tiles import context_start, predict_volume


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (x, y, z, channels) float32 as read from the file -> labels (x, y, z)
    int16 and probabilities (x, y, z, classes).
    `masked`: the same with mask (x, y, z) int16, outside which all results are 0.
    `segments`: normal, context_1, ... in the network's own shapes -> probabilities.

    Args:
        network: from `build_model(config)`.
        config: its configuration; preparation and tiles become part of the graph.
    """
    image = tf.TensorSpec((None, None, None, config.input_channels), tf.float32, name="image")
    mask = tf.TensorSpec((None, None, None), tf.int16, name="mask")
    parts = [
        tf.TensorSpec((None, *tensor.shape[1:]), tf.float32, name=tensor.name)
        for tensor in network.inputs
    ]

    def serve_volume(image):
        return _results(segment_in_graph(network, image, None, config), None)

    def serve_masked(image, mask):
        return _results(segment_in_graph(network, image, mask, config), mask)

    def serve_segments(*inputs):
        found = network(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        return {"probabilities": found}

    return [
        Endpoint("serving_default", serve_volume, [image]),
        Endpoint("masked", serve_masked, [image, mask]),
        Endpoint("segments", serve_segments, parts),
    ]


def make_examples(network: keras.Model, config: Config) -> dict[str, Example]:
    """Return what every signature is compared on: seeded noise with a bright body.

    Expected are the results of the Python path, in the engine's tiles, and of Keras on segments.
    """
    rng = np.random.default_rng(0)
    edges = [int(n * 1.3) for n in config.inference_segment]
    scan = rng.normal(300.0, 60.0, (*edges, config.input_channels)).astype(np.float32)
    scan[edges[0] // 4 : edges[0] // 2, edges[1] // 4 : edges[1] // 2] += 250.0
    mask = np.zeros(edges, np.int16)
    mask[edges[0] // 3 : edges[0] // 2, 4:-4, 4:-4] = 1
    way = replace(config, tiling="engine")
    apply = make_apply(network)
    volumes = {}
    for name, region in (("serving_default", None), ("masked", mask)):
        inside = region > 0 if region is not None and config.normalisation == "brain" else None
        found = predict_volume(apply, normalise(scan, config.normalisation, inside), way,
                               mask=region)  # fmt: skip
        inputs = {"image": scan} | ({} if region is None else {"mask": region})
        # Labels may tie within rounding; probabilities say all.
        volumes[name] = Example(inputs, {"probabilities": found.probabilities})
    segment = config.inference_segment
    sizes = [segment, *geometry.context_sizes(config, segment)]
    batch = [rng.normal(size=(2, *s, config.input_channels)).astype(np.float32) for s in sizes]
    found = network.predict_on_batch(batch if len(batch) > 1 else batch[0])
    names = [tensor.name for tensor in network.inputs]
    segments = Example(dict(zip(names, batch, strict=True)), {"probabilities": found})
    return {**volumes, "segments": segments}


def segment_in_graph(network, image, mask, config: Config) -> tf.Tensor:
    """Return the probabilities (x, y, z, classes) of a scan as a graph of TensorFlow operations.

    Args:
        network: from `build_model(config)`.
        image: (x, y, z, channels) float32, as read.
        mask: (x, y, z) int16, or None.
        config: uses preparation, network and `inference_segment`.
    """
    segment = config.inference_segment
    predicted = geometry.output_size(config, segment)
    margins = geometry.margins(config, segment)
    shape = tf.shape(image)[:3]
    padded = normalise_in_graph(image, mask, config)
    pads = []
    for axis, (before, after) in enumerate(margins if config.pad_inputs else ((0, 0),) * 3):
        beyond = tf.maximum(after, segment[axis] - shape[axis] - before)
        padded = _reflect(padded, axis, before, beyond)
        pads.append(before)
    border = tf.reduce_mean(
        tf.stack([padded[x, y, z] for x in (0, -1) for y in (0, -1) for z in (0, -1)]), axis=0
    )
    size = tf.shape(padded)[:3]
    starts = [_starts(size[axis], segment[axis], predicted[axis]) for axis in range(3)]
    grid = tf.stack(tf.meshgrid(starts[2], starts[1], starts[0], indexing="ij"), axis=-1)
    corners = tf.reverse(tf.reshape(grid, (-1, 3)), axis=[1])  # x fastest
    classes = config.classes

    def add_tile(number, result):
        corner = corners[number]
        low = corner + [m[0] for m in margins]
        inner = [padded[_span(corner, segment)]]
        for factor in config.context_factors:
            inner.append(_context(padded, border, corner, segment, factor, config))
        batch = [part[tf.newaxis] for part in inner]
        found = network(batch if len(batch) > 1 else batch[0], training=False)[0]
        around = [[low[a], size[a] - low[a] - predicted[a]] for a in range(3)] + [[0, 0]]
        covered = tf.pad(tf.ones((*predicted, 1), tf.bool), around)
        result = tf.where(covered, tf.pad(found, around), result)
        return number + 1, tf.ensure_shape(result, (None, None, None, classes))

    first = tf.ensure_shape(tf.zeros(tf.concat([size, [classes]], 0)), (None, None, None, classes))
    _, result = tf.while_loop(lambda n, _: n < tf.shape(corners)[0], add_tile, (0, first))
    result = result[_span(pads, shape)]
    if mask is not None:
        result *= tf.cast(mask > 0, tf.float32)[..., tf.newaxis]  # [G8]
    return result


def normalise_in_graph(image, mask, config: Config) -> tf.Tensor:
    """Do as `data.normalise`, statistics in float64."""
    if config.normalisation == "none":
        return image
    values = tf.cast(image, tf.float64)
    counted = tf.ones(tf.shape(image)[:3], tf.float64)
    if mask is not None and config.normalisation == "brain":
        inside = tf.cast(mask > 0, tf.float64)
        counted = tf.where(tf.reduce_any(mask > 0), inside, counted)
    weights = counted[..., tf.newaxis] / tf.reduce_sum(counted)
    mean = tf.reduce_sum(values * weights, axis=(0, 1, 2))
    variance = tf.reduce_sum(tf.square(values - mean) * weights, axis=(0, 1, 2))
    return tf.cast(tf.math.divide_no_nan(values - mean, tf.sqrt(variance)), tf.float32)


def _results(probabilities, mask) -> dict[str, tf.Tensor]:
    labels = tf.cast(tf.argmax(probabilities, axis=-1), tf.int16)
    return {"labels": labels, "probabilities": probabilities}


def _reflect(x, axis: int, before, after):
    """Reflect one axis by any number of voxels, as numpy does."""
    size = tf.shape(x)[axis]
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(tf.range(-before, size + after), period)
    return tf.gather(x, tf.where(index < size, index, period - index), axis=axis)


def _starts(size, segment: int, stride: int):
    count = tf.maximum(-(-(size - segment) // stride), 0) + 1
    return tf.minimum(tf.range(count) * stride, size - segment)


def _span(corner, size) -> tuple[slice, ...]:
    return tuple(slice(corner[axis], corner[axis] + size[axis]) for axis in range(3))


def _context(padded, border, corner, segment, factor, config: Config):
    """Cut one low-resolution context, as `tiles.cut_context`."""
    field = geometry.receptive_field(config.kernels)
    size = geometry.context_size(segment, field, factor)
    known = tf.ones((1, 1, 1, 1), tf.bool)
    context = padded
    for axis in range(3):
        step, limit = factor[axis], tf.shape(padded)[axis]
        low = corner[axis] + context_start(field[axis], step, centred=config.centred_context)
        place = tf.range(size[axis])
        if config.align_context_at_border:
            index = low + place * step
        else:
            # [G4] Below 0 the grid starts anew at voxel 0.
            skipped = tf.where(low < 0, -low // step, 0)
            index = tf.where(low < 0, (place - skipped) * step, low + place * step)
        index = tf.where(index < low + size[axis] * step, index, limit)
        valid = (index >= 0) & (index < limit)
        context = tf.gather(context, tf.clip_by_value(index, 0, limit - 1), axis=axis)
        known &= tf.reshape(valid, [-1 if a == axis else 1 for a in range(4)])
    context = tf.where(known, context, border)
    return tf.ensure_shape(context, (*size, config.input_channels))
