"""One case of an evaluation: label map and reference on one grid, measured and drawn."""

from dataclasses import replace
from pathlib import Path

from common.data.geometry import Volume, check_same_grid
from common.data.labels import integer_labels
from common.data.volumes import read_volume
from common.evaluation.metrics import score_case
from common.evaluation.run_report import prediction_path
from common.report.drawing import draw_overlay
from common.report.page import Figure
from common.report.viewer.embed import ViewedCase
from fetal_brain.config import Config
from fetal_brain.data import Case, read_reference
from fetal_brain.labels import read_ids


def label_names(config: Config) -> dict[str, int]:
    """Return the foreground classes by name: brain for the original's ids, else by number."""
    if config.label_ids[1:] == (2,):
        return {"brain": 1}
    count = len(config.label_ids) - 1
    return {"foreground": 1} if count == 1 else {f"class {i + 1}": i + 1 for i in range(count)}


def score(case: Case, folder: Path, config: Config, trained_on: set[str]) -> list[dict]:
    """Measure one case: a row per foreground class.

    Raises:
        DataError: the label map is missing, unreadable or on another grid than the reference.
    """
    prediction, reference = read_pair(case, folder, config)
    rows = score_case(
        prediction.array,
        reference.array,
        labels=label_names(config),
        spacing_mm=reference.spacing_zyx_mm,
    )
    return [{"id": case.id, "in_training_set": case.id in trained_on, **row} for row in rows]


def read_pair(case: Case, folder: Path, config: Config) -> tuple[Volume, Volume]:
    """Read label map and reference of a case as class numbers on one grid.

    The label map may hold ids or class numbers, as `output_label_ids` of the run says [F8].

    Raises:
        DataError: a file is missing or unreadable, their grids differ, or the label map holds
            labels of neither kind.
    """
    path = prediction_path(folder, case.id)
    prediction, reference = read_volume(path), read_reference(case, config)
    check_same_grid(prediction, reference, names=(str(path), str(case.label_path)))
    prediction = replace(prediction, array=integer_labels(prediction.array, str(path)))
    return read_ids(prediction, config, source=str(path)), reference


def draw_case(case: Case, folder: Path, config: Config, *, phantom: bool) -> Figure:
    """Draw the slice of a case with the largest reference area.

    Raises:
        DataError: a file is missing or unreadable, or their grids differ.
    """
    prediction, reference = read_pair(case, folder, config)
    scan = read_volume(case.image_path)
    check_same_grid(scan, reference, names=(str(case.image_path), str(case.label_path)))
    chosen = int((reference.array > 0).sum(axis=(1, 2)).argmax())
    title = f"{case.id}, slice {chosen} of {len(reference.array)}"
    png = draw_overlay(
        scan.array[chosen],
        reference.array[chosen],
        prediction.array[chosen],
        title=title,
        pixel_mm=reference.spacing_zyx_mm[1:],
        phantom=phantom,
    )
    return Figure(png, f"{title}: scan, reference and prediction.")


def view_case(case: Case, folder: Path, config: Config) -> ViewedCase:
    """Return a case for the viewer in three planes.

    Raises:
        DataError: a file is missing or unreadable.
    """
    prediction, reference = read_pair(case, folder, config)
    volumes = (read_volume(case.image_path).array, reference.array, prediction.array)
    return ViewedCase.from_zyx(case.id, volumes, reference.geometry)
