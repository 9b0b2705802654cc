"""One patient of an evaluation: read beside the labels and measured."""

from pathlib import Path

import numpy as np

from common.data.labels import inside
from common.data.volumes import read_volume
from common.errors import DataError
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from common.evaluation.run_report import prediction_path
from sarcoma.config import Config
from sarcoma.data import GRID, SPACING_MM, Patient, load_patient


def score(case: Patient, folder: Path, config: Config) -> ScoredCase:
    """Read and measure one patient's lesion: one row. Where left is, the file does not say.

    Raises:
        DataError: the label map is missing, unreadable or on another grid than the labels.
    """
    prediction, reference, images = read_pair(case, folder, config)
    rows = score_case(prediction, reference, labels={"lesion": 1}, spacing_mm=(SPACING_MM,) * 3)
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
