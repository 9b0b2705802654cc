"""Weights and snapshots of the original: read as data, assigned by name and to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.network.original_weights import assign_by_name
from vertebra.config import Config
from vertebra.pth import read_pth

STEP = "num_batches_tracked"
BLOCKS = ("conv_initial", "conv_final", "conv_rest", "conv_up")
"""In the order of the original's file."""
NORMS = {"weight": "gamma", "bias": "beta",
         "running_mean": "moving_mean", "running_var": "moving_variance"}  # fmt: skip


def read_original(path: Path) -> dict[str, Any]:
    """Return the 58 arrays, by name, of an original's weights file or the weights in its snapshot.

    Nothing of the file is executed (`vertebra.pth`). Raises `DataError` where it is missing,
    truncated or holds something else. Source: train.py (weights and latest_checkpoints.pth).
    """
    found = read_pth(path)
    if "model_state_dict" in found:
        found = found["model_state_dict"]
    wrong = [name for name, value in found.items() if not isinstance(value, np.ndarray)]
    if wrong or not found:
        what = f"{wrong[0]!r}" if wrong else "nothing"
        raise DataError(f"{path}: found {what}; expected a state dict of tensors or a snapshot")
    return dict(found)


def is_snapshot(path: Path) -> bool:
    """Say whether a file is a training snapshot, latest_checkpoints.pth, rather than weights."""
    return "optimizer_state_dict" in read_pth(path)


def assign_original(model, tensors, *, source: str = "the weights file") -> list[str]:
    """Give a model the original's weights; all fit, or none is assigned.

    Returns the names that are not the network's: the counters of the normalisations. Raises
    `DataError` for weights of another width or architecture.
    """
    targets = variables_by_name(model)
    return assign_by_name(tensors, targets, ignored=(f"*.{STEP}",), source=source)


def assign_optimizer(optimizer, model, snapshot: Path) -> None:
    """Give Adam the moments and step of latest_checkpoints.pth, so that training can go on.

    Raises `DataError` where the file is no snapshot, or one of another architecture.
    """
    found = read_pth(snapshot)
    kinds = ("exp_avg", "exp_avg_sq")
    try:
        states = found["optimizer_state_dict"]["state"]
        moments = {f"{index}.{kind}": states[index][kind] for index in states for kind in kinds}
        step = int(states[0]["step"])
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"{snapshot}: no optimiser state; expected latest_checkpoints.pth"
        ) from None
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    slots = {
        id(variable): pair
        for variable, *pair in zip(
            model.trainable_variables, optimizer._momentums, optimizer._velocities, strict=True
        )
    }
    targets = {}
    for index, (variable, transform) in enumerate(trained_in_order(model)):
        for kind, slot in zip(kinds, slots[id(variable)], strict=True):
            targets[f"{index}.{kind}"] = (slot, transform)
    assign_by_name(moments, targets, source=str(snapshot))
    optimizer.iterations.assign(step)


def trained_in_order(model) -> list:
    """Return (variable, transform) of the trained tensors in the order of the original's file."""
    every = variables_by_name(model).items()
    return [target for name, target in every if ".running_" not in name]


def with_channels_of(tensors, config: Config, *, source: str) -> Config:
    """Return the configuration with the width of the tensors [V5]."""
    first = tensors.get("conv_initial.0.weight")
    if first is None or first.ndim != 5:
        raise DataError(f"{source} holds no conv_initial.0.weight; expected an iterative FCN")
    return replace(config, channels=first.shape[0])


def variables_by_name(model) -> dict[str, tuple]:
    """Return {`conv_rest.0.weight`: (variable, transform or None)} in the original's order."""
    targets = {}
    for block in BLOCKS:
        layer = model.get_layer(block)
        for position in (0, 3):
            conv, norm = getattr(layer, f"conv_{position}"), getattr(layer, f"norm_{position + 2}")
            targets[f"{block}.{position}.weight"] = (conv.kernel, kernel_from_original)
            targets[f"{block}.{position}.bias"] = (conv.bias, None)
            for theirs, ours in NORMS.items():
                targets[f"{block}.{position + 2}.{theirs}"] = (getattr(norm, ours), None)
    dense = model.get_layer("dense")
    targets["dense.weight"] = (dense.kernel, lambda array: array.T)
    targets["dense.bias"] = (dense.bias, None)
    return targets


def kernel_from_original(array):
    """Turn a kernel (out, in, z, y, x) into (z, y, x, in, out)."""
    return array.transpose(2, 3, 4, 1, 0)
