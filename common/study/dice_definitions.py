"""Every Dice the five originals ever reported, written once, beside the right one.

Each function is one project's definition, with its constants and its answer to empty masks; a
paper's own implementation is tested to agree. Arrays are label maps (slices, rows, columns), 0
being background; the first axis stands for the samples of a batch where a definition speaks of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from common.evaluation.overlap import dice
from common.study.compare import Table

RASEG_SMOOTH = 1e-5
SARCOMA_SMOOTH = 1.0
DEEPMEDIC_SMOOTH = 1e-5


@dataclass(frozen=True)
class DicePair:
    """One prediction to be scored."""

    prediction: np.ndarray
    reference: np.ndarray
    mask: np.ndarray | None = None
    """Region of interest, for the engine's measures; None: everywhere."""


@dataclass(frozen=True)
class Definition:
    """One historical measure."""

    name: str
    score: Callable[[DicePair], float]
    formula: str
    source: str
    hides: str


def raseg_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 sum(p y) / (sum(p) + sum(y) + 1e-5) of probabilities or a mask: 0 where both are empty.

    Source: raseg_model.py, `dice_coeff`; raseg_predict.py, `dsc`.
    """
    found, real = _as_weights(prediction), _as_weights(reference)
    return float(2 * (found * real).sum() / (found.sum() + real.sum() + RASEG_SMOOTH))


def raseg_draft_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """The draft's: 1e-5 above and below, 1 where both are empty. Source: raseg.tex."""
    found, real = _as_weights(prediction), _as_weights(reference)
    overlap = 2 * (found * real).sum() + RASEG_SMOOTH
    return float(overlap / (found.sum() + real.sum() + RASEG_SMOOTH))


def sarcoma_dice(prediction: np.ndarray, reference: np.ndarray, batch: int | None = None) -> float:
    """(2 sum(p y) + 1) / (sum(p) + sum(y) + 1) over a batch, then the mean over batches by samples.

    Of (samples, ...) probabilities or masks; `batch` None: all in one, as the loss has it, where
    Keras' `evaluate` has 32. Source: train.py, `dice_coef`; evaluate.py.
    """
    found, real = _as_weights(prediction), _as_weights(reference)
    batch, total = batch or len(real), 0.0
    for first in range(0, len(real), batch):
        p, y = found[first : first + batch], real[first : first + batch]
        overlap = 2 * (p * y).sum() + SARCOMA_SMOOTH
        total += len(y) * overlap / (p.sum() + y.sum() + SARCOMA_SMOOTH)
    return float(total / len(real))


def dltk_dice(prediction: np.ndarray, reference: np.ndarray, classes: int = 2) -> np.ndarray:
    """Per class, background included, 2 |P and R| / (|P| + |R|), NaN for one that is in neither.

    (classes,) float32. Source: DLTK dltk/core/metrics.py, `dice`; deploy.py prints the mean of all
    but the first.
    """
    scores = [dice(prediction == number, reference == number) for number in range(classes)]
    return np.array(scores, np.float32)


def dltk_dice_of_2017(
    prediction: np.ndarray, reference: np.ndarray, classes: int = 2
) -> np.ndarray:
    """The same, 1 for a class that is in neither. Source: DLTK of November 2017."""
    return np.nan_to_num(dltk_dice(prediction, reference, classes), nan=1.0)


def medpy_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |P and R| / (|P| + |R|), 0 where both are empty. Source: MedPy 0.4.0, `dc`."""
    score = dice(prediction > 0, reference > 0)
    return 0.0 if np.isnan(score) else score


def vertebra_eval_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Mean over the reference's labels, background too, of the Dice inside that label alone.

    Both maps are made binary; inside a label the reference is all foreground, so that only the
    share of it that carries any prediction counts. Inside the background the value is always 0.
    Source: eval.py.
    """
    bodies = [reference == label for label in np.unique(reference)]
    return float(np.mean([medpy_dice(prediction[body], reference[body]) for body in bodies]))


