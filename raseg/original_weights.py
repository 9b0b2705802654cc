"""Checkpoints of the original: read whole, assigned by name and to the bit."""

from pathlib import Path
from typing import Any, Literal

from common.errors import DataError
from common.network.original_weights import assign_by_name, read_tf_checkpoint

AVERAGE = "/ExponentialMovingAverage"
SLOTS = ("/Adam", "/Adam_1")
STEP = "global_step"
BOOKKEEPING = ("*/avg", "*/avg/biased", "*/avg/local_step", "beta1_power", "beta2_power", STEP)
"""[R21] Averages of losses for TensorBoard, which start at half, and the optimiser's counters."""

VARIABLES = {"kernel": "weights", "bias": "biases", "gamma": "gamma", "beta": "beta"}
"""Our variable names and the original's; no array is transposed."""


def read_original(path: Path) -> dict[str, Any]:
    """Every array of a checkpoint of the original, by the original variable's name.

    A training checkpoint holds 306: 54 weights, their running means and two Adam slots each, 87
    averages of losses and 3 counters.

    Raises:
        DataError: nothing there, no checkpoint, or a truncated one.
    Source: raseg_train.py (MonitoredTrainingSession's saver).
    """
    return read_tf_checkpoint(Path(path))


def assign_original(
    model, tensors, *, weights: Literal["ema", "raw"] = "ema", source: str = "the checkpoint"
) -> list[str]:
    """Give a model the original's weights; all fit, or none is assigned.

    Args:
        model: of `build_model`, with the filters and kernels the original was trained with.
        tensors: of `read_original`, or weights under their plain names alone.
        weights: ema: the running means where the file holds any; raw: the last weights.
        source: what an error message calls the file.
    Returns:
        Names of what was not assigned: optimiser, counters, the other set of weights.
    Raises:
        DataError: the checkpoint is of another architecture; names the first variable that differs.
    Source: raseg_predict.py (restores the running means); ledger R36.
    """
    averaged = weights == "ema" and any(name.endswith(AVERAGE) for name in tensors)
    suffix = AVERAGE if averaged else ""

    def is_plain(name: str) -> bool:
        return name.rpartition("/")[2] in VARIABLES.values()

    plain = variables_by_name(model)
    targets = {name + suffix: (variable, None) for name, variable in plain.items()}
    # What may be left: counters, slots, and the set of weights that was not asked for.
    ignored = [*BOOKKEEPING, *(f"*{slot}" for slot in SLOTS)]
    ignored.append(is_plain if averaged else f"*{AVERAGE}")
    return assign_by_name(tensors, targets, ignored=ignored, source=source)


def assign_training_state(optimizer, averages, model, tensors) -> None:
    """Give optimiser and running means the original's state, so that training can go on.

    The model has the raw weights already; the optimiser is built here if it is not. `DataError`:
    the file is no training checkpoint, or that of another architecture.
    """
    if not any(name.endswith(SLOTS[0]) for name in tensors):
        raise DataError("the file holds no Adam slots: expected a training checkpoint")
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    targets = {STEP: (optimizer.iterations, None)}
    for slot, kind in zip(SLOTS, ("momentum", "velocity"), strict=True):
        moments = [variable for variable in optimizer.variables if variable.name.endswith(kind)]
        for variable, moment in zip(model.trainable_variables, moments, strict=True):
            targets[names[id(variable)] + slot] = (moment, None)
    for average, variable in zip(averages.variables, averages.weights, strict=True):
        targets[names[id(variable)] + AVERAGE] = (average, None)
    assign_by_name(tensors, targets, ignored=[lambda name: name not in targets])


def variables_by_name(model) -> dict[str, Any]:
    """Return a model's variables under the original's names, in the order of the layers.

    With batch statistics `h0_conv1/gamma` and `/beta` too, and `up1/gamma` for the joined channels.
    """
    return {
        f"{layer.name.removesuffix('_norm')}/{VARIABLES[variable.name]}": variable
        for layer in model.layers
        for variable in layer.weights
    }
