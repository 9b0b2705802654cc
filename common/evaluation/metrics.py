"""Surface measures of one segmentation against another, and the table and summary of all measures.

Empty masks. Overlap (Dice, Jaccard): both masks empty is undefined (NaN), one empty is 0. Surface
distances: undefined (NaN) as soon as either mask is empty. The relative volume difference is
undefined where the reference is empty. Every case stays in the table with its status, and
`summarise` counts the undefined values: none is dropped silently or replaced.

Surfaces. The surface of a mask is its voxels that erosion by the 6-connected cross removes (in two
dimensions the 4-connected one); what lies outside the array counts as background, so that a mask's
voxels on the array's border are surface. Distances are Euclidean, between voxel centres, in mm,
from every surface voxel of one mask to the nearest surface voxel of the other. HD95 is the larger
of the two directed 95th percentiles (linear interpolation); ASSD is the mean over the surface
voxels of both masks pooled; the normalised surface Dice is the part of them that lies within
`SURFACE_TOLERANCE_MM` of the other surface, 0 where one mask is empty.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.special import stdtrit

from common.evaluation.overlap import (
    as_masks,
    checked_spacing,
    dice,
    jaccard,
    relative_volume_difference,
    volume_ml,
)

SURFACE_TOLERANCE_MM = 2.0
FEWEST_FOR_INTERVAL = 5
"""Cases from which on an interval of their mean is stated."""

STATUS = {
    (True, True): "ok",
    (True, False): "reference empty",
    (False, True): "prediction empty",
    (False, False): "both empty",
}
"""Of a case, by whether the prediction and the reference hold anything."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces in mm, NaN where either mask is empty, and the part of both
    that is near the other."""

    hausdorff95_mm: float
    assd_mm: float
    within: float
    """Part of the surface voxels within `SURFACE_TOLERANCE_MM`; NaN where both masks are empty."""


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, *, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """HD95, ASSD and surface Dice of two masks in one pass; the module's docstring defines them.

    Args:
        prediction: mask, any shape; every non-zero voxel belongs to it.
        reference: mask of the same shape.
        spacing_mm: voxel size per axis, in the array's axis order.

    Returns:
        `SurfaceDistances`; the distances are NaN where either mask is empty.

    Raises:
        ValueError: the shapes differ, the number of spacings is not the number of axes, or one is
            not positive.
    """
    prediction, reference = as_masks(prediction, reference)
    spacing_mm = checked_spacing(spacing_mm, prediction.ndim)
    if not prediction.any() or not reference.any():
        nothing = 0.0 if prediction.any() or reference.any() else np.nan
        return SurfaceDistances(hausdorff95_mm=np.nan, assd_mm=np.nan, within=nothing)
    # The distance transform costs as much on background as anywhere; beyond the union's box there
    # is nothing else.
    (box,) = ndimage.find_objects((prediction | reference).astype(np.uint8))
    surfaces = [_surface(mask[box]) for mask in (prediction, reference)]
    forth, back = (
        ndimage.distance_transform_edt(~target, sampling=spacing_mm)[source]
        for source, target in (surfaces, surfaces[::-1])
    )
    hausdorff95_mm = max(np.percentile(forth, 95), np.percentile(back, 95))
    both = np.concatenate([forth, back])
    within = (both <= SURFACE_TOLERANCE_MM).mean()
    return SurfaceDistances(float(hausdorff95_mm), float(both.mean()), float(within))


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    labels: Mapping[str, int],
    spacing_mm: Sequence[float],
) -> list[dict[str, float | str]]:
    """Score one label map against its reference, label by label.

    Args:
        prediction: label map, integer ids, any shape.
        reference: label map of the same shape.
        labels: name of a structure -> its id in both maps.
        spacing_mm: voxel size per axis, in the array's axis order.

    Returns:
        One row per label, in the order of `labels`: label, dice, jaccard, volume_ml, reference_ml,
        volume_difference_ml, relative_volume_difference, hd95_mm, assd_mm, nsd_2mm (surface Dice at
        `SURFACE_TOLERANCE_MM`), and status: "ok", "both empty", "prediction empty" or "reference
        empty".

    Raises:
        ValueError: see `surface_distances`.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    rows = []
    for name, label in labels.items():
        found, expected = as_masks(prediction == label, reference == label)
        distances = surface_distances(found, expected, spacing_mm=spacing_mm)
        found_ml = volume_ml(found, spacing_mm=spacing_mm)
        expected_ml = volume_ml(expected, spacing_mm=spacing_mm)
        rows.append({
            "label": name,
            "dice": dice(found, expected),
            "jaccard": jaccard(found, expected),
            "volume_ml": found_ml,
            "reference_ml": expected_ml,
            "volume_difference_ml": found_ml - expected_ml,
            "relative_volume_difference": relative_volume_difference(found, expected),
            "hd95_mm": distances.hausdorff95_mm,
            "assd_mm": distances.assd_mm,
            "nsd_2mm": distances.within,
            "status": STATUS[bool(found.any()), bool(expected.any())],
        })  # fmt: skip
    return rows


def summarise(values: Iterable[float]) -> dict[str, Any]:
    """Describe one measure over all cases, with Student's interval of its mean.

    A bootstrap interval of a mean covers too little where cases are few: 74 % of the time instead
    of 95 with three of them, 84 with five. Student's t keeps its word for the skewed values of an
    overlap as well; with fewer than `FEWEST_FOR_INTERVAL` cases it says nothing, and the values
    themselves stand in its place.

    Args:
        values: one number per case; NaN (or infinite) where the measure is undefined.

    Returns:
        n, the defined values, on which all else rests; n_undefined, the others; mean; sd (n - 1 in
        the denominator); ci95_low and ci95_high; median, min, max; values, in rising order where
        no interval is stated, else empty. NaN where there are too few values: none for most, fewer
        than two for sd.
    """
    values = np.asarray([float(value) for value in values], dtype=np.float64)
    defined = np.sort(values[np.isfinite(values)])
    n = defined.size
    mean = float(defined.mean()) if n else np.nan
    sd = float(defined.std(ddof=1)) if n > 1 else np.nan
    few = n < FEWEST_FOR_INTERVAL
    half = np.nan if few else float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return {
        "n": n,
        "n_undefined": values.size - n,
        "mean": mean,
        "sd": sd,
        "ci95_low": mean - half,
        "ci95_high": mean + half,
        "median": float(np.median(defined)) if n else np.nan,
        "min": float(defined[0]) if n else np.nan,
        "max": float(defined[-1]) if n else np.nan,
        "values": defined.tolist() if few else [],
    }


def _surface(mask: np.ndarray) -> np.ndarray:
    cross = ndimage.generate_binary_structure(mask.ndim, 1)
    return mask & ~ndimage.binary_erosion(mask, structure=cross, border_value=0)
