"""Lists and tables of cases, as spreadsheets and scripts write them.

A byte order mark, any line ending, quotes, blanks around a cell and blank rows are forgiven;
commas, semicolons and tabs are recognised. What could be misread is refused with its line number.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.dicom_paths import holds_dicom, scan_exists
from common.errors import DataError, nearest
from common.files import write_text_atomically

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
LARGEST_TABLE = 50_000_000
"""Bytes; a million rows of cases fit."""
_EXCEL_DELIMITER = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row that is not blank."""

    line: int
    """Where it ends in the file, from 1."""
    cells: tuple[str, ...]
    """Without blanks around them."""


@dataclass(frozen=True)
class Table:
    """The rows of a file, whatever their length; see `check_cells`."""

    path: Path
    header: Row
    rows: tuple[Row, ...]
    delimiter: str

    def where(self, row: Row) -> str:
        """Return file and line as messages name them."""
        return f"{self.path}, line {row.line}"


def read_table(path: Path) -> Table:
    """Read a table with a header row, which is empty where the file is.

    Args:
        path: text in UTF-8, or in UTF-16 with a byte order mark; cells separated by commas,
            semicolons or tabs, whichever divides the header into most columns.

    Raises:
        DataError: the file is missing, too large or not such text, or a quote is not closed.
    """
    path = Path(path)
    text = _read_text(path)
    skipped = 0
    if named := _EXCEL_DELIMITER.match(text):  # a first line of Excel's that is not a row
        text, skipped = text[named.end() :], 1
    delimiter = named[1] if named and named[1] in DELIMITERS else _choose_delimiter(text)
    header, *others = _parse(text, delimiter, path, skipped)
    return Table(path, header, tuple(others), delimiter)


def check_cells(table: Table, row: Row, needed: Sequence[str]) -> None:
    """Raise `DataError` for a row longer than the header, or too short for the `needed` columns."""
    header = table.header.cells
    if len(row.cells) > len(header):
        raise DataError(
            f"{table.where(row)}: found {_columns(row.cells)}; expected {len(header)}, as in "
            f"the header ({', '.join(header)})"
        )
    if len(row.cells) < len(needed):
        raise DataError(
            f"{table.where(row)}: found {_columns(row.cells)}; expected at least {len(needed)}"
            f" ({', '.join(needed)}), separated by {DELIMITERS[table.delimiter]} as in the header"
        )


def rows_by_position(table: Table, columns: Sequence[str], needed: int) -> tuple[Row, ...]:
    """Return the rows of a list whose columns are known by position, the first `needed` at least.

    The header's words are free, but a header that is too short, or has the name of another column
    in its place, is refused. Columns beyond those named are ignored.
    """
    header = table.header.cells
    if len(header) < needed:
        found = f"{_columns(header)} ({', '.join(header)})" if header else "nothing"
        raise DataError(
            f"{table.path}: found {found} in the first row; expected at least {needed} columns "
            f"separated by {', '.join(DELIMITERS.values())}: {', '.join(columns[:needed])}"
        )
    for position, (cell, name) in enumerate(zip(header, columns, strict=False), start=1):
        if name != (found := column_name(cell)) and found in columns:
            raise DataError(
                f"{table.path}: found {cell!r} as the name of column {position}; expected the "
                f"order {', '.join(columns)}, since columns are taken by position"
            )
    if not table.rows:
        raise DataError(f"{table.path} has a header but no rows; expected one row per case")
    return table.rows


