"""The recorded case of an exported model: written, read back, compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PARITY = "parity.npz"


class ExportError(RuntimeError):
    """The exported model does not compute what the trained one does: our mistake, not a user's."""


@dataclass(frozen=True)
class Example:
    """Inputs of one signature by name, and what the trained model makes of them in Python."""

    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]


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


def write_parity(path: Path, examples: Mapping[str, Example]) -> None:
    """Write the recorded case: entries "signature/input:<name>" and "signature/output:<name>"."""
    arrays = {}
    for name, example in examples.items():
        arrays |= {f"{name}/input:{key}": array for key, array in example.inputs.items()}
        arrays |= {f"{name}/output:{key}": array for key, array in example.expected.items()}
    np.savez_compressed(path, **arrays)


def read_parity(path: Path) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Return what `write_parity` wrote: inputs by signature, outputs by "signature/output"."""
    inputs: dict[str, dict] = {}
    outputs = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            signature, _, rest = key.partition("/")
            side, _, name = rest.partition(":")
            if side == "input":
                inputs.setdefault(signature, {})[name] = array
            else:
                outputs[f"{signature}/{name}"] = array
    return inputs, outputs
