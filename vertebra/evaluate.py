"""Measure found vertebrae against the reference and write the run's report."""

from pathlib import Path
from typing import TYPE_CHECKING

from vertebra.config import RUN

if TYPE_CHECKING:
    from common.data.geometry import Volume
    from common.report.page import Figure
    from common.report.viewer.embed import ViewedCase
    from vertebra.data import Case

WHOLE, CUT_OFF = "vertebra", "vertebra cut off by the scan"
PICTURES = 4
"""Cases that are drawn on the page."""


def evaluate(
    run: Path = RUN,
    *,
    label_dir: Path | None = None,
    pred_dir: Path | None = None,
    test_dir: Path | None = None,
    phantom: bool = False,
    cohort: str | None = None,
) -> None:
    """Measure found vertebrae against the reference and write the run's report.

    Finds are matched with vertebrae by overlap, one to one; their numbers do not matter. Printed as
    well: the released code's average, which sees neither false nor mixed-up finds.

    Args:
        run: run folder; the report goes to its report/ folder.
        label_dir: folder with the reference, <scan>_label.*; default: the test cases of the run.
        pred_dir: folder with the masks, <scan>_pred.nrrd; default: predictions/ in the run folder.
        test_dir: folder with the scans, for the pictures, where label_dir is given.
        phantom: the data are synthetic; known by itself where they were written by `phantom`.
        cohort: name of the paper's own data in claims.yaml, where these are they; only then is the
            outcome compared with the published number.
    """
    from common.evaluation.run_report import worst_first, write_evaluation
    from common.runs.folder import load_run, write_json
    from vertebra.data import Case, is_phantom

    record = load_run(run)
    cases = cases_of_labels(label_dir, test_dir) if label_dir else [
        Case.from_dict(entry) for entry in record.read_split()["test"]
    ]  # fmt: skip
    folder = pred_dir or run / "predictions"
    refuse_nothing(cases, run)
    synthetic = phantom or bool(record.manifest.get("phantom") and not label_dir)
    synthetic = synthetic or is_phantom(cases[0].label_path.parent)
    trained_on = {entry["id"] for entry in record.read_split().get("train", [])}

    rows, instances = [], []
    for case in cases:
        scored, counts = score(case, folder, trained_on)
        rows += scored
        instances.append(counts)
    by_id = {case.id: case for case in cases if case.image_path.is_file()}
    worst = list(dict.fromkeys(row["id"] for row in worst_first(rows)))[:PICTURES]
    drawn = [name for name in worst if name in by_id]
    summary = summarise_instances(instances)
    write_evaluation(
        record,
        rows,
        title="vertebra: vertebrae one after the other in CT",
        curve=[("loss",), ("mask_patch_dice", "val_dice"), ("val_agreement",)],
        overlays=[draw_case(by_id[name], folder, phantom=synthetic) for name in drawn],
        phantom=synthetic,
        viewed=view_case(by_id[drawn[0]], folder) if drawn else None,
        others=measures_of_all_labels(summary, len(cases)),
        cohort=cohort,
    )
    write_json(record.path / "report" / "instances.json", {"cases": instances, **summary})
    print_instances(instances, summary)


def refuse_nothing(cases, run: Path) -> None:
    """Raise `OptionError` where there is nothing to measure."""
    from common.errors import OptionError

    if not cases:
        raise OptionError(f"{run} has no test cases; expected --label_dir with the reference")


def cases_of_labels(label_dir: Path, test_dir: Path | None) -> list["Case"]:
    """Return the cases of a folder of references, matched by name, not by position [V20]."""
    from vertebra.data import LABEL_MARK, Case, find_volumes

    images = find_volumes(test_dir) if test_dir else {}
    return [
        Case(name.removesuffix(LABEL_MARK), images.get(name.removesuffix(LABEL_MARK), Path()), path)
        for name, path in find_volumes(label_dir).items()
        if name.endswith(LABEL_MARK)
    ]


def prediction_path(folder: Path, case_id: str) -> Path:
    """Return where the mask of a scan lies: <folder>/<scan>_pred.nrrd, as in the original."""
    return folder / f"{case_id}_pred.nrrd"


