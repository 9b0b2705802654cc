"""One volume of an evaluation: its mask beside the label, measured and drawn."""

from pathlib import Path

import numpy as np

from common.data.geometry import Geometry
from common.evaluation.metrics import score_case
from common.report.drawing import draw_overlay
from common.report.page import Figure
from common.report.viewer.embed import ViewedCase
from raseg.data import Volumes
from raseg.masks import dice_of_original, read_mask

VOXELS = (1.0, 1.0, 1.0)


def score(
    number: int, volumes: Volumes, folder: Path, tag: str, trained_on: set[int]
) -> list[dict]:
    """Measure one volume: a row.

    Raises:
        DataError: the mask is missing, unreadable or of another size.
    """
    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    rows = score_case(
        mask, label, labels={"foreground": 1}, spacing_mm=volumes.spacing_mm or VOXELS
    )
    facts = {"id": f"img{number}", "in_training_set": number in trained_on}
    return [{**facts, **row, "dice_original": dice_of_original(mask, label)} for row in rows]


def draw_volume(number: int, volumes: Volumes, folder: Path, tag: str, *, phantom: bool) -> Figure:
    """Draw the slice of a volume with the largest labelled area."""
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


def view_volume(number: int, volumes: Volumes, folder: Path, tag: str) -> ViewedCase:
    """Return a volume for the viewer in three planes; where left is, the arrays do not say."""
    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    rows_mm, columns_mm, slices_mm = volumes.spacing_mm or VOXELS
    arrays = (np.moveaxis(a, 2, 0) for a in (volumes.image(number)[..., 0], label, mask))
    geometry = Geometry((columns_mm, rows_mm, slices_mm))
    return ViewedCase.from_zyx(f"img{number}", tuple(arrays), geometry, oriented=False)
