"""Cases of a CSV list: finding, splitting, loading, checking, whitening.

Axis order everywhere: (Z, Y, X) = slices, rows, columns, as SimpleITK's arrays; a trailing axis
holds the channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.dicom_paths import scan_exists
from common.data.geometry import Volume, check_same_grid
from common.data.labels import integer_labels, join_labels
from common.data.names import check_id, check_new, keep_subjects_apart, normal_id, subject_of
from common.data.normalisation import whiten
from common.data.phantoms import read_marker
from common.data.tables import (
    Row,
    Table,
    check_cells,
    column_name,
    find_file,
    read_table,
    rows_by_position,
)
from common.data.volumes import check_scan, read_volume, stem_of
from common.errors import DataError, OptionError
from fetal_brain.config import Config

COLUMNS = ("id", "image", "segmentation")
"""What the columns of the list mean, by position; the header's words are free."""


@dataclass(frozen=True)
class Case:
    """One row of the list."""

    id: str
    image_path: Path
    """Absolute, so that a run's split.json holds wherever it is read from."""
    label_path: Path | None
    subject: str = ""
    """Whose scan it is, where the list or the path says so."""

    @classmethod
    def from_dict(cls, entry: Mapping[str, str | None]) -> "Case":
        """Return the case that an entry of a run's split.json describes."""
        label_path = entry.get("label_path")
        label_path = Path(label_path) if label_path else None
        return cls(entry["id"], Path(entry["image_path"]), label_path, entry.get("subject", ""))


class LoadedCase(NamedTuple):
    """One stack as it lies on the disk, checked."""

    image: Volume
    """Scanner units, the file's own dtype."""
    label: np.ndarray | None
    """(Z, Y, X) int32, the file's own ids."""


def find_cases(list_path: Path, *, labels_required: bool = True) -> list[Case]:
    """Read the list of cases in the order of its rows; every file it names must exist.

    Args:
        list_path: CSV with a header row, see `common.data.tables`; columns id, image, segmentation
            by position, and perhaps one named subject after them. "NA" is an id like any other;
            relative paths start at the list's folder.
        labels_required: without it the third column is not looked at and `label_path` is None.

    Raises:
        DataError: the list cannot be read, has too few columns, no rows, an id that cannot name a
            file, an id twice, or names a file that is absent.

    Source: reader.py, train.py (columns by position, no interpretation of empty cells).
    """
    needed = COLUMNS if labels_required else COLUMNS[:2]
    table = read_list(list_path, needed)
    cases, places = [], {}
    for row in table.rows:
        check_cells(table, row, needed)
        case_id = normal_id(row.cells[0])
        check_id(case_id, table.where(row))
        check_new(case_id, places, table.where(row))
        places[case_id] = f"line {row.line}"
        paths = [find_column(table, row, name) for name in needed[1:]]
        label_path = paths[1] if labels_required else None
        cases.append(Case(case_id, paths[0], label_path, find_subject(table, row, paths[0])))
    return cases


def read_list(list_path: Path, needed: Sequence[str] = COLUMNS) -> Table:
    """Read a list and check its header (`DataError`); its rows are as they are written."""
    table = read_table(Path(list_path).absolute())
    rows_by_position(table, COLUMNS, len(needed))
    image = table.header.cells[1]
    if "\0" not in image and image and (table.path.parent / image).is_file():
        raise DataError(
            f"{table.path}: the first row names an existing image ({image}); expected a header"
            " row, which is skipped"
        )
    return table


def find_column(table: Table, row: Row, name: str) -> Path:
    """Return the file of a row's image or segmentation; see `common.data.tables.find_file`."""
    cell = row.cells[COLUMNS.index(name)]
    return find_file(table, row, cell, what=f"{name} of {row.cells[0]!r}")


def find_subject(table: Table, row: Row, image_path: Path) -> str:
    """Return whose scan a row is: its cell in a column named subject, else what the path says."""
    header = [column_name(cell) for cell in table.header.cells[len(COLUMNS) :]]
    if "subject" in header:
        return "".join(row.cells[len(COLUMNS) + header.index("subject") :][:1])
    return subject_of(image_path)


