"""A fetal-like head in T2-weighted look: a folding cortical ribbon around bright white matter.

Size and folding follow the age. Axis order (x, y, z) = (left-right, back-front, foot-head), mm.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import distance_transform_edt

from common.data.phantoms import (
    bias_field,
    ellipsoid_distance,
    fraction_inside,
    grid_points,
    make_smooth_field,
    paint,
    rician_noise,
    rotation_matrix,
)

YOUNGEST_WEEKS, OLDEST_WEEKS = 21.0, 38.0
WIDTH_MM = (50.0, 92.0)
"""Of the skull's inside, at the youngest and the oldest age (rounded from growth charts)."""
LENGTH_PER_WIDTH, HEIGHT_PER_WIDTH = 1.25, 0.95
FOLD_DEPTH_MM = (0.5, 7.0)
FOLD_ANGLE_RAD = (1.3, 0.55)
"""Wavelength of the folds on the unit sphere: few and broad, then many."""
RIBBON_MM = 3.2
FISSURE_MM = 2.0
EXTRA_AXIAL_MM = 2.5
SKULL_MM, SCALP_MM = 2.5, 3.0

MOTHER, FLUID, SCALP, SKULL, CSF = 330.0, 900.0, 420.0, 110.0, 850.0
CORTEX, WHITE, DEEP_GREY, CEREBELLUM = 330.0, 620.0, 430.0, 390.0
NOISE = 18.0


@dataclass(frozen=True)
class Head:
    """One phantom: intensities and the two structures the networks are to find."""

    image: np.ndarray
    """(x, y, z) float32."""
    brain: np.ndarray
    """(x, y, z) uint8, everything inside the skull."""
    cortex: np.ndarray
    """(x, y, z) uint8, the ribbon."""


def make_head(
    rng: np.random.Generator, *, age_weeks: float, shape: tuple[int, int, int], spacing_mm: float
) -> Head:
    """Draw one head, whose age of 21 to 38 weeks sets size and folding, in cubic voxels."""
    grown = (age_weeks - YOUNGEST_WEEKS) / (OLDEST_WEEKS - YOUNGEST_WEEKS)
    width = np.interp(grown, (0, 1), WIDTH_MM) * rng.uniform(0.97, 1.03)
    radii = np.array([width, width * LENGTH_PER_WIDTH, width * HEIGHT_PER_WIDTH]) / 2
    turn = rotation_matrix(rng.uniform(-0.35, 0.35, 3))
    points = grid_points(shape, (spacing_mm,) * 3) - rng.uniform(-3, 3, 3).astype(np.float32)
    points = points @ turn.astype(np.float32)  # the head's own axes
    inside_skull = ellipsoid_distance(points, (0, 0, 0), radii)
    pial = _pial_distance(points, radii, grown, rng)
    # The ribbon is as thick on the walls of a fold as on its crown.
    depth = distance_transform_edt(pial <= 0).astype(np.float32) * np.float32(spacing_mm)
    ribbon = (pial <= 0) & (depth <= RIBBON_MM)

    image = _surroundings(points, inside_skull, radii, rng)
    edge = spacing_mm
    paint(image, CSF, fraction_inside(inside_skull, edge))
    paint(image, CORTEX, fraction_inside(pial, edge))
    paint(image, WHITE, fraction_inside(RIBBON_MM + edge / 2 - depth, edge))
    for distance, value in _inner_structures(points, radii, rng):
        paint(image, value, fraction_inside(distance, edge))
        ribbon &= distance > 0
    image *= bias_field(points, rng, strength=0.08, wavelength_mm=180.0)
    return Head(
        image=rician_noise(image, rng, sigma=NOISE).astype(np.float32),
        brain=(inside_skull <= 0).astype(np.uint8),
        cortex=ribbon.astype(np.uint8),
    )


def _pial_distance(points, radii, grown: float, rng) -> np.ndarray:
    """Return the distance outside the folded surface of the brain."""
    depth = np.interp(grown, (0, 1), FOLD_DEPTH_MM)
    field = make_smooth_field(
        rng, wavelength_mm=float(np.interp(grown, (0, 1), FOLD_ANGLE_RAD)), terms=24
    )

    def folds(directions):
        # Broad gyri, narrow sulci, never beyond the skull.
        return -np.clip(field(directions) - 0.3, 0, 2)

    outer = radii - EXTRA_AXIAL_MM
    wobble = float(depth / outer.min())
    folded = ellipsoid_distance(points, (0, 0, 0), outer, wobble=wobble, field=folds)
    # The fissure between the hemispheres opens upwards.
    across, above = np.abs(points[..., 0]) - FISSURE_MM / 2, 0.35 * radii[2] - points[..., 2]
    return np.maximum(folded, -np.maximum(across, above))


def _surroundings(points, inside_skull, radii, rng) -> np.ndarray:
    """Return mother, amniotic fluid, scalp and skull."""
    texture = make_smooth_field(rng, wavelength_mm=25.0)
    image = (MOTHER * (1 + 0.25 * texture(points))).astype(np.float32)
    sac = ellipsoid_distance(
        points, rng.uniform(-10, 10, 3), radii + rng.uniform(10, 25, 3), wobble=0.08,
        field=make_smooth_field(rng, wavelength_mm=3.0),
    )  # fmt: skip
    paint(image, FLUID, fraction_inside(sac, 2.0))
    paint(image, SCALP, fraction_inside(inside_skull - SKULL_MM - SCALP_MM, 1.5))
    paint(image, SKULL, fraction_inside(inside_skull - SKULL_MM, 1.5))
    return image


def _inner_structures(points, radii, rng):
    """Yield distance and intensity of deep grey matter, ventricles and cerebellum."""
    x, y, z = radii
    for side in (-1, 1):
        yield ellipsoid_distance(points, (side * 0.2 * x, 0, -0.1 * z), 0.22 * radii), DEEP_GREY
        bend = rotation_matrix((0, 0, side * 0.2))
        centre, edges = (side * 0.22 * x, -0.05 * y, 0.2 * z), (0.09 * x, 0.4 * y, 0.12 * z)
        yield ellipsoid_distance(points, centre, edges, rotation=bend), CSF
    centre, edges = (0, -0.5 * y, -0.62 * z), (0.45 * x, 0.28 * y, 0.26 * z)
    field = make_smooth_field(rng, wavelength_mm=0.6)
    yield ellipsoid_distance(points, centre, edges, wobble=0.04, field=field), CEREBELLUM


def write_head(folder: Path, name: str, head, affine) -> None:
    """Write scan, brain mask and cortex of one head under its name."""
    arrays = {
        "t2w": np.rint(head.image).astype(np.int16),
        "brain": head.brain,
        "cortex": head.cortex,
    }
    for subfolder, array in arrays.items():
        image = nibabel.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / subfolder / f"{name}.nii.gz")
