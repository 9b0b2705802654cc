"""What the network has to do: a training step, a call at prediction, a scan, a run."""

from dataclasses import replace
from math import ceil

from common.cost.workloads import Scan, Workload, payload_of_scan
from common.network.losses import sparse_cross_entropy
from fetal_brain.config import CODE, PORT, QUICK, Config
from fetal_brain.model import build_model, make_optimizer

SCAN = (170, 336, 336)
"""Slices, rows, columns of the second scan in the original's README."""


def describe(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration: patches in training, windows at prediction.

    Args:
        config: of the run.
        scan: slices, rows, columns; a plane smaller than the window is one window. None: unknown.
    """
    window = config.window
    if scan is not None:
        plane = [
            min(edge, -(-size // 8) * 8) for size, edge in zip(scan[1:], window[1:], strict=True)
        ]
        window = (window[0], *plane)

    def shape_of(count, size):
        slices, rows, columns = size
        if config.slices_as_channels:
            return (count, 1, rows, columns, slices)
        return (count, slices, rows, columns, 1)

    training = shape_of(config.batch_size, config.patch_shape)

    def compile_(model, xla):
        model.compile(make_optimizer(config), sparse_cross_entropy, jit_compile=xla)
        return model

    def make_targets(rng, output):
        return rng.integers(0, output[-1], output[:-1]).astype("int32")

    return Workload(
        build=lambda: build_model(config, (training[1], None, None, training[-1])),
        compile=compile_,
        make_targets=make_targets,
        training_shapes=(training,),
        prediction_shapes=(shape_of(config.windows_per_batch, window),),
        lower_in_training="--batch_size or --patch_shape",
        lower_in_prediction="--windows_per_batch or --window",
    )


def describe_scan(shape: tuple[int, int, int], config: Config) -> Scan:
    """Return what a scan (slices, rows, columns) asks for."""
    windows = 1
    for size, edge, step in zip(shape, config.window, config.window_stride, strict=True):
        windows *= max(ceil((size - edge) / step), 0) + 1
    return Scan(
        shape,
        calls=ceil(windows / config.windows_per_batch),
        payload=payload_of_scan(shape, classes=len(config.label_ids)),
    )


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run; they do not depend on the data."""
    return config.max_steps


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: the released batches, the port's windows."""
    return {"": replace(CODE, window=PORT.window, windows_per_batch=PORT.windows_per_batch)}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU."""
    return {"": replace(QUICK, filters=(4, 4, 8), kernels=(3, 3, 1), patch_shape=(3, 32, 32),
                        window=(3, 32, 32), windows_per_batch=2, batch_size=2)}  # fmt: skip
