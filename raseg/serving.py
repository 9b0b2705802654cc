"""The signatures of the exported network: raw volumes in, labels and probabilities out.

Axis order (row, column, slice, channel). Truncation, normalisation and tiles are part of the graph,
so that a server needs neither Python nor this package. Large volumes are streamed slab by slab as
in `raseg.inference`.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import FOREGROUND, Description, describe_input
from common.export.write import Endpoint, TestCase, first_case, scan_endpoints
from common.inference.windows_in_graph import join_tiles
from raseg.binaries import find_binaries
from raseg.config import CHANNELS, Config
from raseg.data import open_volumes
from raseg.inference import (
    SLAB_ROWS,
    STREAMED_VOXELS,
    build_for_any_size,
    load_run_network,
    make_predict,
    run_level,
)
from raseg.masks import to_mask, to_probability
from raseg.sampling import normalise_in_graph

__all__ = [
    "least_size",
    "load_run_network",
    "load_test_case",
    "make_endpoints",
    "make_examples",
    "make_up_case",
    "passport_entry",
]
"""What `export` asks for (`common.export.write.ServingModule`)."""

LARGEST_WORD = 65535
MODALITIES = {
    "synovitis": "T1-weighted wrist MRI after and before gadolinium",
    "bme": "T2-weighted wrist MRI",
}


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (rows, columns, slices, channels) float32 in scanner units -> labels
    (rows, columns, slices) uint8. `probabilities`: the same image -> probability of the foreground
    (rows, columns, slices) float32. `volume`: the same image -> both. `logits`: images (batch,
    rows, columns, slices, channels), normalised -> logits.

    Args:
        network: of `build_for_any_size(config)`.
        config: its configuration; patch_shape and what `prepare_volume` uses become part of the
            graph.
    """
    channels = len(CHANNELS[config.task])
    image = tf.TensorSpec((None, None, None, channels), tf.float32, name="image")
    images = tf.TensorSpec((None, None, None, None, channels), tf.float32, name="images")

    def serve_volume(image):
        logits = logits_in_graph(network, image, config)
        labels = tf.cast(logits[..., 1] > logits[..., 0], tf.uint8)
        return {"labels": labels, "probabilities": tf.sigmoid(logits[..., 1] - logits[..., 0])}

    return [
        *scan_endpoints(serve_volume, image),
        Endpoint("logits", lambda images: {"logits": network(images, training=False)}, [images]),
    ]


def load_test_case(record, network: keras.Model, config: Config) -> TestCase:
    """Return the first held-out volume of a run, from the arrays that its binaries were made of.

    Raises:
        DataError: the run holds no volumes, or the arrays are no longer there.
    """
    entry, name = first_case(record)
    binaries = find_binaries(Path(record.config["data_dir"]), record.config["tag"], config)
    volumes = open_volumes(Path(binaries.index["data"]), config)
    found = np.argwhere(volumes.label(int(entry["volume"])))
    return TestCase(
        name,
        {"image": volumes.image(int(entry["volume"])).astype(np.float32)},
        spacing_mm=volumes.spacing_mm,
        centre=found.mean(axis=0).astype(int) if len(found) else None,
    )


