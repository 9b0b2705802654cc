"""Instances against instances: which find is which vertebra, and the released code's measure.

Labels are numbers without meaning: finds are matched with the vertebrae they overlap most, whatever
either is called.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

MATCH_IOU = 0.5
"""Overlap from which a find counts as a vertebra found."""


@dataclass(frozen=True)
class Matching:
    """What belongs to what in one scan."""

    references: tuple[int, ...]
    predictions: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    """(reference, prediction) that overlap, one to one, of the largest total overlap."""
    iou: np.ndarray
    """(references, predictions) intersection over union."""
    dice: np.ndarray
    """(references, predictions)."""

    @property
    def found(self) -> int:
        """Pairs whose IoU is at least one half."""
        row, column = self.references.index, self.predictions.index
        return sum(bool(self.iou[row(a), column(b)] >= MATCH_IOU) for a, b in self.pairs)

    @property
    def precision(self) -> float:
        """Share of the finds that are vertebrae; NaN without finds."""
        return self.found / len(self.predictions) if self.predictions else float("nan")

    @property
    def recall(self) -> float:
        """Share of the vertebrae that were found; NaN without vertebrae."""
        return self.found / len(self.references) if self.references else float("nan")

    @property
    def f1(self) -> float:
        """2 found / (finds + vertebrae); NaN without either."""
        total = len(self.predictions) + len(self.references)
        return 2 * self.found / total if total else float("nan")


def match_instances(prediction: np.ndarray, reference: np.ndarray) -> Matching:
    """Match the finds of a scan with its vertebrae: labels from 0 in arrays of one shape."""
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ")
    found, finds = np.unique(prediction, return_inverse=True)
    labels, vertebrae = np.unique(reference, return_inverse=True)
    counts = np.bincount(
        vertebrae.ravel() * len(found) + finds.ravel(), minlength=len(labels) * len(found)
    ).reshape(len(labels), len(found))
    sizes = np.add.outer(counts.sum(axis=1), counts.sum(axis=0))
    keep = np.ix_(labels > 0, found > 0)
    counts, sizes = counts[keep], sizes[keep]
    iou, dice = counts / np.maximum(sizes - counts, 1), 2 * counts / np.maximum(sizes, 1)
    references = tuple(int(value) for value in labels[labels > 0])
    predictions = tuple(int(value) for value in found[found > 0])
    rows, columns = linear_sum_assignment(-iou)
    best = zip(rows, columns, strict=True)
    pairs = tuple(
        (references[row], predictions[column]) for row, column in best if iou[row, column]
    )
    return Matching(references, predictions, pairs, iou, dice)


def released_dice(prediction: np.ndarray, reference: np.ndarray) -> dict[int, float]:
    """The released code's Dice: both masks made binary and looked at inside one label at a time.

    Wrong instances and false positives are invisible to it; the background, which is averaged in,
    is always 0, so that a perfect result with 17 vertebrae scores 17/18 [V20]. There is a value for
    every label of the reference, also 0; where nothing is predicted in an empty region it is 0, as
    in the library of the time. Source: eval.py.
    """
    values = {}
    for label in np.unique(reference):
        inside = reference == label
        found = np.count_nonzero(prediction[inside])
        expected = np.count_nonzero(inside) if label > 0 else 0
        both = found if label > 0 else 0
        values[int(label)] = 2 * both / (found + expected) if found + expected else 0.0
    return values
