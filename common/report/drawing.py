"""Pictures of a report as PNG bytes, those of phantoms marked inside the picture."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from common.report.overlay import PREDICTION_COLOUR, REFERENCE_COLOUR

PHANTOM_MARK = "PHANTOM, NOT A PATIENT"
PHANTOM_COLOUR = "#8a4600"


def draw_learning_curve(
    rows: Sequence[Mapping[str, float]], *, x: str, panels: Sequence[Sequence[str]], phantom: bool
) -> bytes:
    """Return columns of a training log, which has a row per epoch, over column `x` as PNG bytes.

    The panels, each with its columns, lie side by side; a column that the log lacks is left out.
    """
    canvas = Canvas(figsize=(5.2 * len(panels), 3.2), layout="constrained")
    places = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axes, columns in zip(places, panels, strict=True):
        for column in columns:
            points = [(row[x], row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=column)
        axes.set_xlabel(x)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    return render(canvas, phantom=phantom)


def draw_over(
    rows: Sequence[Mapping], *, x: str, measures: Mapping[str, str], phantom: bool
) -> bytes:
    """Return the measures of all cases over another of their columns as PNG bytes.

    A panel per measure, which is named, and a line per label, from case to case along `x`.
    """
    canvas = Canvas(figsize=(5.2 * len(measures), 3.2), layout="constrained")
    places = canvas.subplots(1, len(measures), squeeze=False)[0]
    for axes, (measure, name) in zip(places, measures.items(), strict=True):
        for label in dict.fromkeys(row["label"] for row in rows):
            points = sorted((row[x], row[measure]) for row in rows if row["label"] == label)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        axes.set_xlabel(x.replace("_", " "))
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return render(canvas, phantom=phantom)


def draw_overlay(
    image: np.ndarray,
    reference: np.ndarray | None,
    prediction: np.ndarray,
    *,
    title: str,
    pixel_mm: tuple[float, float],
    phantom: bool,
) -> bytes:
    """Draw one slice three times as PNG: the scan, the reference on it, the prediction on it.

    All are (rows, columns): intensities, shown between their 1st and 99th percentile, and integer
    labels. `pixel_mm`, the spacing of rows and columns in mm, keeps the anatomy's proportions.
    """
    layers = [("scan", None, None)]
    if reference is not None:
        layers.append(("reference", reference, REFERENCE_COLOUR))
    layers.append(("prediction", prediction, PREDICTION_COLOUR))
    low, high = np.percentile(image, (1, 99))
    canvas = Canvas(figsize=(3.4 * len(layers), 3.7), layout="constrained")
    for axes, (name, labels, colour) in zip(canvas.subplots(1, len(layers)), layers, strict=True):
        axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6),
                    aspect=pixel_mm[0] / pixel_mm[1])  # fmt: skip
        axes.set_title(name, fontsize=9, color=colour or "black")
        axes.set_axis_off()
        for label in [] if labels is None else np.unique(labels[labels > 0]):
            axes.contour(labels == label, levels=[0.5], colors=[colour], linewidths=1.3)
    return render(canvas, title=title, phantom=phantom)


def render(canvas, *, title: str = "", phantom: bool) -> bytes:
    """Return a matplotlib figure as PNG bytes, its title marked where it shows a phantom."""
    words = "   ".join([*([title] if title else []), *([PHANTOM_MARK] if phantom else [])])
    if words:
        canvas.suptitle(words, fontsize=10, color=PHANTOM_COLOUR if phantom else "black")
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
