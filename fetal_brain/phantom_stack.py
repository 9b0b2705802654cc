"""One synthetic stack: a fetal head and body in the uterus, moving between two-dimensional shots.

Axis order (Z, Y, X); millimetres from the centre of the stack. Intensities are those of a
T2-weighted single-shot sequence: fluid is bright, grey matter darker than the white matter that
has no myelin yet, bone black.
"""

from dataclasses import dataclass

import numpy as np

from common.data.geometry import Geometry, Volume
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

BRAIN, PLACENTA, UTERUS = 2, 9, 10
"""Label ids of the original's protocol; the uterus is what is neither brain nor placenta in it."""
SPACING_ZYX_MM = (3.5, 1.25, 1.25)
FLUID = 950.0


@dataclass(frozen=True)
class Anatomy:
    """Where the organs of one case lie."""

    uterus_centre_mm: np.ndarray
    uterus_radii_mm: np.ndarray
    head_centre_mm: np.ndarray
    brain_radii_mm: np.ndarray
    """Of the inside of the skull, along the head's own axes: (Z, left-right, front-back)."""
    head_rotation: np.ndarray
    body_direction: np.ndarray
    """(3,) unit vector from head to trunk."""
    placenta_direction: np.ndarray
    """(3,) unit vector from the middle of the uterus to that of the placenta."""


