"""Measure masks against the labels of the arrays and write the run's report."""

from functools import partial
from pathlib import Path

from common.cohort.work import HERE, Workers
from common.data.phantoms import read_marker
from common.runs.folder import load_config, load_run
from raseg.config import Config
from raseg.data import check_tag, choose_volumes, open_volumes, read_split


def evaluate(
    tag: str,
    *,
    run: Path | None = None,
    data: Path = Path("datasets"),
    out: Path | None = None,
    imgn: int | None = None,
    cohort: str | None = None,
    on: Workers = HERE,
) -> None:
    """Measure masks against the labels of the arrays and write the run's report.

    Dice, distances and volumes per case, and beside them the Dice that the original defines and
    never calls [R11]. Where the spacing is not known, distances are in voxels and volumes in
    thousands of voxels.

    Args:
        tag: name of the training.
        run: run folder; default: models/raseg_train_<tag>. The report goes to its report/ folder.
        data: folder of the arrays.
        out: where predict wrote preds/; default: predictions/ in the run folder.
        imgn: number of one volume; default: every held-out volume of the run.
        cohort: name of the paper's own data in claims.yaml, where these are they, so that the
            outcome is judged; "name: what differs" where they are its patients, prepared otherwise.
        on: who measures the cases.
    """
    from common.evaluation.cases import Plane, score_cases
    from common.evaluation.run_report import MEASURES, write_evaluation
    from raseg.scoring import MEASURES_IN_VOXELS, score

    check_tag(tag)
    run = run or Path("models") / f"raseg_train_{tag}"
    record = load_run(run)
    config = load_config(run, Config)
    volumes = open_volumes(data, config)
    numbers = choose_volumes(record, volumes, imgn)
    folder = out or run / "predictions"
    phantom = bool(record.manifest.get("phantom")) or read_marker(data) is not None
    trained_on = [f"img{number}" for number in read_split(record).get("training", [])]
    measure = partial(score, data=data, config=config, folder=folder, tag=tag)
    measured = [(f"img{number}", partial(measure, number)) for number in numbers]
    scores = score_cases(measured, trained_on, on=on)
    measures = MEASURES
    if volumes.spacing_mm is None:
        measures = MEASURES_IN_VOXELS
        print("Spacing unknown (no geometry.json): distances are in voxels, not mm")
    write_evaluation(
        record,
        scores.rows,
        title="raseg: synovitis of the wrist" if volumes.pre is not None else "raseg: oedema",
        curve=[("loss", "val_loss"), ("dice", "val_dice")],
        phantom=phantom,
        measures={**measures, "dice_original": "Dice (original)"},
        cohort=cohort,
        **scores.shown(Plane(), phantom=phantom),
    )
    scores.failures.conclude()