def vertebra_patch_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice after both masks are turned inside out where the reference is empty.

    Source: utils/metrics.py, `DiceCoeff`, shown while training.
    """
    found, real = prediction > 0, reference > 0
    if not real.any():
        found, real = ~found, ~real
    return dice(found, real)


def deepmedic_dice(
    prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None, *, kind: int = 1
) -> float:
    """The engine's DICE1, DICE2 or DICE3 of everything above 0; NaN where the truth is empty.

    Args:
        prediction: class numbers, any shape.
        reference: of the same shape.
        mask: region of interest; None: everywhere.
        kind: 1: whole prediction and whole truth; 2: prediction within the mask, whole truth; 3:
            both within the mask.
    Source: DeepMedic, accuracy_monitor.py and metrics.py.
    """
    found, real = prediction > 0, reference > 0
    if not real.any():
        return float("nan")
    inside = np.ones(real.shape, bool) if mask is None else mask > 0
    if kind >= 2:
        found = found & inside
    if kind == 3:
        real = real & inside
    return dice(found, real)


def deepmedic_soft_dice(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes, background too, of (2 sum(p y) + 1e-5) / (sum(p) + sum(y) + 1e-5).

    Of (..., classes) probabilities and (...) class numbers. Source: DeepMedic, cost_functions.py,
    the term `dsc` of the loss, which is 1 minus this.
    """
    scores = []
    for number in range(probabilities.shape[-1]):
        p, y = probabilities[..., number].astype(np.float64), labels == number
        overlap = 2 * p[y].sum() + DEEPMEDIC_SMOOTH
        scores.append(overlap / (p.sum() + y.sum() + DEEPMEDIC_SMOOTH))
    return float(np.mean(scores))


def _as_weights(mask: np.ndarray) -> np.ndarray:
    """Return probabilities as they are, labels as 0 and 1, in float64."""
    mask = np.asarray(mask)
    return mask.astype(np.float64) if mask.dtype.kind == "f" else (mask > 0).astype(np.float64)


def _two_classes(case: DicePair) -> tuple[np.ndarray, np.ndarray]:
    return (case.prediction > 0).astype(np.uint8), (case.reference > 0).astype(np.uint8)


def _engine(kind: int) -> Callable[[DicePair], float]:
    return lambda case: deepmedic_dice(case.prediction, case.reference, case.mask, kind=kind)


def _plain(function: Callable[..., float], **options: Any) -> Callable[[DicePair], float]:
    return lambda case: function(case.prediction, case.reference, **options)


DEFINITIONS = (
    Definition(
        "Dice (common.evaluation.metrics)", _plain(lambda p, r: dice(p > 0, r > 0)),
        "2 |P and R| / (|P| + |R|); not defined where both are empty", "this project",
        "where an error lies: read it with surface distances and volumes",
    ),
    Definition(
        "raseg", _plain(raseg_dice), "2 sum(py) / (sum p + sum y + 1e-5)",
        "raseg_model.py dice_coeff; raseg_predict.py dsc",
        "that nothing was to be found: an empty truth scores 0 whatever is predicted",
    ),
    Definition(
        "raseg, draft", _plain(raseg_draft_dice),
        "(2 sum(py) + 1e-5) / (sum p + sum y + 1e-5)", "raseg.tex",
        "the size of a false alarm: one false voxel or all of them score 0 on an empty truth",
    ),
    Definition(
        "sarcoma, one batch", _plain(sarcoma_dice),
        "(2 sum(py) + 1) / (sum p + sum y + 1) over all samples", "train.py dice_coef",
        "small lesions: large ones of the same batch outweigh them",
    ),
    Definition(
        "sarcoma, batches of 1", _plain(sarcoma_dice, batch=1),
        "the same, a mean over batches of one slice", "train.py dice_coef; evaluate.py",
        "failure: every slice without lesion and without prediction counts as 1",
    ),
    Definition(
        "fetal_brain deploy", lambda case: float(dltk_dice(*_two_classes(case))[1:].mean()),
        "per class 2 |P and R| / (|P| + |R|), background left out",
        "DLTK metrics.py dice; deploy.py",
        "a whole list's mean: one class that is in neither makes it NaN",
    ),
    Definition(
        "fetal_brain 2017", lambda case: float(dltk_dice_of_2017(*_two_classes(case))[1:].mean()),
        "the same, 1 for a class that is in neither", "DLTK metrics.py of November 2017",
        "that nothing was there to be found: it counts as a success",
    ),
    Definition(
        "fetal_brain dsc_l0", lambda case: float(dltk_dice(*_two_classes(case))[0]),
        "the same for the background", "train.py, summary dsc_l0",
        "nearly everything: the background is large and easy",
    ),
    Definition(
        "vertebra eval.py", _plain(vertebra_eval_dice),
        "mean over labels, background as 0, of the Dice inside the label", "eval.py",
        "false finds, merged instances and anything outside the labels; a perfect result is below "
        "1",
    ),
    Definition(
        "vertebra training", _plain(vertebra_patch_dice),
        "both masks inverted where the truth is empty", "utils/metrics.py DiceCoeff",
        "false alarms in empty patches: the background it is scored by is large",
    ),
    Definition(
        "MedPy 0.4.0", _plain(medpy_dice), "2 |P and R| / (|P| + |R|), 0 / 0 = 0",
        "MedPy binary.dc, used by vertebra's eval.py",
        "that nothing was to be found: a right answer scores 0",
    ),
    Definition(
        "dhcp_fetal DICE1", _engine(1), "whole prediction, whole truth; N/A without truth",
        "DeepMedic metrics.py",
        "false alarms in cases without the structure: they are left out of the mean",
    ),
    Definition(
        "dhcp_fetal DICE2", _engine(2), "prediction within the region, whole truth",
        "DeepMedic metrics.py", "false finds outside the region of interest",
    ),
    Definition(
        "dhcp_fetal DICE3", _engine(3), "both within the region", "DeepMedic metrics.py",
        "false finds outside the region, and truth that the region cut off",
    ),
    Definition(
        "dhcp_fetal loss",
        lambda case: deepmedic_soft_dice(*_one_hot(case)),
        "mean over classes, background too, with 1e-5 above and below",
        "DeepMedic cost_functions.py", "a missed structure: the background alone gives a half",
    ),
)  # fmt: skip
"""In the order of the table, the right one first."""


