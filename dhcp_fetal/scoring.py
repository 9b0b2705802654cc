"""One case of an evaluation: label map, reference and region on one grid, measured and drawn."""

from pathlib import Path

from common.data.geometry import check_same_grid
from common.data.volumes import read_volume
from common.errors import DataError
from common.evaluation.metrics import score_case
from common.report.drawing import draw_overlay
from common.report.page import Figure
from common.report.viewer.embed import ViewedCase
from dhcp_fetal.config import Config
from dhcp_fetal.data import as_classes, as_mask, name_of, read_file
from dhcp_fetal.measures import engine_dice
from dhcp_fetal.session import CaseFiles


def score(
    files: CaseFiles, folder: Path, config: Config, *, structure: str | None, suffix: str = ""
) -> list[dict]:
    """Measure one case: a row for the foreground and, of several classes, one per class.

    [G23] The engine calls the foreground "Class-0".

    Args:
        files: of the case.
        folder: of the label maps.
        config: uses `classes`.
        structure: name of the foreground.
        suffix: see `evaluate`.
    Raises:
        DataError: a file is missing, unreadable or on another grid.
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
    return [
        {**row, **dict(zip(("dice1", "dice2", "dice3"), engine[name], strict=True))}
        for row, name in zip(rows, names, strict=True)
    ]


def read_case(files: CaseFiles, folder: Path, config: Config, *, suffix: str = ""):
    """Read label map, reference and region of interest of a case on one grid.

    Returns:
        label map and reference (x, y, z) uint8, region (x, y, z) or None, and their geometry.
    Raises:
        DataError: see `score`.
    """
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
    labels = as_classes(found.array.T, path), as_classes(truth.array.T, files.labels)
    return *labels, mask, found.geometry


def draw_case(
    files: CaseFiles, folder: Path, config: Config, *, suffix: str, phantom: bool
) -> Figure:
    """Draw the axial slice of a case with the largest reference area."""
    found, truth, _, _ = read_case(files, folder, config, suffix=suffix)
    path = next(path for path in files.channels if path is not None)
    scan = read_file(path, config)
    chosen = int((truth > 0).sum(axis=(0, 1)).argmax())
    title = f"{name_of(files)}, slice {chosen} of {truth.shape[2]}"
    png = draw_overlay(
        scan.array.T[:, ::-1, chosen].T,
        truth[:, ::-1, chosen].T,
        found[:, ::-1, chosen].T,
        title=title,
        pixel_mm=scan.geometry.spacing_mm[1::-1],
        phantom=phantom,
    )
    return Figure(png, f"{title}: scan, reference and prediction.")


def view_case(files: CaseFiles, folder: Path, config: Config, *, suffix: str) -> ViewedCase:
    """Return a case for the viewer in three planes."""
    found, truth, _, _ = read_case(files, folder, config, suffix=suffix)
    path = next(path for path in files.channels if path is not None)
    scan = read_file(path, config)
    return ViewedCase.from_zyx(name_of(files), (scan.array, truth.T, found.T), scan.geometry)
