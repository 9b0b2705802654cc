"""The CSV list of cases: columns by position, a header that is skipped, paths from its folder."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import DataError

COLUMNS = ("id", "image", "segmentation")
"""What the columns of the list mean, by position; the header's words are free."""


def read_list(list_path: Path, needed: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return the rows of a list without its header, each with its line number.

    Args:
        list_path: CSV file.
        needed: names of the columns that must be there.

    Raises:
        DataError: it cannot be read, has too few columns, a case where the header should be, or no
            rows.

    Source: reader.py, train.py (columns by position, no interpretation of empty cells).
    """
    header, *rows = read_rows(list_path) or [(1, [])]
    check_header(list_path, header[1], needed)
    if not rows:
        raise DataError(f"{list_path} has a header but no rows; expected one row per case")
    return rows


def read_rows(list_path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, each with its line number."""
    try:
        with list_path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            return [(reader.line_num, cells) for cells in reader if cells]
    except FileNotFoundError:
        raise DataError(f"{list_path} does not exist; expected a CSV list of cases") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{list_path} is not readable as CSV; expected text with commas") from None
    except OSError as refusal:
        raise DataError(f"{list_path} cannot be read ({refusal.strerror})") from None


def check_header(list_path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a list whose first row is too short or is a case rather than a header."""
    if len(header) < len(needed):
        found = f"{len(header)} columns ({', '.join(header)})" if header else "nothing"
        raise DataError(
            f"{list_path}: found {found} in the first row; expected at least {len(needed)} comma-"
            f"separated columns: {', '.join(needed)}"
        )
    if "\0" not in header[1] and header[1] and (list_path.parent / header[1]).is_file():
        raise DataError(
            f"{list_path}: the first row names an existing image ({header[1]}); expected a header"
            " row, which is skipped"
        )


def check_columns(cells: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Refuse a row that is too short."""
    if len(cells) < len(needed):
        raise DataError(
            f"{where}: found {len(cells)} columns; expected at least {len(needed)}"
            f" ({', '.join(needed)})"
        )


def check_new(case_id: str, lines: Mapping[str, int], where: str) -> None:
    """Refuse an id that an earlier row has; `lines` holds the ids so far and where they stood."""
    if case_id in lines:
        raise DataError(f"{where}: id {case_id!r} was already used in line {lines[case_id]}")


def check_id(case_id: str, where: str) -> None:
    """Refuse an id that cannot be the name of a file in a folder."""
    separators = any(letter in "/\\" or not letter.isprintable() for letter in case_id)
    if not case_id or case_id.startswith(".") or separators or len(case_id.encode()) > 200:
        raise DataError(
            f"{where}: id {case_id[:40]!r} cannot name a file; expected a short word without path"
            " separators and leading dots"
        )


def find_files(
    folder: Path, cells: Sequence[str], needed: Sequence[str], *, where: str
) -> list[Path]:
    """Return the files that a row names after its id, in the order of the columns."""
    return [
        find_file(folder, cell, where=where, what=f"{name} of {cells[0]!r}")
        for name, cell in zip(needed[1:], cells[1:], strict=False)
    ]


def find_file(folder: Path, cell: str, *, where: str, what: str) -> Path:
    """Return the path a cell of the list means; it must be an existing file."""
    if not cell:
        raise DataError(f"{where}: the {what} is empty; expected a path")
    path = folder / cell
    if "\0" in cell or not path.is_file():
        raise DataError(f"{where}: the {what} does not exist: {path}")
    return path
