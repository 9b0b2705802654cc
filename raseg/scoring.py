"""One volume of an evaluation: its mask beside the label, measured."""

from pathlib import Path

import numpy as np

from common.data.geometry import Geometry
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from raseg.data import Volumes
from raseg.masks import dice_of_original, read_mask


def score(number: int, volumes: Volumes, folder: Path, tag: str) -> ScoredCase:
    """Read and measure one volume: a row. Where left is, the arrays do not say.

    Raises:
        DataError: the mask is missing, unreadable or of another size.
    """
    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    spacing_mm = volumes.spacing_mm or (1.0, 1.0, 1.0)
    (row,) = score_case(mask, label, labels={"foreground": 1}, spacing_mm=spacing_mm)
    rows_mm, columns_mm, slices_mm = spacing_mm
    return ScoredCase(
        f"img{number}",
        [{**row, "dice_original": dice_of_original(mask, label)}],
        *(np.moveaxis(array, 2, 0) for array in (mask, label)),
        Geometry((columns_mm, rows_mm, slices_mm)),
        lambda: np.moveaxis(volumes.image(number)[..., 0], 2, 0),
        oriented=False,
    )
