"""What the network has to do: a training step, a whole volume, a run."""

from dataclasses import replace
from math import ceil, prod

import keras

from common.cost.layer_memory import LayerMemory, peak_of_prediction, trace_network
from common.cost.workloads import FLOAT_BYTES, Scan, Workload, payload_of_scan, steps_of
from raseg.config import CHANNELS, CODE, QUICK, VOLUME_SHAPE, Config
from raseg.config import count_steps as steps_of_run
from raseg.model import DiceLoss, build_model, make_optimizer

SCAN = VOLUME_SHAPE
EXAMPLES = 51
"""Volumes that the original trains on, where the number is not known (raseg_input.py)."""
STREAMED_VOXELS = 2**20
"""As in `raseg.inference`: larger volumes pass the top level in slabs."""
SLAB_ROWS = 128 + 8
"""A slab and the rows around it that two kernels of 5 reach."""


def describe(config: Config, scan: tuple[int, int, int] | None = None) -> Workload:
    """Return the work of a configuration for volumes, or patches, of a shape (by default 512 x 512
    x 20)."""
    size = (*(config.patch_shape or scan or VOLUME_SHAPE), len(CHANNELS[config.task]))

    def compile_(model, xla):
        trained = model
        if config.rematerialise and keras.config.backend() == "tensorflow":
            from raseg.rematerialise import Rematerialised

            trained = Rematerialised(model, config)
        trained.compile(make_optimizer(config, EXAMPLES), DiceLoss(config), jit_compile=xla)
        return trained

    def make_targets(rng, output):
        return rng.integers(0, output[-1], output[:-1]).astype("int32")

    def make_call(network):
        from raseg.inference import make_whole_pass

        whole = make_whole_pass(network, config)
        return lambda images: whole(images[0])

    bottom = len(config.filters) - 1
    return Workload(
        build=lambda: build_model(config, (None, None, None, size[-1])),
        compile=compile_,
        make_targets=make_targets,
        training_shapes=((config.batch_size, *size),),
        prediction_shapes=((1, *size),),
        memory={
            # The volume and its square beside the input; cutting keeps nothing.
            "BatchStatistics": LayerMemory(output=False, hidden=1.0),
            "CropToSkip": LayerMemory(input=False, output=False),
        },
        block_of=(lambda name: block_of(name, bottom)) if config.rematerialise else None,
        peak_of_call=None if config.batch_statistics else peak_when_streamed,
        make_call=make_call,
        lower_in_training="--batch_size or --filters",
        lower_in_prediction="--filters, of a new network",
    )


def block_of(name: str, bottom: int) -> str:
    """Return the block that a layer belongs to in `raseg.rematerialise`."""
    scope = name.partition("_")[0]
    if scope.startswith("up"):
        return f"up to {bottom - int(scope[2:])}"
    if name.startswith("logits"):
        return "up to 0"
    level = int("".join(filter(str.isdigit, scope)) or 0)
    rising = scope.startswith("h") and name.partition("conv")[2][:1] in ("3", "4")
    return f"up to {level}" if rising else f"down to {level}"


def peak_when_streamed(network: keras.Model, shapes) -> int:
    """Return the bytes that the streamed pass of `raseg.inference` holds at once.

    The top level's skip and the logits are whole; beside them one slab at full resolution, or all
    that is below it. Small volumes, and all on a GPU, pass in one piece.
    """
    from common.cost.budget import uses_gpu

    ((count, rows, columns, slices, channels),) = shapes
    trace = trace_network(network, shapes)
    if rows * columns * slices < STREAMED_VOXELS or uses_gpu():
        return peak_of_prediction(trace)
    top = ("h0_", "logits", f"up{network_depth(network)}", "down1")
    below = peak_of_prediction(steps_of(trace, lambda name: not name.startswith(top)))
    slab = trace_network(network, ((count, min(SLAB_ROWS, rows), columns, slices, channels),))
    skip = network.get_layer("h0_conv2").filters
    held = rows * columns * slices * (skip + 2) * FLOAT_BYTES
    return held + max(below, peak_of_prediction(steps_of(slab, lambda n: n.startswith(top))))


def network_depth(network: keras.Model) -> int:
    """Return the number of levels below the top."""
    return sum(layer.name.startswith("down") and layer.name[4:].isdigit()
               for layer in network.layers)  # fmt: skip


def describe_scan(shape: tuple[int, int, int], config: Config) -> Scan:
    """Return what a volume (rows, columns, slices) asks for."""
    tiles = 1
    if config.patch_shape is not None:
        tiles = prod(map(lambda size, edge: ceil(size / edge), shape, config.patch_shape))
    payload = payload_of_scan(shape, channels=len(CHANNELS[config.task]), classes=1)
    return Scan(shape, calls=tiles, payload=payload)


def count_steps(config: Config, examples: int | None) -> int | None:
    """Return the optimiser steps of a run on so many volumes or patches; by default 51."""
    return steps_of_run(config, examples or EXAMPLES)


def full_size() -> dict[str, Config]:
    """Return what the benchmark on a GPU times: whole volumes, all activations kept."""
    return {"": replace(CODE, rematerialise=False)}


def small() -> dict[str, Config]:
    """Return the same, small enough for a CPU."""
    return {"": replace(QUICK, filters=(4, 8), patch_shape=(16, 16, 8))}
