"""What the network has to do: a training step, a batch of tiles, a scan, a run."""

from dataclasses import replace
from math import ceil, prod

from common.cost.workloads import ScanWork, UsualData, Workload, call_whole, payload_of_scan
from dhcp_fetal import geometry
from dhcp_fetal.config import CODE, PHANTOM_SHAPE, QUICK, Config
from dhcp_fetal.losses import EngineCost
from dhcp_fetal.model import build_model
from dhcp_fetal.optimisers import make_optimiser

USUAL_SCAN = (180, 221, 180)
"""Voxels (x, y, z) of a reconstructed fetal brain."""


def workload_of(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration: segments in training, tiles at prediction."""

    def shapes_of(count, segment):
        sizes = [segment, *geometry.context_sizes(config, segment)]
        return tuple((count, *size, config.input_channels) for size in sizes)

    return Workload(
        training_shapes=shapes_of(config.batch_size, config.train_segment),
        prediction_shapes=shapes_of(config.inference_batch_size, config.inference_segment),
        lower_in_training="--batch_size or --train_segment",
        lower_in_prediction="--inference_batch_size",
    )


def build_network(config: Config):
    """Return the network for segments and tiles."""
    return build_model(config)


def compile_network(network, config: Config, *, xla: bool):
    """Return the network with its optimiser and the engine's cost."""
    optimiser = make_optimiser(config)
    optimiser.build(network.trainable_variables)
    network.compile(optimiser, EngineCost(network, config), jit_compile=xla)
    return network


def draw_targets(config: Config, outputs, rng):
    """Return random classes of every voxel."""
    return rng.integers(0, outputs[-1], outputs[:-1]).astype("int32")


def make_call(network, config: Config):
    """Return how tiles are predicted where they are not divided: a batch at a time."""
    return call_whole(network)


def scan_work(shape: tuple[int, int, int], config: Config) -> ScanWork:
    """Return what a scan (x, y, z) without a region of interest asks for."""
    predicted = geometry.output_size(config, config.inference_segment)
    tiles = prod(ceil(size / edge) for size, edge in zip(shape, predicted, strict=True))
    return ScanWork(
        shape,
        calls=ceil(tiles / config.inference_batch_size),
        payload=payload_of_scan(shape, channels=config.input_channels, classes=config.classes),
        note="without a region of interest, in the engine's tiles; the lattice takes a few more",
    )


def usual_data(preset: str) -> UsualData:
    """Return a reconstructed fetal brain, or a phantom."""
    return UsualData(PHANTOM_SHAPE if preset == "quick" else USUAL_SCAN)


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run; they do not depend on the number of cases."""
    return config.epochs * config.subepochs * (config.segments_per_subepoch // config.batch_size)


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: the released network."""
    return {"": CODE}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU."""
    two = {"kernels": ((3, 3, 3),) * 2, "padding": ("valid",) * 2, "residual_layers": ()}
    tiny = replace(
        QUICK,
        **two,
        **{f"context_{name}": value for name, value in two.items()},
        filters=(2, 2),
        context_filters=((2, 2),),
        fc_filters=(4,),
        batch_size=2,
        inference_batch_size=2,
        train_segment=(13, 13, 13),
        validation_segment=(13, 13, 13),
        inference_segment=(15, 15, 15),
    )
    return {"": tiny}
