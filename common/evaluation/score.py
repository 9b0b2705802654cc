"""Measuring label maps that no run of this suite needs to have made; see `common.suite.score`."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.dicom_paths import is_dicom
from common.data.geometry import Volume, check_same_grid
from common.data.labels import integer_labels
from common.data.volumes import is_volume, read_geometry, read_volume, stem_of
from common.errors import DataError, OptionError
from common.evaluation.metrics import score_case
from common.evaluation.run_report import MEASURES, print_results, summarise_rows
from common.files import write_text_atomically
from common.runs.failures import Failures


def score_all(
    labels: Path, reference: Path, *, structure: str | None, scan: Path | None, out: Path | None
) -> None:
    """Print, and write to `out`, what label maps and references have in common.

    Raises:
        OptionError: a folder stands beside a file; --structure or --scan without an RTSTRUCT file.
        DataError: nothing is there to compare, or a case cannot be used (the others are measured).
    """
    pairs = list(find_pairs(labels, reference))
    contours = not reference.is_dir() and is_dicom(reference)
    if contours != (structure is not None) or (contours and scan is None):
        raise OptionError("--structure and --scan belong to an RTSTRUCT file; expected all or none")
    failures = Failures(len(pairs), "case")
    rows: list[dict[str, Any]] = []
    for found_path, truth_path in pairs:
        name = found_path.stem if is_dicom(found_path) else stem_of(found_path)
        with failures.of(name):
            found = read_labels(found_path, scan)
            if contours:
                truth = read_structure(truth_path, structure, scan)
            else:
                truth = read_labels(truth_path, scan)
            check_same_grid(truth, found, names=(str(truth_path), str(found_path)))
            rows += score_pair(name, found, truth)
    if rows:
        print_results(rows, summarise_rows(rows), MEASURES, phantom=False)
    if out is not None and rows:
        write_text_atomically(out, pd.DataFrame(rows).to_csv(index=False))
    failures.conclude()


def find_pairs(labels: Path, reference: Path) -> Iterator[tuple[Path, Path]]:
    """Yield label maps and their references, of folders by name; references without a label map
    are a `DataError`, label maps without a reference are passed over."""
    if labels.is_dir() != reference.is_dir():
        raise OptionError(
            f"{labels} and {reference}: found a folder and a file; expected two alike"
        )
    if not labels.is_dir():
        yield labels, reference
        return
    known = {stem_of(path): path for path in sorted(labels.iterdir()) if is_volume(path)}
    wanted = {stem_of(path): path for path in sorted(reference.iterdir()) if is_volume(path)}
    if not wanted:
        raise DataError(f"{reference}: found no volumes; expected references")
    for name, path in wanted.items():
        if name not in known:
            raise DataError(f"{labels}: found no label map of {name}; expected one per reference")
        yield known[name], path


def read_labels(path: Path, scan: Path | None) -> Volume:
    """Read a label map, or a reference, as integers; of a DICOM Segmentation, which needs its scan,
    the numbers of the segments."""
    if is_dicom(path) and scan is not None:
        shape, grid = read_geometry(scan)
        dicom_seg = importlib.import_module("common.data.dicom_seg")  # its libraries are an extra
        segments, _ = dicom_seg.read_segments(path, grid, shape)
        return Volume(segments, grid)
    volume = read_volume(path)
    return Volume(integer_labels(volume.array, str(path)), volume.geometry)


def read_structure(path: Path, structure: str, scan: Path) -> Volume:
    """Read the contours of a structure as a mask on the scan they were drawn on."""
    dicom = importlib.import_module("common.data.dicom")  # its library is an extra
    series = dicom.read_series(scan).volume
    mask = dicom.read_contours(path, structure, series)
    return Volume(mask.astype(np.uint8), series.geometry)


def score_pair(name: str, found: Volume, truth: Volume) -> list[dict[str, Any]]:
    """Return a row per label that either has."""
    numbers = np.union1d(np.unique(found.array), np.unique(truth.array))
    labels = {f"label {number}": int(number) for number in numbers if number}
    rows = score_case(
        found.array, truth.array, labels=labels or {"label 1": 1},
        spacing_mm=truth.geometry.spacing_zyx_mm,
    )  # fmt: skip
    return [{"id": name, "in_training_set": False, **row} for row in rows]
