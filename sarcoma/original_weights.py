"""Keras 2 files of the original: read as data, assigned by order, every shape checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.errors import DataError
from sarcoma.data import find_dataset, find_entry, open_hdf5


def read_original(path: Path) -> dict[str, Any]:
    """Return {name: array} of a Keras 2 or tf-keras HDF5 file, in the file's topological order.

    Nothing of the file is run: neither the architecture nor the loss it names is built, so that a
    file with a custom loss is read without it [S9].

    Raises:
        DataError: no HDF5 file, no Keras model in it, or a layer or array is missing.
    Source: train.py, `model.save`.
    """
    with open_hdf5(path) as file:
        weights = find_entry(file, "model_weights", path) or file
        if "layer_names" not in weights.attrs:
            raise DataError(f"{path} has no layer_names: expected a model saved by Keras 2")
        tensors = {}
        for layer in texts(weights.attrs["layer_names"]):
            group = find_entry(weights, layer, path)
            if not isinstance(group, h5py.Group):
                raise DataError(f"{path} names the layer {layer} but lacks its weights")
            for name in texts(group.attrs.get("weight_names", ())):
                tensors[name] = read_array(group, name, path)
    if not tensors:
        raise DataError(f"{path} lists layers but holds no weights; expected a trained model")
    return tensors


def read_optimizer(path: Path) -> dict[str, Any]:
    """Return the state of Adam in a Keras 2 file: iterations, m and v.

    Iterations are 0 without an optimiser; the moments are lists of arrays in the order of the
    trained variables, empty where the file lacks them, or `DataError` where they are not in pairs.
    """
    with open_hdf5(path) as file:
        group = find_entry(file, "optimizer_weights", path)
        names = [] if group is None else texts(group.attrs.get("weight_names", ()))
        arrays = [read_array(group, name, path) for name in names]
        trained = 0
        if arrays:
            trained = sum(
                not kind_of(name).startswith("moving_")
                for layer in texts(file["model_weights"].attrs["layer_names"])
                for name in texts(file["model_weights"][layer].attrs.get("weight_names", ()))
            )
    if not arrays:
        return {"iterations": 0, "m": [], "v": []}
    moments = arrays[1 : 1 + 2 * trained]  # placeholders for amsgrad may follow
    if moments and len(moments) != 2 * trained:
        raise DataError(
            f"{path} holds {len(arrays) - 1} moments; expected none or {2 * trained}, two for each "
            "trained variable"
        )
    return {"iterations": int(arrays[0]), "m": moments[:trained], "v": moments[trained:]}


def assign_original(
    model, tensors: Mapping[str, Any], *, source: str = "the file"
) -> dict[str, str]:
    """Give a model the original's weights, by their order; all fit, or none is assigned.

    Names are not matched, since those that Keras makes up depend on what the process built before;
    loading by name silently loads too little [S27]. Kind (kernel, bias, ...) and shape must agree
    at every place, and a kernel of a transposed convolution must meet one; else `DataError`.
    Returns {the file's name: path of the variable it went to}.
    """
    variables = ordered_variables(model)
    wrong = f"{source} is of another architecture:"
    pairs = list(zip(tensors.items(), variables, strict=False))
    for (name, array), variable in pairs:
        expected, found = tuple(variable.shape), np.shape(array)
        if kind_of(name) != variable.name or is_transposed(name) != is_transposed(variable.path):
            raise DataError(f"{wrong} {name} stands where {variable.path} was expected")
        if found != expected:
            raise DataError(f"{wrong} {name} has shape {found}, {variable.path} {expected}")
    if len(tensors) != len(variables):
        raise DataError(f"{wrong} found {len(tensors)} arrays, expected {len(variables)}")
    for (_, array), variable in pairs:
        variable.assign(array)
    return {name: variable.path for (name, _), variable in pairs}


def assign_optimizer(
    optimizer, model, slots: Mapping[str, Any], *, source: str = "the file"
) -> None:
    """Give Adam the original's moments and step, so that training can go on.

    Raises `DataError` where the file holds no moments, or those of another architecture.
    """
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    own = {id(v): i for i, v in enumerate(model.trainable_variables)}
    order = [own[id(v)] for v in ordered_variables(model) if id(v) in own]
    if len(slots["m"]) != len(order):
        raise DataError(f"{source} holds {len(slots['m'])} first moments; expected {len(order)}")
    states = (optimizer._momentums, slots["m"]), (optimizer._velocities, slots["v"])
    targets = [
        (state[index], array)
        for state, arrays in states
        for index, array in zip(order, arrays, strict=True)
    ]
    for variable, array in targets:
        if tuple(variable.shape) != np.shape(array):
            raise DataError(
                f"{source}: a moment has shape {np.shape(array)}, expected {tuple(variable.shape)}"
            )
    for variable, array in targets:
        variable.assign(array)
    optimizer.iterations.assign(slots["iterations"])


def ordered_variables(model) -> list[Any]:
    """A model's variables in the order in which Keras 2 files hold them: layer by layer."""
    return [variable for layer in model.layers for variable in layer.weights]


def filters_of(tensors: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Channels of the U-Net's levels as a file's kernels say; None for another network."""
    kernels = [np.shape(array) for name, array in tensors.items() if kind_of(name) == "kernel"]
    down = []
    for shape in kernels:
        if len(shape) != 4 or shape[:2] != (3, 3):
            break
        down.append(shape[3])
    # Two convolutions per level and four at the bottom, then the first transposed one.
    if len(down) < 6 or len(down) % 2 or len(down) == len(kernels):
        return None
    return tuple(int(channels) for channels in down[0:-2:2])


def read_array(group, name: str, path: Path):
    """Return one array of a group, which must hold numbers; see `find_dataset`."""
    entry = find_dataset(group, name, path)
    if entry is None or entry.dtype.kind not in "fiu":
        raise DataError(f"{path} names the array {name} but does not hold it")
    return entry[()]


def texts(values) -> list[str]:
    """Decode names, which old files hold as bytes and new ones as text."""
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]


def kind_of(name: str) -> str:
    """`conv2d_1/kernel:0` -> `kernel`."""
    return name.rpartition("/")[2].partition(":")[0]


def is_transposed(name: str) -> bool:
    """Whether a variable belongs to a transposed convolution."""
    return "conv2d_transpose" in name
