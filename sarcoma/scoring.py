"""One patient of an evaluation: read beside the labels, measured, drawn."""

from pathlib import Path

import numpy as np

from common.data.labels import inside
from common.data.volumes import read_volume
from common.errors import DataError
from common.evaluation.metrics import score_case
from common.evaluation.run_report import prediction_path
from common.report.drawing import draw_overlay
from common.report.page import Figure
from common.report.viewer.embed import ViewedCase
from sarcoma.config import Config
from sarcoma.data import GRID, SPACING_MM, Patient, load_patient


def score(case: Patient, folder: Path, config: Config, trained_on: set[str]) -> list[dict]:
    """Measure one patient's lesion: one row.

    Raises:
        DataError: the label map is missing, unreadable or on another grid than the labels.
    """
    prediction, reference, _ = read_pair(case, folder, config)
    rows = score_case(prediction, reference, labels={"lesion": 1}, spacing_mm=(SPACING_MM,) * 3)
    return [{"id": case.id, "in_training_set": case.id in trained_on, **row} for row in rows]


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


def draw_patient(case: Patient, folder: Path, config: Config, *, phantom: bool) -> Figure:
    """Draw the slice of a patient with the largest lesion, on the last of the modalities."""
    prediction, reference, images = read_pair(case, folder, config)
    chosen = int(reference.sum(axis=(1, 2)).argmax())
    modality = config.modalities[-1]
    title = f"{case.id}, {modality.upper()}, slice {chosen} of {len(reference)}"
    png = draw_overlay(
        images[modality][chosen],
        reference[chosen],
        prediction[chosen],
        title=title,
        pixel_mm=(SPACING_MM, SPACING_MM),
        phantom=phantom,
    )
    return Figure(png, f"{title}: scan, labels and prediction.")


def view_patient(case: Patient, folder: Path, config: Config) -> ViewedCase:
    """Return a patient for the viewer in three planes; where left is, the file does not say."""
    prediction, reference, images = read_pair(case, folder, config)
    volumes = (images[config.modalities[-1]], reference, prediction)
    return ViewedCase.from_zyx(case.id, volumes, GRID, oriented=False)
