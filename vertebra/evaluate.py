"""Measure found vertebrae against the reference and write the run's report."""

from functools import partial
from pathlib import Path

from common.cohort.work import HERE, Workers
from common.errors import OptionError
from common.files import read_json, write_json
from common.runs.folder import Run, load_run
from vertebra.config import RUN
from vertebra.data import Case, cases_of_labels, is_phantom


def evaluate(
    run: Path | None = None,
    *,
    label_dir: Path | None = None,
    pred_dir: Path | None = None,
    test_dir: Path | None = None,
    phantom: bool = False,
    cohort: str | None = None,
    on: Workers = HERE,
) -> None:
    """Measure found vertebrae against the reference and write the run's report.

    Finds are matched with vertebrae by overlap, one to one; their numbers do not matter. Printed as
    well: the released code's average, which sees neither false nor mixed-up finds.

    Args:
        run: run folder; the report goes to its report/ folder. Default: weights; none is needed
            where label_dir and pred_dir are given, and the report goes to report/ in pred_dir.
        label_dir: folder with the reference, <scan>_label.*; default: the test cases of the run.
        pred_dir: folder with the masks, <scan>_pred.nrrd; default: predictions/ in the run folder.
        test_dir: folder with the scans, for the pictures, where label_dir is given.
        phantom: the data are synthetic; known by itself where they were written by `phantom`.
        cohort: name of the paper's own data in claims.yaml, where these are they, so that the
            outcome is judged; "name: what differs" where they are its patients, prepared otherwise.
        on: who measures the cases.
    """
    from common.evaluation.cases import Plane, score_cases
    from common.evaluation.run_report import write_evaluation
    from vertebra.scoring import score

    if run is None and label_dir and pred_dir:
        record, split = masks_without_run(pred_dir), {}
    else:
        run = run or RUN
        record = load_run(run)
        split = record.read_split()
    cases = cases_of_labels(label_dir, test_dir) if label_dir else [
        Case.from_dict(entry) for entry in split["test"]
    ]  # fmt: skip
    folder = pred_dir or record.path / "predictions"
    if not cases:
        found = f"{label_dir} has no *_label files" if label_dir else f"{run} has no test cases"
        raise OptionError(f"{found}; expected --label_dir with the reference")
    synthetic = phantom or bool(record.manifest.get("phantom") and not label_dir)
    synthetic = synthetic or is_phantom(cases[0].label_path.parent)
    trained_on = {entry["id"] for entry in split.get("train", [])}

    scores = score_cases(
        [(case.id, partial(score, case, folder)) for case in cases], trained_on, on=on
    )
    summary = summarise_instances(scores.facts)
    side = "scan, reference and prediction, seen from the side"
    plane = Plane(axis=2, flipped=True, word="column", caption=side)
    write_evaluation(
        record,
        scores.rows,
        title="vertebra: vertebrae one after the other in CT",
        curve=[("loss",), ("mask_patch_dice", "val_dice"), ("val_agreement",)],
        phantom=synthetic,
        # What is no mean of rows.
        others={"all labels": {name: {"mean": value, "n": len(scores.facts)}
                               for name, value in summary.items()}},
        cohort=cohort,
        **scores.shown(plane, phantom=synthetic),
    )  # fmt: skip
    write_json(record.path / "report" / "instances.json", {"cases": scores.facts, **summary})
    print_instances(scores.facts, summary)
    scores.failures.conclude()


def masks_without_run(folder: Path) -> Run:
    """Return what stands for the run of masks: their folder, and the networks that made them."""
    found = [read_json(path) for path in sorted(folder.glob("*_pred.json"))]
    networks = [each["network"] for each in found if isinstance(each, dict) and "network" in each]
    facts = {"predictions": str(folder.absolute()), "network": ", ".join(dict.fromkeys(networks))}
    return Run(folder, {}, {"paper": "vertebra", **facts})


def summarise_instances(instances) -> dict:
    """Return precision, recall and F1 over all scans, and the average that the original prints."""
    found, finds, vertebrae = (
        sum(case[key] for case in instances) for key in ("found", "finds", "vertebrae")
    )
    released = [value for case in instances for value in case["released_dice"].values()]
    return {
        "precision": found / finds if finds else None,
        "recall": found / vertebrae if vertebrae else None,
        "f1": 2 * found / (finds + vertebrae) if finds + vertebrae else None,
        "released_average_dice": sum(released) / len(released),
    }


def print_instances(instances, summary) -> None:
    """Print counts per scan, the rates over all, and the released code's number beside them."""
    for case in instances:
        print(
            f"{case['id']}  {case['found']} of {case['vertebrae']} vertebrae found"
            f" (IoU 0.5) with {case['finds']} finds, foreground Dice {case['foreground_dice']:.3f}"
        )
    rates = "  ".join(
        f"{name} {'–' if summary[name] is None else format(summary[name], '.3f')}"
        for name in ("precision", "recall", "f1")
    )
    print(f"All scans: {rates}")
    print(
        f"The released code's average Dice: {summary['released_average_dice']:.3f} (inside the"
        " reference only, background counted as 0)"
    )