def read_pair(case: "Case", folder: Path) -> tuple["Volume", "Volume"]:
    """Read mask and reference of a case on one grid.

    A mask that the released way wrote has no geometry [V21]; then the shapes must be equal.

    Raises:
        DataError: a file is missing or unreadable, or their grids differ.
    """
    from common.data.geometry import Geometry, Volume, check_same_grid
    from vertebra.data import load_labels

    path = prediction_path(folder, case.id)
    prediction, reference = load_labels(path), load_labels(case.label_path)
    if prediction.geometry == Geometry((1.0, 1.0, 1.0)):
        prediction = Volume(prediction.array, reference.geometry)
    check_same_grid(prediction, reference, names=(str(path), str(case.label_path)))
    return prediction, reference


def score(case: "Case", folder: Path, trained_on: set[str]) -> tuple[list[dict], dict]:
    """Measure one case.

    Returns:
        A row per vertebra of the reference; counts, released Dice and what else is one per scan.

    Raises:
        DataError: the mask is missing, unreadable or on another grid than the reference.
    """
    import numpy as np

    from vertebra.instances import match_instances, released_dice

    prediction, reference = read_pair(case, folder)
    matching = match_instances(prediction.array, reference.array)
    partner = dict(matching.pairs)
    rows = [
        {
            "id": case.id,
            "in_training_set": case.id in trained_on,
            **score_vertebra(prediction, reference, label, partner.get(label)),
        }
        for label in matching.references
    ]
    released = released_dice(prediction.array, reference.array)
    counts = {
        "id": case.id,
        "vertebrae": len(matching.references),
        "finds": len(matching.predictions),
        "found": matching.found,
        "precision": matching.precision,
        "recall": matching.recall,
        "f1": matching.f1,
        "foreground_dice": foreground_dice(prediction.array, reference.array),
        "released_dice": released,
        "released_mean": float(np.mean(list(released.values()))),
    }
    return rows, counts


def score_vertebra(prediction, reference, label: int, found: int | None) -> dict:
    """Return the measures of one vertebra and the find it is matched with, if any.

    The distances are taken in the box that holds both, which does not change them.
    """
    import numpy as np

    from common.evaluation.metrics import score_case

    mask = reference.array == label
    guess = np.zeros_like(mask) if found is None else prediction.array == found
    box = tuple(
        slice(max(int(line.min()) - 1, 0), int(line.max()) + 2) for line in np.nonzero(mask | guess)
    )
    # The paper leaves vertebrae out that the scan cuts off; here they are a group of their own.
    name = CUT_OFF if mask[0].any() or mask[-1].any() else WHOLE
    row = score_case(
        guess[box].astype(np.uint8), mask[box].astype(np.uint8),
        labels={name: 1}, spacing_mm=reference.spacing_zyx_mm,
    )[0]  # fmt: skip
    return {**row, "reference_label": label, "predicted_label": found}


def foreground_dice(prediction, reference) -> float:
    """Return the Dice of everything that is vertebra, whichever."""
    from common.evaluation.overlap import dice

    return float(dice(prediction > 0, reference > 0))


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


def measures_of_all_labels(summary: dict, scans: int) -> dict:
    """Return the rates and the original's average as the report holds what is no mean of rows."""
    return {"all labels": {name: {"mean": value, "n": scans} for name, value in summary.items()}}


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


def draw_case(case: "Case", folder: Path, *, phantom: bool) -> "Figure":
    """Draw a case from the side, in the plane with the largest reference area."""
    from common.data.volumes import read_volume
    from common.report.drawing import draw_overlay
    from common.report.page import Figure

    prediction, reference = read_pair(case, folder)
    chosen = int((reference.array > 0).sum(axis=(0, 1)).argmax())
    title = f"{case.id}, column {chosen} of {reference.array.shape[2]}"
    side = (slice(None, None, -1), slice(None), chosen)
    png = draw_overlay(
        read_volume(case.image_path).array[side],
        reference.array[side],
        prediction.array[side],
        title=title,
        pixel_mm=reference.spacing_zyx_mm[:2],
        phantom=phantom,
    )
    return Figure(png, f"{title}: scan, reference and prediction, seen from the side.")


def view_case(case: "Case", folder: Path) -> "ViewedCase":
    """Return a case for the viewer in three planes."""
    from common.data.volumes import read_volume
    from common.report.viewer.embed import ViewedCase

    prediction, reference = read_pair(case, folder)
    volumes = (read_volume(case.image_path).array, reference.array, prediction.array)
    return ViewedCase.from_zyx(case.id, volumes, reference.geometry)
