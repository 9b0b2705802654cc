"""Measure label maps and patches against the labels and write the run's report."""

from pathlib import Path
from typing import TYPE_CHECKING

from sarcoma.config import RUN, Config

if TYPE_CHECKING:
    import numpy as np

    from common.report.page import Figure
    from common.report.viewer.embed import ViewedCase
    from sarcoma.data import Patient

PICTURES = 4
"""Patients that are drawn on the page."""
PATCH_BATCH = 32
"""Patches per batch of Keras' own `evaluate`, on which the original's number depends [S20]."""


def evaluate(
    run: Path = RUN,
    data: Path | None = None,
    *,
    patients: tuple[str, ...] | None = None,
    predictions: Path | None = None,
    cohort: str | None = None,
) -> None:
    """Measure label maps and patches against the labels and write the run's report.

    Per patient: Dice, lesion volume in ml, surface distances over the slices that were predicted.
    Over patches: the original's own Dice, a mean over batches of 32 without a threshold.

    Args:
        run: run folder; the report goes to its report/ folder.
        data: HDF5 file with the labels; default: that of the run, its test patients.
        patients: which of its patients; default: those with a label map.
        predictions: folder of label maps named <id>.nii.gz; default: predictions/ in the run.
        cohort: name of the paper's own data in claims.yaml, where these are they; only then is the
            outcome compared with the published number.
    """
    from common.errors import DataError
    from common.evaluation.run_report import (
        MEASURES,
        prediction_path,
        worst_first,
        write_evaluation,
    )
    from common.runs.folder import load_config, load_run, write_json
    from sarcoma.data import is_phantom
    from sarcoma.predict import choose_patients

    record = load_run(run)
    config = load_config(run, Config)
    folder = predictions or Path(run) / "predictions"
    chosen = choose_patients(record, config, data=data, patients=patients)
    if data is not None and patients is None:
        chosen = [case for case in chosen if prediction_path(folder, case.id).is_file()]
    if not chosen or not prediction_path(folder, chosen[0].id).is_file():
        raise DataError(f"{folder} holds no label maps of these patients; run predict first")
    phantom = is_phantom(data) if data else bool(record.manifest.get("phantom"))
    trained_on = {entry["id"] for entry in record.read_split().get("training", [])}
    rows = [row for case in chosen for row in score(case, folder, config, trained_on)]
    by_id = {case.id: case for case in chosen}
    drawn = [row["id"] for row in worst_first(rows)][:PICTURES]
    patches = measure_patch_files(folder)
    write_evaluation(
        record,
        rows,
        title="sarcoma: soft-tissue sarcoma on PET/CT",
        curve=[("loss", "val_loss"), ("batch_dice", "dice", "val_dice")],
        overlays=[draw_patient(by_id[name], folder, config, phantom=phantom) for name in drawn],
        phantom=phantom,
        measures={"volume_ml": "lesion (ml)", "reference_ml": "labelled (ml)", **MEASURES},
        viewed=view_patient(by_id[drawn[0]], folder, config),
        others=summarise_patches(patches),
        cohort=cohort,
    )
    if patches is not None:
        write_json(Path(run) / "report" / "patches.json", patches)
        print(f"Patches: {patches['patches']}, Dice as the original's {patches['dice']:.4f}")


def score(case: "Patient", folder: Path, config: Config, trained_on: set[str]) -> list[dict]:
    """Measure one patient's lesion: one row.

    Raises:
        DataError: the label map is missing, unreadable or on another grid than the labels.
    """
    from common.evaluation.metrics import score_case
    from sarcoma.data import SPACING_MM

    prediction, reference, _ = read_pair(case, folder, config)
    rows = score_case(prediction, reference, labels={"lesion": 1}, spacing_mm=(SPACING_MM,) * 3)
    return [{"id": case.id, "in_training_set": case.id in trained_on, **row} for row in rows]


def read_pair(
    case: "Patient", folder: Path, config: Config
) -> "tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]":
    """Return label map, labels (both (Z, Y, X) uint8 of 0 and 1) and the images of a patient."""
    import numpy as np

    from common.data.labels import inside
    from common.data.volumes import read_volume
    from common.errors import DataError
    from common.evaluation.run_report import prediction_path
    from sarcoma.data import load_patient

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


def draw_patient(case: "Patient", folder: Path, config: Config, *, phantom: bool) -> "Figure":
    """Draw the slice of a patient with the largest lesion, on the last of the modalities."""
    from common.report.drawing import draw_overlay
    from common.report.page import Figure
    from sarcoma.data import SPACING_MM

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


def view_patient(case: "Patient", folder: Path, config: Config) -> "ViewedCase":
    """Return a patient for the viewer in three planes; where left is, the file does not say."""
    from common.data.volumes import Geometry
    from common.report.viewer.embed import ViewedCase
    from sarcoma.data import SPACING_MM

    prediction, reference, images = read_pair(case, folder, config)
    volumes = (images[config.modalities[-1]], reference, prediction)
    return ViewedCase.from_zyx(case.id, volumes, Geometry((SPACING_MM,) * 3), oriented=False)


def summarise_patches(patches: dict | None) -> dict:
    """Return the original's Dice as the report holds what is no mean over patients [S20]."""
    if patches is None:
        return {}
    return {"balanced patches": {"batch_dice": {"mean": patches["dice"], "n": patches["patches"]}}}


def measure_patch_files(folder: Path) -> dict | None:
    """Return the original's Dice of the patches in a folder, or None where there are none.

    Raises:
        DataError: the files cannot be read or do not belong together.
    """
    import numpy as np

    from common.errors import DataError
    from sarcoma.predict import PREDICTED_PATCHES, TRUE_PATCHES

    paths = folder / TRUE_PATCHES, folder / PREDICTED_PATCHES
    if not all(path.is_file() for path in paths):
        return None
    try:
        true, found = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
    except (OSError, ValueError) as failure:
        raise DataError(f"{folder}: unreadable patches ({failure}); run predict again") from None
    if true.shape != found.shape:
        raise DataError(
            f"{paths[1]} has shape {found.shape}, {paths[0].name} {true.shape}; run predict again"
        )
    return {
        "patches": len(true),
        "batch": PATCH_BATCH,
        "dice": patch_dice(true, found, PATCH_BATCH),
        "dice_at_half": patch_dice(true, found > 0.5, len(true)),
    }


def patch_dice(true: "np.ndarray", found: "np.ndarray", batch: int) -> float:
    """Dice as Keras 2's `evaluate` reports it: per batch, then a mean weighted by samples [S20].

    Args:
        true: (P, rows, columns, 1), 0 and 1.
        found: probabilities of the same shape.
        batch: patches per batch.
    Source: evaluate.py; train.py, `dice_coef`.
    """
    import numpy as np

    total = 0.0
    for first in range(0, len(true), batch):
        t = np.asarray(true[first : first + batch], np.float64)
        p = np.asarray(found[first : first + batch], np.float64)
        total += len(t) * (2 * (t * p).sum() + 1) / (t.sum() + p.sum() + 1)
    return total / len(true)