def _one_hot(case: DicePair) -> tuple[np.ndarray, np.ndarray]:
    found, real = _two_classes(case)
    return np.stack([found == 0, found == 1], axis=-1).astype(np.float64), real


def telling_cases() -> dict[str, DicePair]:
    """Return predictions by name that tell the definitions apart, on two touching bodies in a box:
    (24, 32, 32) label maps, the region of interest being all but the far end."""
    z, y, x = np.ogrid[:24, :32, :32]
    reference = np.zeros((24, 32, 32), np.uint8)
    for label, centre in ((1, 8), (2, 14)):
        body = ((z - centre) / 3.2) ** 2 + ((y - 14) / 6) ** 2 + ((x - 14) / 6) ** 2 <= 1
        reference[body & (reference == 0)] = label
    region = np.zeros(reference.shape, bool)
    region[:, :26, :26] = True
    far = reference.copy()
    far[2:7, 27:31, 27:31] = 3
    alarm = np.zeros_like(reference)
    alarm[4:6, 4:8, 4:8] = 1
    empty = np.zeros_like(reference)
    predictions = {
        "perfect": reference,
        "shifted by 2": np.roll(reference, 2, axis=1),
        "empty": empty,
        "doubled": doubled(reference),
        "far find": far,
    }
    cases = {name: DicePair(found, reference, region) for name, found in predictions.items()}
    cases["none, none"] = DicePair(empty, empty, region)
    cases["none, alarm"] = DicePair(alarm, empty, region)
    return cases


def doubled(mask: np.ndarray) -> np.ndarray:
    """Return a label map grown layer by layer to at least twice the voxels, all as label 1."""
    wanted, grown = 2 * np.count_nonzero(mask), mask > 0
    while 0 < np.count_nonzero(grown) < min(wanted, mask.size):
        grown = binary_dilation(grown)
    return grown.astype(np.uint8)


def score_predictions(cases: Mapping[str, DicePair]) -> list[dict[str, Any]]:
    """Return a row per definition with its value for every case; "n/a" where it is undefined."""
    rows = []
    for definition in DEFINITIONS:
        row = {"measure": definition.name}
        for name, case in cases.items():
            value = definition.score(case)
            row[name] = "n/a" if np.isnan(value) else f"{value:.3f}"
        rows.append(row)
    return rows


def metrics_table(of_run: Mapping[str, DicePair] | None = None, *, missing: str = "") -> Table:
    """Return the scores of telling predictions, and of a run's own, as a part.

    Args:
        of_run: predictions of a run by the heading of their column, or None.
        missing: why there are none, for the sentence below.
    """
    cases = {**telling_cases(), **(of_run or {})}
    text = (
        "One prediction, every definition of Dice the five projects used. Two touching bodies; "
        "doubled: grown to twice the volume; far find: perfect but for one outside the region of "
        "interest; none: nothing is there, and nothing or 32 voxels are found. n/a: not defined. "
        f"All are made up but a run's own. {missing}"
    ).strip()
    return Table("one prediction, every Dice", score_predictions(cases), text, phantom=True)


def formulas_table() -> Table:
    """Return what each definition is, where it comes from and what it hides, as a part."""
    rows = [
        {"measure": d.name, "definition": d.formula, "source": d.source, "hides": d.hides}
        for d in DEFINITIONS
    ]
    return Table("the definitions and what they hide", rows)
