"""A SavedModel evaluated by TensorFlow alone, in a process that cannot import Keras."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.export.parity import ExportError
from common.papers import ROOT
from common.runtime import KERAS_NAMES, forbid_keras

Arrays = Mapping[str, np.ndarray]


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
            "common.export.elsewhere",
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
    from common.export.saved_model import evaluate_signatures

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
