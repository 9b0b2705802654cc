"""Names of cases, and the files that are named after them: one rule in every paper."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.errors import DataError, OptionError

LONGEST_ID = 200
"""Bytes; a file's name may have 255, and endings such as _probability.nii.gz come after the id."""

NO_SUBJECTS = (
    "no subjects are known (sub-<label> in the paths, or a column `subject` in lists that may have "
    "one): cases of one person may be on both sides of the split"
)
_BIDS_SUBJECT = re.compile(r"(?:^|[_/])sub-([A-Za-z0-9]+)(?=[_/.]|$)")


def normal_id(text: str) -> str:
    """Return an id in the one form that is compared and written: composed, without outer blanks."""
    return unicodedata.normalize("NFC", text).strip()


def can_name_a_file(case_id: str) -> bool:
    """Return whether an id is not empty nor longer than `LONGEST_ID`, has no path separator and no
    character that cannot be printed, and does not begin with a dot."""
    # A lone surrogate, what Python makes of a byte that is not UTF-8, is not printable.
    if not case_id or case_id.startswith(".") or not case_id.isprintable():
        return False
    return not set(case_id) & set("/\\") and len(case_id.encode()) <= LONGEST_ID


def check_id(case_id: str, where: str) -> None:
    """Raise `DataError`, naming the place `where`, for an id that cannot name a file."""
    if not can_name_a_file(case_id):
        raise DataError(
            f"{where}: id {case_id[:40]!r} cannot name a file; expected a short word without path"
            " separators, control characters and leading dots"
        )


def check_new(case_id: str, places: Mapping[str, str], where: str) -> None:
    """Raise `DataError` for an id already used; `places` says where each so far stood."""
    if case_id in places:
        raise DataError(
            f"{where}: id {case_id!r} was already used in {places[case_id]}; expected an id of its"
            " own for each case"
        )


def subject_of(path: Path) -> str:
    """Return the subject that a path names as BIDS has it, `sub-<label>`; empty: it names none."""
    found = _BIDS_SUBJECT.findall(path.as_posix())
    return found[-1] if found else ""


def keep_subjects_apart(split: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """Refuse a division that has one subject on two sides.

    Args:
        split: id and subject (empty: not known) of the cases of each subset.

    Returns:
        A sentence to say where no subject is known; else "".

    Raises:
        DataError: names a subject and a case of it on each side.
    """
    seen: dict[str, tuple[str, str]] = {}
    for subset, cases in split.items():
        for case_id, subject in cases:
            where, first = seen.setdefault(subject, (subset, case_id))
            if subject and where != subset:
                raise DataError(
                    f"subject {subject} is on two sides of the split: {first} in {where}, "
                    f"{case_id} in {subset}; expected all its cases on one side"
                )
    if set(seen) == {""}:
        return NO_SUBJECTS
    return ""


def check_outputs(
    outputs: Iterable[tuple[str, Iterable[Path]]], inputs: Iterable[Path] = (), *, option: str
) -> None:
    """Refuse to write one file twice, or in place of a file that is read; call it before writing.

    Args:
        outputs: what the message calls a case, and the files that will be written of it.
        inputs: files that are read.
        option: the option that names the folder of the outputs, with its value.

    Raises:
        OptionError: names the file and the two cases.
    """
    read = {path.resolve() for path in inputs}
    writers: dict[Path, str] = {}
    for case, paths in outputs:
        for path in paths:
            place = path.resolve()
            if place in read:
                raise OptionError(
                    f"{option}: {path.name} there is a file to read; expected another folder"
                )
            if place in writers:
                raise OptionError(
                    f"{option}: {writers[place]} and {case} would both be written to {path.name}; "
                    "expected a name of its own for each"
                )
            writers[place] = case
