"""A data set in BIDS layout as the list of cases that the paper's scripts read.

Scans are `sub-<label>/[ses-<label>/]anat/*_T2w.nii.gz`; the mask of one lies at the same place
below a folder of `derivatives` and is named after it, with or without `_T2w`, `..._mask.nii.gz`.
"""

from pathlib import Path

from common.data.names import check_id, check_new, subject_of
from common.data.tables import write_table
from common.data.volumes import stem_of
from common.errors import DataError
from fetal_brain.data import COLUMNS, Case

SUFFIX = "_T2w"
ANATOMY = ("sub-*/anat", "sub-*/ses-*/anat")


def find_bids_cases(folder: Path) -> list[Case]:
    """Return the T2-weighted scans of a data set that have a mask, in the order of their names.

    Raises:
        DataError: there is no such scan, a scan has several masks, or none has one.
    """
    folder = Path(folder).absolute()
    scans = [path for place in ANATOMY for path in folder.glob(f"{place}/*{SUFFIX}.nii*")]
    if not scans:
        raise DataError(
            f"{folder}: found no scans; expected a data set in BIDS layout, with "
            f"sub-<label>/anat/*{SUFFIX}.nii.gz"
        )
    cases, places = [], {}
    for scan in sorted(scans):
        if mask := find_mask(folder, scan):
            case_id = stem_of(scan)
            check_id(case_id, str(scan))
            check_new(case_id, places, str(scan))
            places[case_id] = str(scan)
            cases.append(Case(case_id, scan, mask, subject_of(scan)))
    if not cases:
        raise DataError(
            f"{folder}: found no mask of {len(scans)} scans; expected "
            f"derivatives/<name>/{scans[0].parent.relative_to(folder)}/{stem_of(scans[0])}"
            "_desc-brain_mask.nii.gz and its like"
        )
    return cases


def find_mask(folder: Path, scan: Path) -> Path | None:
    """Return the mask of a scan; None: it has none."""
    stem, place = stem_of(scan), scan.parent.relative_to(folder)
    found = {
        mask
        for name in (stem, stem.removesuffix(SUFFIX))
        for entity in ("", "_desc-*", "_label-*")
        for mask in folder.glob(f"derivatives/**/{place}/{name}{entity}_mask.nii*")
    }
    if len(found) > 1:
        names = ", ".join(sorted(str(mask.relative_to(folder)) for mask in found))
        raise DataError(f"{scan}: found several masks: {names}; expected one")
    return next(iter(found), None)


def write_list(cases: list[Case], path: Path) -> None:
    """Write cases as a list with their subjects; see `common.data.tables.write_table`."""
    rows = [(case.id, case.image_path, case.label_path, case.subject) for case in cases]
    write_table(path, (*COLUMNS, "subject"), rows)
