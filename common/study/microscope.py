"""Activations of the original against the port's, layer by layer, and where they part first.

What the original computed was recorded once: a few values of every layer, or moments of its
channels, in `<paper>/recorded.json`, for weights and an input that `<paper>/recording.py` draws
again from a seed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure as Canvas

from common.errors import DataError
from common.report.drawing import render
from common.report.page import Figure
from common.study.compare import Table

RECORDED = "recorded.json"


@dataclass(frozen=True)
class RecordedLayer:
    """What was recorded of one operation of the original."""

    original: str
    port: str
    """Where the port computes the same."""
    shape: tuple[int, ...]
    """Of the whole activation, in the port's axis order."""
    index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) places in the flattened activation, C order."""
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(n,) what stood there."""
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(channels,) over all other axes; or empty."""
    deviation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(channels,) population deviation; or empty."""

    @property
    def scale(self) -> float:
        """How large the activation is: what differences are held to."""
        values = np.concatenate([self.values, np.abs(self.mean) + self.deviation])
        return float(np.abs(values).max(initial=0.0)) or 1.0


@dataclass(frozen=True)
class Recording:
    """What was recorded of one network of the original."""

    source: str
    """Which code on which framework, in words."""
    tolerance: float
    """Largest difference that rounding explains, as a share of a layer's scale."""
    layers: tuple[RecordedLayer, ...]
    checks: Mapping[str, float]
    """Sums of weights and input by which a reader knows that they were drawn alike."""


def load_recorded(paper: str) -> dict[str, Any] | None:
    """Read a paper's `recorded.json`, None where there is none; `DataError` if it is damaged."""
    path = resources.files(paper) / RECORDED
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise DataError(f"{path} is no JSON ({failure}); expected what was recorded") from None


def load_recording(paper: str, network: str) -> Recording | None:
    """Return the recording of a network by name, as `load_recorded` does of the whole file."""
    stored = (load_recorded(paper) or {}).get("networks", {}).get(network)
    if stored is None:
        return None
    try:
        layers = tuple(
            RecordedLayer(
                entry["original"], entry["port"], tuple(entry["shape"]),
                np.array(entry.get("index", ()), np.int64),
                *(np.array(entry.get(name, ())) for name in ("values", "mean", "deviation")),
            )
            for entry in stored["layers"]
        )  # fmt: skip
        return Recording(stored["source"], stored["tolerance"], layers, stored["checks"])
    except (KeyError, TypeError, ValueError) as failure:
        raise DataError(f"{paper}/{RECORDED}: {network} is damaged ({failure!r})") from None


def recorded_shapes(paper: str, network: str) -> dict[str, list[int]] | None:
    """Return the shapes of the original's variables by name, as recorded; None where absent."""
    return (load_recorded(paper) or {}).get("variables", {}).get(network)


def draw_weights(
    shapes: Mapping[str, Sequence[int]],
    seed: int,
    draw: Callable[[np.random.RandomState, str, tuple[int, ...]], np.ndarray | None],
) -> dict[str, np.ndarray]:
    """Draw a network's weights again, as they were when the original was recorded.

    Args:
        shapes: the original's shape of every variable by name.
        seed: of the recording.
        draw: one variable's values from the generator, its name and shape; None: not drawn.

    Returns:
        {name: float32 array}, drawn in the order of the sorted names.
    """
    random = np.random.RandomState(seed)
    drawn = {name: draw(random, name, tuple(shapes[name])) for name in sorted(shapes)}
    return {name: array.astype(np.float32) for name, array in drawn.items() if array is not None}


