"""What the network has to do: a training step, a call at prediction, a scan, a run."""

from dataclasses import replace
from math import ceil

import keras

from common.cost.workloads import ScanWork, UsualData, Workload, call_whole, payload_of_scan
from common.network.losses import sparse_cross_entropy
from fetal_brain.config import CODE, PHANTOM_SHAPE, PLANE_MULTIPLE, PORT, QUICK, Config, input_shape
from fetal_brain.model import build_model, make_optimizer

PUBLISHED_SCAN = (170, 336, 336)
"""Slices, rows, columns of the second scan in the original's README."""


def workload_of(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration: patches in training, windows of a scan at prediction."""
    window = config.window
    if scan is not None:
        rounded = (ceil(size / PLANE_MULTIPLE) * PLANE_MULTIPLE for size in scan[1:])
        window = (window[0], *map(min, window[1:], rounded))
    return Workload(
        training_shapes=((config.batch_size, *input_shape(config)),),
        prediction_shapes=((config.windows_per_batch, *input_shape(config, window)),),
        lower_in_training="--batch_size or --patch_shape",
        lower_in_prediction="--windows_per_batch or --window",
    )


def build_network(config: Config):
    """Return the network for patches of any plane."""
    return build_model(config, input_shape(config, (config.patch_shape[0], None, None)))


def compile_network(network, config: Config, *, xla: bool):
    """Return the network with its optimiser and loss."""
    if keras.config.backend() == "tensorflow":
        from common.network.kernel_gradient import speed_up_kernel_gradients

        speed_up_kernel_gradients(network)
    network.compile(make_optimizer(config), sparse_cross_entropy, jit_compile=xla)
    return network


def draw_targets(config: Config, outputs, rng):
    """Return random classes of every voxel."""
    return rng.integers(0, outputs[-1], outputs[:-1]).astype("int32")


def make_call(network, config: Config):
    """Return how windows are predicted: a batch at a time."""
    return call_whole(network)


def scan_work(shape: tuple[int, int, int], config: Config) -> ScanWork:
    """Return what a scan (slices, rows, columns) asks for."""
    windows = 1
    for size, edge, step in zip(shape, config.window, config.window_stride, strict=True):
        windows *= max(ceil((size - edge) / step), 0) + 1
    return ScanWork(
        shape,
        calls=ceil(windows / config.windows_per_batch),
        payload=payload_of_scan(shape, classes=len(config.label_ids)),
    )


def usual_data(preset: str) -> UsualData:
    """Return a scan of the original's README, or a phantom."""
    return UsualData(PHANTOM_SHAPE if preset == "quick" else PUBLISHED_SCAN)


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
