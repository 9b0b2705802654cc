"""Tables as text: aligned columns that fit a terminal, whatever stands in them."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

TERMINAL_COLUMNS = 118
LONGEST_FLOAT = 10
"""Characters up to which a float is shown as it is: settings are short, measurements long."""


def fill(text: str, columns: int) -> str:
    """Return text broken into lines of so many columns, its own line breaks kept."""
    return "\n".join(textwrap.fill(line, columns) for line in text.splitlines())


def show(value: Any) -> str:
    """Return a cell as text; long floats with four significant digits."""
    text = str(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > LONGEST_FLOAT else text


def format_table(rows: Sequence[Mapping], *, columns: int | None = None) -> str:
    """Return rows of equal keys as a table of aligned columns.

    A table wider than the `columns` of a terminal has its widest cells broken into lines.
    """
    if not rows:
        return "(nothing)"
    header = list(rows[0])
    cells = [header] + [[show(row[key]) for key in header] for row in rows]
    places = range(len(header))
    longest = [max(len(word) for line in cells for word in line[i].split() or [""]) for i in places]
    widths = fit_widths(
        [max(len(line[i]) for line in cells) for i in places],
        columns,
        [min(n, 30) for n in longest],
    )
    lines = []
    for line in cells:
        broken = [break_cell(cell, width) for cell, width in zip(line, widths, strict=True)]
        for parts in zip_longest(*broken, fillvalue=""):
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def break_cell(cell: str, width: int) -> list[str]:
    """Return a cell as lines; a word that is too long is broken behind a `/`, `_`, `.` or `,`."""
    lines = []
    for word in cell.split():
        while len(word) > width:
            place = max(word.rfind(mark, 0, width) for mark in "/_.,") + 1
            place = place if place > width // 3 else width
            lines.append(word[:place])
            word = word[place:]
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def fit_widths(
    widths: Sequence[int], columns: int | None, least: Sequence[int] | None = None
) -> list[int]:
    """Return column widths that fit a terminal's `columns`, taken from the widest ones first.

    Below its `least` width a column's words break; these give way last.
    """
    widths = [max(width, 1) for width in widths]
    least = least or [1] * len(widths)
    while columns is not None and sum(widths) + 2 * (len(widths) - 1) > columns:
        free = [i for i, (width, need) in enumerate(zip(widths, least, strict=True))
                if width > max(need, 4)]  # fmt: skip
        widest = max(free or range(len(widths)), key=lambda i: widths[i])
        if widths[widest] <= 4:
            break
        widths[widest] -= 1
    return widths
