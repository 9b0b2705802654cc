"""What the network has to do: a training step, a whole volume, a run."""

from dataclasses import replace
from math import ceil, prod

import keras

from common.cost.workloads import ScanWork, UsualData, Workload, payload_of_scan
from raseg.config import (
    CHANNELS,
    CODE,
    PHANTOM_SHAPE,
    PHANTOM_TRAINING_VOLUMES,
    QUICK,
    TRAINING_VOLUMES,
    VOLUME_SHAPE,
    Config,
)
from raseg.config import count_steps as steps_of_run
from raseg.model import DiceLoss, build_for_any_size, make_optimizer


def workload_of(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration on volumes (rows, columns, slices) or on its patches."""
    size = (*(config.patch_shape or scan or VOLUME_SHAPE), len(CHANNELS[config.task]))
    return Workload(
        training_shapes=((config.batch_size, *size),),
        prediction_shapes=((1, *size),),
        lower_in_training="--batch_size or --filters",
        lower_in_prediction="--filters, of a new network",
    )


build_network = build_for_any_size


def compile_network(network, config: Config, *, xla: bool):
    """Return what trains the network: itself, or on TensorFlow its rematerialised pass."""
    trained = network
    if keras.config.backend() == "tensorflow":
        from common.network.kernel_gradient import speed_up_kernel_gradients
        from raseg.rematerialise import Rematerialised

        speed_up_kernel_gradients(network)
        trained = Rematerialised(network, config) if config.rematerialise else network
    optimizer = make_optimizer(config, TRAINING_VOLUMES)
    trained.compile(optimizer, DiceLoss(config), jit_compile=xla)
    return trained


def draw_targets(config: Config, outputs, rng):
    """Return random classes of every voxel."""
    return rng.integers(0, outputs[-1], outputs[:-1]).astype("int32")


def make_call(network, config: Config):
    """Return how a volume is predicted; a large one is streamed."""
    from raseg.inference import on_volumes, segment

    logits_of = on_volumes(segment, network, config)
    return lambda images: logits_of(images[0])


def scan_work(shape: tuple[int, int, int], config: Config) -> ScanWork:
    """Return what a volume (rows, columns, slices) asks for."""
    tiles = prod(
        ceil(size / edge) for size, edge in zip(shape, config.patch_shape or shape, strict=True)
    )
    payload = payload_of_scan(shape, channels=len(CHANNELS[config.task]), classes=1)
    return ScanWork(shape, calls=tiles, payload=payload)


def usual_data(preset: str) -> UsualData:
    """Return the original's volumes, or the phantoms that `reproduce` writes."""
    if preset == "quick":
        return UsualData(PHANTOM_SHAPE, PHANTOM_TRAINING_VOLUMES)
    return UsualData(VOLUME_SHAPE, TRAINING_VOLUMES)


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run on so many volumes or patches."""
    return examples and steps_of_run(config, examples)


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: whole volumes, all activations kept."""
    return {"": replace(CODE, rematerialise=False)}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU."""
    return {"": replace(QUICK, filters=(4, 8), patch_shape=(16, 16, 8))}
