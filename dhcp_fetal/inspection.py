"""What `prepare --check` looks at: the table, every file of every case, what differs between cases.

Arrays are (x, y, z) in the axis order of the NIfTI files. The engine neither reorients nor
resamples, so a spacing or orientation of its own makes a scan a stranger to the network.
"""

from pathlib import Path

import numpy as np

from common.data.geometry import Volume, check_same_grid, orientation_of
from common.data.inspection import Entry, Inspection, listed, note_differing, note_twins, numbers
from common.data.labels import check_classes
from common.data.volumes import check_finite
from dhcp_fetal.config import Config
from dhcp_fetal.data import (
    as_classes,
    as_mask,
    check_channels,
    check_name,
    check_weights,
    list_cases,
    name_of,
    read_file,
)
from dhcp_fetal.session import CaseFiles

ISOTROPIC = 1.05
"""Largest to smallest voxel edge up to which a scan counts as isotropic."""
STORED_BYTES = 4
"""Of a voxel of a normalised scan, before compression."""
Placed = tuple[Volume, Path] | None
"""The first scan of a case that can be read, and where it lies."""


def inspect_cases(source: Path, config: Config, out: Path) -> Inspection:
    """Find everything that is wrong with the cases of `data.find_cases` and the files they name.

    Returns a line per case, one each for the list and the disk of `out`.
    """
    inspection = Inspection(Path(source).absolute())
    cases = inspection.general("list").attempt(list_cases, source)
    if cases is None:
        return inspection
    names: dict[str, str] = {}
    entries, scans, places = {}, {}, {}
    for number, files in enumerate(inspection.track(cases), start=1):
        entry = inspection.entry(name_of(files))
        entry.attempt(check_name, files, names, source, number)
        entry.attempt(check_channels, files, config)
        image = inspect_case(entry, files, config)
        if image is not None:
            entries[entry.name], places[entry.name] = entry, next(filter(None, files.channels))
            geometry = image.geometry
            scans[entry.name] = geometry.spacing_mm, orientation_of(geometry), image.array.size
    note_twins(entries, places)
    why = "the network sees voxels, not millimetres"
    spacings = {name: numbers(spacing) for name, (spacing, _, _) in scans.items()}
    note_differing(entries, spacings, what="voxels of", why=why)
    orientations = {name: axes for name, (_, axes, _) in scans.items()}
    note_differing(entries, orientations, what="axes", why="nothing is reoriented")
    inspection.check_space(out, sum(size for _, _, size in scans.values()) * STORED_BYTES)
    return inspection


def inspect_case(entry: Entry, files: CaseFiles, config: Config) -> Volume | None:
    """Check every file of a case by itself and against the first scan.

    Returns the first channel that can be read, its voxels left out of account.
    """
    scan: Placed = None
    for path in filter(None, files.channels):
        if (image := inspect_file(entry, path, scan, config)) is None:
            continue
        entry.attempt(check_finite, image.array, path)
        if image.array.min() == image.array.max():
            entry.note(f"{path}: every voxel is {image.array.flat[0]}")
        if scan is None:
            scan = image, path
            describe_scan(entry, image)
    if files.labels is not None:
        inspect_labels(entry, files.labels, scan, config)
    if files.mask is not None:
        if (mask := inspect_file(entry, files.mask, scan, config)) is not None:
            inspect_mask(entry, mask, files.mask, config)
    for path in filter(None, files.weight_maps):
        if (weights := inspect_file(entry, path, scan, config)) is not None:
            entry.attempt(check_weights, weights.array, path)
    return scan and scan[0]


def inspect_file(entry: Entry, path: Path, scan: Placed, config: Config) -> Volume | None:
    """Check one file by itself and against the grid of the first scan."""
    image = entry.attempt(read_file, path, config, finite=False)
    if image is None:
        return None
    if scan is not None:
        entry.attempt(check_same_grid, scan[0], image, names=(str(scan[1]), str(path)))
    return image


def describe_scan(entry: Entry, image: Volume) -> None:
    """Put size, spacing and orientation into the table; note voxels that are no cubes."""
    spacing = image.geometry.spacing_mm
    entry.facts["size (x, y, z)"] = " x ".join(map(str, image.array.T.shape))
    entry.facts["spacing, mm"] = numbers(spacing)
    entry.facts["axes"] = orientation_of(image.geometry)
    entry.facts["type"] = str(image.array.dtype)
    for remark in image.geometry.remarks:
        entry.note(remark)
    if max(spacing) > ISOTROPIC * min(spacing):
        entry.note("its voxels are no cubes, for which the network is built")


def inspect_labels(entry: Entry, path: Path, scan: Placed, config: Config) -> None:
    """Check label file: whole numbers of classes that the network has, some foreground."""
    if (image := inspect_file(entry, path, scan, config)) is None:
        return
    if (labels := entry.attempt(as_classes, image.array, path, config.label_ids)) is None:
        return
    entry.facts["labels"] = listed(np.unique(labels))
    entry.attempt(check_classes, labels, str(path), config.classes)
    if not labels.any():
        entry.note(f"{path}: no voxel is labelled; nothing to learn from")


def inspect_mask(entry: Entry, mask: Volume, path: Path, config: Config) -> None:
    """Check a region of interest: some voxels and, where they are multiplied by, 0 and 1 [G8]."""
    if (region := entry.attempt(as_mask, mask.array, path, config)) is None:
        return
    entry.facts["mask"] = f"{np.count_nonzero(region) / region.size:.1%}"
    if not region.any():
        entry.note(f"{path}: the region of interest is empty; nothing would be segmented")
    values = np.setdiff1d(region, (0, 1))
    if values.size:
        entry.note(f"{path}: results are multiplied by mask values {listed(values)}")
