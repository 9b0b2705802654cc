"""The signatures of the exported network: whole volumes and patches, as TensorFlow graphs.

What `sarcoma.data` and `sarcoma.inference` do, written with TensorFlow alone, so that a server
needs neither Python nor this package. Axis order (Z, Y, X).
"""

import keras
import numpy as np
import tensorflow as tf

from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import FOREGROUND, Description, describe_input
from common.export.write import Endpoint, TestCase, first_case, scan_endpoints
from common.inference.windows_in_graph import (
    add_axis,
    apply_in_batches,
    cut_axis,
    whiten_in_graph,
    window_starts,
)
from sarcoma.config import MARGIN, PATCH, Config
from sarcoma.data import SPACING_MM, LoadedPatient, Patient, load_patient, prepare_patient
from sarcoma.inference import (
    build_for_inference,
    lesion_probability,
    load_run_network,
    make_apply,
    segment,
    steps_of,
)
from sarcoma.sampling import centre_slice, sizes_of

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

UNITS = {"ct": "HU", "pet": "as in the file (SUV or scanner units)"}
LEAST_SIZE = (1, PATCH, PATCH)


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (Z, Y, X, C) float32 in the file's units, the modalities in the order
    of the configuration -> labels (Z, Y, X) uint8. `probabilities`: the same image ->
    probabilities (Z, Y, X) float32. `volume`: the same image -> both. `patches`: x, standardised
    inputs of the network -> y, its output; of the cascade x is the first input, its centre is cut
    in the graph.

    Args:
        network: a network of `build_for_inference(config)`.
        config: its configuration; the inference fields become part of the graph.
    """
    channels = len(config.modalities)
    image = tf.TensorSpec((None, None, None, channels), tf.float32, name="image")
    edge = None if config.architecture == "dilated" else PATCH
    patches = tf.TensorSpec((None, edge, edge, channels), tf.float32, name="x")

    def serve_volume(image):
        probabilities = segment_in_graph(network, image, config)
        labels = tf.cast(probabilities > config.threshold, tf.uint8)
        return {"labels": labels, "probabilities": probabilities}

    def serve_patches(x):
        if config.architecture == "cascade":
            return {"y": network([x, x[:, centre_slice(), centre_slice()]], training=False)}
        return {"y": network(x, training=False)}

    return [
        *scan_endpoints(serve_volume, image),
        Endpoint("patches", serve_patches, [patches]),
    ]


def load_test_case(record, network: keras.Model, config: Config) -> TestCase:
    """Return the first held-out patient of a run, all slices of it.

    Raises:
        DataError: the run holds no patients, or the file cannot be read.
    """
    entry, name = first_case(record)
    loaded = load_patient(Patient.from_dict(entry), config.modalities)
    image = np.stack([loaded.images[m] for m in config.modalities], axis=-1)
    found = [] if loaded.label is None else np.argwhere(loaded.label)
    return TestCase(
        name,
        {"image": image.astype(np.float32)},
        spacing_mm=(SPACING_MM,) * 3,
        centre=found.mean(axis=0).astype(int) if len(found) else None,
    )


def make_up_case(config: Config) -> TestCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    scan = rng.normal(-200.0, 80.0, (2, 61, 70, len(config.modalities))).astype(np.float32)
    scan[:, 20:50, 15:55] += 260.0
    return TestCase("seeded noise", {"image": scan}, spacing_mm=(SPACING_MM,) * 3)


def least_size(config: Config, case: TestCase) -> tuple[int, int, int]:
    """Return the voxels that a cut volume keeps: a slice of one patch."""
    return LEAST_SIZE


def make_examples(network: keras.Model, config: Config, case: TestCase) -> dict[str, Example]:
    """Return what every signature is compared on: a volume, and patches out of it.

    Expected are the results of the Python path that `predict` takes, and of Keras on the patches.
    """
    scan = case.arrays["image"]
    images = {name: scan[..., i] for i, name in enumerate(config.modalities)}
    prepared = prepare_patient(LoadedPatient(images, None), config)
    probabilities = segment(make_apply(network, config), prepared, config)
    labels = (probabilities > config.threshold).astype(np.uint8)
    x = cut_patches(prepared, sizes_of(config).input)
    inputs = [x, x[:, centre_slice(), centre_slice()]] if config.architecture == "cascade" else x
    return {
        "serving_default": Example({"image": scan}, {"labels": labels}),
        "probabilities": Example({"image": scan}, {"probabilities": probabilities}),
        "volume": Example({"image": scan}, {"labels": labels, "probabilities": probabilities}),
        "patches": Example({"x": x}, {"y": network.predict_on_batch(inputs)}),
    }


def cut_patches(image: np.ndarray, edge: int) -> np.ndarray:
    """Return two squares out of the slice that varies most, continued by repetition if need be."""
    plane = image[image.std(axis=(1, 2, 3)).argmax()]
    rows, columns = (np.arange(edge + shift) % size
                     for shift, size in zip((0, 3), plane.shape, strict=False))  # fmt: skip
    wide = plane[rows[:, None], columns]
    return np.stack([wide[:, :edge], wide[:, 3:]])


def passport_entry(config: Config, case: TestCase) -> Description:
    """Return what the passport says of the model."""
    whole = config.standardise == "patient"
    stitched = {"step": "sliding window", "window": (1, PATCH, PATCH),
                "stride": steps_of(config)[1], "overlap": "mean of probabilities"}  # fmt: skip
    reflected = {"step": "slices continued by reflection"}
    return Description(
        inputs={
            "image": describe_input(
                " and ".join(name.upper() for name in config.modalities) + " of a limb or trunk",
                axes="ZYXC",
                channels=config.modalities,
                intensities="; ".join(f"{name}: {UNITS[name]}" for name in config.modalities),
                minimum_size=(1, 1, 1) if config.pad_small_slices else LEAST_SIZE,
                spacing_mm=case.spacing_mm,
                spacing_tolerance=0.1,
                independent_axes=[] if whole else ["Z"],
            )
        },
        preprocessing=[
            {"step": "resample both modalities to one grid of 5 mm", "in_graph": False},
            {"step": "whiten", "in_graph": True,
             "statistics": "float64, per modality of " + ("the volume" if whole else "a slice")},
            {**(reflected if config.architecture == "dilated" else stitched), "in_graph": True},
        ],
        labels={0: "background", 1: "lesion"},
        outputs=FOREGROUND | {"y": "the network's own output"},
        limits=[
            "All slices are segmented; those without lesion are not left out beforehand.",
            "Organs with uptake can be taken for lesion.",
        ],
    )  # fmt: skip


def segment_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the probability of lesion as a graph of TensorFlow operations, a few slices at a time.

    Args:
        network: a network of `build_for_inference(config)`.
        image: (Z, Y, X, C) float32, the file's units.
        config: uses the inference fields.
    Returns:
        (Z, Y, X) float32.
    """
    prepared = standardise_in_graph(image, config)
    if config.architecture != "dilated":
        return stitch_in_graph(network, prepared, config)
    return tf.map_fn(
        lambda plane: reflect_slice(network, plane, config),
        prepared,
        fn_output_signature=tf.TensorSpec((None, None), tf.float32),
        parallel_iterations=1,
    )


