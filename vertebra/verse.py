"""VerSe, the public stand-in for CSI: its folders and its labels, read as the paper's.

The subject-based release lays scans and masks in two parallel trees, anywhere below one folder:
`.../rawdata/<subject>/<name>_ct.nii.gz` and `.../derivatives/<subject>/<name>_seg-vert_msk.nii.gz`.
Its labels grow downwards: 1 to 7 cervical, 8 to 19 thoracic, 20 to 25 lumbar, 28 a thirteenth
thoracic vertebra between 19 and 20; sacrum (26) and coccyx (27) are no vertebrae here. Scans come
in many orientations, which needs `keep_geometry` [V37].

Source: the data description at osf.io/4skx2.
"""

from pathlib import Path

import numpy as np

from common.data.geometry import Volume
from common.errors import DataError
from vertebra.data import Case, check_some

SCAN_ENDING = "_ct.nii.gz"
MASK_ENDING = "_seg-vert_msk.nii.gz"
UPWARDS = (25, 24, 23, 22, 21, 20, 28, *range(19, 0, -1))
"""VerSe's labels from the lowest lumbar vertebra to the first cervical one."""
NO_VERTEBRAE = (0, 26, 27)
"""Background, sacrum, coccyx."""


def find_verse_scans(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return scans and the masks they should have, by name, in the order of their paths."""
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with VerSe's rawdata and derivatives")
    scans = {}
    for path in sorted(folder.rglob("rawdata/*/*")):
        if not path.name.lower().endswith(SCAN_ENDING):
            continue
        name = path.name[: -len(SCAN_ENDING)]
        mask = path.parents[2] / "derivatives" / path.parent.name / f"{name}{MASK_ENDING}"
        scans[path.relative_to(folder).as_posix()] = (path, mask)
    return scans


def find_verse_cases(folder: Path) -> list[Case]:
    """Find the cases of a folder above VerSe's `rawdata` and `derivatives`.

    They are numbered from 1 in the order of their paths: `case1_<name>`, ... Series of one subject
    therefore follow each other, and only those at a boundary of the split may be on both sides of
    it. Raises `DataError` for a folder without scans, or a scan without its mask.
    """
    scans = find_verse_scans(folder)
    cases = [verse_case(number, scans[name]) for number, name in enumerate(scans, start=1)]
    check_some(cases, folder)
    return cases


def verse_case(number: int, files: tuple[Path, Path]) -> Case:
    """Return the case of a scan and its mask, which must be there."""
    scan, mask = files
    if not mask.is_file():
        raise DataError(f"{scan} has no labels; expected {mask}")
    return Case(f"case{number}_{scan.name[: -len(SCAN_ENDING)]}", scan, mask)


def label_upwards(labels: Volume, path: Path) -> Volume:
    """Return VerSe's labels (Z, Y, X) renumbered so that larger ones lie further up.

    1 is L6, 2 L5, ... 7 T13, 8 T12, ... 26 C1; 0 all else. Raises `DataError` for a label that is
    not VerSe's; `path` is named in the message.
    """
    unknown = np.setdiff1d(labels.array, UPWARDS + NO_VERTEBRAE)
    if unknown.size:
        raise DataError(f"{path}: found the label {unknown[0]}; expected VerSe's, 1 to 28")
    ranks = np.zeros(max(UPWARDS) + 1, np.uint8)
    ranks[list(UPWARDS)] = np.arange(1, len(UPWARDS) + 1)
    return Volume(ranks[labels.array], labels.geometry)
