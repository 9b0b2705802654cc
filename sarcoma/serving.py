"""The signatures of the exported network: whole volumes as `predict` segments them, and patches.

Axis order (Z, Y, X).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import FOREGROUND, Description, describe_input
from common.export.write import Endpoint, HeldOutCase, first_case, scan_endpoints
from sarcoma.config import PATCH, Config
from sarcoma.data import SPACING_MM, LoadedPatient, Patient, load_patient, prepare_patient
from sarcoma.inference import load_run_network as load_run_network  # `export` asks for it here
from sarcoma.inference import on_volumes, segment_scan, steps_of, volume_spec
from sarcoma.model import build_for_inference
from sarcoma.sampling import CENTRE, sizes_of

UNITS = {"ct": "HU", "pet": "as in the file (SUV or scanner units)"}
LEAST_SIZE = (1, PATCH, PATCH)


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model; the inference fields become part of the graph.

    `serving_default`: image (Z, Y, X, C) float32 in the file's units, the modalities in the order
    of the configuration -> labels (Z, Y, X) uint8. `probabilities`: the same image -> probabilities
    (Z, Y, X) float32. `volume`: the same image -> both. `patches`: x, standardised inputs of the
    network -> y, its output; of the cascade x is the first input, its centre is cut in the graph.
    """
    edge = None if config.architecture == "dilated" else PATCH
    patches = tf.TensorSpec((None, edge, edge, len(config.modalities)), tf.float32, name="x")

    def serve_volume(image):
        return with_labels({"probabilities": segment_scan(network, image, config)}, config)

    def serve_patches(x):
        if config.architecture == "cascade":
            return {"y": network([x, x[:, CENTRE, CENTRE]], training=False)}
        return {"y": network(x, training=False)}

    return [
        *scan_endpoints(serve_volume, volume_spec(config)),
        Endpoint("patches", serve_patches, [patches]),
    ]


def with_labels(means: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return probabilities, averaged or not, with the labels above the configured threshold."""
    return {**means, "labels": tf.cast(means["probabilities"] > config.threshold, tf.uint8)}


def load_test_case(record, network: keras.Model, config: Config) -> HeldOutCase:
    """Return the first held-out patient of a run, all slices of it."""
    entry, name = first_case(record)
    loaded = load_patient(Patient.from_dict(entry), config.modalities)
    image = np.stack([loaded.images[m] for m in config.modalities], axis=-1)
    found = [] if loaded.label is None else np.argwhere(loaded.label)
    return HeldOutCase(
        name,
        {"image": image.astype(np.float32)},
        spacing_mm=(SPACING_MM,) * 3,
        centre=found.mean(axis=0).astype(int) if len(found) else None,
    )


def make_up_case(config: Config) -> HeldOutCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    scan = rng.normal(-200.0, 80.0, (2, 61, 70, len(config.modalities))).astype(np.float32)
    scan[:, 20:50, 15:55] += 260.0
    return HeldOutCase("seeded noise", {"image": scan}, spacing_mm=(SPACING_MM,) * 3)


def least_size(config: Config, case: HeldOutCase) -> tuple[int, int, int]:
    """Return the voxels that a cut volume keeps: a slice of one patch."""
    return LEAST_SIZE


def make_examples(network: keras.Model, config: Config, case: HeldOutCase) -> dict[str, Example]:
    """Return what every signature must give: the results of `predict`, and Keras' on patches."""
    scan = case.arrays["image"]
    images = {name: scan[..., i] for i, name in enumerate(config.modalities)}
    both = predict_as_served(network, config)(scan)
    labels, probabilities = both["labels"], both["probabilities"]
    prepared = prepare_patient(LoadedPatient(images, None), config)
    x = cut_patches(prepared, sizes_of(config).input)
    inputs = [x, x[:, CENTRE, CENTRE]] if config.architecture == "cascade" else x
    return {
        "serving_default": Example({"image": scan}, {"labels": labels}),
        "probabilities": Example({"image": scan}, {"probabilities": probabilities}),
        "volume": Example({"image": scan}, both),
        "patches": Example({"x": x}, {"y": network.predict_on_batch(inputs)}),
    }


def cut_patches(image: np.ndarray, edge: int) -> np.ndarray:
    """Return two squares out of the slice that varies most, continued by repetition if need be."""
    plane = image[image.std(axis=(1, 2, 3)).argmax()]
    rows, columns = (np.arange(edge + shift) % size
                     for shift, size in zip((0, 3), plane.shape, strict=False))  # fmt: skip
    wide = plane[rows[:, None], columns]
    return np.stack([wide[:, :edge], wide[:, 3:]])


def passport_entry(config: Config, case: HeldOutCase) -> Description:
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


@lru_cache(maxsize=1)
def predict_as_served(network: keras.Model, config: Config) -> Callable:
    """Return the function of `predict`, from a scan to what the signature `volume` gives; compiled
    once for a scan, its parts and its flips."""
    segment = on_volumes(segment_scan, network, config)

    def run(scan: np.ndarray) -> dict[str, np.ndarray]:
        found = segment(scan)
        return {"labels": (found > config.threshold).astype(np.uint8), "probabilities": found}

    return run


def bench_served(config: Config, shape: tuple[int, int, int] = (24, 100, 100)) -> None:
    """Time the exported graph on a made-up volume beside `predict`.

    Args:
        config: of a network with fresh weights.
        shape: slices, rows, columns.
    """
    rng = np.random.default_rng(0)
    scan = rng.normal(40, 9, (*shape, len(config.modalities))).astype(np.float32)
    network = build_for_inference(config)
    run = predict_as_served(network, config)
    bench_export(
        network, make_endpoints(network, config), inputs={"image": scan},
        in_python=lambda: run(scan),
    )  # fmt: skip
