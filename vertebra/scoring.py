"""One case of an evaluation: mask and reference on one grid, measured."""

from pathlib import Path

import numpy as np

from common.data.geometry import Geometry, Volume, check_same_grid
from common.data.volumes import read_volume
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from common.evaluation.overlap import dice
from vertebra.data import Case, load_labels, prediction_path
from vertebra.instances import match_instances, released_dice

WHOLE, CUT_OFF = "vertebra", "vertebra cut off by the scan"


def read_pair(case: Case, folder: Path) -> tuple[Volume, Volume]:
    """Read mask and reference of a case on one grid.

    A mask that the released way wrote has no geometry [V21]; then the shapes must be equal. Raises
    `DataError` where a file is missing or unreadable, or their grids differ.
    """
    path = prediction_path(folder, case.id)
    prediction, reference = load_labels(path), load_labels(case.label_path)
    if prediction.geometry == Geometry((1.0, 1.0, 1.0)):
        prediction = Volume(prediction.array, reference.geometry)
    check_same_grid(prediction, reference, names=(str(path), str(case.label_path)))
    return prediction, reference


def score(case: Case, folder: Path) -> ScoredCase:
    """Read and measure one case: a row per vertebra of the reference.

    The facts are the counts, the released Dice and what else is one per scan. Raises as
    `read_pair`.
    """
    prediction, reference = read_pair(case, folder)
    arrays = prediction.array, reference.array
    matching = match_instances(*arrays)
    partner = dict(matching.pairs)
    rows = [
        score_vertebra(prediction, reference, label, partner.get(label))
        for label in matching.references
    ]
    released = released_dice(*arrays)
    facts = {
        "id": case.id,
        "vertebrae": len(matching.references),
        "finds": len(matching.predictions),
        "found": matching.found,
        "precision": matching.precision,
        "recall": matching.recall,
        "f1": matching.f1,
        "foreground_dice": float(dice(*(array > 0 for array in arrays))),
        "released_dice": released,
        "released_mean": float(np.mean(list(released.values()))),
    }
    read_scan = (lambda: read_volume(case.image_path).array) if case.image_path.is_file() else None
    return ScoredCase(case.id, rows, *arrays, reference.geometry, read_scan, facts=facts)


def score_vertebra(prediction, reference, label: int, found: int | None) -> dict:
    """Return the measures of one vertebra and the find it is matched with, if any.

    The distances are taken in the box that holds both, which does not change them.
    """
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
