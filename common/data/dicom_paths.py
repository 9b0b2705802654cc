"""Which paths mean a series of DICOM: told from the files alone, without a library.

A scan may be a folder of slices, one file of a series, which stands for all of it, or, of a folder
with several series, that folder followed by a SeriesInstanceUID as if it were a file in it.
"""

import re
from pathlib import Path
from typing import NamedTuple

from common.errors import OptionError

_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_LOOKED_AT = 8
"""Files of a folder after which one without DICOM is taken for no series."""


class Place(NamedTuple):
    """Where a series is."""

    folder: Path
    series: str | None = None
    """Its SeriesInstanceUID, where the path names one."""
    file: Path | None = None
    """The file that stands for it."""


def find_series(path: Path) -> Place | None:
    """Return the series that a path means, None where it means none."""
    path = Path(path)
    if path.is_dir():
        return Place(path) if holds_dicom(path) else None
    if path.is_file():
        return Place(path.parent, file=path) if is_dicom(path) else None
    if path.parent.is_dir() and len(path.name) <= 64 and _UID.fullmatch(path.name):
        return Place(path.parent, path.name)
    return None


def scan_exists(path: Path) -> bool:
    """Return whether there is a file or a series at a path."""
    return path.is_file() or find_series(path) is not None


def holds_dicom(folder: Path) -> bool:
    """Return whether a folder begins with files of DICOM."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return False
    return any(is_dicom(path) for path in files[:_LOOKED_AT])


def is_dicom(path: Path) -> bool:
    """Return whether a file has the mark of DICOM behind its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def choose_series(image: Path | None, series: str | None) -> Path | None:
    """Return the scan that `--image` and `--series` mean together."""
    if series is None:
        return image
    if image is None or not image.is_dir():
        raise OptionError(f"--series {series}: expected --image, the folder with that series")
    if not _UID.fullmatch(series):
        raise OptionError(f"--series {series}: expected a SeriesInstanceUID, such as 1.2.840.1")
    return image / series
