"""The spatio-temporal fetal brain atlases that are public, as tables of brain, cortex and age.

Source of the data: LucasFidon/trustworthy-ai-fetal-brain-segmentation, a folder per gestational age
named ..._GA<weeks>..., in it srr.nii.gz (T2w), mask.nii.gz (the brain) and parcellation.nii.gz,
whose label 5 is the cortical grey matter.
"""

import re
from pathlib import Path

from common.data.names import check_id
from common.data.tables import write_table
from common.errors import DataError

FILES = ("srr.nii.gz", "mask.nii.gz", "parcellation.nii.gz")
EVERY = 3
"""One age of so many, the second, the fifth, ..., is put at the end of the tables, to be held out;
the ages between are trained on."""


def find_ages(folder: Path) -> list[tuple[str, int, list[Path]]]:
    """Return name, gestational age in weeks and files of every age, in the order of the ages.

    Raises:
        DataError: there is none, or a file of one is missing.
    """
    found = []
    for path in sorted(Path(folder).absolute().glob("*_GA*/")):
        name = path.name[path.name.index("_GA") + 1 :]
        check_id(name, str(folder))
        weeks = re.match(r"GA(\d+)", name)
        files = [path / file for file in FILES]
        if missing := [file for file in files if not file.is_file()]:
            raise DataError(f"{missing[0]} does not exist; expected {', '.join(FILES)}")
        if weeks:
            found.append((name, int(weeks[1]), files))
    if not found:
        raise DataError(f"{folder}: found no folders ..._GA<weeks>...; expected those of an atlas")
    return found


def write_atlas(folder: Path, out: Path) -> tuple[int, int]:
    """Write brain.csv, cortex.csv and ages.csv; return how many ages there are, and how many of
    them are at the end to be held out."""
    found = find_ages(folder)
    held_out = found[1::EVERY]
    ordered = [each for each in found if each not in held_out] + held_out
    named = ("prediction_filename",)
    brain = [(srr, mask, name) for name, _, (srr, mask, _) in ordered]
    write_table(out / "brain.csv", ("channel_t2w", "ground_truth", *named), brain)
    cortex = [(srr, parts, mask, name) for name, _, (srr, mask, parts) in ordered]
    write_table(out / "cortex.csv", ("channel_t2w", "ground_truth", "roi_mask", *named), cortex)
    ages = [(name, str(weeks)) for name, weeks, _ in ordered]
    write_table(out / "ages.csv", ("id", "gestational_age_weeks"), ages)
    return len(found), len(held_out)
