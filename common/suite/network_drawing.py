"""The layers of a trained network, read from its file as data: nothing is built or executed.

A `.keras` file is a zip of a configuration, which names layers and the shapes between them, and of
an HDF5 file with the weights. Reading both needs neither TensorFlow nor the paper's own layers.
"""

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from common.errors import RunError

POINTWISE = ("Activation", "ReLU", "LeakyReLU", "PReLU", "Softmax", "Dropout", "Identity")


@dataclass(frozen=True)
class Layer:
    """One layer."""

    name: str
    kind: str
    shape: str
    """Of its output without the batch, "–" for a free size; empty where the file does not say."""
    parameters: int
    """Numbers it holds, trained or not."""


def read_layers(path: Path) -> list[Layer]:
    """Read the layers of the `.keras` file of a functional model, in order, or raise `RunError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))["config"]
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
                counts = _count_parameters(weights)
        shapes, layers = _shapes_between(config["layers"]), []
        for entry in config["layers"]:
            name = entry["config"]["name"]
            shape = _shown(shapes.get(name) or _shape_of_last(entry))
            layers.append(Layer(name, entry["class_name"], shape, counts.get(name, 0)))
        return layers
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as failure:
        raise RunError(
            f"{path}: its layers cannot be read ({type(failure).__name__}: {failure}); expected "
            "the network that train saved"
        ) from failure


def _count_parameters(weights: Any) -> dict[str, int]:
    """Return the numbers each layer holds, without states of random generators."""
    counts = {}
    for key, group in weights.get("layers", {}).items():
        name = group["vars"].attrs.get("name", key) if "vars" in group else key
        places: list[str] = []
        group.visit(places.append)
        arrays = (group[place] for place in places if "seed_generator" not in place)
        counts[str(name)] = sum(math.prod(a.shape) for a in arrays if hasattr(a, "shape"))
    return counts


def _shapes_between(entries: list[Mapping]) -> dict[str, list]:
    """Return the output shape of every layer that another one takes."""
    tensors = _tensors([entry.get("inbound_nodes") for entry in entries])
    found = ((tensor["keras_history"], tensor["shape"]) for tensor in tensors)
    return {name: shape for (name, _, index), shape in found if index == 0}


def _tensors(value: Any) -> Iterator[Mapping]:
    """Yield the descriptions of tensors anywhere in a layer's calls."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _shape_of_last(entry: Mapping) -> list | None:
    """Return the output shape of a layer that no other one takes, if it can be derived."""
    config = entry["config"]
    if "batch_shape" in config:
        return config["batch_shape"]
    inputs = [tensor["shape"] for tensor in _tensors(entry.get("inbound_nodes", []))]
    if len(inputs) != 1:
        return None
    if entry["class_name"] in POINTWISE:
        return inputs[0]
    if "filters" in config and (config["padding"] == "same" or set(config["kernel_size"]) == {1}):
        strides_are_one = set(config.get("strides", [1])) == {1}
        return [*inputs[0][:-1], config["filters"]] if strides_are_one else None
    return [*inputs[0][:-1], config["units"]] if entry["class_name"] == "Dense" else None


def _shown(shape: list | None) -> str:
    return " × ".join("–" if size is None else str(size) for size in (shape or [])[1:])
