"""The engine's measures of samples and of whole volumes, under names that say what they are.

Source: accuracy_monitor.py and metrics.py of DeepMedic; specification 5.
"""

from collections.abc import Mapping, Sequence

import numpy as np

MEASURES = ("accuracy", "sensitivity", "precision", "specificity", "dice")


def count_classes(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return real positives, real negatives, true positives, true negatives, (classes, 4) int64."""
    pairs = np.asarray(labels, np.int64).ravel() * classes + np.asarray(predicted).ravel()
    table = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    real, found, hits = table.sum(axis=1), table.sum(axis=0), table.diagonal()
    total = table.sum()
    return np.stack([real, total - real, hits, total - real - found + hits], axis=1)


def measure_samples(counts: np.ndarray) -> dict[str, float]:
    """Return the measures of one subepoch's samples; NaN where the engine prints N/A.

    Of counts (classes, 4) summed over batches: `accuracy` of all voxels, `<measure>_foreground`,
    `<measure>_1`, ... [G23] The engine calls the merged foreground "Class-0".
    """
    real, other, hits, rejected = np.asarray(counts, np.float64).T
    measures = {"accuracy": _divide(hits.sum(), real[0] + other[0])}
    # Background with positive and negative exchanged.
    groups = {"foreground": (other[0], real[0], rejected[0], hits[0])}
    groups |= {str(c): (real[c], other[c], hits[c], rejected[c]) for c in range(1, len(real))}
    for name, group in groups.items():
        for measure, value in zip(MEASURES, _measure(*group), strict=True):
            measures[f"{measure}_{name}"] = value
    return measures


def _measure(real: float, other: float, hits: float, rejected: float) -> tuple[float, ...]:
    found = hits + other - rejected
    dice = _divide(2 * hits, found + real) if real else np.nan
    shares = (hits + rejected, real + other), (hits, real), (hits, found), (rejected, other)
    return *(_divide(*share) for share in shares), dice


def average_measures(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every measure over subepochs or cases, the undefined ones left out."""
    means = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else np.nan
    return means


def engine_dice(
    predicted: np.ndarray, labels: np.ndarray, mask: np.ndarray | None, classes: int
) -> dict[str, tuple[float, float, float]]:
    """Return the engine's three kinds of Dice of a whole volume.

    DICE1: whole prediction and whole truth. DICE2: prediction within the mask and whole truth.
    DICE3: both within the mask. NaN where the truth is empty, whatever was predicted.

    Args:
        predicted: (x, y, z) class numbers.
        labels: of the same shape.
        mask: (x, y, z) region of interest; None: everywhere.
        classes: number of classes.
    Returns:
        {"foreground": (DICE1, DICE2, DICE3), "1": ..., ...}; [G23] foreground is any class above 0.
    """
    inside = np.ones(labels.shape, bool) if mask is None else mask > 0
    scores = {}
    for name, found, real in _structures(predicted, labels, classes):
        sizes = [(found, real), (found & inside, real), (found & inside, real & inside)]
        scores[name] = tuple(
            _divide(2.0 * (p & g).sum(), p.sum() + g.sum()) if g.any() else np.nan for p, g in sizes
        )
    return scores


def _structures(predicted: np.ndarray, labels: np.ndarray, classes: int):
    yield "foreground", predicted > 0, labels > 0
    for label in range(1, classes):
        yield str(label), predicted == label, labels == label


def _divide(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else np.nan
