"""The signatures of an exported network: whole volumes, with and without a region, and segments.

A server needs neither Python nor this package: the graph holds `dhcp_fetal.inference.segment`,
which `predict` runs. Arrays are (x, y, z, channels).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.errors import OptionError
from common.export.bench import bench_export
from common.export.parity import Example
from common.export.passport import PER_CLASS, Description, describe_input
from common.export.write import Endpoint, HeldOutCase, first_case, scan_endpoints
from common.inference.compiled import on_arrays
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.data import files_from, load_case, normalise
from dhcp_fetal.inference import check_lattice, graph_of, input_specs, lattice_step, on_volumes
from dhcp_fetal.model import build_model
from dhcp_fetal.networks import load_run_network
from dhcp_fetal.tiles import as_weights, cut_segment, pad_case

__all__ = ["least_size", "load_run_network", "load_test_case", "make_endpoints",
           "make_examples", "make_up_case", "passport_entry", "with_labels"]  # fmt: skip
"""What `export` asks for (`common.export.write.ServingModule`)."""


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signatures of the model.

    `serving_default`: image (x, y, z, channels) float32 as read from the file -> labels (x, y, z)
    uint8. `probabilities`: the same image -> probabilities (x, y, z, classes) float32. `volume`:
    the same image -> both. `masked`: image and mask (x, y, z) int16, outside which all results are
    0 -> both. `segments`: normal, context_1, ... in the network's own shapes -> probabilities.
    Preparation and tiling become part of the graph; see `check_servable` for errors.
    """
    check_servable(config)
    (graph, _), (image, mask) = compile_once(network, config), input_specs(config)
    parts = [
        tf.TensorSpec((None, *tensor.shape[1:]), tf.float32, name=tensor.name)
        for tensor in network.inputs
    ]

    def serve(image, region, mask):
        found = graph(normalise_in_graph(image, region, config), mask)
        return {**found, "labels": tf.cast(found["labels"], tf.uint8)}

    def serve_volume(image):
        return serve(image, None, tf.ones(tf.shape(image)[:3], tf.int16))

    def serve_masked(image, mask):
        return serve(image, mask, mask)

    def serve_segments(*inputs):
        found = network(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        return {"probabilities": found}

    return [
        *scan_endpoints(serve_volume, image),
        Endpoint("masked", serve_masked, [image, mask]),
        Endpoint("segments", serve_segments, parts),
    ]


def with_labels(means: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return averaged probabilities with the most probable classes, 0 outside a region [G8]."""
    chances = means["probabilities"]
    weight = tf.cast(tf.round(tf.reduce_sum(chances, axis=-1)), tf.int32)  # they add up to it
    classes = tf.argmax(chances, axis=-1, output_type=tf.int32)
    return {**means, "labels": tf.cast(classes * weight, tf.uint8)}


@lru_cache(maxsize=1)
def compile_once(network: keras.Model, config: Config) -> tuple[Callable, Callable]:
    """Return `graph_of`, and it on arrays: what is exported and what it is compared with, on a
    whole scan and on a part of it, share one graph, which takes seconds to trace and optimise."""
    graph = graph_of(network, config)
    return graph, on_arrays(graph, *input_specs(config))


def check_servable(config: Config) -> None:
    """Raise `OptionError` for what a graph would do differently from `predict`."""
    if config.zscore_channels != "none":
        raise OptionError(
            f"zscore_channels: found {config.zscore_channels}; a model is exported without the"
            " engine's own normalisation (none), expected `prepare` or --normalisation instead"
        )
    check_lattice(config)


def normalise_in_graph(image: tf.Tensor, mask: tf.Tensor | None, config: Config) -> tf.Tensor:
    """Do as `data.normalise`, statistics in float64."""
    if config.normalisation == "none":
        return image
    counted = tf.ones(tf.shape(image)[:3], tf.bool)
    if mask is not None and config.normalisation == "brain":
        inside = mask > 0
        counted = tf.where(tf.reduce_any(inside), inside, counted)
    channels = []
    for channel in range(config.input_channels):
        values = image[..., channel]
        chosen = tf.cast(tf.boolean_mask(values, counted), tf.float64)
        mean = tf.reduce_mean(chosen)
        deviation = tf.sqrt(tf.reduce_mean(tf.square(chosen - mean)))
        constant = tf.equal(tf.reduce_min(chosen), tf.reduce_max(chosen))
        scaled = tf.math.divide_no_nan(tf.cast(values, tf.float64) - mean, deviation)
        channels.append(tf.where(constant, 0.0, tf.cast(scaled, tf.float32)))
    return tf.stack(channels, axis=-1)


def load_test_case(record, network: keras.Model, config: Config) -> HeldOutCase:
    """Return the first held-out scan of a run, with its region of interest where it has one."""
    entry, name = first_case(record)
    case = load_case(files_from(entry), config)
    found = [] if case.labels is None else np.argwhere(case.labels)
    centre = found.mean(axis=0).astype(int) if len(found) else np.array(case.image.shape[:3]) // 2
    mask = make_up_mask(case.image.shape[:3]) if case.mask is None else case.mask
    return HeldOutCase(
        name,
        {"image": case.image.astype(np.float32), "mask": mask},
        spacing_mm=case.scan.spacing_mm,
        centre=centre,
    )


def make_up_case(config: Config) -> HeldOutCase:
    """Return seeded noise with a bright body, for a network without data."""
    rng = np.random.default_rng(0)
    edges = [int(n * 1.3) for n in config.inference_segment]
    scan = rng.normal(300.0, 60.0, (*edges, config.input_channels)).astype(np.float32)
    scan[edges[0] // 4 : edges[0] // 2, edges[1] // 4 : edges[1] // 2] += 250.0
    return HeldOutCase("seeded noise", {"image": scan, "mask": make_up_mask(edges)})


def make_up_mask(shape) -> np.ndarray:
    """Return a region for a scan that has none: the middle half of every axis."""
    mask = np.zeros(shape, np.int16)
    mask[tuple(slice(n // 4, n - n // 4) for n in shape)] = 1
    return mask


def least_size(config: Config, case: HeldOutCase) -> tuple[int, int, int]:
    """Return the voxels that a cut scan keeps: one segment."""
    return config.inference_segment


def make_examples(network: keras.Model, config: Config, case: HeldOutCase) -> dict[str, Example]:
    """Return what signatures are compared on: results of `predict`, and of Keras on segments."""
    scan, mask = case.arrays["image"], case.arrays["mask"]
    _, run = compile_once(network, config)
    whole = run(normalise(scan, config.normalisation), np.ones(mask.shape))
    masked = run(normalise(scan, config.normalisation, mask), as_weights(mask, config))
    for found in (whole, masked):
        found["labels"] = found["labels"].astype(np.uint8)
    segments = cut_segments(scan, config)
    names = [tensor.name for tensor in network.inputs]
    found = network.predict_on_batch(segments if len(segments) > 1 else segments[0])
    return {
        "serving_default": Example({"image": scan}, {"labels": whole["labels"]}),
        "probabilities": Example({"image": scan}, {"probabilities": whole["probabilities"]}),
        "volume": Example({"image": scan}, whole),
        "masked": Example({"image": scan, "mask": mask}, masked),
        "segments": Example(dict(zip(names, segments, strict=True)), {"probabilities": found}),
    }


def cut_segments(scan: np.ndarray, config: Config) -> list[np.ndarray]:
    """Return one segment out of the middle of a scan and its contexts, each in a batch of one."""
    segment = config.validation_segment
    padded = pad_case(normalise(scan, config.normalisation), config, segment=segment)
    corner = [(n - edge) // 2 for n, edge in zip(padded.image.shape, segment, strict=False)]
    parts = cut_segment(padded, corner, segment, config, sampled=False)
    return [np.ascontiguousarray(part[np.newaxis], np.float32) for part in parts]


def passport_entry(config: Config, case: HeldOutCase) -> Description:
    """Return what the passport says of the model."""
    scale = {
        "none": "mean 0 and deviation 1, normalised by the client",
        "volume": "raw scanner units, any scale",
        "brain": "raw scanner units, any scale",
    }[config.normalisation]
    over = "the region, else the whole scan" if config.normalisation == "brain" else "whole scan"
    window = {"axes": "XYZ", "minimum_size": (1, 1, 1), "spacing_mm": case.spacing_mm,
              "spacing_tolerance": 0.1}  # fmt: skip
    predicted = geometry.output_size(config, config.inference_segment)
    tiles = {"step": "tiles of the engine", "predicted": predicted}
    lattice = {"step": "lattice", "step_voxels": lattice_step(config),
               "shifts": config.lattice_shifts}  # fmt: skip
    return Description(
        inputs={
            "image": describe_input(
                "T2-weighted fetal MRI, reconstructed to one volume",
                channels=[f"channel {n + 1}" for n in range(config.input_channels)],
                intensities=scale,
                **{**window, "axes": "XYZC"},
            ),
            "mask": describe_input(
                "region of interest: the brain", channels=["mask"],
                intensities="above 0 inside, 0 outside", **window
            ),
        },
        preprocessing=[
            {"step": "whiten", "kind": config.normalisation, "statistics": f"float64, {over}",
             "in_graph": config.normalisation != "none"},
            {"step": "reflect at the borders", "in_graph": config.pad_inputs},
            {**(tiles if config.tiling == "engine" else lattice), "in_graph": True},
        ],
        labels={0: "background"} | {n: f"class {n}" for n in range(1, config.classes)},
        outputs=PER_CLASS,
        limits=[
            "Nothing is reoriented or resampled: voxel size and orientation must be those of the"
            " training scans.",
            "The network for the cortex needs the brain as `mask`, found by the network for the"
            " brain.",
        ],
    )  # fmt: skip


def bench_served(config: Config, shape: tuple[int, int, int] = (92, 90, 70)) -> None:
    """Time the exported graph on a made-up volume beside the Python path of `predict`."""
    rng = np.random.default_rng(0)
    scan = rng.normal(300, 60, (*shape, config.input_channels)).astype(np.float32)
    network = build_model(config)
    run = on_volumes(network, config)

    def in_python():
        found = run(normalise(scan, config.normalisation))
        return {"labels": found.labels.astype(np.uint8), "probabilities": found.probabilities}

    endpoints = make_endpoints(network, config)
    bench_export(network, endpoints, inputs={"image": scan}, in_python=in_python)
