"""What the networks have to do: a training step, a call at prediction, a patient, a run."""

from dataclasses import replace
from math import ceil

from common.cost.workloads import ScanWork, UsualData, Workload, call_whole, payload_of_scan
from sarcoma.config import CODE, LABEL, MARGIN, PATCH, QUICK, Config
from sarcoma.losses import loss_of
from sarcoma.model import build_for_inference, make_optimizer

USUAL_SCAN = (150, 128, 128)
"""Slices, rows, columns; patients of the data set differ."""


def workload_of(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration; the dilated network predicts whole slices."""
    channels = len(config.modalities)
    dilated = config.architecture == "dilated"
    if dilated:
        plane = [8 * ceil(size / 8) + MARGIN for size in (scan or USUAL_SCAN)[1:]]
        training = [(config.batch_size, *(config.dilated_input,) * 2, channels)]
        prediction = [(1, *plane, channels)]
    else:
        sizes = [PATCH, LABEL] if config.architecture == "cascade" else [PATCH]
        training, prediction = (
            [(count, edge, edge, channels) for edge in sizes]
            for count in (config.batch_size, config.windows_per_batch)
        )
    return Workload(
        training_shapes=tuple(training),
        prediction_shapes=tuple(prediction),
        lower_in_prediction="" if dilated else "--windows_per_batch",
    )


build_network = build_for_inference


def compile_network(network, config: Config, *, xla: bool):
    """Return the network with its optimiser and loss."""
    network.compile(make_optimizer(config), loss_of(config), jit_compile=xla)
    return network


def draw_targets(config: Config, outputs, rng):
    """Return random masks for the U-Net, random classes for the others."""
    if config.architecture == "unet2d":
        return rng.integers(0, 2, outputs).astype("float32")
    return rng.integers(0, 2, outputs[:-1]).astype("int32")


def make_call(network, config: Config):
    """Return how patches, or a whole slice, are predicted: a batch at a time."""
    return call_whole(network)


def scan_work(shape: tuple[int, int, int], config: Config) -> ScanWork:
    """Return what a patient (slices, rows, columns) asks for."""
    calls = shape[0]
    if config.architecture != "dilated":
        cascade = config.architecture == "cascade"
        output, step = (config.cascade_step,) * 2 if cascade else (LABEL, config.window_stride)
        windows = shape[0]
        for size in shape[1:]:
            windows *= max(ceil((size - output) / step), 0) + 1
        calls = ceil(windows / config.windows_per_batch)
    payload = payload_of_scan(shape, channels=len(config.modalities), classes=1)
    return ScanWork(shape, calls=calls, payload=payload)


def usual_data(preset: str) -> UsualData:
    """Return a patient; phantoms have as many slices as the patients they stand for."""
    return UsualData(USUAL_SCAN)


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run at most; None where the patches are not counted yet."""
    steps = config.steps_per_epoch or (examples and ceil(examples / config.batch_size))
    return steps and config.epochs * steps


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: the three released networks."""
    names = ("unet2d", "cascade", "dilated")
    return {name: replace(CODE, architecture=name) for name in names}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU; the dilated network is not."""
    tiny = replace(QUICK, filters=(2, 4), cascade_filters=(1, 1, 2), batch_size=2,
                   windows_per_batch=2)  # fmt: skip
    return {name: replace(tiny, architecture=name) for name in ("unet2d", "cascade")}
