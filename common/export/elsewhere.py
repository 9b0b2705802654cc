"""A SavedModel evaluated by TensorFlow alone, in a process that cannot import Keras."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.export.parity import ExportError
from common.papers import ROOT
from common.runtime import KERAS_NAMES, forbid_keras, load_tensorflow_quietly

Arrays = Mapping[str, np.ndarray]


def run_elsewhere(folder: Path, *examples: Mapping[str, Arrays]) -> list[dict[str, np.ndarray]]:
    """Do as `evaluate_signatures` in a process that cannot import Keras.

    The `ExportError` of one that failed ends with what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        np.savez(inputs, **{f"{number}/{signature}/{name}": array
                            for number, calls in enumerate(examples)
                            for signature, arrays in calls.items()
                            for name, array in arrays.items()})  # fmt: skip
        words = [sys.executable, "-m", "common.export.elsewhere", folder.resolve(), inputs, outputs]
        done = subprocess.run(
            [str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ExportError(f"the exported model cannot be served: {done.stderr.strip()[-500:]}")
        results: list[dict] = [{} for _ in examples]
        with np.load(outputs) as arrays:
            for key, array in arrays.items():
                number, _, output = key.partition("/")
                results[int(number)][output] = array
        return results


def run_saved_model(folder: Path, inputs: Path, outputs: Path) -> None:
    """Evaluate signatures with TensorFlow alone: from entries "number/signature/input" of examples
    to "number/signature/output"; called in the process without Keras."""
    forbid_keras()
    load_tensorflow_quietly()
    from common.export.saved_model import evaluate_signatures

    examples: dict[str, dict] = {}
    with np.load(inputs) as arrays:
        for key, array in arrays.items():
            number, signature, name = key.split("/", 2)
            examples.setdefault(number, {}).setdefault(signature, {})[name] = array
    results = evaluate_signatures(folder, *examples.values())
    if any(sys.modules[name] is not None for name in KERAS_NAMES):
        raise ExportError("Keras was imported in the process that must not need it")
    np.savez(outputs, **{f"{number}/{output}": array
                         for number, found in zip(examples, results, strict=True)
                         for output, array in found.items()})  # fmt: skip


if __name__ == "__main__":
    run_saved_model(*map(Path, sys.argv[1:]))
