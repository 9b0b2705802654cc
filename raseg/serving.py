"""The signatures of the exported network: volumes as `predict` segments them, and logits.

Axis order (row, column, slice, channel).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import FOREGROUND, Description, describe_input
from common.export.write import Endpoint, HeldOutCase, first_case, scan_endpoints
from raseg.binaries import find_binaries
from raseg.config import CHANNELS, Config
from raseg.data import open_volumes
from raseg.inference import load_run_network as load_run_network  # `export` asks for it here
from raseg.inference import on_volumes, segment_scan, volume_spec
from raseg.model import build_for_any_size
from raseg.sampling import normalise_in_graph

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
    """
    volume = volume_spec(config)
    images = tf.TensorSpec((None, *volume.shape), tf.float32, name="images")
    return [
        *scan_endpoints(lambda image: segment_scan(network, image, config), volume),
        Endpoint("logits", lambda images: {"logits": network(images, training=False)}, [images]),
    ]


def with_labels(means: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return averaged probabilities with the labels where the foreground has more than a half."""
    return {**means, "labels": tf.cast(means["probabilities"] > 0.5, tf.uint8)}


def load_test_case(record, network: keras.Model, config: Config) -> HeldOutCase:
    """Return the first held-out volume of a run, from the arrays that its binaries were made of."""
    entry, name = first_case(record)
    number = int(entry["volume"])
    binaries = find_binaries(Path(record.config["data_dir"]), record.config["tag"], config)
    volumes = open_volumes(Path(binaries.index["data"]), config)
    found = np.argwhere(volumes.label(number))
    return HeldOutCase(
        name,
        {"image": volumes.image(number).astype(np.float32)},
        spacing_mm=volumes.spacing_mm,
        centre=found.mean(axis=0).astype(int) if len(found) else None,
    )


def make_up_case(config: Config) -> HeldOutCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    rows, columns, slices = config.patch_shape or (37, 30, 11)
    shape = (rows + rows // 2, columns, slices + 1, len(CHANNELS[config.task]))
    image = rng.uniform(100, 400, shape).astype(np.float32)
    image[rows // 4 : rows // 2, columns // 4 : columns // 2] += 500
    return HeldOutCase("seeded noise", {"image": image})


def least_size(config: Config, case: HeldOutCase) -> tuple[int, int, int]:
    """Return the voxels that a cut volume keeps."""
    return config.patch_shape or (32, 32, 8)


def make_examples(network: keras.Model, config: Config, case: HeldOutCase) -> dict[str, Example]:
    """Return what every signature is compared on; expected is what `predict` and Keras give."""
    image = case.arrays["image"]
    both = predict_as_served(network, config)(image)
    batch = normalise_in_graph(image[:16, :24, :8])[None].numpy()
    return {
        "serving_default": Example({"image": image}, {"labels": both["labels"]}),
        "probabilities": Example({"image": image}, {"probabilities": both["probabilities"]}),
        "volume": Example({"image": image}, both),
        "logits": Example({"images": batch}, {"logits": network.predict_on_batch(batch)}),
    }


@lru_cache(maxsize=1)
def predict_as_served(network: keras.Model, config: Config) -> Callable:
    """Return the function of `predict`, from a scan to what the signature `volume` gives; compiled
    once for a scan, its parts and its flips."""
    return on_volumes(segment_scan, network, config)


def passport_entry(config: Config, case: HeldOutCase) -> Description:
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


def bench_served(config: Config, shape: tuple[int, int, int]) -> None:
    """Time the exported graph, with fresh weights, on a made-up volume beside `predict`."""
    channels = len(CHANNELS[config.task])
    scan = np.random.default_rng(0).uniform(0, 900, (*shape, channels)).astype(np.float32)
    network = build_for_any_size(config)
    predict = predict_as_served(network, config)
    bench_export(
        network, make_endpoints(network, config), inputs={"image": scan},
        in_python=lambda: predict(scan),
    )  # fmt: skip
