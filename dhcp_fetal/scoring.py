"""One case of an evaluation: label map, reference and region on one grid, measured."""

from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.volumes import read_volume
from common.errors import DataError
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from dhcp_fetal.config import Config
from dhcp_fetal.data import as_classes, as_mask, name_of, read_file
from dhcp_fetal.measures import engine_dice
from dhcp_fetal.session import CaseFiles


def score(
    files: CaseFiles, folder: Path, config: Config, *, structure: str | None, suffix: str = ""
) -> ScoredCase:
    """Read and measure one case: a row for the foreground and, of several classes, one per class.

    [G23] The engine calls the foreground "Class-0". `structure` names it; `suffix`: see `evaluate`.
    """
    found, truth, mask, geometry = read_case(files, folder, config, suffix=suffix)
    name = structure or "foreground"
    rows = score_case(found > 0, truth > 0, labels={name: 1}, spacing_mm=geometry.spacing_mm)
    names = ["foreground"]
    if config.classes > 2:
        labels = {f"class {c}": c for c in range(1, config.classes)}
        rows += score_case(found, truth, labels=labels, spacing_mm=geometry.spacing_mm)
        names += [str(c) for c in range(1, config.classes)]
    engine = engine_dice(found, truth, mask, config.classes)
    rows = [
        {**row, **dict(zip(("dice1", "dice2", "dice3"), engine[name], strict=True))}
        for row, name in zip(rows, names, strict=True)
    ]

    def read_scan() -> np.ndarray:
        path = next(path for path in files.channels if path is not None)
        return read_file(path, config).array

    return ScoredCase(name_of(files), rows, found.T, truth.T, geometry, read_scan)


def read_case(files: CaseFiles, folder: Path, config: Config, *, suffix: str = ""):
    """Return label map, reference (x, y, z) uint8 and region or None, and the grid they share."""
    path = folder / f"{name_of(files)}{suffix}.nii.gz"
    if files.labels is None:
        raise DataError(f"case {name_of(files)} has no reference segmentation; expected one")
    found = read_volume(path, flat=True, finite=False)
    truth = read_file(files.labels, config, finite=False)
    check_same_grid(found, truth, names=(str(path), str(files.labels)))
    mask = None
    if files.mask is not None:
        region = read_file(files.mask, config, finite=False)
        check_same_grid(found, region, names=(str(path), str(files.mask)))
        mask = as_mask(region.array.T, files.mask, config)
    truth = as_classes(truth.array.T, files.labels, config.label_ids)
    return as_classes(found.array.T, path), truth, mask, found.geometry
