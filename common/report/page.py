"""One self-contained HTML page per run: tables, learning curve, overlay pictures.

Pictures are embedded, nothing is fetched: the page can be mailed or kept beside the run. Data that
a phantom generator made are named as such on the page and inside every picture, so that a picture
copied elsewhere still says what it shows.
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.errors import RunError
from common.files import read_json, write_json, write_text_atomically

PHANTOM_NOTICE = "Synthetic phantom data: these numbers say nothing about patients."


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
    """Write the page atomically to an HTML file: the title, a sentence `lead`, the parts in order.

    That of a `phantom` says so at the top and at every picture.
    """
    environment = Environment(
        loader=PackageLoader("common.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        title=title, lead=lead, sections=sections, phantom=PHANTOM_NOTICE if phantom else ""
    )
    write_text_atomically(path, page)


def write_sections(path: Path, sections: Sequence[Section]) -> None:
    """Write parts of a page as JSON, so that another page can show them; pictures as base64 PNG."""
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
    """Read what `write_sections` wrote; raise `RunError` if that cannot be done."""
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


def format_spread(summary: Mapping[str, Any], digits: int = 3) -> str:
    """Return '95% interval 0.85 to 0.92' of a mean, or of few cases '0.85, 0.92'.

    `summary` is what `common.evaluation.metrics.summarise` returns; empty where nothing is known.
    """
    if len(summary.get("values") or ()) > 1:
        return ", ".join(format_number(value, digits) for value in summary["values"])
    low, high = (format_number(summary.get(name), digits) for name in ("ci95_low", "ci95_high"))
    return "" if "–" in (low, high) else f"95% interval {low} to {high}"


def format_seeds(summary: Mapping[str, Any], digits: int = 3) -> str:
    """Return 'seeds 0.81, 0.83, 0.80', the means of repetitions; empty where there were none."""
    means = summary.get("seeds") or ()
    return f"seeds {', '.join(format_number(mean, digits) for mean in means)}" if means else ""


def format_summary(summary: Mapping[str, Any], digits: int = 3) -> str:
    """Return 'mean ± sd (n = 7; 95% interval low to high; 1 undefined)', or of few cases their
    values, and of several seeds their means.

    `summary` is what `common.evaluation.metrics.summarise` returns."""
    mean, sd = (format_number(summary.get(name), digits) for name in ("mean", "sd"))
    undefined = summary.get("n_undefined")
    facts = [f"n = {summary.get('n', '–')}", format_spread(summary, digits)]
    facts.append(format_seeds(summary, digits))
    facts.append(f"{undefined} undefined" if undefined else "")
    return f"{mean}{'' if sd == '–' else f' ± {sd}'} ({'; '.join(filter(None, facts))})"
