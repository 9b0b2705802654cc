"""Checkpoints and exports of the original: read whole, assigned by name and to the bit."""

import re
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.network.original_weights import assign_by_name, read_tf_checkpoint

SLOT = "/Momentum"
STEP = "global_step"


def read_original(path: Path) -> dict[str, Any]:
    """Every array of a checkpoint or an export of the original, by the original variable's name.

    The path is as for `common.network.original_weights.read_tf_checkpoint`, or a folder of exports
    named by the time they were made, of which the latest is read. A checkpoint holds 130 arrays (82
    of the network, 47 momentum slots, global_step), an export 83.

    Raises:
        DataError: nothing there, no checkpoint, or a truncated one.
    Source: train.py (estimator checkpoints and `export_savedmodel`).
    """
    path = Path(path)
    exports = [entry for entry in path.glob("*") if entry.name.isdigit() and entry.is_dir()]
    if exports and not (path / "checkpoint").is_file():
        # [F13] The original took the last export of an unsorted listing.
        path = max(exports, key=lambda entry: int(entry.name))
    return read_tf_checkpoint(path)


def assign_original(model, tensors, *, source: str = "the checkpoint") -> list[str]:
    """Give a model the original's weights; all 82 fit, or none is assigned.

    Returns:
        Names of what is not the network's: momentum slots and the step.
    Raises:
        DataError: the checkpoint is of another architecture; names `source` and the first variable
            that differs.
    """
    targets = {name: (variable, None) for name, variable in variables_by_name(model).items()}
    return assign_by_name(tensors, targets, ignored=(f"*{SLOT}", STEP), source=source)


def assign_optimizer(optimizer, model, tensors, learning_rate: float) -> None:
    """Give an optimiser the original's momentum and step, so that training can go on.

    The optimiser is built here if it is not. Keras keeps the next step, -learning_rate times the
    original's accumulator. `DataError`: the file (an export, say) holds no momentum, or that of
    another architecture.
    """
    if not any(name.endswith(SLOT) for name in tensors):
        raise DataError("the file holds no momentum slots: expected a training checkpoint")
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    targets = {
        names[id(variable)] + SLOT: (momentum, lambda slot: -learning_rate * slot)
        for variable, momentum in zip(model.trainable_variables, optimizer.momentums, strict=True)
    }
    targets[STEP] = (optimizer.iterations, None)
    assign_by_name(tensors, targets, ignored=[lambda name: not name.endswith(SLOT)])


def variables_by_name(model) -> dict[str, Any]:
    """Return a model's variables under the original's names, in the order of the layers."""
    return {
        _original_name(layer.name, variable.name): variable
        for layer in model.layers
        for variable in layer.weights
    }


def _original_name(layer: str, variable: str) -> str:
    """`enc_unit_0_conv3d_1`, `kernel` -> `enc_unit_0/conv3d_1/kernel`."""
    unit, block = re.fullmatch(r"(enc_unit_\d+|upscore_\d+|last)_(\w+)", layer).groups()
    # The original's fixed kernel hangs on the unit itself, without a layer between.
    return f"{unit}/linear_up_kernel" if block == "upsample" else f"{unit}/{block}/{variable}"
