"""Tables that lay original and port side by side, on the terminal and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any


def compare_presets(presets: Mapping[str, Any]) -> list[dict]:
    """Return a row per field of a paper's `Config`, those that differ first.

    Args:
        presets: the paper's `PRESETS`.

    Returns:
        Rows with `field`, the value in every preset, and `differs` ("yes" or "").
    """
    rows = []
    for field in fields(next(iter(presets.values()))):
        values = {name: getattr(config, field.name) for name, config in presets.items()}
        differs = len(set(values.values())) > 1
        rows.append({"field": field.name, **values, "differs": "yes" if differs else ""})
    return sorted(rows, key=lambda row: not row["differs"])


def compare_arrays(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict]:
    """Return a row per name with the largest absolute difference of two arrays or variables.

    Args:
        first: arrays by name.
        second: arrays of the same shapes, at least under the names of `first`.
    """
    import numpy as np

    return [
        {
            "variable": name,
            "largest difference": float(np.abs(np.subtract(array, second[name])).max()),
        }
        for name, array in first.items()
    ]


def show_tables(tables: Mapping[str, Sequence[Mapping]], out: Path | None) -> None:
    """Print tables under their names, and write them as JSON where asked.

    Args:
        tables: rows by name of the table.
        out: JSON file, or None; its folder is made.

    Raises:
        RunError: the file cannot be written.
    """
    from common.files import write_json

    if out is not None:  # first, so that a file that cannot be written is all that is said
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, tables)
    for name, rows in tables.items():
        print(f"{name}\n{format_table(rows)}\n")
    if out is not None:
        print(f"JSON: {out}")


def format_table(rows: Sequence[Mapping]) -> str:
    """Return rows of equal keys as a table of aligned columns."""
    if not rows:
        return "(nothing)"
    header = list(rows[0])
    cells = [header] + [[str(row[key]) for key in header] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