def make_stack(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """Draw one motion-corrupted stack of so many slices, rows and columns.

    Returns:
        Image of int16 scanner units with an oblique geometry; label (Z, Y, X) uint8 with the ids
        0, 2 (brain), 9 (placenta), 10 (uterus).
    """
    points = grid_points(shape, SPACING_ZYX_MM)
    anatomy = draw_anatomy(np.array(shape) * SPACING_ZYX_MM, rng)
    image, label = paint_mother(points, anatomy, rng)
    moved = move_slices(points, anatomy.head_centre_mm, rng)
    paint_body(image, moved, anatomy, rng)
    brain = paint_head(image, moved, anatomy, rng)
    label[brain] = BRAIN
    image *= bias_field(points, rng, strength=0.15, wavelength_mm=350.0)
    image *= draw_dropouts(points, anatomy, rng)
    image = rician_noise(image, rng, sigma=rng.uniform(20, 35))
    scaled = np.rint(image * rng.uniform(0.6, 1.4)).astype(np.int16)
    geometry = Geometry(
        spacing_mm=SPACING_ZYX_MM[::-1],
        origin_mm=tuple(rng.uniform(-120, -60, 3).round(2).tolist()),
        direction=tuple(rotation_matrix(rng.normal(0, 0.2, 3)).ravel().tolist()),
    )
    return Volume(scaled, geometry), label


def draw_anatomy(extent_mm: np.ndarray, rng: np.random.Generator) -> Anatomy:
    """Choose organs that fit a field of view (3,) in mm, the head in the middle third of it."""
    brain = np.array([21.0, 27.0, 34.0]) * rng.uniform(0.9, 1.1) * rng.uniform(0.96, 1.04, 3)
    brain = np.minimum(brain, extent_mm * (0.40, 0.27, 0.27))
    head = rng.uniform(-1, 1, 3) * extent_mm * (0.03, 0.07, 0.07)
    turn = rotation_matrix((rng.uniform(0, 2 * np.pi), *rng.normal(0, 0.12, 2)))
    angle, side = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    body = np.array([rng.normal(0, 0.15), np.sin(angle), np.cos(angle)])
    away = angle + side * rng.uniform(1.6, 2.6)
    placenta = np.array([rng.normal(0, 0.3), np.sin(away), np.cos(away)])
    body, placenta = body / np.linalg.norm(body), placenta / np.linalg.norm(placenta)
    radii = np.array([brain[0] * 1.9, brain[2] * 1.75, brain[2] * 1.75])
    return Anatomy(
        uterus_centre_mm=head + 0.55 * brain[2] * body - 0.25 * brain[2] * placenta * (0, 1, 1),
        uterus_radii_mm=radii * rng.uniform(0.95, 1.12, 3),
        head_centre_mm=head,
        brain_radii_mm=brain,
        head_rotation=turn,
        body_direction=body,
        placenta_direction=placenta,
    )


def paint_mother(
    points: np.ndarray, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paint the mother, the wall of the uterus, fluid and placenta, none of which moves.

    Returns image (Z, Y, X) float32 and label (Z, Y, X) uint8 with placenta and uterus.
    """
    edge = SPACING_ZYX_MM[1]
    texture = make_smooth_field(rng, wavelength_mm=22.0)(points)
    bowel = make_smooth_field(rng, wavelength_mm=38.0)(points)
    front = rng.uniform(-0.5, 0.5)  # direction in which the skin and the air are
    skin = np.array([0.0, np.sin(front), np.cos(front)]) * rng.choice([-1.0, 1.0])
    depth = float(np.abs(points[..., 2]).max()) * 0.94 - points @ skin.astype(np.float32)
    depth += 5 * make_smooth_field(rng, wavelength_mm=160.0)(points)

    image = 210 + 30 * texture  # muscle
    paint(image, 520 + 60 * texture, fraction_inside((0.9 - bowel) * 9, 2 * edge))
    paint(image, FLUID * 0.85, fraction_inside((1.9 - bowel) * 9, 2 * edge))
    paint(image, 720 + 25 * texture, fraction_inside(depth - rng.uniform(9, 16), edge))  # fat
    shape = make_smooth_field(rng, wavelength_mm=2.5)
    wall = ellipsoid_distance(
        points, anatomy.uterus_centre_mm, anatomy.uterus_radii_mm, wobble=0.05, field=shape
    )
    paint(image, 330 + 40 * texture, fraction_inside(wall - 5, edge))
    paint(image, FLUID + 15 * texture, fraction_inside(wall, edge))

    offsets = points - anatomy.uterus_centre_mm.astype(np.float32)
    facing = offsets @ anatomy.placenta_direction.astype(np.float32)
    facing /= np.linalg.norm(offsets, axis=-1) + 1e-3
    thickness = rng.uniform(20, 27) * np.clip(facing * 1.6 - 0.5, 0, 1) + 1.5 * texture
    placenta = np.maximum(wall, -wall - thickness)
    placenta = np.where(facing > 0.33, placenta, np.float32(1e3))
    lobes = make_smooth_field(rng, wavelength_mm=14.0)(points)
    paint(image, 590 + 55 * lobes, fraction_inside(placenta, edge))
    # Past the skin there is air, whatever was painted there.
    paint(image, np.float32(8), fraction_inside(depth, edge))

    label = np.where(wall < 0, UTERUS, 0).astype(np.uint8)
    label[placenta < 0] = PLACENTA
    label[depth < 0] = 0
    return image, label


def move_slices(points: np.ndarray, centre_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return, for each voxel, the point of the resting fetus that its slice's shot saw there.

    The even slices are shot before the odd ones. The fetus drifts from shot to shot, kicks now and
    then, and lies differently in the second half; the head turns about `centre_mm`.
    """
    slices = len(points)
    order = [*range(0, slices, 2), *range(1, slices, 2)]
    drift = rng.normal(0, (0.3, 0.7, 0.7, 0.012), (slices, 4))
    kicks = rng.random((slices, 1)) < 0.06
    drift += kicks * rng.normal(0, (0.8, 3.5, 3.5, 0.08), (slices, 4))
    drift[(slices + 1) // 2 :][:1] += rng.normal(0, (0.8, 2.2, 2.2, 0.06), (1, 4))
    poses = np.cumsum(drift, axis=0)
    poses -= poses.mean(axis=0)

    moved = np.empty_like(points)
    centre = centre_mm.astype(np.float32)
    for pose, index in zip(poses, order, strict=True):
        turn = rotation_matrix((pose[3], 0, 0)).astype(np.float32)
        moved[index] = (points[index] - centre - pose[:3].astype(np.float32)) @ turn + centre
    return moved


def paint_body(
    image: np.ndarray, points: np.ndarray, anatomy: Anatomy, rng: np.random.Generator
) -> None:
    """Paint trunk and limbs of the fetus, in place; its contrasts resemble those of the head."""
    edge = SPACING_ZYX_MM[1]
    size, forward = anatomy.brain_radii_mm, anatomy.body_direction
    across = np.cross(forward, (1.0, 0.0, 0.0))
    across /= np.linalg.norm(across)
    axes = np.stack([np.cross(forward, across), across, forward], axis=1)
    chest = anatomy.head_centre_mm + forward * size[2] * 1.75
    texture = make_smooth_field(rng, wavelength_mm=11.0)(points)
    trunk = ellipsoid_distance(points, chest, size * (0.85, 0.75, 1.05), rotation=axes)
    paint(image, 470 + 30 * texture, fraction_inside(trunk, edge))
    paint(image, 330 + 35 * texture, fraction_inside(trunk + 3, edge))
    for side in (-1, 1):
        lung = chest - forward * size[2] * 0.35 + side * across * size[1] * 0.32
        distance = ellipsoid_distance(points, lung, size * (0.45, 0.26, 0.42), rotation=axes)
        paint(image, 690 + 35 * texture, fraction_inside(distance, 2 * edge))
    spine = ellipsoid_distance(
        points, chest - axes[:, 0] * size[0] * 0.5, size * (0.14, 0.10, 1.0), rotation=axes
    )
    paint(image, 110 + 20 * texture, fraction_inside(spine, edge))
    for _ in range(4):  # limbs, dark bone in the middle
        place = chest + rng.normal(0, 0.75, 3) * size * (0.7, 1, 1) + forward * size[2] * 0.4
        limb = rotation_matrix(rng.uniform(0, 2 * np.pi, 3))
        radii = size[2] * np.array([0.14, 0.14, rng.uniform(0.4, 0.6)])
        for value, share in ((420.0, 1.0), (90.0, 0.35)):
            distance = ellipsoid_distance(points, place, radii * (share, share, 1), rotation=limb)
            paint(image, np.float32(value), fraction_inside(distance, edge))


def paint_head(
    image: np.ndarray, points: np.ndarray, anatomy: Anatomy, rng: np.random.Generator
) -> np.ndarray:
    """Paint skin, skull and brain, in place; return the inside of the skull, (Z, Y, X) bool."""
    edge = SPACING_ZYX_MM[1]
    radii, axes, centre = anatomy.brain_radii_mm, anatomy.head_rotation, anatomy.head_centre_mm
    shape = make_smooth_field(rng, wavelength_mm=3.0)
    inside = ellipsoid_distance(points, centre, radii, rotation=axes, wobble=0.025, field=shape)
    near = inside < 9.0  # the fields below are wanted nowhere else
    local = points[near]
    distance, tissue = inside[near], image[near]

    paint(tissue, np.float32(400), fraction_inside(distance - 5.5, edge))  # skin
    paint(tissue, np.float32(75), fraction_inside(distance - 3.0, edge))  # skull
    paint(tissue, np.float32(FLUID), fraction_inside(distance, edge))
    folds = make_smooth_field(rng, wavelength_mm=13.0, terms=24)(local)
    texture = make_smooth_field(rng, wavelength_mm=9.0)(local)
    own = (local - centre.astype(np.float32)) @ axes.astype(np.float32) / radii.astype(np.float32)
    # Fluid between the hemispheres, wide at their ends and closed in the middle.
    fissure = np.abs(own[:, 1]) * radii[1] - 1.6 * np.clip(2 * np.abs(own[:, 2]) - 0.9, -1, 1)
    cortex = np.maximum(distance + 1.9 + 1.0 * folds, -fissure)
    paint(tissue, 430 + 22 * texture, fraction_inside(cortex, edge))
    paint(tissue, 640 + 22 * texture, fraction_inside(cortex + 2.8, edge))
    for side in (-1, 1):
        for place, size, value in (
            ((0.05, 0.22, 0.12), (0.32, 0.15, 0.22), 470),  # deep grey matter
            ((0.18, 0.26, -0.20), (0.22, 0.085, 0.42), FLUID),  # lateral ventricle
            ((-0.52, 0.24, -0.52), (0.26, 0.26, 0.22), 400),  # cerebellum
        ):
            part = (own - np.float32(place) * (1, side, 1)).astype(np.float32)
            depth = ellipsoid_distance(part, (0, 0, 0), size) * radii.mean()
            paint(tissue, np.float32(value) + 18 * texture, fraction_inside(depth, edge))
    image[near] = tissue
    return inside < 0


def draw_dropouts(points: np.ndarray, anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Return the gain (Z, Y, X) of shots that lost signal to motion, and of the two interleaves."""
    gain = np.ones(points.shape[:3], np.float32)
    gain[1::2] *= rng.uniform(0.92, 1.05)
    for index in np.flatnonzero(rng.random(len(points)) < 0.14):
        place = anatomy.head_centre_mm[1:] + rng.normal(0, 20, 2)
        squares = ((points[index, ..., 1:] - place.astype(np.float32)) ** 2).sum(axis=-1)
        width = rng.uniform(20, 50)
        gain[index] *= 1 - rng.uniform(0.3, 0.65) * np.exp(-squares / (2 * width**2))
    return gain
