"""What `prepare --check` looks at: the list, every stack, its label file, the split, the disk.

Axis order everywhere: (Z, Y, X) = slices, rows, columns.
"""

from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.inspection import Entry, Inspection, listed, note_grid, note_twins
from common.data.labels import integer_labels
from common.data.names import check_id, check_new, normal_id
from common.data.tables import Row, Table, check_cells
from common.data.volumes import check_scan, read_geometry, read_volume
from fetal_brain import data
from fetal_brain.config import Config

PUBLISHED_IDS = (0, 2, 9, 10)
"""Background, brain, placenta, uterus: what the paper's label files hold."""
STORED_BYTES = 4 + 1
"""Of a voxel of a prepared case: float32 image and uint8 label."""


def inspect_list(list_path: Path, config: Config, out: Path) -> Inspection:
    """Find everything that is wrong with a list and with the files it names.

    The answer has a line per row of the list, one each for the list, the split and the disk, where
    `out` is looked at for room.
    """
    list_path = Path(list_path).absolute()
    inspection = Inspection(list_path)
    table = inspection.general("list").attempt(data.read_list, list_path)
    if table is None:
        return inspection
    places: dict[str, str] = {}
    entries, images, cases, voxels = {}, {}, [], 0
    for row in inspection.track(table.rows):
        case_id = normal_id(row.cells[0])
        entry = inspection.entry(case_id or f"line {row.line}")
        image, label = inspect_row(entry, table, row, places)
        if image is not None:
            entries[case_id], images[case_id] = entry, image
        voxels += inspect_files(entry, image, label, config)
        subject = data.find_subject(table, row, image) if image else ""
        cases.append(data.Case(case_id, image, label, subject))
    note_twins(entries, images)
    entry = inspection.general("split")
    split = entry.attempt(data.split_cases, cases, config)
    if split is not None:
        entry.facts |= {name: str(len(members)) for name, members in split.items()}
        apart = not (config.allow_training_cases_in_test or data.is_phantom(list_path))
        if apart and (note := data.note_subjects(split)):
            entry.note(note)
    inspection.check_space(out, voxels * STORED_BYTES)
    return inspection


def inspect_row(
    entry: Entry, table: Table, row: Row, places: dict[str, str]
) -> tuple[Path | None, Path | None]:
    """Check a row by itself and against those before it; return the files that are there."""
    case_id, where = normal_id(row.cells[0]), table.where(row)
    entry.attempt(check_cells, table, row, data.COLUMNS)
    entry.attempt(check_id, case_id, where)
    entry.attempt(check_new, case_id, places, where)
    places.setdefault(case_id, f"line {row.line}")
    files = [
        entry.attempt(data.find_column, table, row, name)
        for name in data.COLUMNS[1 : len(row.cells)]
    ]
    return tuple([*files, None, None][:2])


def inspect_files(entry: Entry, image: Path | None, label: Path | None, config: Config) -> int:
    """Check a case's files, each and against the other; return the voxels that are stored of it."""
    grid = inspect_image(entry, image, config) if image is not None else None
    if label is not None:
        inspect_label(entry, label, (image, grid), config)
    return 0 if grid is None else int(np.maximum(grid[0], config.patch_shape).prod())


def inspect_image(entry: Entry, path: Path, config: Config):
    """Check a stack; return its shape and geometry, or None where it has none."""
    grid = entry.attempt(read_geometry, path)
    if grid is None:
        return None
    note_grid(entry, grid)
    shape, geometry = grid
    entry.attempt(data.check_size, shape, path, config)
    if geometry.spacing_zyx_mm[0] < max(geometry.spacing_zyx_mm) * 0.99:
        entry.note("its thickest axis is not the first one; the network takes slices along z")
    volume = entry.attempt(read_volume, path, finite=False)
    if volume is not None:
        entry.facts["type"] = str(volume.array.dtype)
        entry.attempt(check_scan, volume.array, path)
    return grid


def inspect_label(entry: Entry, path: Path, image: tuple, config: Config) -> None:
    """Check a label file by itself and against the image: its path and grid, None if unreadable."""
    grid = entry.attempt(read_geometry, path)
    if grid is None:
        return
    if image[1] is not None:
        entry.attempt(check_same_grid, image[1], grid, names=(str(image[0]), str(path)))
    volume = entry.attempt(read_volume, path, finite=False)
    ids = None if volume is None else entry.attempt(integer_labels, volume.array, str(path))
    if ids is None:
        return
    found = np.unique(ids)
    entry.facts["labels"] = listed(found)
    before = len(entry.faults)
    entry.attempt(data.check_foreground, ids, path, config)
    if len(entry.faults) > before:
        return  # the fault names all ids
    groups = [group if isinstance(group, tuple | list) else (group,) for group in config.label_ids]
    known = [*PUBLISHED_IDS, *(number for group in groups for number in group)]
    others = np.setdiff1d(found, known)
    if others.size:
        entry.note(f"labels {listed(others)} count as background (--label_ids)")
