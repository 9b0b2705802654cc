"""What `prepare --check` looks at: the folder, every scan with its labels, the split, the disk.

Axis order everywhere: (Z, Y, X), z grows cranially.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from common.data.geometry import Volume, check_same_grid
from common.data.inspection import Entry, Inspection, listed, note_grid, note_twins
from common.data.volumes import check_scan, read_geometry, read_volume, stem_of
from vertebra.config import Config, Layout
from vertebra.data import (
    LABEL_MARK,
    Case,
    check_labelled,
    check_new_name,
    check_number,
    check_scan_of_labels,
    check_some,
    find_nnunet_cases,
    list_volumes,
    load_labels,
    source_case,
)
from vertebra.preparation import (
    check_room,
    crop_range,
    isotropic_size,
    make_isotropic_mask,
    split_ids,
    to_raw_scale,
    upright,
)
from vertebra.verse import find_verse_scans, label_upwards, verse_case

THICK_MM = 3.0
"""Slices further apart blur neighbouring vertebrae into each other."""
STORED_BYTES = 2 + 2 + 4
"""Of a voxel of a prepared tree, before compression: scan, labels, weight."""
TREES = 2
Scan = tuple[Callable[[], Case], Path]
"""What finds the case of a scan or says why it is none, and the scan itself."""


def inspect_dataset(
    folder: Path, config: Config, out: Path, *, layout: Layout = "csi"
) -> Inspection:
    """Find everything that is wrong with a folder of scans and labels.

    Returns a line per scan and per mask without one, one each for the folder, the split, and the
    disk with `out`, one of the trees that `prepare` would write.
    """
    inspection = Inspection(Path(folder).absolute(), unit="scan")
    line = inspection.general("folder")
    find = {"csi": find_csi, "verse": find_verse, "nnunet": find_nnunet}[layout]
    found = line.attempt(find, inspection, folder)
    if found is None:
        return inspection
    cases: dict[str, Case] = {}
    voxels = 0
    for name, (find_case, scan) in zip(found, inspection.track(list(found.values())), strict=True):
        entry = inspection.entry(name)
        case = entry.attempt(find_case)
        if case is not None:
            cases[name] = case
        # A scan without labels is looked at as well.
        voxels += inspect_case(entry, case or Case(name, scan), config, layout)
    entries, every = {entry.name: entry for entry in inspection.entries}, list(cases.values())
    for name, case in cases.items():
        entries[name].attempt(check_number, case, every, inspection.source)
    note_twins(entries, {name: case.image_path for name, case in cases.items()})
    line.attempt(check_some, found, inspection.source)
    inspect_split(inspection, every, config)
    inspection.check_space(out, voxels * STORED_BYTES * TREES)
    return inspection


def find_csi(inspection: Inspection, folder: Path) -> dict[str, Scan]:
    """Return the scans of a flat folder; names used twice and labels without scan get a line."""
    volumes: dict[str, Path] = {}
    for path in list_volumes(folder):
        stem = stem_of(path)
        if stem in volumes:
            inspection.entry(path.name).attempt(check_new_name, path, volumes)
        volumes.setdefault(stem, path)
    scans = {}
    for name, path in volumes.items():
        if not name.endswith(LABEL_MARK):
            scans[name] = (partial(source_case, name, volumes), path)
        elif name.removesuffix(LABEL_MARK) not in volumes:
            inspection.entry(name).attempt(check_scan_of_labels, name, volumes)
    return scans


def find_verse(inspection: Inspection, folder: Path) -> dict[str, Scan]:
    """Return the scans of a VerSe folder."""
    scans = find_verse_scans(folder)
    return {
        name: (partial(verse_case, number, files), files[0])
        for number, (name, files) in enumerate(scans.items(), start=1)
    }


def find_nnunet(inspection: Inspection, folder: Path) -> dict[str, Scan]:
    """Return the labelled scans of a data set in nnU-Net's layout."""
    return {case.id: (partial(lambda case: case, case), case.image_path)
            for case in find_nnunet_cases(folder)}  # fmt: skip


def inspect_case(entry: Entry, case: Case, config: Config, layout: Layout) -> int:
    """Check a scan and its labels; return the scan's voxels on the isotropic grid."""
    grid = inspect_scan(entry, case.image_path, config)
    if case.label_path is not None:
        inspect_labels(entry, case, grid, config, layout)
    if grid is None:
        return 0
    shape, geometry = grid
    sizes = zip(shape, geometry.spacing_zyx_mm, strict=True)
    return int(np.prod([isotropic_size(n, mm, config.spacing_mm) for n, mm in sizes]))


def inspect_scan(entry: Entry, path: Path, config: Config):
    """Check a scan by itself; return its shape and geometry, or None where it has none."""
    grid = entry.attempt(read_geometry, path)
    if grid is None:
        return None
    note_grid(entry, grid)
    if max(grid[1].spacing_mm) > THICK_MM:
        entry.note(f"voxels of up to {max(grid[1].spacing_mm):.3g} mm: vertebrae may merge")
    volume = entry.attempt(read_volume, path, finite=False)
    if volume is not None:
        entry.facts["intensities"] = f"{volume.array.min():.6g} to {volume.array.max():.6g}"
        entry.attempt(check_scan, volume.array, path)
        scaled = entry.attempt(to_raw_scale, volume.array, config, name=str(path))
        entry.facts["scale"] = "" if scaled is None else scaled[1] or "unsigned"
    return grid


def inspect_labels(entry: Entry, case: Case, image_grid, config: Config, layout: Layout) -> None:
    """Check labels by themselves and against the grid of their scan, None if unreadable."""
    path = case.label_path
    grid = entry.attempt(read_geometry, path)
    if grid is None:
        return
    if image_grid is not None:
        entry.attempt(check_same_grid, image_grid, grid, names=(str(case.image_path), str(path)))
    labels = entry.attempt(load_labels, path)
    if labels is None:
        return
    found = np.unique(labels.array)
    entry.facts["labels"] = listed(found[found > 0]) or "none"
    entry.attempt(check_cropped, labels, path, config, layout)


def check_cropped(labels: Volume, path: Path, config: Config, layout: Layout) -> None:
    """Raise `DataError` for labels that cannot be cropped, or not trained on afterwards."""
    check_labelled(labels, path)
    if layout == "verse":
        labels = label_upwards(labels, path)
    if config.keep_geometry:
        labels = upright(labels)
    if config.window_limits == "x_size":  # what is left of them must then have room for patches
        labels = make_isotropic_mask(labels, config)
    low, high = crop_range(labels.array, name=str(path))
    check_room((high - low, *labels.array.shape[1:]), config, name=str(path))


def inspect_split(inspection: Inspection, cases: list[Case], config: Config) -> None:
    """Say which cases would be trained and tested on."""
    if not cases:
        return
    split = split_ids([case.number for case in cases], config)
    entry = inspection.general("split")
    entry.facts.update({name: str(len(numbers)) for name, numbers in split.items()})
    for name, numbers in split.items():
        if not numbers:
            entry.note(f"nothing to {name} with")
