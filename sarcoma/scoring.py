"""One patient of an evaluation: read beside the labels and measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.data.labels import inside
from common.data.volumes import read_volume
from common.errors import DataError
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from common.evaluation.overlap import dice
from common.evaluation.paired import compare_measures
from common.evaluation.run_report import prediction_path
from sarcoma.config import Config
from sarcoma.data import GRID, SPACING_MM, Patient, load_patient

OF_CROP = "dice_of_crop"
"""Column of the Dice of `middle_of_crop`."""


def score(case: Patient, folder: Path, config: Config, *, margin_mm: float = 0.0) -> ScoredCase:
    """Read and measure one patient's lesion: one row. Where left is, the file does not say.

    A scan that is cropped at a margin around its lesion gives the lesion's place away: beside the
    Dice of the network stands that of an answer for which nobody looked at the scan.

    Raises:
        DataError: the label map is missing, unreadable or on another grid than the labels.
    """
    prediction, reference, images = read_pair(case, folder, config)
    rows = score_case(prediction, reference, labels={"lesion": 1}, spacing_mm=(SPACING_MM,) * 3)
    if margin_mm > 0:
        ct = images["ct"] if "ct" in images else load_patient(case, ("ct",)).images["ct"]
        rows[0][OF_CROP] = float(dice(middle_of_crop(ct, margin_mm), reference > 0))
    shown = config.modalities[-1]
    scan = images[shown]
    return ScoredCase(
        case.id, rows, prediction, reference, GRID, lambda: scan,
        title=f"{case.id}, {shown.upper()}", oriented=False,
    )  # fmt: skip


def read_pair(
    case: Patient, folder: Path, config: Config
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return label map, labels (both (Z, Y, X) uint8 of 0 and 1) and the images of a patient."""
    loaded = load_patient(case, config.modalities)
    if loaded.label is None:
        raise DataError(f"{case.source} has no labels of {case.id}; expected the group label_data")
    path = prediction_path(folder, case.id)
    prediction = read_volume(path).array
    if prediction.shape != loaded.label.shape:
        raise DataError(
            f"{path} has {prediction.shape} voxels, the labels of {case.id} {loaded.label.shape}; "
            "expected the same"
        )
    return (
        inside(prediction, str(path)).astype(np.uint8),
        loaded.label.astype(np.uint8),
        loaded.images,
    )


def compare_with_crop(rows: Sequence[Mapping]) -> str:
    """Return what the network's Dice is worth beside that of the crop alone, in a line."""
    return f"Dice beside that of the crop's middle: {compare_measures(rows, OF_CROP, 'dice')}"


def middle_of_crop(ct: np.ndarray, margin_mm: float) -> np.ndarray:
    """Return the ellipsoid that fills a cropped scan but for the margin of the crop.

    Args:
        ct: (Z, Y, X) in HU; slices, rows and columns that are nothing but padding are no part of
            the crop.
        margin_mm: between the lesion and the crop's border.

    Returns:
        bool (Z, Y, X).
    """
    (box,) = ndimage.find_objects((ct != ct.min()).astype(np.uint8))
    distance = 0.0
    for along, part in zip(np.ogrid[tuple(map(slice, ct.shape))], box, strict=True):
        half = max((part.stop - part.start) / 2 - margin_mm / SPACING_MM, 0.5)
        distance = distance + ((along - (part.start + part.stop - 1) / 2) / half) ** 2
    return distance <= 1
