"""What the network has to do: a training step, a window of the search, a scan, a run."""

from dataclasses import replace
from math import ceil, prod

from common.cost.workloads import FLOAT_BYTES, ScanWork, UsualData, Workload, call_whole
from vertebra.config import CODE, PHANTOM_SHAPE, QUICK, Config
from vertebra.losses import completeness_loss, make_mask_loss
from vertebra.model import build_model, make_optimizer

USUAL_SCAN = (400, 256, 256)
"""Slices, rows, columns at 1 mm: a lumbar and thoracic spine."""


def workload_of(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration: one patch at a time, in training and in the search."""
    shape = (1, *(config.patch_size,) * 3, 2)
    return Workload(
        training_shapes=(shape,),
        prediction_shapes=(shape,),
        lower_in_training="--patch_size or --channels",
        lower_in_prediction="--channels, of a new network",
    )


def build_network(config: Config):
    """Return the network for patches."""
    return build_model(config)


def compile_network(network, config: Config, *, xla: bool):
    """Return the network with its optimiser and losses."""
    network.compile(
        make_optimizer(config),
        loss={"mask": make_mask_loss(config), "completeness": completeness_loss},
        loss_weights={"mask": 1.0, "completeness": config.completeness_weight},
        jit_compile=xla,
    )
    return network


def draw_targets(config: Config, outputs, rng):
    """Return a random mask with weights of its voxels, and whether it is complete."""
    mask, completeness = outputs["mask"], outputs["completeness"]
    return {
        "mask": rng.integers(0, 2, (*mask[:-1], 2)).astype("float32"),
        "completeness": rng.integers(0, 2, completeness).astype("float32"),
    }


def make_call(network, config: Config):
    """Return how the search asks about a window."""
    return call_whole(network)


def scan_work(shape: tuple[int, int, int], config: Config) -> ScanWork:
    """Return what a scan (slices, rows, columns) at the working resolution asks for."""
    windows = prod(max(ceil(size / config.step), 1) for size in shape)
    voxels = config.patch_size**3
    payload = {"request": 2 * voxels * FLOAT_BYTES, "mask": voxels * FLOAT_BYTES}
    return ScanWork(
        shape,
        calls=windows,
        payload=payload,
        note="windows of a whole raster; the search skips some of them and adds a few for each "
        "vertebra. The payload is that of one window",
    )


def usual_data(preset: str) -> UsualData:
    """Return a lumbar and thoracic spine, or a phantom."""
    return UsualData(PHANTOM_SHAPE if preset == "quick" else USUAL_SCAN)


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run; they do not depend on the data."""
    return config.max_steps


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: the released network."""
    return {"": CODE}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU."""
    return {"": replace(QUICK, channels=2, patch_size=16)}
