"""Measure label maps and patches against the labels and write the run's report."""

from functools import partial
from pathlib import Path

from common.cohort.work import HERE, Workers
from common.errors import DataError
from common.files import write_json
from common.runs.folder import load_config, load_run
from sarcoma.config import RUN, Config
from sarcoma.data import choose_patients, is_phantom, preparation_of
from sarcoma.patch_files import measure_patch_files


def evaluate(
    run: Path = RUN,
    data: Path | None = None,
    *,
    patients: tuple[str, ...] | None = None,
    predictions: Path | None = None,
    cohort: str | None = None,
    on: Workers = HERE,
) -> None:
    """Measure label maps and patches against the labels and write the run's report.

    Per patient: Dice, lesion volume in ml, surface distances over the slices that were predicted.
    Over patches: the original's own Dice, a mean over batches of 32 without a threshold.

    Args:
        run: run folder; the report goes to its report/ folder.
        data: HDF5 file with the labels; default: that of the run, its test patients.
        patients: which of its patients; default: those with a label map.
        predictions: folder of label maps named <id>.nii.gz; default: predictions/ in the run.
        cohort: name of the paper's own data in claims.yaml, where these are they, so that the
            outcome is judged; "name: what differs" where they are its patients, prepared otherwise.
        on: who measures the cases.
    """
    from common.evaluation.cases import Plane, score_cases
    from common.evaluation.run_report import MEASURES, prediction_path, write_evaluation
    from sarcoma.scoring import OF_CROP, compare_with_crop, score

    record = load_run(run)
    config = load_config(run, Config)
    folder = predictions or Path(run) / "predictions"
    chosen = choose_patients(record, config, data=data, patients=patients)
    if data is not None and patients is None:
        chosen = [case for case in chosen if prediction_path(folder, case.id).is_file()]
    if not any(prediction_path(folder, case.id).is_file() for case in chosen):
        raise DataError(f"{folder} holds no label maps of these patients; run predict first")
    phantom = is_phantom(data) if data else bool(record.manifest.get("phantom"))
    differs, margin_mm = preparation_of(chosen[0].source)
    if cohort and ":" not in cohort and differs:
        cohort = f"{cohort}: {differs}"
    trained_on = {entry["id"] for entry in record.read_split().get("training", [])}
    measure = partial(score, folder=folder, config=config, margin_mm=margin_mm)
    measured = [(case.id, partial(measure, case)) for case in chosen]
    scores = score_cases(measured, trained_on, on=on)
    measures = {"volume_ml": "lesion (ml)", "reference_ml": "labelled (ml)", **MEASURES}
    if margin_mm > 0:
        measures[OF_CROP] = "Dice of the crop's middle"
    patches = measure_patch_files(folder)
    write_evaluation(
        record,
        scores.rows,
        title="sarcoma: soft-tissue sarcoma on PET/CT",
        curve=[("loss", "val_loss"), ("batch_dice", "dice", "val_dice")],
        phantom=phantom,
        measures=measures,
        others=summarise_patches(patches),
        cohort=cohort,
        **scores.shown(Plane(caption="scan, labels and prediction"), phantom=phantom),
    )
    if margin_mm > 0:
        print(compare_with_crop(scores.rows))
    if patches is not None:
        write_json(Path(run) / "report" / "patches.json", patches)
        print(f"Patches: {patches['patches']}, Dice as the original's {patches['dice']:.4f}")
    scores.failures.conclude()


def summarise_patches(patches: dict | None) -> dict:
    """Return the original's Dice as the report holds what is no mean over patients [S20]."""
    if patches is None:
        return {}
    return {"balanced patches": {"batch_dice": {"mean": patches["dice"], "n": patches["patches"]}}}
