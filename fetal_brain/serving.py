"""The signatures of the exported network: whole scans as `predict` segments them, and patches.

Axis order (Z, Y, X).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.data.normalisation import whiten
from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import PER_CLASS, Description, describe_input
from common.export.write import Endpoint, HeldOutCase, first_case, scan_endpoints
from fetal_brain.config import SPACING_TOLERANCE, Config
from fetal_brain.data import Case, load_case
from fetal_brain.inference import build_for_any_plane, on_volumes, segment_scan
from fetal_brain.inference import load_run_network as load_run_network  # `export` asks for it here
from fetal_brain.labels import write_ids
from fetal_brain.sampling import cut


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (Z, Y, X) float32 in scanner units -> labels (Z, Y, X) uint8 (int32
    where an id does not fit).
    `probabilities`: the same image -> probabilities (Z, Y, X, C) float32.
    `volume`: the same image -> both.
    `patches`: x, whitened patches in the network's own shape -> logits, y_prob, y_ (int64), the
    original's names.
    """
    image = tf.TensorSpec((None, None, None), tf.float32, name="image")
    patches = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="x")
    ids = tf.constant(served_ids(config))

    def serve_volume(image):
        found = segment_scan(network, image, config)
        return {**found, "labels": tf.gather(ids, tf.cast(found["labels"], tf.int32))}

    def serve_patches(x):
        logits = network(x, training=False)
        classes = tf.argmax(logits, axis=-1)  # [F24]
        return {"logits": logits, "y_prob": tf.nn.softmax(logits), "y_": classes}

    return [*scan_endpoints(serve_volume, image), Endpoint("patches", serve_patches, [patches])]


def with_labels(means: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return averaged probabilities with the ids of the most probable classes."""
    classes = tf.argmax(means["probabilities"], axis=-1)  # [F24]
    return {**means, "labels": tf.gather(served_ids(config), classes)}


def load_test_case(record, network: keras.Model, config: Config) -> HeldOutCase:
    """Return the first held-out scan of a run, centred on the labelled brain where there is one."""
    entry, name = first_case(record)
    loaded = load_case(Case.from_dict(entry), config)
    found = [] if loaded.label is None else np.argwhere(loaded.label)
    return HeldOutCase(
        name,
        {"image": loaded.image.array.astype(np.float32)},
        spacing_mm=loaded.image.spacing_zyx_mm,
        centre=found.mean(axis=0).astype(int) if len(found) else None,
    )


def make_up_case(config: Config) -> HeldOutCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    depth, rows, columns = least_size(config)
    scan = rng.normal(300.0, 60.0, (depth + 2, rows + 9, columns + 20)).astype(np.float32)
    scan[:, rows // 4 : rows // 2, columns // 4 : columns // 2] += 250.0
    return HeldOutCase("seeded noise", {"image": scan})


def least_size(config: Config, case: HeldOutCase | None = None) -> tuple[int, int, int]:
    """Return the smallest scan that shows something and is accepted, whatever the case [F11]."""
    least = config.patch_shape
    return tuple(least if config.pad_small_volumes else map(max, least, config.window))


def make_examples(network: keras.Model, config: Config, case: HeldOutCase) -> dict[str, Example]:
    """Return what every signature is compared on; expected is what `predict` and Keras give."""
    scan = case.arrays["image"]
    both = predict_as_served(network, config)(scan)
    patch = cut_patches(whiten(scan), config)
    logits = network.predict_on_batch(patch)
    return {
        "serving_default": Example({"image": scan}, {"labels": both["labels"]}),
        "probabilities": Example({"image": scan}, {"probabilities": both["probabilities"]}),
        "volume": Example({"image": scan}, both),
        "patches": Example({"x": patch}, {"logits": logits, "y_": logits.argmax(axis=-1)}),
    }


def cut_patches(image: np.ndarray, config: Config) -> np.ndarray:
    """Return two patches out of the middle of an image, in the network's own shape."""
    extra = np.subtract(config.patch_shape, image.shape).clip(min=0)
    image = np.pad(image, [(0, after) for after in extra])
    last, *middle = np.subtract(image.shape, config.patch_shape) // (1, 2, 2)
    pieces = [cut(image, (first, *middle), config.patch_shape) for first in (last // 2, last)]
    batch = np.stack(pieces)[..., np.newaxis]
    if config.slices_as_channels:  # [F26]
        batch = batch.transpose(0, 4, 2, 3, 1)
    return np.ascontiguousarray(batch)


def passport_entry(config: Config, case: HeldOutCase) -> Description:
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
                spacing_tolerance=SPACING_TOLERANCE,
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
            "Nothing is reoriented or resampled: voxel size and orientation must be those of the"
            " training scans.",
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


@lru_cache(maxsize=1)
def predict_as_served(network: keras.Model, config: Config) -> Callable:
    """Return the function of `predict`, from a scan to what the signature `volume` gives; compiled
    once for a scan, its parts and its flips."""
    segment, ids = on_volumes(segment_scan, network, config), served_ids(config)

    def run(scan: np.ndarray) -> dict[str, np.ndarray]:
        found = segment(scan)
        return {**found, "labels": ids[found["labels"]]}

    return run


def bench_served(config: Config, *, slices: int, plane: int) -> None:
    """Time the exported graph, with fresh weights, on a made-up scan beside `predict`."""
    scan = np.random.default_rng(0).normal(300, 60, (slices, plane, plane)).astype(np.float32)
    network = build_for_any_plane(config)
    run = predict_as_served(network, config)
    bench_export(
        network, make_endpoints(network, config), inputs={"image": scan},
        in_python=lambda: run(scan),
    )  # fmt: skip