@dataclass(frozen=True)
class Rebuilt:
    """A network of the port with the recorded weights, and the recorded input."""

    model: keras.Model
    inputs: Any
    """Array, or list of arrays."""
    tensors: Mapping[str, Any] | None = None
    """Symbolic activations by name; None: outputs of the model's layers."""

    def sums(self) -> dict[str, float]:
        """Return the sums that a recording is checked by, in float64."""
        inputs = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        parts = {"weights": self.model.trainable_weights, "input": inputs}
        return {
            name: sum(float(np.asarray(array).sum(dtype=np.float64)) for array in arrays)
            for name, arrays in parts.items()
        }

    def activations(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return activations at inference by name."""
        outputs = {
            name: self.tensors[name] if self.tensors else self.model.get_layer(name).output
            for name in dict.fromkeys(names)
        }
        values = keras.Model(self.model.inputs, outputs).predict_on_batch(self.inputs)
        return {name: np.asarray(value) for name, value in values.items()}


def compare_recorded(paper: str, network: str, rebuild: Callable[[], Rebuilt]) -> Table:
    """Rebuild a recorded network and hold every layer to what the original computed.

    Args:
        paper: package name.
        network: its name in the recording.
        rebuild: gives the port's network with the recorded weights and input.

    Raises:
        DataError: the recording is damaged, or weights and input could not be drawn again.
    """
    recording = load_recording(paper, network)
    if recording is None:
        return activations_table(None, None, paper=paper)
    rebuilt = rebuild()
    check_drawn(recording, rebuilt.sums())
    found = rebuilt.activations([layer.port for layer in recording.layers])
    return activations_table(recording, found, paper=paper)


def check_drawn(recording: Recording, sums: Mapping[str, float]) -> None:
    """Raise `DataError` where weights or input, drawn again, have other sums than the recorded."""
    for name, expected in recording.checks.items():
        value = sums[name]
        if not np.isclose(value, expected, rtol=1e-7, atol=1e-5):
            raise DataError(
                f"the recorded {name} could not be drawn again: their sum is {value!r}, expected "
                f"{expected!r}; activations cannot be compared with this numpy"
            )


def compare_activations(
    recording: Recording, activations: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Hold the port's activations, by its names, to the original's.

    Returned is a row per layer in the order of computation: `layer` (the original's), `port`,
    `shape`, `numbers` (how many were recorded), `difference`, `of scale`, and `verdict`: "equal",
    or "DIFFERS" beyond the tolerance or in shape.
    """
    rows = []
    for layer in recording.layers:
        found = activations[layer.port]
        same_shape = tuple(found.shape) == layer.shape
        difference = largest_difference(layer, found) if same_shape else float("inf")
        share = difference / layer.scale
        rows.append({
            "layer": layer.original,
            "port": layer.port,
            "shape": "x".join(map(str, found.shape)),
            "numbers": layer.values.size + layer.mean.size + layer.deviation.size,
            "difference": difference,
            "of scale": share,
            # Not `share > tolerance`: a NaN differs.
            "verdict": "equal" if share <= recording.tolerance else "DIFFERS",
        })  # fmt: skip
    return rows


def largest_difference(layer: RecordedLayer, found: np.ndarray) -> float:
    """Return the largest absolute difference of recorded values and moments; NaN stays NaN."""
    differences = [np.zeros(1)]
    if layer.values.size:
        differences.append(np.abs(found.reshape(-1)[layer.index] - layer.values))
    if layer.mean.size:
        flat = found.astype(np.float64).reshape(-1, found.shape[-1])
        differences.append(np.abs(flat.mean(0) - layer.mean))
        differences.append(np.abs(flat.std(0) - layer.deviation))
    return float(np.concatenate(differences).max())


def first_divergence(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the original's name of the first layer that differs, or None."""
    return next((row["layer"] for row in rows if row["verdict"] != "equal"), None)


def activations_table(
    recording: Recording | None, activations: Mapping[str, np.ndarray] | None, *, paper: str
) -> Table:
    """Return the comparison of activations as a part, which says so where none were recorded."""
    if recording is None or activations is None:
        return Table("activations", [], f"Not compared: this installation has no {paper}/{RECORDED}"
                     ", which holds what the original computed.")  # fmt: skip
    rows = compare_activations(recording, activations)
    words = summarise_activations(recording, rows)
    return Table("activations", rows, words, [draw(recording, rows)])


def summarise_activations(recording: Recording, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the outcome in words: the first divergence, or the largest difference."""
    first = first_divergence(rows)
    limit = f"{recording.tolerance:.0e} of a layer's scale"
    if first is not None:
        return f"FIRST DIVERGENCE: {first}. Tolerance {limit}. Recorded from {recording.source}."
    worst = max(rows, key=lambda row: row["of scale"])
    return (
        f"No divergence in {len(rows)} layers: at most {worst['of scale']:.1e} of a layer's "
        f"scale (at {worst['layer']}), tolerance {limit}. Recorded from {recording.source}."
    )


def draw(recording: Recording, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the differences in the order of computation, with the tolerance."""
    canvas = Canvas(figsize=(9, 4.2), layout="constrained")
    axes = canvas.subplots()
    shares = [min(max(row["of scale"], 1e-9), 1e3) for row in rows]
    colours = ["#00b4d8" if row["verdict"] == "equal" else "#d00000" for row in rows]
    axes.scatter(range(len(rows)), shares, s=18, c=colours)
    axes.axhline(recording.tolerance, color="#59636e", linestyle="--", linewidth=1)
    axes.set(yscale="log", ylabel="difference / scale")
    step = max(1, len(rows) // 28)
    names = [row["layer"] for row in rows[::step]]
    names = [name if len(name) <= 26 else f"…{name[-25:]}" for name in names]
    axes.set_xticks(range(0, len(rows), step), names, rotation=90, fontsize=6)
    caption = (
        "Largest difference between original and port, layer by layer in the order of computation; "
        "dashed: the tolerance; 1e-9 stands for no difference at all."
    )
    return Figure(render(canvas, phantom=False), caption)
