"""What the network has to do: a training step, a window of the search, a scan, a run."""

from dataclasses import replace
from math import ceil, prod

from common.cost.layer_memory import LayerMemory
from common.cost.workloads import FLOAT_BYTES, Scan, Workload
from vertebra.config import CODE, QUICK, Config
from vertebra.losses import completeness_loss, make_mask_loss
from vertebra.model import build_model, make_optimizer

SCAN = (400, 256, 256)
"""Slices, rows, columns at 1 mm: a lumbar and thoracic spine."""


def describe(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration: one patch at a time, in training and in the search."""
    shape = (1, *(config.patch_size,) * 3, 2)

    def compile_(model, xla):
        model.compile(
            make_optimizer(config),
            loss={"mask": make_mask_loss(config), "completeness": completeness_loss},
            loss_weights={"mask": 1.0, "completeness": config.completeness_weight},
            jit_compile=xla,
        )
        return model

    def make_targets(rng, output):
        mask, completeness = output["mask"], output["completeness"]
        return {
            "mask": rng.integers(0, 2, (*mask[:-1], 2)).astype("float32"),
            "completeness": rng.integers(0, 2, completeness).astype("float32"),
        }

    return Workload(
        build=lambda: build_model(config),
        compile=compile_,
        make_targets=make_targets,
        training_shapes=(shape,),
        prediction_shapes=(shape,),
        memory={
            # Of both halves: what was clipped at zero, what was centred; the first one's result.
            "Block": LayerMemory(output=False, hidden=5.0, way_back=3.0, way_there=2.0),
            "FirstMaxPool": LayerMemory(input=False, output=False, hidden=2.0),
        },
        lower_in_training="--patch_size or --channels",
        lower_in_prediction="--channels, of a new network",
    )


def describe_scan(shape: tuple[int, int, int], config: Config) -> Scan:
    """Return what a scan (slices, rows, columns) at the working resolution asks for."""
    windows = prod(max(ceil(size / config.step), 1) for size in shape)
    voxels = config.patch_size**3
    payload = {"request": 2 * voxels * FLOAT_BYTES, "mask": voxels * FLOAT_BYTES}
    return Scan(
        shape,
        calls=windows,
        payload=payload,
        note="windows of a whole raster; the search skips some of them and adds a few for each "
        "vertebra. The payload is that of one window",
    )


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run; they do not depend on the data."""
    return config.max_steps


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: the released network."""
    return {"": CODE}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU."""
    return {"": replace(QUICK, channels=2, patch_size=16)}