def make_up_case(config: Config) -> TestCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    rows, columns, slices = config.patch_shape or (37, 30, 11)
    shape = (rows + rows // 2, columns, slices + 1, len(CHANNELS[config.task]))
    image = rng.uniform(100, 400, shape).astype(np.float32)
    image[rows // 4 : rows // 2, columns // 4 : columns // 2] += 500
    return TestCase("seeded noise", {"image": image})


def least_size(config: Config, case: TestCase) -> tuple[int, int, int]:
    """Return the voxels that a cut volume keeps."""
    return config.patch_shape or (32, 32, 8)


def make_examples(network: keras.Model, config: Config, case: TestCase) -> dict[str, Example]:
    """Return what every signature is compared on.

    Expected are the results of the Python path that `predict` takes, and of Keras.
    """
    image = case.arrays["image"]
    logits = make_predict(network, config)(image)
    labels, probabilities = to_mask(logits), to_probability(logits)
    batch = normalise_in_graph(image[:16, :24, :8])[None].numpy()
    return {
        "serving_default": Example({"image": image}, {"labels": labels}),
        "probabilities": Example({"image": image}, {"probabilities": probabilities}),
        "volume": Example({"image": image}, {"labels": labels, "probabilities": probabilities}),
        "logits": Example({"images": batch}, {"logits": network.predict_on_batch(batch)}),
    }


def passport_entry(config: Config, case: TestCase) -> Description:
    """Return what the passport says of the model."""
    stored = {
        "step": "store as 16 bits",
        "fractions": "cut off",
        "outside 0 to 65535": "wrapped" if config.wrap_intensities else "refused",
        "in_graph": True,
    }
    of = "volume" if config.patch_shape is None else "tile"
    whiten = {"step": "whiten", "statistics": f"float64, per channel of a {of}", "in_graph": True}
    tiles = {"step": "tiles side by side", "shape": config.patch_shape, "in_graph": True}
    return Description(
        inputs={
            "image": describe_input(
                MODALITIES[config.task],
                axes="YXZC",
                channels=CHANNELS[config.task],
                intensities="raw scanner units, 0 to 65535",
                minimum_size=(1, 1, 1),
                spacing_mm=case.spacing_mm,
                spacing_tolerance=0.25,
            )
        },
        preprocessing=[
            *([stored] if config.predict_from_stored else []),
            *([tiles] if config.patch_shape else []),
            whiten,
        ],
        labels={0: "background", 1: config.task},
        outputs=FOREGROUND | {"logits": "of background and foreground"},
        limits=[
            "Channels must lie on one voxel grid; nothing is registered.",
            "Nothing is resampled: a scan of another voxel size is segmented as it is.",
        ],
    )


def logits_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the logits of a raw volume as a graph of TensorFlow operations.

    Args:
        network: of `build_for_any_size(config)`.
        image: (rows, columns, slices, channels) float32, scanner units.
        config: see `make_endpoints`.
    """
    if config.predict_from_stored:
        image = store_in_graph(image, config)  # [R6] As the binaries do.
    if config.patch_shape is not None:
        return tiles_in_graph(network, image, config)
    return whole_in_graph(network, normalise_in_graph(image), config)


def store_in_graph(image: tf.Tensor, config: Config) -> tf.Tensor:
    """Do as `raseg.binaries.encode`, and read the words as the configuration says [R4].

    A value that 16 bits cannot hold fails the request, unless values wrap.
    """
    image = truncate(image)
    if config.wrap_intensities:
        image = tf.math.floormod(image, LARGEST_WORD + 1.0)
    else:
        told = "image: found a value below 0 or above 65535, which 16 bits cannot hold"
        fits = [
            tf.debugging.assert_non_negative(image, told),
            tf.debugging.assert_less_equal(image, float(LARGEST_WORD), told),
        ]
        with tf.control_dependencies(fits):
            image = tf.identity(image)
    if config.read_as_signed:
        image = tf.where(image > LARGEST_WORD // 2, image - (LARGEST_WORD + 1.0), image)
    return image


def truncate(image: tf.Tensor) -> tf.Tensor:
    """Cut fractions off towards zero."""
    return tf.sign(image) * tf.floor(tf.abs(image))


def tiles_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the logits of a volume patch by patch; see `raseg.patches.predict_tiles`.

    A later patch overwrites nothing: along each axis only what is new of it is kept.
    """
    patch, shape = config.patch_shape, tf.shape(image)
    extra = [[0, tf.maximum(edge - shape[axis], 0)] for axis, edge in enumerate(patch)]
    image = tf.pad(image, [*extra, [0, 0]])
    size = tf.shape(image)
    starts = [tile_starts(size[axis], patch[axis]) for axis in range(3)]

    def predict_tile(*numbers):
        low = [start[number] for start, number in zip(starts, numbers, strict=True)]
        piece = image[tuple(slice(first, first + edge)
                            for first, edge in zip(low, patch, strict=True))]  # fmt: skip
        piece = tf.ensure_shape(piece, (*patch, image.shape[-1]))
        found = whole_in_graph(network, normalise_in_graph(piece), config)
        # Where the last one is pushed back, its first voxels are another's.
        done = [number * edge - first for number, edge, first in zip(numbers, patch, low,
                                                                    strict=True)]  # fmt: skip
        return found[done[0] :, done[1] :, done[2] :]

    counts = [tf.shape(start)[0] for start in starts]
    return join_tiles(predict_tile, counts, channels=2)[: shape[0], : shape[1], : shape[2]]


def tile_starts(size, edge: int) -> tf.Tensor:
    """Return 0, edge, 2 edge, ...; the last is moved back to end at `size`."""
    count = -(-size // edge)
    return tf.minimum(tf.range(count) * edge, size - edge)


def whole_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the logits (rows, columns, slices, 2) of a normalised volume or patch.

    Large ones are streamed, as `raseg.inference.make_whole_pass` does on a CPU.
    """

    def plain():
        return network(image[None], training=False)[0]

    if config.batch_statistics:
        return plain()
    large = tf.reduce_prod(tf.shape(image)[:3]) >= STREAMED_VOXELS
    return tf.cond(large, lambda: stream_in_graph(network, image, config), plain)


def stream_in_graph(
    network: keras.Model, image: tf.Tensor, config: Config, *, slab_rows: int = SLAB_ROWS
) -> tf.Tensor:
    """Return the logits of a normalised volume, the layers at full resolution slab by slab.

    Args:
        network: of `build_for_any_size(config)`, without batch statistics.
        image: (rows, columns, slices, channels) float32.
        config: uses filters and top_kernels.
        slab_rows: rows per slab, even.
    """
    layers = {layer.name: layer for layer in network.layers}
    bottom, top = len(config.filters) - 1, config.filters[0]
    rows = tf.shape(image)[0]
    count = -(-rows // slab_rows)

    def grow(number, kernel):
        """Return first row and the row after the last of a slab and of what its kernels reach."""
        low = number * slab_rows
        high, reach = tf.minimum(low + slab_rows, rows), 2 * (kernel // 2)
        return low, high, tf.maximum(low - reach, 0), tf.minimum(high + reach, rows)

    def descend(number, skips, halves):
        low, high, start, stop = grow(number, config.top_kernels[0])
        found = layers["h0_conv2"](layers["h0_conv1"](image[None, start:stop]))
        found = found[:, low - start : high - start]
        halved = layers["down1"](found)
        return number + 1, skips.write(number, found[0]), halves.write(number, halved[0])

    skips, halves = (
        tf.TensorArray(
            tf.float32, size=count, infer_shape=False, clear_after_read=False,
            element_shape=(None, None, None, top),
        )
        for _ in range(2)
    )  # fmt: skip
    _, skips, halves = over(count, descend, skips, halves)
    # Slices first, for the kernels' sake: see `raseg.inference.make_streamed_pass`.
    below = tf.transpose(halves.concat()[None], (0, 3, 1, 2, 4))
    below = run_level(layers, below, level=1, bottom=bottom)
    below = tf.transpose(below, (0, 2, 3, 1, 4))

    def ascend(number, logits):
        low, high, start, stop = grow(number, config.top_kernels[1])
        skip = tf.ensure_shape(
            read_with_neighbours(skips, number, count, before=low - start, after=stop - high),
            (None, None, None, top),
        )
        size = tf.shape(skip)
        up = layers[f"up{bottom}"](below[:, start // 2 : -(-stop // 2)])
        up = up[:, : size[0], : size[1], : size[2]]
        x = tf.concat([skip[None], up], axis=-1)
        found = layers["logits"](layers["h0_conv4"](layers["h0_conv3"](x)))
        return number + 1, logits.write(number, found[0, low - start : high - start])

    logits = tf.TensorArray(
        tf.float32, size=count, infer_shape=False, element_shape=(None, None, None, 2)
    )
    _, logits = over(count, ascend, logits)
    return tf.ensure_shape(logits.concat(), (None, None, None, 2))


def over(count: tf.Tensor, body, *arrays) -> tuple:
    """Run a loop body for the numbers below `count`, one after the other."""
    return tf.while_loop(
        lambda number, *_: number < count, body, (0, *arrays), parallel_iterations=1
    )


def read_with_neighbours(slabs: tf.TensorArray, number, count, *, before, after) -> tf.Tensor:
    """Return a slab with some rows of the one before and of the one after."""
    slab = slabs.read(number)
    above = tf.cond(
        before > 0, lambda: slabs.read(tf.maximum(number - 1, 0))[-before:], lambda: slab[:0]
    )
    below = tf.cond(
        after > 0, lambda: slabs.read(tf.minimum(number + 1, count - 1))[:after], lambda: slab[:0]
    )
    return tf.concat([above, slab, below], axis=0)


def bench_served(config: Config, shape: tuple[int, int, int]) -> None:
    """Time the exported graph on a made-up volume beside the Python path of `predict`.

    Args:
        config: of a network with fresh weights.
        shape: rows, columns, slices.
    """
    channels = len(CHANNELS[config.task])
    scan = np.random.default_rng(0).uniform(0, 900, (*shape, channels)).astype(np.float32)
    network = build_for_any_size(config)
    predict = make_predict(network, config)

    def in_python():
        logits = predict(scan)
        return {"labels": to_mask(logits), "probabilities": to_probability(logits)}

    bench_export(
        network, make_endpoints(network, config), inputs={"image": scan}, in_python=in_python
    )
