"""cohort.csv: a row per case of a cohort, written as the cases end, and read when it goes on."""

import csv
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import filelock

from common.errors import RunError, WriteError, one_line
from common.files import plain, write_text_atomically

NAME = "cohort.csv"
LOCK = ".cohort.lock"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Row:
    """What became of one case."""

    id: str
    status: str
    """done or failed."""
    seconds: str
    worker: str
    """Host and process; empty where it ended with the case."""
    peak_memory_mib: str
    message: str
    work: str
    """Says which network, options and files: a case that is done by other ones is done anew."""


COLUMNS = [each.name for each in fields(Row)]


class Book:
    """The rows of a folder's cohort, one per case."""

    def __init__(self, path: Path) -> None:
        """Read what is there; `open_book` is what makes one."""
        self.path = path
        self.rows = {row.id: row for row in read_rows(path)}

    def write(self, row: Row) -> None:
        """Add the row of a case, which takes the place of its former one when the book is closed.

        Raises:
            WriteError: the file cannot be written.
        """
        self.rows[row.id] = row
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(asdict(row).values())
                file.flush()
                os.fsync(file.fileno())
        except OSError as failure:
            raise WriteError(f"{self.path} cannot be written: {one_line(failure)}") from failure

    def tidy(self) -> None:
        """Write the file anew: one row per case."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *(asdict(row).values() for row in self.rows.values())])
        write_text_atomically(self.path, text.getvalue())


@contextmanager
def open_book(folder: Path) -> Iterator[Book]:
    """Open the table of a folder for its one writer.

    Raises:
        RunError: another process has it open, or it cannot be written.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise RunError(
            f"{folder}: another command is working on the cohort in this folder; wait for it, or "
            "give another folder"
        ) from None
    except OSError as failure:
        raise RunError(f"{folder} cannot be written: {one_line(failure)}") from failure
    try:
        book = Book(folder / NAME)
        book.tidy()
        try:
            yield book
        finally:
            book.tidy()
    finally:
        lock.release()


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table, also of one whose last row is half-written; none if absent."""
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, csv.Error) as failure:
        raise RunError(f"{path} cannot be read: {one_line(failure)}") from failure
    if header != COLUMNS:
        raise RunError(f"{path} is no table of a cohort; expected the columns {', '.join(COLUMNS)}")
    return [Row(*cells) for cells in rows if len(cells) == len(COLUMNS)]


def fingerprint(*values: Any, folders: bool = False) -> str:
    """Return 16 hex digits that change with what decides a result.

    Args:
        values: plain data, dataclasses and functions; of a file its path, size and time of change.
        folders: likewise of a folder, such as one with the slices of a scan.
    """
    text = json.dumps([_described(value, folders) for value in values], sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _described(value: Any, folders: bool) -> Any:
    if isinstance(value, Path):
        if not (value.is_file() or (folders and value.is_dir())):
            return str(value)
        status = value.stat()
        return [str(value), status.st_size, status.st_mtime_ns]
    if isinstance(value, functools.partial):
        value = [value.func, value.args, value.keywords]
    elif is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, dict):
        return {str(key): _described(item, folders) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(item, folders) for item in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return plain(value)
