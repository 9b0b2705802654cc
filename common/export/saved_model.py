"""A SavedModel seen from outside: its signatures and what they compute, by TensorFlow alone."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

XLA_MARK = "_XlaMustCompile"
"""Attribute of a node or function that only a server with the XLA compiler can run."""


def read_signatures(folder: Path) -> dict[str, dict]:
    """Read names, dtypes and shapes of all signatures, and where the graph has their tensors.

    Returns:
        {signature: {"inputs": {name: {"dtype", "shape", "tensor"}}, "outputs": {...}}}; an open
        dimension of a shape is None, an open rank makes the whole shape None.

    Raises:
        OSError: saved_model.pb is missing or cannot be read.
        ValueError: it is damaged.
    """

    def spec_of(tensor) -> dict:
        shape, sizes = tensor.tensor_shape, None
        if not shape.unknown_rank:
            sizes = [None if axis.size < 0 else axis.size for axis in shape.dim]
        dtype = tf.dtypes.as_dtype(tensor.dtype).name
        return {"dtype": dtype, "shape": sizes, "tensor": tensor.name}

    return {
        name: {
            "inputs": {key: spec_of(value) for key, value in sorted(signature.inputs.items())},
            "outputs": {key: spec_of(value) for key, value in sorted(signature.outputs.items())},
        }
        for name, signature in sorted(_read_graph(folder).signature_def.items())
        if not name.startswith("__saved_model")
    }


def forced_xla(folder: Path) -> list[str]:
    """Return the nodes and functions of a SavedModel that only XLA may run."""
    graph = _read_graph(folder).graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    marked = [(node.name, node.attr) for node in nodes]
    marked += [(function.signature.name, function.attr) for function in functions]
    return [name for name, attributes in marked if attributes[XLA_MARK].b]


def _read_graph(folder: Path):
    path = Path(folder) / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path} is damaged") from None
    if not model.meta_graphs:
        raise ValueError(f"{path} holds no graph")
    return model.meta_graphs[0]


def evaluate_signatures(
    folder: Path, *examples: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Evaluate signatures of a SavedModel, loaded once, with TensorFlow in this process.

    Each example has inputs by name, per signature; returned are its outputs by "signature/output".
    """
    # Kept whole: the signatures do not keep the variables alive on their own.
    loaded = tf.saved_model.load(str(folder))

    def evaluate(signature: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = {name: tf.constant(array) for name, array in arrays.items()}
        outputs = loaded.signatures[signature](**inputs)
        return {f"{signature}/{name}": value.numpy() for name, value in outputs.items()}

    with ThreadPoolExecutor(2) as pool:  # at a signature's first call one core prepares its graph
        return [
            {key: array for found in pool.map(evaluate, *zip(*calls.items(), strict=True))
             for key, array in found.items()}
            for calls in examples
        ]  # fmt: skip
