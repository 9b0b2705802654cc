"""A SavedModel seen from outside: its signatures, and what they compute without Keras.

Nothing here knows how a model came to be. Signatures are read from the file, evaluated by
TensorFlow alone in a process that cannot import Keras, and compared with recorded outputs.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.papers import ROOT

KERAS_NAMES = ("keras", "tf_keras")
XLA_MARK = "_XlaMustCompile"
"""Attribute of a node or function that only a server with the XLA compiler can run."""

Arrays = Mapping[str, np.ndarray]


class ExportError(RuntimeError):
    """The exported model does not compute what the trained one does: our mistake, not a user's."""


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return how far two outputs are apart.

    For integers the share of unequal elements; otherwise the largest absolute difference, divided
    by the largest expected magnitude where that exceeds 1 (logits are not bounded).
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if np.issubdtype(expected.dtype, np.integer):
        return float(np.mean(found != expected)) if expected.size else 0.0
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    return float(np.max(np.abs(found - expected), initial=0.0)) / scale


def read_signatures(folder: Path) -> dict[str, dict]:
    """Read names, dtypes and shapes of all signatures, and where the graph has their tensors.

    Args:
        folder: SavedModel.

    Returns:
        {signature: {"inputs": {name: {"dtype", "shape", "tensor"}}, "outputs": {...}}}; an open
        dimension of a shape is None, an open rank makes the whole shape None.

    Raises:
        OSError: there is no saved_model.pb, or it cannot be read.
        ValueError: it is damaged.
    """
    import tensorflow as tf

    def describe(tensor) -> dict:
        shape = tensor.tensor_shape
        sizes = None
        if not shape.unknown_rank:
            sizes = [None if axis.size < 0 else axis.size for axis in shape.dim]
        dtype = tf.dtypes.as_dtype(tensor.dtype).name
        return {"dtype": dtype, "shape": sizes, "tensor": tensor.name}

    return {
        name: {
            "inputs": {key: describe(value) for key, value in sorted(signature.inputs.items())},
            "outputs": {key: describe(value) for key, value in sorted(signature.outputs.items())},
        }
        for name, signature in sorted(_read_graph(folder).signature_def.items())
        if not name.startswith("__saved_model")
    }


def forced_xla(folder: Path) -> list[str]:
    """Return the nodes and functions of a SavedModel that only XLA may run; none, if all is well.

    Raises:
        OSError, ValueError: see `read_signatures`.
    """
    graph = _read_graph(folder).graph_def
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    marked = [(node.name, node.attr) for node in nodes]
    marked += [(function.signature.name, function.attr) for function in functions]
    return [name for name, attributes in marked if attributes[XLA_MARK].b]


def _read_graph(folder: Path):
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = Path(folder) / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path} is damaged") from None
    if not model.meta_graphs:
        raise ValueError(f"{path} holds no graph")
    return model.meta_graphs[0]


def forbid_keras() -> None:
    """Make every later import of Keras in this process raise, TensorFlow's own included."""
    for name in KERAS_NAMES:
        if sys.modules.get(name) is not None:
            raise ExportError(f"{name} is already imported in the process that must not need it")
        sys.modules[name] = None


def evaluate_signatures(folder: Path, examples: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """Evaluate signatures of a SavedModel with TensorFlow, in this process.

    Args:
        folder: SavedModel.
        examples: per signature, inputs by name.

    Returns:
        Outputs by "signature/output".
    """
    import tensorflow as tf

    signatures = tf.saved_model.load(str(folder)).signatures
    results = {}
    for signature, arrays in examples.items():
        inputs = {name: tf.constant(array) for name, array in arrays.items()}
        for name, value in signatures[signature](**inputs).items():
            results[f"{signature}/{name}"] = value.numpy()
    return results


def run_elsewhere(folder: Path, examples: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """Evaluate the signatures of a SavedModel in a process that cannot import Keras.

    Args:
        folder: SavedModel.
        examples: per signature, inputs by name.

    Returns:
        Outputs by "signature/output".

    Raises:
        ExportError: the process failed; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        np.savez(inputs, **{f"{signature}/{name}": array
                            for signature, arrays in examples.items()
                            for name, array in arrays.items()})  # fmt: skip
        words = [
            sys.executable,
            "-m",
            "common.export.saved_model",
            folder.resolve(),
            inputs,
            outputs,
        ]
        done = subprocess.run(
            [str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ExportError(f"the exported model cannot be served: {done.stderr.strip()[-500:]}")
        with np.load(outputs) as arrays:
            return dict(arrays)


def run_saved_model(folder: Path, inputs: Path, outputs: Path) -> None:
    """Evaluate signatures with TensorFlow alone; called in the process without Keras.

    Args:
        folder: SavedModel.
        inputs: .npz with entries "signature/input".
        outputs: .npz to write, with entries "signature/output".
    """
    forbid_keras()
    calls: dict[str, dict] = {}
    with np.load(inputs) as arrays:
        for key, array in arrays.items():
            signature, _, name = key.partition("/")
            calls.setdefault(signature, {})[name] = array
    results = evaluate_signatures(folder, calls)
    if any(sys.modules[name] is not None for name in KERAS_NAMES):
        raise ExportError("Keras was imported in the process that must not need it")
    np.savez(outputs, **results)


if __name__ == "__main__":
    run_saved_model(*map(Path, sys.argv[1:]))
