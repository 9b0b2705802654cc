"""SavedModels for TensorFlow Serving: written, reloaded where Keras cannot be imported, compared.

`python -m common.export run FOLDER INPUTS.npz OUTPUTS.npz` is that other process: it evaluates
every signature of a SavedModel with TensorFlow alone. XLA is never forced into the graph, since
builds of TensorFlow Serving without the compiler refuse such a model.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import OptionError, RunError

if TYPE_CHECKING:
    import keras

KERAS_NAMES = ("keras", "tf_keras")


class ExportError(RuntimeError):
    """The exported model does not compute what the trained one does: our mistake, not a user's."""


@dataclass(frozen=True)
class Endpoint:
    """One signature: a TensorFlow function that returns a dict of named tensors."""

    name: str
    function: Callable
    signature: Sequence[Any]
    """A `tf.TensorSpec` per argument; its name is the name of the input."""


@dataclass(frozen=True)
class Example:
    """Inputs of one signature by name, and what the trained model makes of them in Python."""

    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]


def export_saved_model(
    folder: Path,
    *,
    model: "keras.Model",
    endpoints: Sequence[Endpoint],
    examples: Mapping[str, Example],
    tolerance: float,
    beside: Mapping[str, Path],
) -> dict[str, float]:
    """Write a SavedModel, reload it in a process without Keras, and compare every signature.

    Args:
        folder: new folder of the SavedModel; nothing is left there when a comparison fails.
        model: the network whose variables the endpoints use.
        endpoints: signatures; the first is also `serving_default` unless one has that name.
        examples: per endpoint, what it is compared on.
        tolerance: largest `difference` of an output.
        beside: files to copy into the folder, by their name there.

    Returns:
        Largest difference found, by "endpoint/output".

    Raises:
        OptionError: the folder exists already.
        RunError: the disk is full or the folder cannot be written.
        ExportError: the reloaded model differs.
    """
    import tensorflow as tf
    from keras.export import ExportArchive

    from common.runs import write_folder_atomically

    if folder.exists():
        raise OptionError(f"{folder} exists already; expected a new folder (or another --version)")
    archive = ExportArchive()
    archive.track(model)
    for endpoint in endpoints:
        archive.add_endpoint(endpoint.name, endpoint.function, input_signature=endpoint.signature)
    with write_folder_atomically(folder) as unfinished:
        try:
            archive.write_out(str(unfinished), verbose=False)
        except tf.errors.OpError as refusal:
            reason = refusal.message.splitlines()[0].partition(" [Op:")[0].rpartition(";")[2]
            raise RunError(f"{folder} cannot be written: {reason.strip()}") from refusal
        inputs = {name: example.inputs for name, example in examples.items()}
        served = run_elsewhere(unfinished, inputs)
        differences = {
            f"{name}/{output}": difference(served[f"{name}/{output}"], expected)
            for name, example in examples.items()
            for output, expected in example.expected.items()
        }
        beyond = {key: value for key, value in differences.items() if not value <= tolerance}
        if beyond:
            raise ExportError(f"the reloaded model differs by more than {tolerance}: {beyond}")
        for name, source in beside.items():
            shutil.copyfile(source, unfinished / name)
    return differences


def save_network(model: "keras.Model", path: Path) -> None:
    """Write a trained network as a .keras file that loads where this project is not installed.

    Loss, metrics and optimiser of its training stay out of the file: Keras could not find ours.

    Args:
        model: a functional model of Keras' own layers; it is left as it is.
        path: file ending in .keras, in an existing folder; it is replaced whole or not at all.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    import keras

    bare = keras.Model(model.input, model.output, name=model.name)
    # A folder, since Keras wants the file's ending and `remove_leftovers` another one.
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir()
        bare.save(folder / path.name)
        os.replace(folder / path.name, path)
    except OSError as refusal:
        raise RunError(f"{path} cannot be written: {refusal.strerror or refusal}") from refusal
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return how far two outputs are apart.

    For integers the share of unequal elements; otherwise the largest absolute difference, divided
    by the largest expected magnitude where that exceeds 1 (logits are not bounded).
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if np.issubdtype(expected.dtype, np.integer):
        return float(np.mean(found != expected))
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    return float(np.max(np.abs(found - expected), initial=0.0)) / scale


def run_elsewhere(
    folder: Path, examples: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
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
        words = [sys.executable, "-m", "common.export", "run", folder.resolve(), inputs, outputs]
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(
            [str(word) for word in words], cwd=root, capture_output=True, text=True, check=False
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
    for name in KERAS_NAMES:
        sys.modules[name] = None  # importing it now raises, in TensorFlow itself too
    import tensorflow as tf

    signatures = tf.saved_model.load(str(folder)).signatures
    calls: dict[str, dict] = {}
    with np.load(inputs) as arrays:
        for key, array in arrays.items():
            signature, _, name = key.partition("/")
            calls.setdefault(signature, {})[name] = tf.constant(array)
    results = {
        f"{signature}/{name}": value.numpy()
        for signature, arguments in calls.items()
        for name, value in signatures[signature](**arguments).items()
    }
    if any(sys.modules[name] is not None for name in KERAS_NAMES):
        raise ExportError("Keras was imported in the process that must not need it")
    np.savez(outputs, **results)


def version_folder(to: Path, name: str, version: int | None) -> Path:
    """Return where a version of a model goes: <to>/<name>/<version>, as TensorFlow Serving looks.

    Args:
        to: folder of models.
        name: of the model.
        version: its number; None: the next one.

    Raises:
        OptionError: the number is below 1.
    """
    if version is not None and version < 1:
        raise OptionError(f"--version: found {version}; expected 1 or more")
    return to / name / str(version or next_version(to / name))


def report_export(folder: Path, differences: Mapping[str, float]) -> None:
    """Print what `export_saved_model` measured, and where the model lies."""
    for name, value in differences.items():
        print(f"{name}: differs from Keras by {value:.1e} when served without it")
    print(f"SavedModel: {folder}")


def next_version(folder: Path) -> int:
    """Return the number after the largest version folder of a model, 1 for the first."""
    versions = [int(entry.name) for entry in folder.glob("*") if entry.name.isdigit()]
    return max(versions, default=0) + 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", folder, inputs, outputs]:
            run_saved_model(Path(folder), Path(inputs), Path(outputs))
        case _:
            sys.exit("usage: python -m common.export run FOLDER INPUTS.npz OUTPUTS.npz")
