"""One self-contained HTML page per run: tables, learning curve, overlay pictures.

Pictures are embedded, nothing is fetched: the page can be mailed or kept beside the run. Data that
a phantom generator made are named as such on the page and inside every picture, so that a picture
copied elsewhere still says what it shows.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import RunError
from common.files import read_json, write_json

PHANTOM_NOTICE = "Synthetic phantom data: these numbers say nothing about patients."
PHANTOM_MARK = "PHANTOM, NOT A PATIENT"
REFERENCE_COLOUR = "#00b4d8"
PREDICTION_COLOUR = "#ff6b35"
PHANTOM_COLOUR = "#8a4600"


@dataclass(frozen=True)
class Figure:
    """A picture of the page: PNG bytes and the sentence below it."""

    png: bytes
    caption: str

    @property
    def data(self) -> str:
        """The picture as base64 text, for embedding."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A part of the page: text, then a table, then pictures; each may be absent."""

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)


def write_report(
    path: Path, *, title: str, lead: str, sections: Sequence[Section], phantom: bool
) -> None:
    """Write the page atomically.

    Args:
        path: HTML file.
        title: heading.
        lead: one sentence below it.
        sections: parts in order.
        phantom: True where the data are synthetic; the page then says so at the top and at
            every picture.

    Raises:
        OSError: the folder cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from common.runs.folder import write_text_atomically

    environment = Environment(
        loader=PackageLoader("common.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title, lead=lead, sections=sections, phantom=PHANTOM_NOTICE if phantom else ""
    )
    write_text_atomically(path, page)


def write_sections(path: Path, sections: Sequence[Section]) -> None:
    """Write parts of a page as JSON, so that another page can show them; pictures as base64 PNG.

    Args:
        path: JSON file in an existing folder.
        sections: the parts; cells of tables become text.

    Raises:
        RunError: the file cannot be written; what was there is untouched.
    """
    parts = [
        {
            "title": section.title,
            "text": section.text,
            "header": [str(cell) for cell in section.header],
            "rows": [[str(cell) for cell in row] for row in section.rows],
            "figures": [{"caption": each.caption, "png": each.data} for each in section.figures],
        }
        for section in sections
    ]
    write_json(path, {"sections": parts})


def read_sections(path: Path) -> list[Section]:
    """Read what `write_sections` wrote.

    Raises:
        RunError: the file is missing, unreadable, or does not hold the parts of a page.
    """
    stored = read_json(path)
    try:
        return [_read_section(part) for part in stored["sections"]]
    except (KeyError, TypeError, AttributeError, binascii.Error) as failure:
        raise RunError(
            f"{path} is damaged ({type(failure).__name__}: {failure}); expected the sections of a "
            "page, as evaluate and compare write them: run that command again"
        ) from failure


def _read_section(part: Mapping) -> Section:
    return Section(
        title=_text(part["title"]),
        text=_text(part["text"]),
        header=tuple(_text(cell) for cell in part["header"]),
        rows=tuple(tuple(_text(cell) for cell in row) for row in part["rows"]),
        figures=tuple(
            Figure(base64.b64decode(each["png"], validate=True), _text(each["caption"]))
            for each in part["figures"]
        ),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {value!r}, expected text")
    return value


def format_number(value: float, digits: int = 3) -> str:
    """Return a number for a table; NaN is a dash, since it stands for 'not defined'."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def format_summary(summary: Mapping[str, float], digits: int = 3) -> str:
    """Return 'mean ± sd (95% interval low to high, n = 7, 1 undefined)' of a summary.

    Args:
        summary: what `common.evaluation.metrics.summarise` returns.
        digits: decimals.
    """
    text = (
        f"{format_number(summary['mean'], digits)} ± {format_number(summary['sd'], digits)} "
        f"(95% interval {format_number(summary['ci95_low'], digits)} to "
        f"{format_number(summary['ci95_high'], digits)}, n = {summary['n']}"
    )
    undefined = summary["n_undefined"]
    return text + (f", {undefined} undefined)" if undefined else ")")


def draw_learning_curve(
    rows: Sequence[Mapping[str, float]], *, x: str, panels: Sequence[Sequence[str]], phantom: bool
) -> bytes:
    """Draw columns of a training log.

    Args:
        rows: the log, a mapping per epoch.
        x: column on the horizontal axis.
        panels: columns of each panel, drawn side by side; a column that the log lacks is left out.
        phantom: True marks the picture as phantom data.

    Returns:
        PNG bytes.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.2 * len(panels), 3.2), layout="constrained")
    for axes, columns in zip(
        canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for column in columns:
            points = [(row[x], row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=column)
        axes.set_xlabel(x)
        axes.grid(alpha=0.3)
        if axes.lines:
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
    """Draw one slice three times: the scan, the reference on it, the prediction on it.

    Args:
        image: (rows, columns) intensities; shown between their 1st and 99th percentile.
        reference: (rows, columns) integer labels, or None where there are none.
        prediction: (rows, columns) integer labels.
        title: case and slice.
        pixel_mm: spacing of rows and columns in mm, so that the anatomy keeps its proportions.
        phantom: True marks the picture as phantom data.

    Returns:
        PNG bytes.
    """
    from matplotlib.figure import Figure as Canvas

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


def picture_of_overlay(
    image: np.ndarray, reference: np.ndarray | None, prediction: np.ndarray
) -> np.ndarray:
    """Return one slice with both outlines as an RGB picture, for TensorBoard.

    Args:
        image: (rows, columns) intensities.
        reference: (rows, columns) integer labels, or None.
        prediction: (rows, columns) integer labels.

    Returns:
        (rows, columns, 3) uint8.
    """
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    for labels, colour in ((reference, REFERENCE_COLOUR), (prediction, PREDICTION_COLOUR)):
        if labels is not None:
            picture[outline(labels > 0)] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return picture


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the mask's pixels that touch a pixel outside it."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, border_value=1)
