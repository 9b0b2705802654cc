"""Measure label maps against the reference segmentations and write the run's report."""

from functools import partial
from pathlib import Path

from common.cohort.work import HERE, Workers
from common.errors import DataError
from common.runs.folder import load_config, load_run
from dhcp_fetal.config import Config
from dhcp_fetal.data import files_from, find_cases, is_phantom, name_of


def evaluate(
    run: Path,
    cases: Path | None = None,
    *,
    predictions: Path | None = None,
    structure: str | None = None,
    suffix: str = "",
    cohort: str | None = None,
    on: Workers = HERE,
) -> None:
    """Measure label maps against the reference segmentations and write the run's report.

    Beside the right measures stand the engine's three kinds of Dice, which differ where a region of
    interest cuts something off: DICE1 takes all of prediction and truth, DICE2 the prediction
    within the region, DICE3 both within it.

    Args:
        run: run folder; the report goes to its report/ folder.
        cases: table with the reference segmentations; default: the held-out cases of the run, or
            the validation cases of a run from the original's files.
        predictions: folder of label maps named <name>.nii.gz; default: predictions/ in the run.
        structure: what the foreground is called; default: foreground.
        suffix: what stands between name and ending, such as _Segm for the original's maps.
        cohort: name of the paper's own data in claims.yaml, where these are they, so that the
            outcome is judged; "name: what differs" where they are its patients, prepared otherwise.
        on: who measures the cases.
    """
    from common.evaluation.cases import Plane, score_cases
    from common.evaluation.run_report import MEASURES, write_evaluation
    from dhcp_fetal.scoring import score

    record = load_run(run)
    config = load_config(run, Config)
    split = record.read_split()
    listed = find_cases(cases) if cases else tuple(
        map(files_from, split.get("test") or split.get("validation") or ())
    )  # fmt: skip
    if not listed:
        raise DataError(f"{run} has no held-out cases; expected --cases, a table")
    folder = predictions or run / "predictions"
    trained_on = {entry["id"] for entry in split.get("training", [])}
    measure = partial(score, folder=folder, config=config, structure=structure, suffix=suffix)
    scores = score_cases(
        [(name_of(each), partial(measure, each)) for each in listed], trained_on, on=on
    )
    phantom = is_phantom(listed)
    write_evaluation(
        record,
        scores.rows,
        title="dhcp_fetal: cortex and brain in fetal MRI",
        curve=[("loss",), ("accuracy", "val_accuracy")],
        phantom=phantom,
        measures={**MEASURES, "dice1": "DICE1 (engine)"},
        cohort=cohort,
        **scores.shown(Plane(flipped=True), phantom=phantom),
    )
    for row in scores.rows:
        print(f"{row['id']}  {row['label']}  " + "  ".join(
            f"{kind.upper()} {row[kind]:.4f}" for kind in ("dice1", "dice2", "dice3")))  # fmt: skip
    scores.failures.conclude()