def case_of_image(image_path: Path) -> Case:
    """Return a single scan as a case without a label, named like it; it must exist."""
    image_path = Path(image_path).absolute()
    if not scan_exists(image_path):
        raise DataError(f"{image_path} does not exist; expected a scan")
    return Case(normal_id(stem_of(image_path)), image_path, None)


def is_phantom(list_path: Path) -> bool:
    """Say whether the list lies in a folder that the phantom writer marked as synthetic."""
    return read_marker(Path(list_path).parent) is not None


def split_cases(cases: Sequence[Case], config: Config) -> dict[str, list[Case]]:
    """Divide the list by the order of its rows.

    The last `held_out_cases` are the test set. Training takes the first `training_cases`, or all
    that the `validation_cases` just before the test set leave over; validation takes the rest.

    With `allow_training_cases_in_test` training and validation use every row, and the test rows are
    taken again from the end: see `overlapping_ids` [F12].

    Raises:
        DataError: the list has too few rows, or a subject is on two sides.
        OptionError: a count is negative.

    Source: train.py (rows [:30] and [30:]), deploy.py (rows [-7:]).
    """
    held_out = config.held_out_cases
    if min(held_out, config.validation_cases, config.training_cases or 0) < 0:
        raise OptionError("held_out_cases, validation_cases, training_cases: expected 0 or more")
    usable = len(cases) - (0 if config.allow_training_cases_in_test else held_out)
    if config.training_cases is None:
        training, validation = usable - config.validation_cases, config.validation_cases
    else:
        training, validation = config.training_cases, usable - config.training_cases
    if training < 1 or validation < 0 or (validation == 0 and config.training_cases is not None):
        need = describe_need(config)
        raise DataError(f"the list has {len(cases)} rows; expected at least {need}")
    split = {
        "training": list(cases[:training]),
        "validation": list(cases[training:usable]),
        "test": list(cases[max(len(cases) - held_out, 0) :]),  # [F12]
    }
    if not config.allow_training_cases_in_test:
        note_subjects(split)
    return split


def note_subjects(split: Mapping[str, Sequence[Case]]) -> str:
    """Refuse a subject on two sides (`DataError`); return what to say where none is known."""
    known = {name: [(case.id, case.subject) for case in part] for name, part in split.items()}
    return keep_subjects_apart(known)


def describe_need(config: Config) -> str:
    """Say how many rows `split_cases` needs at least and which options decide it."""
    watching = config.validation_cases if config.training_cases is None else 1
    training = config.training_cases or 1
    words = f"{training} to train (--training_cases), {watching} to watch it (--validation_cases)"
    if config.allow_training_cases_in_test:
        return f"{training + watching} ({words})"
    held_out = config.held_out_cases
    return f"{training + watching + held_out} ({words}, {held_out} held out (--held_out_cases))"


def overlapping_ids(split: Mapping[str, Sequence[Case]]) -> list[str]:
    """Return the ids that are both trained on and tested on, in the order of the test set [F12]."""
    trained = {case.id for case in split["training"]}
    return [case.id for case in split["test"] if case.id in trained]


def load_case(case: Case, config: Config, *, foreground_required: bool = True) -> LoadedCase:
    """Read one stack and its label file and refuse what cannot be trained on or segmented.

    Without `label_path` only the image is read.

    Raises:
        DataError: a file cannot be read or is not three-dimensional; image and label differ in
            shape or geometry; the image has NaN or infinite voxels or is constant; it is smaller
            than the patch and may not be padded [F10]; the label has values that are no integers,
            or, where `foreground_required`, no foreground id [F23].

    Source: reader.py, read_fn.
    """
    volume = read_volume(case.image_path)
    check_scan(volume.array, case.image_path)
    check_size(volume.array.shape, case.image_path, config)
    if case.label_path is None:
        return LoadedCase(volume, None)
    label = read_volume(case.label_path, finite=False)
    check_same_grid(volume, label, names=(str(case.image_path), str(case.label_path)))
    ids = integer_labels(label.array, str(case.label_path)).astype(np.int32, copy=False)
    if foreground_required:
        check_foreground(ids, case.label_path, config)
    return LoadedCase(volume, ids)


