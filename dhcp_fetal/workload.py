"""What the network has to do: a training step, a batch of tiles, a scan, a run."""

from dataclasses import replace
from math import ceil, prod

from common.cost.layer_memory import LayerMemory
from common.cost.workloads import Scan, Workload, payload_of_scan
from dhcp_fetal import geometry
from dhcp_fetal.config import CODE, QUICK, Config
from dhcp_fetal.losses import EngineCost
from dhcp_fetal.model import build_model
from dhcp_fetal.optimisers import make_optimiser

SCAN = (180, 221, 180)
"""Voxels (x, y, z) of a reconstructed fetal brain."""


def describe(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration: segments in training, tiles at prediction."""

    def shapes_of(count, segment):
        sizes = [segment, *geometry.context_sizes(config, segment)]
        return tuple((count, *size, config.input_channels) for size in sizes)

    def compile_(model, xla):
        optimiser = make_optimiser(config)
        optimiser.build(model.trainable_variables)
        model.compile(optimiser, EngineCost(model, config), jit_compile=xla)
        return model

    def make_targets(rng, output):
        return rng.integers(0, output[-1], output[:-1]).astype("int32")

    return Workload(
        build=lambda: build_model(config),
        compile=compile_,
        make_targets=make_targets,
        training_shapes=shapes_of(config.batch_size, config.train_segment),
        prediction_shapes=shapes_of(config.inference_batch_size, config.inference_segment),
        memory={
            "RollingBatchNormalisation": LayerMemory(
                input=False, output=False, hidden=1.0, way_back=8.0, way_there=2.0),
            "ChannelPReLU": LayerMemory(output=False, hidden=1.0, way_there=2.0),
            "UnscaledDropout": LayerMemory(input=False, output=False, hidden=1.0),
            **{name: LayerMemory(input=False, output=False) for name in (
                "ChannelBias", "MirrorPadding", "AddCentre", "RepeatToSize")},
        },
        lower_in_training="--batch_size or --train_segment",
        lower_in_prediction="--inference_batch_size",
    )  # fmt: skip


def describe_scan(shape: tuple[int, int, int], config: Config) -> Scan:
    """Return what a scan (x, y, z) without a region of interest asks for."""
    predicted = geometry.output_size(config, config.inference_segment)
    tiles = prod(ceil(size / edge) for size, edge in zip(shape, predicted, strict=True))
    return Scan(
        shape,
        calls=ceil(tiles / config.inference_batch_size),
        payload=payload_of_scan(shape, channels=config.input_channels, classes=config.classes),
        note="without a region of interest, in the engine's tiles; the lattice takes a few more",
    )


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
