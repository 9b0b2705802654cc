"""What the networks have to do: a training step, a call at prediction, a patient, a run."""

from dataclasses import replace
from math import ceil

from common.cost.layer_memory import LayerMemory
from common.cost.workloads import Scan, Workload, payload_of_scan
from sarcoma.config import CODE, LABEL, PATCH, QUICK, Config
from sarcoma.losses import cross_entropy_of_probabilities, dice_loss
from sarcoma.model import build_model, make_optimizer

SCAN = (150, 128, 128)
"""Slices, rows, columns; patients of the data set differ."""
MARGIN = 372
"""Pixels that the dilated network's input is larger than its output."""


def describe(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration; the dilated network predicts whole slices."""
    channels = len(config.modalities)
    dilated, pieces = config.architecture == "dilated", config.maxout_pieces
    if dilated:
        training = [(config.batch_size, *(config.dilated_input,) * 2, channels)]
        prediction = [(1, *(8 * ceil(size / 8) + MARGIN for size in (scan or SCAN)[1:]), channels)]
    else:
        sizes = [PATCH, LABEL] if config.architecture == "cascade" else [PATCH]
        training, prediction = (
            [(count, edge, edge, channels) for edge in sizes]
            for count in (config.batch_size, config.windows_per_batch)
        )

    def compile_(model, xla):
        loss = cross_entropy_of_probabilities
        if config.architecture == "unet2d":
            loss = dice_loss
        model.compile(make_optimizer(config), loss, jit_compile=xla)
        return model

    def make_targets(rng, output):
        if config.architecture == "unet2d":
            return rng.integers(0, 2, output).astype("float32")
        return rng.integers(0, 2, output[:-1]).astype("int32")

    return Workload(
        build=lambda: build_model(config, (None, None, channels) if dilated else None),
        compile=compile_,
        make_targets=make_targets,
        training_shapes=tuple(training),
        prediction_shapes=tuple(prediction),
        # The maps before the maximum, as convolved and as normalised.
        memory={
            "MaxoutConv2D": LayerMemory(
                hidden=2.0 * pieces, way_back=7.0 * pieces, way_there=1.0 * pieces
            )
        },
        lower_in_training="--batch_size",
        lower_in_prediction="" if dilated else "--windows_per_batch",
    )


def describe_scan(shape: tuple[int, int, int], config: Config) -> Scan:
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
    return Scan(shape, calls=calls, payload=payload)


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
