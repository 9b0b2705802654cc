"""One volume of an evaluation: its mask beside the label, measured."""

from pathlib import Path

import numpy as np

from common.data.geometry import Geometry
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from raseg.config import Config
from raseg.data import open_volumes
from raseg.masks import dice_of_original, read_mask

IN_VOXELS = {
    "volume_ml": "volume_kvoxels", "reference_ml": "reference_kvoxels",
    "volume_difference_ml": "volume_difference_kvoxels", "hd95_mm": "hd95_voxels",
    "assd_mm": "assd_voxels", "nsd_2mm": "nsd_2voxels",
}  # fmt: skip
"""Columns of `score_case` where no spacing is known: 1000 voxels, and edges of a voxel."""
MEASURES_IN_VOXELS = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "volume_difference_kvoxels": "volume difference (1000 voxels)",
    "hd95_voxels": "HD95 (voxels)",
    "assd_voxels": "ASSD (voxels)",
    "nsd_2voxels": "surface Dice (2 voxels)",
}
"""Those of them that are summarised, and their names on the page."""


def score(number: int, data: Path, config: Config, *, folder: Path, tag: str) -> ScoredCase:
    """Read and measure one volume of the arrays in `data`: a row. Where left is, they do not say.

    Raises:
        DataError: the mask is missing, unreadable or of another size.
    """
    volumes = open_volumes(data, config)
    mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
    spacing_mm = volumes.spacing_mm or (1.0, 1.0, 1.0)
    (row,) = score_case(mask, label, labels={"foreground": 1}, spacing_mm=spacing_mm)
    if volumes.spacing_mm is None:
        row = {IN_VOXELS.get(name, name): value for name, value in row.items()}
    rows_mm, columns_mm, slices_mm = spacing_mm
    return ScoredCase(
        f"img{number}",
        [{**row, "dice_original": dice_of_original(mask, label)}],
        *(np.moveaxis(array, 2, 0) for array in (mask, label)),
        Geometry((columns_mm, rows_mm, slices_mm)),
        lambda: np.moveaxis(volumes.image(number)[..., 0], 2, 0),
        oriented=False,
    )
