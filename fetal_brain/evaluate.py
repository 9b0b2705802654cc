"""Measure label maps against the reference segmentations and write the run's report."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fetal_brain.config import RUN, Config

if TYPE_CHECKING:
    from common.data.geometry import Volume
    from common.report.page import Figure
    from common.report.viewer.embed import ViewedCase
    from fetal_brain.data import Case

PICTURES = 4
"""Cases that are drawn on the page."""


def evaluate(
    run: Path = RUN,
    csv: Path | None = None,
    *,
    predictions: Path | None = None,
    all_rows: bool = False,
    cohort: str | None = None,
) -> None:
    """Measure label maps against the reference segmentations and write the run's report.

    Args:
        run: run folder; the report goes to its report/ folder.
        csv: list with the reference segmentations; default: the held-out cases of the run.
        predictions: folder of label maps named <id>.nii.gz; default: predictions/ in the run.
        all_rows: measure every row of the list, not its last held_out_cases.
        cohort: name of the paper's own data in claims.yaml, where these are they; only then is the
            outcome compared with the published number.
    """
    from common.evaluation.run_report import worst_first, write_evaluation
    from common.runs.folder import load_config, load_run
    from fetal_brain.data import is_phantom
    from fetal_brain.predict import choose_cases

    record = load_run(run)
    config = load_config(run, Config)
    cases = choose_cases(record, config, csv=csv, image=None, all_rows=all_rows, mode="EVAL")
    folder = predictions or run / "predictions"
    phantom = is_phantom(csv) if csv else bool(record.manifest.get("phantom"))
    trained_on = {entry["id"] for entry in record.read_split().get("training", [])}

    rows = [row for case in cases for row in score(case, folder, config, trained_on)]
    by_id = {case.id: case for case in cases}
    drawn = list(dict.fromkeys(row["id"] for row in worst_first(rows)))[:PICTURES]
    write_evaluation(
        record,
        rows,
        title="fetal_brain: fetal brain in motion-corrupted MRI stacks",
        curve=[("loss", "val_loss"), ("dice", "val_dice")],
        overlays=[draw_case(by_id[name], folder, config, phantom=phantom) for name in drawn],
        phantom=phantom,
        viewed=view_case(by_id[drawn[0]], folder, config),
        cohort=cohort,
    )


def label_names(config: Config) -> dict[str, int]:
    """Return the foreground classes by name: brain for the original's ids, else by number."""
    if config.label_ids[1:] == (2,):
        return {"brain": 1}
    count = len(config.label_ids) - 1
    return {"foreground": 1} if count == 1 else {f"class {i + 1}": i + 1 for i in range(count)}


def score(case: "Case", folder: Path, config: Config, trained_on: set[str]) -> list[dict]:
    """Measure one case: a row per foreground class.

    Raises:
        DataError: the label map is missing, unreadable or on another grid than the reference.
    """
    from common.evaluation.metrics import score_case

    prediction, reference = read_pair(case, folder, config)
    rows = score_case(
        prediction.array,
        reference.array,
        labels=label_names(config),
        spacing_mm=reference.spacing_zyx_mm,
    )
    return [{"id": case.id, "in_training_set": case.id in trained_on, **row} for row in rows]


def read_pair(case: "Case", folder: Path, config: Config) -> tuple["Volume", "Volume"]:
    """Read label map and reference of a case as class numbers on one grid.

    The label map may hold ids or class numbers, as `output_label_ids` of the run says [F8].

    Raises:
        DataError: a file is missing or unreadable, their grids differ, or the label map holds
            labels of neither kind.
    """
    from common.data.geometry import check_same_grid
    from common.data.labels import integer_labels
    from common.data.volumes import read_volume
    from common.evaluation.run_report import prediction_path
    from fetal_brain.data import read_reference
    from fetal_brain.predict import read_ids

    path = prediction_path(folder, case.id)
    prediction, reference = read_volume(path), read_reference(case, config)
    check_same_grid(prediction, reference, names=(str(path), str(case.label_path)))
    prediction = replace(prediction, array=integer_labels(prediction.array, str(path)))
    return read_ids(prediction, config, source=str(path)), reference


def draw_case(case: "Case", folder: Path, config: Config, *, phantom: bool) -> "Figure":
    """Draw the slice of a case with the largest reference area.

    Raises:
        DataError: a file is missing or unreadable, or their grids differ.
    """
    from common.data.geometry import check_same_grid
    from common.data.volumes import read_volume
    from common.report.drawing import draw_overlay
    from common.report.page import Figure

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


def view_case(case: "Case", folder: Path, config: Config) -> "ViewedCase":
    """Return a case for the viewer in three planes.

    Raises:
        DataError: a file is missing or unreadable.
    """
    from common.data.volumes import read_volume
    from common.report.viewer.embed import ViewedCase

    prediction, reference = read_pair(case, folder, config)
    volumes = (read_volume(case.image_path).array, reference.array, prediction.array)
    return ViewedCase.from_zyx(case.id, volumes, reference.geometry)