def check_size(shape: Sequence[int], path: Path, config: Config) -> None:
    """Refuse an image that is smaller than the patch and may not be padded [F10]."""
    if not config.pad_small_volumes and np.any(np.less(shape, config.patch_shape)):
        found, least = (" x ".join(map(str, sizes)) for sizes in (shape, config.patch_shape))
        raise DataError(
            f"{path}: found {found} slices, rows, columns; expected at least {least}, or "
            "--pad_small_volumes true"
        )


def read_reference(case: Case, config: Config) -> Volume:
    """Read the label file of a case as class numbers, (Z, Y, X) uint8; it may be all background."""
    if case.label_path is None:
        raise DataError(f"case {case.id} has no segmentation; expected one to compare with")
    volume = read_volume(case.label_path, finite=False)
    labels = integer_labels(volume.array, str(case.label_path))
    return replace(volume, array=join_labels(labels, config.label_ids))


def check_foreground(label: np.ndarray, path: Path, config: Config) -> None:
    """Refuse a label file in which no foreground id occurs [F23]."""
    if join_labels(label, config.label_ids).any():
        return
    found = np.unique(label)
    shown = ", ".join(map(str, found[:10])) + (", ..." if found.size > 10 else "")
    groups = [entry if isinstance(entry, tuple | list) else (entry,) for entry in config.label_ids]
    wanted = ", ".join(" or ".join(map(str, group)) for group in groups[1:])
    raise DataError(
        f"{path}: found the label ids {shown}; expected foreground {wanted} (--label_ids)"
    )


def prepare_case(case: LoadedCase, config: Config) -> tuple[np.ndarray, np.ndarray | None]:
    """Whiten one stack and return it with its class labels.

    Returns:
        image (Z, Y, X, 1) float32, zero mean and unit variance over all voxels; label (Z, Y, X)
        uint8 in 0..len(label_ids)-1, or None.

    Source: reader.py, read_fn; DLTK preprocessing.py, whitening; ledger F23.
    """
    label = None if case.label is None else join_labels(case.label, config.label_ids)
    return whiten(case.image.array)[..., np.newaxis], label


def pad_to_patch(
    image: np.ndarray, label: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Extend a prepared stack to at least `patch_shape` after its last slice, row and column [F10].

    The image (Z, Y, X, 1) continues with its minimum, the label (Z, Y, X) with background.
    """
    extra = [(0, after) for after in np.subtract(config.patch_shape, label.shape).clip(min=0)]
    if not np.any(extra):
        return image, label
    return np.pad(image, [*extra, (0, 0)], constant_values=image.min()), np.pad(label, extra)


def choose_cases(
    record, config: Config, *, csv: Path | None, image: Path | None, all_rows: bool, mode: str
) -> list[Case]:
    """Return the cases that the options name; without labels in the mode PREDICT.

    `OptionError`: both a list and a scan are given, or no case is left.
    """
    if image is not None:
        if csv is not None:
            raise OptionError("--image and --csv were both given; expected one of them")
        return [case_of_image(image)]
    if csv is None:
        if all_rows:
            raise OptionError("--all_rows needs --csv; expected the list whose rows are meant")
        cases = [Case.from_dict(entry) for entry in record.read_split()["test"]]
        if mode == "PREDICT":
            cases = [replace(case, label_path=None) for case in cases]
    else:
        cases = find_cases(csv, labels_required=mode == "EVAL")
        if not all_rows:
            cases = cases[max(len(cases) - config.held_out_cases, 0) :]  # [F12]
    if not cases:
        raise OptionError(f"{record.path} has no held-out cases; expected --csv with --all_rows")
    return cases


def check_fits(shape: tuple[int, int, int], path: Path, config: Config) -> None:
    """Refuse a volume that is smaller than the window where `pad_small_volumes` is off [F11]."""
    if not config.pad_small_volumes and np.any(np.less(shape, config.window)):
        raise DataError(
            f"{path}: volume of {shape} slices, rows, columns is smaller than the window "
            f"{config.window}; expected at least the window, or --pad_small_volumes true"
        )
