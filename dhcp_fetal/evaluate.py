"""Measure label maps against the reference segmentations and write the run's report."""

from pathlib import Path
from typing import TYPE_CHECKING

from dhcp_fetal.config import Config

if TYPE_CHECKING:
    from common.report.page import Figure
    from common.report.viewer.embed import ViewedCase
    from dhcp_fetal.session import CaseFiles

PICTURES = 4
"""Cases that are drawn on the page."""


def evaluate(
    run: Path,
    cases: Path | None = None,
    *,
    predictions: Path | None = None,
    structure: str | None = None,
    suffix: str = "",
    cohort: str | None = None,
) -> None:
    """Measure label maps against the reference segmentations and write the run's report.

    Beside the right measures stand the engine's three kinds of Dice, which differ where a region of
    interest cuts something off: DICE1 takes all of prediction and truth, DICE2 the prediction
    within the region, DICE3 both within it.

    Args:
        run: run folder; the report goes to its report/ folder.
        cases: table with the reference segmentations; default: the held-out cases of the run, or
            the validation cases of a run from the original's files.
        predictions: folder of label maps named <name>.nii.gz; default: predictions/ in the run.
        structure: what the foreground is called; default: foreground.
        suffix: what stands between name and ending, such as _Segm for the original's maps.
        cohort: name of the paper's own data in claims.yaml, where these are they; only then is the
            outcome compared with the published number.
    """
    from common.errors import DataError
    from common.evaluation.run_report import MEASURES, worst_first, write_evaluation
    from common.runs.folder import load_config, load_run
    from dhcp_fetal.data import files_from, find_cases, is_phantom, name_of

    record = load_run(run)
    config = load_config(run, Config)
    split = record.read_split()
    listed = find_cases(cases) if cases else tuple(
        map(files_from, split.get("test") or split.get("validation") or ())
    )  # fmt: skip
    if not listed:
        raise DataError(f"{run} has no held-out cases; expected --cases, a table")
    folder = predictions or run / "predictions"
    trained_on = {entry["id"] for entry in split.get("training", [])}
    rows = [
        {"id": name_of(files), "in_training_set": name_of(files) in trained_on, **row}
        for files in listed
        for row in score(files, folder, config, structure=structure, suffix=suffix)
    ]
    by_name = {name_of(files): files for files in listed}
    drawn = list(dict.fromkeys(row["id"] for row in worst_first(rows)))[:PICTURES]
    phantom = is_phantom(listed)
    write_evaluation(
        record,
        rows,
        title="dhcp_fetal: cortex and brain in fetal MRI",
        curve=[("loss",), ("accuracy", "val_accuracy")],
        overlays=[
            draw_case(by_name[name], folder, config, suffix=suffix, phantom=phantom)
            for name in drawn
        ],
        phantom=phantom,
        measures={**MEASURES, "dice1": "DICE1 (engine)"},
        viewed=view_case(by_name[drawn[0]], folder, config, suffix=suffix),
        cohort=cohort,
    )
    for row in rows:
        print(f"{row['id']}  {row['label']}  " + "  ".join(
            f"{kind.upper()} {row[kind]:.4f}" for kind in ("dice1", "dice2", "dice3")))  # fmt: skip


def score(
    files: "CaseFiles", folder: Path, config: Config, *, structure: str | None, suffix: str = ""
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
    from common.evaluation.metrics import score_case
    from dhcp_fetal.measures import engine_dice

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


def read_case(files: "CaseFiles", folder: Path, config: Config, *, suffix: str = ""):
    """Read label map, reference and region of interest of a case on one grid.

    Returns:
        label map and reference (x, y, z) uint8, region (x, y, z) or None, and their geometry.
    Raises:
        DataError: see `score`.
    """
    from common.data.geometry import check_same_grid
    from common.data.volumes import read_volume
    from common.errors import DataError
    from dhcp_fetal.data import as_classes, as_mask, name_of, read_file

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
    files: "CaseFiles", folder: Path, config: Config, *, suffix: str, phantom: bool
) -> "Figure":
    """Draw the axial slice of a case with the largest reference area."""
    from common.report.drawing import draw_overlay
    from common.report.page import Figure
    from dhcp_fetal.data import name_of, read_file

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


def view_case(files: "CaseFiles", folder: Path, config: Config, *, suffix: str) -> "ViewedCase":
    """Return a case for the viewer in three planes."""
    from common.report.viewer.embed import ViewedCase
    from dhcp_fetal.data import name_of, read_file

    found, truth, _, _ = read_case(files, folder, config, suffix=suffix)
    path = next(path for path in files.channels if path is not None)
    scan = read_file(path, config)
    return ViewedCase.from_zyx(name_of(files), (scan.array, truth.T, found.T), scan.geometry)