def rows_by_name(
    table: Table, columns: Sequence[str], prefixes: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Return the rows of a table as dictionaries from column to cell; absent columns are absent.

    The columns, in small letters, may be those named or begin with a prefix such as "channel_". An
    unknown one is refused with the nearest known one, as are a column there twice and short rows.
    """
    header = [column_name(cell) for cell in table.header.cells]
    for name, cell in zip(header, table.header.cells, strict=True):
        if name not in columns and not name.startswith(tuple(prefixes)):
            raise DataError(f"{table.path}: {_explain_unknown(cell, columns, prefixes)}")
        if header.count(name) > 1:
            raise DataError(f"{table.path}: found the column {name} twice; expected it once")
    for row in table.rows:
        check_cells(table, row, header)
        if any("\0" in cell for cell in row.cells):
            raise DataError(f"{table.where(row)}: found a NUL character; expected text")
    return [dict(zip(header, row.cells, strict=True)) for row in table.rows]


def column_name(cell: str) -> str:
    """Return a header's word in small letters, its blanks replaced by one underscore."""
    return "_".join(cell.lower().split())


def find_file(table: Table, row: Row, cell: str, *, what: str) -> Path:
    """Return the existing file that a cell names; relative paths start at the table's folder."""
    if not cell:
        raise DataError(f"{table.where(row)}: the {what} is empty; expected a path")
    path = table.path.parent / cell
    if path.is_dir() and not holds_dicom(path):
        raise DataError(
            f"{table.where(row)}: the {what} is a folder: {path}; expected a file, or a folder of "
            "DICOM"
        )
    if not scan_exists(path):
        raise DataError(f"{table.where(row)}: the {what} does not exist: {path}")
    return path


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | Path]]) -> None:
    """Write a table of cases; paths become relative to the table's folder.

    Raises:
        DataError: the table has another ending than .csv.
    """
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path}: expected a name ending in .csv, for the list of cases")
    here, text = path.absolute().parent, io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    for row in rows:
        table.writerow([
            os.path.relpath(cell, here) if isinstance(cell, Path) else cell for cell in row
        ])  # fmt: skip
    here.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, text.getvalue())


def _read_text(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > LARGEST_TABLE:
            raise DataError(f"{path}: found {size} bytes; expected {LARGEST_TABLE} at most")
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a CSV list of cases") from None
    except OSError as refusal:
        raise DataError(f"{path} cannot be read ({refusal.strerror})") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, name = "utf-16", "UTF-16"
    elif 0 in content[:2]:
        raise DataError(
            f"{path}: found UTF-16 without a byte order mark; expected UTF-8: save it anew as UTF-8"
        )
    else:
        encoding, name = "utf-8-sig", "UTF-8"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as mistake:
        line = content.count(b"\n", 0, mistake.start) + 1
        raise DataError(
            f"{path}, line {line}: found the byte 0x{content[mistake.start]:02x}, which is not "
            f"{name}; expected text in UTF-8: save a table in Latin-1 or Windows-1252 anew as UTF-8"
        ) from None


def _choose_delimiter(text: str) -> str:
    """Return what divides the first row that is not blank into most cells; a comma in doubt."""

    def count(delimiter: str) -> int:
        try:
            return len(next(filter(any, csv.reader(io.StringIO(text), delimiter=delimiter)), ()))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=count)


def _parse(text: str, delimiter: str, path: Path, skipped: int) -> list[Row]:
    """Return the rows that are not blank without empty cells at their ends; at least one row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            width = len(rows[0].cells) if rows else 0
            while len(stripped) > width and not stripped[-1]:
                stripped.pop()
            if any(stripped):
                rows.append(Row(reader.line_num + skipped, tuple(stripped)))
    except csv.Error as mistake:
        raise DataError(
            f"{path}, line {reader.line_num + skipped}: not readable as CSV ({mistake}); expected "
            "rows of cells, quotes closed"
        ) from None
    return rows or [Row(1, ())]


def _columns(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'' if len(cells) == 1 else 's'}"


def _explain_unknown(cell: str, columns: Sequence[str], prefixes: Sequence[str]) -> str:
    name = column_name(cell)
    ending = name.partition("_")[2] or name
    near = nearest(name, [*columns, *(prefix + ending for prefix in prefixes)])
    hint = f"did you mean {near}? Expected" if near else "expected"
    known = ", ".join([*(f"{prefix}..." for prefix in prefixes), *columns])
    return f"unknown column {cell!r}; {hint} {known}"