def standardise_in_graph(image: tf.Tensor, config: Config) -> tf.Tensor:
    """Do as `sarcoma.data.prepare_patient`, statistics in float64 [S30]."""

    def standardise(array):
        count = tf.reduce_prod(tf.shape(array)[:-1])
        return whiten_in_graph(array, least_deviation=1 / tf.sqrt(tf.cast(count, tf.float64)))

    if config.standardise == "patient":
        return standardise(image)
    spec = tf.TensorSpec(image.shape[1:], tf.float32)
    return tf.map_fn(
        lambda plane: standardise(plane[tf.newaxis])[0],
        image,
        fn_output_signature=spec,
        parallel_iterations=1,
    )


def stitch_in_graph(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Average the outputs of all patches of every slice, as `sarcoma.inference.segment` does.

    Args:
        network: U-Net or cascade.
        image: (Z, Y, X, C) float32, standardised.
        config: uses window_stride, cascade_step and windows_per_batch.
    Returns:
        (Z, Y, X) float32.
    """
    output, stride, shift = steps_of(config)
    slices, rows, columns = tf.unstack(tf.shape(image)[:3])
    extra = [tf.maximum(output - size, 0) for size in (rows, columns)]
    sizes = [size + shift + more for size, more in zip((rows, columns), extra, strict=True)]
    before = (PATCH - output) // 2
    around = [[before + shift, PATCH - output - before + more] for more in extra]
    image = tf.pad(image, [[0, 0], *around, [0, 0]])
    starts = [window_starts(size, output, stride) for size in sizes]
    covers = [
        add_axis(tf.ones([tf.shape(start)[0], output], tf.float64), 0, start, size)
        for start, size in zip(starts, sizes, strict=True)
    ]
    per_slice = tf.size(starts[0]) * tf.size(starts[1])
    group = tf.maximum(config.windows_per_batch // per_slice, 1)
    rounds = -(-slices // group)

    def segment_group(number, finished):
        planes = image[number * group : (number + 1) * group]
        cut = cut_axis(cut_axis(planes, 2, starts[1], PATCH), 1, starts[0], PATCH)
        windows = tf.transpose(cut, [0, 1, 3, 2, 4, 5])
        found = apply_in_batches(
            lambda batch: lesion_probability(network, batch, config)[..., 0],
            tf.reshape(windows, (-1, PATCH, PATCH, image.shape[-1])),
            batch_size=config.windows_per_batch,
            output_shape=(output, output),
        )
        counts = [tf.size(start) for start in starts]
        found = tf.reshape(found, tf.stack([-1, *counts, output, output]))
        found = tf.cast(tf.transpose(found, [0, 1, 3, 2, 4]), tf.float64)
        sums = add_axis(add_axis(found, 3, starts[1], sizes[1]), 1, starts[0], sizes[0])
        mean = tf.cast(sums / tf.tensordot(*covers, axes=0), tf.float32)
        return number + 1, finished.write(number, mean[:, :rows, :columns])

    finished = tf.TensorArray(
        tf.float32, size=rounds, infer_shape=False, element_shape=(None, None, None)
    )
    _, finished = tf.while_loop(
        lambda number, _: number < rounds, segment_group, (0, finished), parallel_iterations=1
    )
    return tf.ensure_shape(finished.concat(), (None, None, None))


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


def bench_served(config: Config, shape: tuple[int, int, int] = (24, 100, 100)) -> None:
    """Time the exported graph on a made-up volume beside the Python path of `predict`.

    Args:
        config: of a network with fresh weights.
        shape: slices, rows, columns.
    """
    rng = np.random.default_rng(0)
    scan = rng.normal(40, 9, (*shape, len(config.modalities))).astype(np.float32)
    images = {name: scan[..., i] for i, name in enumerate(config.modalities)}
    network = build_for_inference(config)
    apply = make_apply(network, config)

    def in_python():
        prepared = prepare_patient(LoadedPatient(images, None), config)
        found = segment(apply, prepared, config)
        return {"labels": (found > config.threshold).astype(np.uint8), "probabilities": found}

    bench_export(
        network, make_endpoints(network, config), inputs={"image": scan}, in_python=in_python
    )
