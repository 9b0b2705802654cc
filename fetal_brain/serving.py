"""The signatures of the exported network: whole scans and patches, as TensorFlow graphs.

The sliding window of `fetal_brain.inference` written with TensorFlow loops, so that a server needs
neither Python nor this package. Axis order (Z, Y, X).
"""

import keras
import numpy as np
import tensorflow as tf

from common.data.normalisation import whiten
from common.export.parity import Example
from common.export.passport import PER_CLASS, Description, describe_input
from common.export.write import Endpoint, TestCase, first_case, scan_endpoints
from common.inference.windows_in_graph import (
    add_axis,
    apply_in_batches,
    cut_axis,
    whiten_in_graph,
    window_starts,
)
from fetal_brain.config import Config
from fetal_brain.inference import (
    PLANE_MULTIPLE,
    load_run_network,
    make_apply,
    segment,
    window_probabilities,
)
from fetal_brain.predict import write_ids
from fetal_brain.sampling import patch_shapes

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


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (Z, Y, X) float32 in scanner units -> labels (Z, Y, X) uint8 (int32
    where an id does not fit).
    `probabilities`: the same image -> probabilities (Z, Y, X, C) float32.
    `volume`: the same image -> both.
    `patches`: x, whitened patches in the network's own shape -> logits, y_prob, y_ (int64), the
    original's names.

    Args:
        network: a network of `build_for_any_plane(config)`.
        config: its configuration; the inference fields become part of the graph.
    """
    image = tf.TensorSpec((None, None, None), tf.float32, name="image")
    patches = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="x")
    ids = tf.constant(served_ids(config))

    def serve_volume(image):
        probabilities = segment_in_graph(network, image, config)
        labels = tf.gather(ids, tf.argmax(probabilities, axis=-1))
        return {"labels": labels, "probabilities": probabilities}

    def serve_patches(x):
        logits = network(x, training=False)
        return {
            "logits": logits,
            "y_prob": tf.nn.softmax(logits),
            "y_": tf.argmax(logits, axis=-1),  # [F24]
        }

    return [
        *scan_endpoints(serve_volume, image),
        Endpoint("patches", serve_patches, [patches]),
    ]


def load_test_case(record, network: keras.Model, config: Config) -> TestCase:
    """Return the first held-out scan of a run, its centre in the labelled brain where there is one.

    Raises:
        DataError: the run holds no cases, or the file cannot be read.
    """
    from fetal_brain.data import Case, load_case

    entry, name = first_case(record)
    loaded = load_case(Case.from_dict(entry), config)
    found = [] if loaded.label is None else np.argwhere(loaded.label)
    return TestCase(
        name,
        {"image": loaded.image.array.astype(np.float32)},
        spacing_mm=loaded.image.spacing_zyx_mm,
        centre=found.mean(axis=0).astype(int) if len(found) else None,
    )


def make_up_case(config: Config) -> TestCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    depth, rows, columns = smallest_scan(config)
    scan = rng.normal(300.0, 60.0, (depth + 2, rows + 9, columns + 20)).astype(np.float32)
    scan[:, rows // 4 : rows // 2, columns // 4 : columns // 2] += 250.0
    return TestCase("seeded noise", {"image": scan})


def least_size(config: Config, case: TestCase) -> tuple[int, int, int]:
    """Return the voxels that a cut scan keeps: `smallest_scan`, whatever the case."""
    return smallest_scan(config)


def smallest_scan(config: Config) -> tuple[int, int, int]:
    """Return the smallest scan that shows something, and that is accepted [F11]."""
    least = np.asarray(config.patch_shape)
    if not config.pad_small_volumes:
        least = np.maximum(least, config.window)
    return tuple(int(edge) for edge in least)


def make_examples(network: keras.Model, config: Config, case: TestCase) -> dict[str, Example]:
    """Return what every signature is compared on: a scan, and patches out of it.

    Expected are the results of the Python path that `predict` takes, and of Keras on the patches.
    """
    scan = case.arrays["image"]
    whitened = whiten(scan)
    slabs = [slab for _, slab in segment(make_apply(network, config), whitened, config)]
    probabilities = np.concatenate(slabs)
    labels = served_ids(config)[probabilities.argmax(axis=-1)]
    patch = cut_patches(whitened, patch_shapes(config)[0], config)
    logits = network.predict_on_batch(patch)
    return {
        "serving_default": Example({"image": scan}, {"labels": labels}),
        "probabilities": Example({"image": scan}, {"probabilities": probabilities}),
        "volume": Example({"image": scan}, {"labels": labels, "probabilities": probabilities}),
        "patches": Example({"x": patch}, {"logits": logits, "y_": logits.argmax(axis=-1)}),
    }


def cut_patches(image: np.ndarray, shape, config: Config) -> np.ndarray:
    """Return two patches out of the middle of an image, in the network's own shape."""
    depth, rows, columns = config.patch_shape
    extra = [(0, max(edge - size, 0)) for edge, size in zip(config.patch_shape, image.shape,
                                                           strict=True)]  # fmt: skip
    image = np.pad(image, extra)
    row, column = (image.shape[1] - rows) // 2, (image.shape[2] - columns) // 2
    last = image.shape[0] - depth
    pieces = [
        image[first : first + depth, row : row + rows, column : column + columns]
        for first in (last // 2, last)
    ]
    batch = np.stack(pieces)[..., np.newaxis]
    if config.slices_as_channels:  # [F26]
        batch = batch.transpose(0, 4, 2, 3, 1)
    return np.ascontiguousarray(batch.reshape(2, *shape))


def passport_entry(config: Config, case: TestCase) -> Description:
    """Return what the passport says of the model."""
    ids = served_ids(config)
    return Description(
        inputs={
            "image": describe_input(
                "T2-weighted MRI stack of a fetus, slices as acquired",
                axes="ZYX",
                channels=["T2w"],
                intensities="raw scanner units, any scale",
                minimum_size=(1, 1, 1) if config.pad_small_volumes else config.window,
                spacing_mm=case.spacing_mm,
                spacing_tolerance=0.25,
            )
        },
        preprocessing=[
            {"step": "whiten", "statistics": "float64, whole scan", "in_graph": True},
            {"step": "sliding window", "window": config.window, "stride": config.window_stride,
             "overlap": "mean of probabilities", "in_graph": True},
        ],
        labels={int(id_): name_of_class(number, config) for number, id_ in enumerate(ids)},
        outputs=PER_CLASS
        | {"logits": "of each class", "y_prob": "softmax of the logits", "y_": "class number"},
        limits=[
            "Slices are not registered to each other; the network sees three at a time.",
            "Nothing is resampled: a scan of another voxel size is segmented as it is.",
        ],
    )  # fmt: skip


def name_of_class(number: int, config: Config) -> str:
    """Return what a class is called: brain where there is one foreground class."""
    if number == 0:
        return "background"
    return "brain" if len(config.label_ids) == 2 else f"class {number}"


def served_ids(config: Config) -> np.ndarray:
    """Return what each class is served as, (classes,) uint8, or int32 where an id does not fit."""
    ids = write_ids(np.arange(len(config.label_ids)), config)
    return ids.astype(np.uint8) if 0 <= ids.min() and ids.max() <= 255 else ids


def segment_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the averaged class probabilities of a raw scan as a graph of TensorFlow operations.

    Slabs are taken a few at a time, as many as make a batch of windows, and only the running sums
    that later slabs may touch are kept, as in `fetal_brain.inference.segment`.

    Args:
        network: a network of `build_for_any_plane(config)`.
        image: (Z, Y, X) float32, scanner units.
        config: uses the inference fields.

    Returns:
        (Z, Y, X, C) float32.
    """
    shape, classes = tf.shape(image), len(config.label_ids)
    whitened = whiten_in_graph(image[..., tf.newaxis])[..., 0]
    padded, window = pad_to_windows(whitened, config)
    depth = config.window[0]
    reach = 1 if config.slices_as_channels else depth
    stride = config.window_stride[0]
    slices, plane = tf.shape(padded)[0], tf.shape(padded)[1:]
    if config.slices_as_channels:  # the middle slice is segmented: one slice of zeros around
        margin = depth - reach
        padded = tf.pad(padded, [[margin // 2, margin - margin // 2], [0, 0], [0, 0]])
    starts = window_starts(slices, reach, stride)
    slabs = tf.shape(starts)[0]
    in_plane = [
        window_starts(plane[axis], window[axis], config.window_stride[1 + axis]) for axis in (0, 1)
    ]
    per_slab = tf.size(in_plane[0]) * tf.size(in_plane[1])
    group = tf.maximum(config.windows_per_batch // per_slab, 1)
    rounds = -(-slabs // group)

    def segment_group(number, sums, finished):
        index = number * group + tf.range(group)
        chosen = tf.gather(starts, tf.minimum(index, slabs - 1))
        slab = tf.gather(padded, chosen[:, tf.newaxis] + tf.range(depth))
        weights = window_weights(index, slabs, per_slab, config)
        found = segment_slabs(network, slab, window, in_plane, weights, config)
        place = chosen[:, tf.newaxis] - chosen[0] + tf.range(reach)
        sums = tf.tensor_scatter_nd_add(sums, place[..., tf.newaxis], found)
        follows = tf.where(index[-1] + 1 < slabs, starts[tf.minimum(index[-1] + 1, slabs - 1)],
                           slices)  # fmt: skip
        final = follows - chosen[0]
        mean = sums[:final, ..., :classes] / sums[:final, ..., classes:]
        finished = finished.write(number, tf.cast(mean, tf.float32))
        sums = tf.concat([sums[final:], tf.zeros_like(sums[:final])], axis=0)
        return number + 1, tf.ensure_shape(sums, (None, None, None, classes + 1)), finished

    held = (group - 1) * stride + reach
    sums = tf.zeros(tf.stack([held, plane[0], plane[1], classes + 1]), tf.float64)
    finished = tf.TensorArray(
        tf.float32, size=rounds, infer_shape=False, element_shape=(None, None, None, classes)
    )
    _, _, finished = tf.while_loop(
        lambda number, *_: number < rounds,
        segment_group,
        (0, tf.ensure_shape(sums, (None, None, None, classes + 1)), finished),
        parallel_iterations=1,
    )
    found = tf.ensure_shape(finished.concat(), (None, None, None, classes))
    return found[: shape[0], : shape[1], : shape[2]]


def window_weights(index: tf.Tensor, slabs, per_slab, config: Config) -> tf.Tensor:
    """Return how much every window of some slabs counts, (slabs, windows of a slab) float64.

    Args:
        index: numbers of the slabs; those beyond the last are repetitions and count nothing.
        slabs: slabs of the volume.
        per_slab: windows of one.
        config: uses `count_last_window_twice` [F5].
    """
    weights = tf.cast(index < slabs, tf.float64)[:, tf.newaxis] * tf.ones([1, per_slab], tf.float64)
    if not config.count_last_window_twice:
        return weights
    last = (index[:, tf.newaxis] == slabs - 1) & (tf.range(per_slab) == per_slab - 1)
    return tf.where(last, 2 * weights, weights)


def segment_slabs(network, slabs: tf.Tensor, window, starts, weights, config: Config) -> tf.Tensor:
    """Apply the network to every in-plane window of some slabs and sum where they overlap.

    Args:
        network: the network.
        slabs: (n, window depth, Y, X) float32, whitened.
        window: rows and columns of a window, scalar tensors.
        starts: first rows and first columns of the windows.
        weights: (n, windows of a slab) float64.
        config: uses `windows_per_batch`.

    Returns:
        (n, reach, Y, X, C + 1) float64: weighted sums of probabilities, and of the weights.
    """
    depth, classes = config.window[0], len(config.label_ids)
    reach = 1 if config.slices_as_channels else depth
    plane = tf.shape(slabs)[2:]
    counts = tf.shape(starts[0])[0], tf.shape(starts[1])[0]

    def apply(windows):
        windows = tf.ensure_shape(windows, (None, depth, None, None))
        return window_probabilities(network, windows[..., tf.newaxis], config)

    def add_up(windows):
        found = apply_in_batches(
            apply, windows, batch_size=config.windows_per_batch,
            output_shape=(reach, None, None, classes),
        )  # fmt: skip
        weight = tf.reshape(weights, [-1, 1, 1, 1, 1])
        found = tf.cast(found, tf.float64)
        return tf.concat([found * weight, tf.ones_like(found[..., :1]) * weight], axis=-1)

    def slide():
        cut = cut_axis(slabs, 3, starts[1], window[1])
        cut = tf.transpose(cut_axis(cut, 2, starts[0], window[0]), [0, 2, 4, 1, 3, 5])
        sums = add_up(tf.reshape(cut, tf.stack([-1, depth, window[0], window[1]])))
        size = tf.stack([-1, *counts, reach, window[0], window[1], classes + 1])
        sums = tf.transpose(tf.reshape(sums, size), [0, 3, 1, 4, 2, 5, 6])
        return add_axis(add_axis(sums, 4, starts[1], plane[1]), 2, starts[0], plane[0])

    single = tf.equal(counts[0] * counts[1], 1)  # the window is the plane: nothing to cut
    return tf.cond(single, lambda: add_up(slabs), slide)


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


def bench_served(config: Config, *, slices: int, plane: int) -> None:
    """Time the exported graph on a made-up scan beside the Python path of `predict`.

    Args:
        config: of a network with fresh weights.
        slices: of the scan.
        plane: its rows and columns.
    """
    from common.export.bench import bench_export
    from fetal_brain.inference import build_for_any_plane

    scan = np.random.default_rng(0).normal(300, 60, (slices, plane, plane)).astype(np.float32)
    network = build_for_any_plane(config)
    apply, ids = make_apply(network, config), served_ids(config)

    def in_python():
        slabs = [slab for _, slab in segment(apply, whiten(scan), config)]
        probabilities = np.concatenate(slabs)
        return {"labels": ids[probabilities.argmax(axis=-1)], "probabilities": probabilities}

    bench_export(
        network, make_endpoints(network, config), inputs={"image": scan}, in_python=in_python
    )
