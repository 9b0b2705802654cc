"""The signature of the exported network: one window and its memory, as a TensorFlow graph.

The search along the spine asks for a window after every answer and looks for connected pieces in
between, which no TensorFlow graph does well: it stays with the client.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.errors import DataError
from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import Description, describe_input
from common.export.write import Endpoint, HeldOutCase, first_case
from vertebra.config import Config
from vertebra.data import load_scan
from vertebra.inference import (
    WINDOW,
    build_for_any_size,
    load_run_network,
    look,
    make_ask,
    on_windows,
)
from vertebra.model import MULTIPLE, set_statistics
from vertebra.segmentation import to_working_grid
from vertebra.traverse import advance, begin

__all__ = [
    "least_size",
    "load_run_network",
    "load_test_case",
    "make_endpoints",
    "make_examples",
    "make_up_case",
    "passport_entry",
    "with_labels",
]
"""What `export` asks for (`common.export.write.ServingModule`)."""

MOST_WINDOWS = 12
"""Of the search through the test case, which ends with the first that remembers a vertebra."""


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signature of the model; `inference_statistics` become part of the graph.

    `serving_default`: image and memory (Z, Y, X) float32 -> mask (Z, Y, X) float32, completeness
    (1,) float32. Every axis a multiple of 8 from `patch_size` to below twice that.
    """
    set_statistics(network, config.inference_statistics)
    return [Endpoint("serving_default", lambda image, memory: look(network, image, memory), WINDOW)]


def with_labels(means: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return averaged answers as they are: the search makes labels of them."""
    return {**means}


def load_test_case(record, network: keras.Model, config: Config) -> HeldOutCase:
    """Return a window that the search asks about in the first held-out scan of a run.

    It is the first that remembers a vertebra, or the last of those that were tried.
    """
    entry, name = first_case(record)
    path = Path(entry["image_path"])
    working, _ = to_working_grid(load_scan(path), config, name=str(path))
    ask, asked = make_ask(network, config), []

    def remember(image, memory):
        asked.append((image, memory.copy()))
        return ask(image, memory)

    for _ in advance(begin(working.array, config), remember, max_visits=4 * MOST_WINDOWS):
        if asked and (asked[-1][1].any() or len(asked) == MOST_WINDOWS):
            break
    if not asked:
        raise DataError(f"{name}: the search asked about no window")
    image, memory = asked[-1]
    what = "one vertebra" if memory.any() else "nothing"
    return HeldOutCase(
        f"window {len(asked)} of the search through {name}, {what} remembered",
        {"image": image, "memory": memory},
        spacing_mm=(config.spacing_mm,) * 3,
    )


def make_up_case(config: Config) -> HeldOutCase:
    """Return a bright body in noise, half of it remembered, for a network without data."""
    rng = np.random.default_rng(0)
    edge = config.patch_size
    image = rng.normal(1064, 30, (edge, edge, edge + 8)).astype(np.float32)
    body = (slice(edge // 4, edge // 2), slice(edge // 3, edge // 2), slice(edge // 3, edge // 2))
    image[body] += 500
    memory = np.zeros_like(image)
    memory[: edge // 3][image[: edge // 3] > 1300] = 1
    arrays = {"image": image, "memory": memory}
    return HeldOutCase("seeded noise", arrays, spacing_mm=(config.spacing_mm,) * 3)


def least_size(config: Config, case: HeldOutCase) -> tuple[int, int, int]:
    """Return the voxels that a cut case keeps: a window stays whole."""
    return case.arrays["image"].shape


def make_examples(network: keras.Model, config: Config, case: HeldOutCase) -> dict[str, Example]:
    """Return what the signature is compared on: the answer that the search gets."""
    expected = answer_as_served(network, config)(case.arrays["image"], case.arrays["memory"])
    return {"serving_default": Example(case.arrays, expected)}


@lru_cache(maxsize=1)
def answer_as_served(network: keras.Model, config: Config) -> Callable:
    """Return the function that the search asks, compiled once for a window and its flips."""
    return on_windows(network, config)


def passport_entry(config: Config, case: HeldOutCase) -> Description:
    """Return what the passport says of the model."""
    edge = config.patch_size
    window = {
        "axes": "ZYX",
        "channels": ["CT"],
        "minimum_size": (edge,) * 3,
        "maximum_size": (2 * edge - MULTIPLE,) * 3,
        "multiple_of": MULTIPLE,
        "orientation": "LPS",
        "spacing_mm": case.spacing_mm,
        "spacing_tolerance": 1e-3,
    }
    return Description(
        inputs={
            "image": describe_input(
                "CT of the spine", intensities="unsigned scale: HU + 1024, at least 0", **window
            ),
            "memory": describe_input(
                "vertebrae found before", intensities="1 in them, 0 elsewhere", **window
            ),
        },
        preprocessing=[
            {"step": "to the unsigned scale", "in_graph": False},
            {"step": "reorient", "in_graph": False},
            {"step": "resample", "spacing_mm": config.spacing_mm, "in_graph": False},
            {"step": "cut the window of the search, zeros outside", "in_graph": False},
        ],
        labels={0: "not the next vertebra", 1: "the next vertebra, where mask is above 0.5"},
        outputs={
            "mask": "probability of the next vertebra",
            "completeness": f"whole in the window from {config.completeness_threshold}",
        },
        limits=[
            "One window at a time: a whole scan needs the search, which is the client's.",
            "Vertebrae are counted from the top, not named by anatomy.",
        ],
        whole_scan={
            "signature": None,
            "command": "python -m vertebra predict --model FOLDER --image SCAN",
            "why": "the search along the spine is not part of the graph",
            "config": asdict(config),
        },
    )


def bench_served(config: Config) -> None:
    """Time the exported graph on a made-up window beside `predict`, with fresh weights."""
    network = build_for_any_size(config)
    inputs = {name: array[..., : config.patch_size]
              for name, array in make_up_case(config).arrays.items()}  # fmt: skip
    run = answer_as_served(network, config)
    bench_export(
        network, make_endpoints(network, config), inputs=inputs,
        in_python=lambda: run(inputs["image"], inputs["memory"]),
        signature="serving_default",
    )  # fmt: skip
