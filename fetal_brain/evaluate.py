"""Measure label maps against the reference segmentations and write the run's report."""

from functools import partial
from pathlib import Path

from common.cohort.work import HERE, Workers
from common.runs.folder import load_config, load_run
from fetal_brain.config import RUN, Config
from fetal_brain.data import choose_cases, is_phantom


def evaluate(
    run: Path = RUN,
    csv: Path | None = None,
    *,
    predictions: Path | None = None,
    all_rows: bool = False,
    structure: str | None = None,
    cohort: str | None = None,
    on: Workers = HERE,
) -> None:
    """Measure label maps against the reference segmentations and write the run's report.

    Args:
        run: run folder; the report goes to its report/ folder.
        csv: list with the reference segmentations; default: the held-out cases of the run.
        predictions: folder of label maps named <id>.nii.gz; default: predictions/ in the run.
        all_rows: measure every row of the list, not its last held_out_cases.
        structure: what a single foreground class is called; default: brain where its id is 2, as in
            the paper's data, else foreground.
        cohort: name of the paper's own data in claims.yaml, where these are they, so that the
            outcome is judged; "name: what differs" where they are its patients, prepared otherwise.
        on: who measures the cases.
    """
    from common.evaluation.cases import Plane, score_cases
    from common.evaluation.run_report import write_evaluation
    from fetal_brain.scoring import label_names, score

    record = load_run(run)
    config = load_config(run, Config)
    cases = choose_cases(record, config, csv=csv, image=None, all_rows=all_rows, mode="EVAL")
    folder = predictions or run / "predictions"
    phantom = is_phantom(csv) if csv else bool(record.manifest.get("phantom"))
    trained_on = {entry["id"] for entry in record.read_split().get("training", [])}
    names = label_names(config, structure)
    measured = [(case.id, partial(score, case, folder, config, names)) for case in cases]
    scores = score_cases(measured, trained_on, on=on)
    write_evaluation(
        record,
        scores.rows,
        title="fetal_brain: fetal brain in motion-corrupted MRI stacks",
        curve=[("loss", "val_loss"), ("dice", "val_dice")],
        phantom=phantom,
        cohort=cohort,
        **scores.shown(Plane(), phantom=phantom),
    )
    scores.failures.conclude()
