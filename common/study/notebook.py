"""Pictures and short tables for the teachers' notebooks; everything else they take from a paper."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from common.report.page import Figure
from common.report.tables import format_table

COLUMNS = 110
"""Of a notebook's text output."""


def show_rows(
    rows: Sequence[Mapping[str, Any]], *, keys: Sequence[str] = (), most: int = 12
) -> None:
    """Print the first `most` rows of a table, of its columns those named in `keys`; none: all."""
    shown = [{key: row[key] for key in keys or row} for row in rows[:most]]
    print(format_table(shown, columns=COLUMNS))
    if len(rows) > most:
        print(f"... and {len(rows) - most} more")


def show_figure(figure: Figure) -> None:
    """Show a picture of the report in the notebook, with the sentence below it."""
    picture = plt.imread(io.BytesIO(figure.png))
    plt.figure(figsize=(picture.shape[1] / 100, picture.shape[0] / 100))
    plt.imshow(picture)
    plt.axis("off")
    plt.show()
    print(figure.caption)


def show_slices(
    images: Mapping[str, np.ndarray], *, outlines: Mapping[str, np.ndarray] | None = None
) -> None:
    """Show slices (rows, columns) side by side by title, each on a grey scale of its own, with the
    `outlines` of masks (rows, columns) of the same title."""
    _, axes = plt.subplots(1, len(images), figsize=(3.4 * len(images), 3.6), squeeze=False)
    for place, (title, image) in zip(axes[0], images.items(), strict=True):
        place.imshow(image, cmap="gray")
        mask = (outlines or {}).get(title)
        if mask is not None and mask.any():
            place.contour(mask > 0, levels=[0.5], colors="#00b4d8", linewidths=1)
        place.set_title(title, fontsize=9)
        place.axis("off")
    plt.show()


def show_curves(
    curves: Mapping[str, Sequence[float]], *, x: str, y: str, log: bool = False
) -> None:
    """Show curves by name over their index in one plot; `x` and `y` say what the axes are."""
    _, axes = plt.subplots(figsize=(7, 3))
    for name, values in curves.items():
        axes.plot(values, label=name)
    axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    axes.legend(frameon=False)
    plt.show()
