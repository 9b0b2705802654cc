"""Measure masks against the labels of the arrays and write the run's report."""

from pathlib import Path
from typing import TYPE_CHECKING

from raseg.config import Config

if TYPE_CHECKING:
    import numpy as np

    from common.report.page import Figure
    from common.report.viewer.embed import ViewedCase
    from raseg.data import Volumes

PICTURES = 4
"""Volumes that are drawn on the page."""
SMOOTH = 1e-5
"""In the denominator of the original's Dice (raseg_predict.py, `dsc`)."""
VOXELS = (1.0, 1.0, 1.0)


def evaluate(
    tag: str,
    *,
    run: Path | None = None,
    data: Path = Path("datasets"),
    out: Path | None = None,
    imgn: int | None = None,
    cohort: str | None = None,
) -> None:
    """Measure masks against the labels of the arrays and write the run's report.

    Dice, distances and volumes per case, and beside them the Dice that the original defines and
    never calls [R11]. Where the spacing is not known, distances are in voxels and volumes in
    thousands of voxels.

    Args:
        tag: name of the training.
        run: run folder; default: models/raseg_train_<tag>. The report goes to its report/ folder.
        data: folder of the arrays.
        out: where predict wrote preds/; default: predictions/ in the run folder.
        imgn: number of one volume; default: every held-out volume of the run.
        cohort: name of the paper's own data in claims.yaml, where these are they; only then is the
            outcome compared with the published number.
    """
    from common.evaluation.run_report import MEASURES, worst_first, write_evaluation
    from common.runs.folder import load_config, load_run
    from raseg.data import open_volumes, read_split
    from raseg.predict import choose_volumes
    from raseg.prepare import check_tag

    check_tag(tag)
    run = run or Path("models") / f"raseg_train_{tag}"
    record = load_run(run)
    volumes = open_volumes(data, load_config(run, Config))
    numbers = choose_volumes(record, volumes, imgn)
    folder = out or run / "predictions"
    phantom = is_phantom(record, data)
    trained_on = set(read_split(record).get("training", []))
    rows = [row for n in numbers for row in score(n, volumes, folder, tag, trained_on)]
    if volumes.spacing_mm is None:
        print("Spacing unknown (no geometry.json): distances are in voxels, not mm")
    drawn = [int(row["id"].removeprefix("img")) for row in worst_first(rows)][:PICTURES]
    write_evaluation(
        record,
        rows,
        title="raseg: synovitis of the wrist" if volumes.pre is not None else "raseg: oedema",
        curve=[("loss", "val_loss"), ("dice", "val_dice")],
        overlays=[draw_volume(n, volumes, folder, tag, phantom=phantom) for n in drawn],
        phantom=phantom,
        measures={**MEASURES, "dice_original": "Dice (original)"},
        viewed=view_volume(drawn[0], volumes, folder, tag),
        cohort=cohort,
    )


def is_phantom(record, data: Path) -> bool:
    """Say whether the run or the arrays are marked as synthetic."""
    from common.data.phantoms import read_marker

    return bool(record.manifest.get("phantom")) or read_marker(data) is not None


def score(
    number: int, volumes: "Volumes", folder: Path, tag: str, trained_on: set[int]
) -> list[dict]:
    """Measure one volume: a row.

    Raises:
        DataError: the mask is missing, unreadable or of another size.
    """
    from common.evaluation.metrics import score_case

    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    rows = score_case(
        mask, label, labels={"foreground": 1}, spacing_mm=volumes.spacing_mm or VOXELS
    )
    facts = {"id": f"img{number}", "in_training_set": number in trained_on}
    return [{**facts, **row, "dice_original": dice_of_original(mask, label)} for row in rows]


def dice_of_original(mask: "np.ndarray", label: "np.ndarray") -> float:
    """Dice with 1e-5 in the denominator: 0, not undefined, where both masks are empty.

    Args:
        mask, label: any shape, 0 and 1.
    Source: raseg_predict.py, `dsc`, defined and never called; ledger R11.
    """
    # [R11] Summed in whole numbers.
    overlap = int(((mask > 0) & (label > 0)).sum())
    return 2 * overlap / (int((mask > 0).sum()) + int((label > 0).sum()) + SMOOTH)


def read_mask(number: int, volumes: "Volumes", folder: Path, tag: str) -> "np.ndarray":
    """Read the mask of a volume, (rows, columns, slices) uint8.

    Raises:
        DataError: it is missing, unreadable, of another size, or no mask.
    """
    import numpy as np

    from common.errors import DataError
    from raseg.data import open_array
    from raseg.predict import mask_path

    path = mask_path(folder, tag, number)
    mask = open_array(path, rank=3, axes="rows, columns, slices")
    if mask.shape != volumes.shape:
        raise DataError(f"{path}: found shape {mask.shape}; expected {volumes.shape}, the label's")
    if not np.isin(mask, (0, 1)).all():
        raise DataError(f"{path}: found values other than 0 and 1; expected a mask")
    return mask.astype(np.uint8)


def draw_volume(
    number: int, volumes: "Volumes", folder: Path, tag: str, *, phantom: bool
) -> "Figure":
    """Draw the slice of a volume with the largest labelled area."""
    from common.report.drawing import draw_overlay
    from common.report.page import Figure

    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    chosen = int(label.sum(axis=(0, 1)).argmax())
    title = f"img{number}, slice {chosen} of {label.shape[2]}"
    png = draw_overlay(
        volumes.image(number)[..., chosen, 0],
        label[..., chosen],
        mask[..., chosen],
        title=title,
        pixel_mm=(volumes.spacing_mm or VOXELS)[:2],
        phantom=phantom,
    )
    return Figure(png, f"{title}: scan, reference and prediction.")


def view_volume(number: int, volumes: "Volumes", folder: Path, tag: str) -> "ViewedCase":
    """Return a volume for the viewer in three planes; where left is, the arrays do not say."""
    import numpy as np

    from common.data.volumes import Geometry
    from common.report.viewer.embed import ViewedCase

    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    rows_mm, columns_mm, slices_mm = volumes.spacing_mm or VOXELS
    arrays = (np.moveaxis(a, 2, 0) for a in (volumes.image(number)[..., 0], label, mask))
    geometry = Geometry((columns_mm, rows_mm, slices_mm))
    return ViewedCase.from_zyx(f"img{number}", tuple(arrays), geometry, oriented=False)
