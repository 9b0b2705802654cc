"""One synthetic patient: solids of soft tissue, bone, air and organs, each with its CT and uptake.

Axis order (Z, Y, X): slices from the feet up, rows from front to back, columns across; 5 mm.
Shapes are simple on purpose; what matters is that several organs are as avid as the lesion, that
fat and muscle differ on CT, and that the lesion spans its patient's true window.
"""

import numpy as np

from common.data.phantoms import (
    ellipsoid_distance,
    fraction_inside,
    grid_points,
    make_smooth_field,
    paint,
)
from sarcoma.config import POSITIVE_SLICES
from sarcoma.data import SPACING_MM

SLICES = {
    "STS_002": 175, "STS_003": 175, "STS_005": 175, "STS_012": 175, "STS_021": 203,
    "STS_023": 175, "STS_031": 168,
}  # fmt: skip
"""Slices of the true patients (spec of the data set)."""
RADIUS_MM = {
    "STS_002": 22, "STS_003": 28, "STS_005": 44, "STS_012": 20, "STS_021": 48, "STS_023": 28,
    "STS_031": 40,
}  # fmt: skip
"""In-plane radius of the lesion; its volume is then near the true patient's."""
FAR_MM = 40.0
"""Distances beyond this one do not matter."""
BLUR_MM = 8.0
"""Width of an edge: the scanner's, mostly PET's."""

ORGANS = (
    # name, height above the feet's end as a share, offset (y, x) in mm, radii (z, y, x), HU, SUV
    ("bladder", 0.36, (-15, 0), (28, 28, 34), 5, 14.0),
    ("liver", 0.60, (-5, -55), (60, 55, 62), 60, 2.3),
    ("kidney right", 0.56, (38, -48), (48, 18, 22), 35, 3.6),
    ("kidney left", 0.57, (38, 48), (48, 18, 22), 35, 3.6),
    ("lung right", 0.74, (0, -62), (88, 62, 42), -780, 0.4),
    ("lung left", 0.74, (0, 62), (88, 62, 42), -780, 0.4),
    ("heart", 0.69, (-22, 22), (40, 34, 40), 40, 3.0),
)


def make_patient(patient: str, plane: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return one patient's volumes (slices, plane, plane) by group.

    ct_data is int16 (Hounsfield units), pet_data float32 (SUV), label_data uint8 of 0 and 2.
    `patient` is one of `SLICES`.
    """
    shape = (SLICES[patient], plane, plane)
    points = grid_points(shape, (SPACING_MM,) * 3)
    height = points[..., 0].max() - points[..., 0].min()
    points[..., 0] += height / 2  # 0 at the feet's end
    size = rng.uniform(0.92, 1.08)
    ct = np.full(shape, -1000.0, np.float32)
    pet = np.full(shape, 0.02, np.float32)
    body = draw_body(ct, pet, points, height, size, rng)
    draw_organs(ct, pet, points, height, size, rng)
    label = draw_lesion(ct, pet, points, patient, body, rng)
    texture = make_smooth_field(rng, wavelength_mm=60.0)(points)
    pet *= np.exp(0.12 * texture)
    pet += rng.normal(0, 0.05, shape).astype(np.float32) + 0.08 * np.sqrt(np.abs(pet)) * (
        rng.standard_normal(shape).astype(np.float32)
    )
    ct += rng.normal(0, 15, shape).astype(np.float32)
    return {
        "ct_data": np.clip(ct, -1024, 2048).astype(np.int16),
        "pet_data": pet.astype(np.float32),
        "label_data": (2 * label).astype(np.uint8),
    }


def draw_body(ct, pet, points, height: float, size: float, rng) -> np.ndarray:
    """Paint fat, muscle and bone of legs, trunk, arms and head; return the distance to the skin.

    Lengths are mm, z counts from the feet's end; the distance (Z, Y, X) float32 is negative inside.
    """
    bend = make_smooth_field(rng, wavelength_mm=700.0)

    def solid(at, offset, radii):
        # Heights go with the scan's length, widths with the patient's size.
        centre = (at * height, offset[0] * size, offset[1] * size)
        radii = (radii[0] * height / 870, radii[1] * size, radii[2] * size)
        return distance_near(points, centre, radii, wobble=0.03, field=bend)

    parts = [
        (solid(0.62, (0, 0), (270, 105, 170)), 24),
        (solid(0.10, (0, -75), (260, 68, 68)), 14),
        (solid(0.10, (0, 75), (260, 68, 68)), 14),
        (solid(0.62, (10, -205), (190, 36, 34)), 8),
        (solid(0.62, (10, 205), (190, 36, 34)), 8),
        (solid(0.95, (0, 0), (95, 88, 70)), 6),
    ]
    skin = np.minimum.reduce([distance for distance, _ in parts])
    paint_both(ct, pet, skin, -95, 0.35)
    for distance, fat_mm in parts:
        paint_both(ct, pet, distance + fat_mm, 45, 0.75)
    for side in (-75, 75):
        paint_both(ct, pet, solid(0.10, (5, side), (270, 15, 15)), 650, 0.6)
    paint_both(ct, pet, solid(0.62, (72, 0), (300, 20, 20)), 400, 1.1)
    paint_both(ct, pet, solid(0.96, (0, 0), (75, 76, 60)), 700, 0.6)
    paint_both(ct, pet, solid(0.96, (0, 0), (66, 67, 51)), 38, rng.uniform(6, 9))
    return skin


def draw_organs(ct, pet, points, height: float, size: float, rng) -> None:
    """Paint the organs of `ORGANS`, each a little out of place and with an uptake of its own."""
    for _, share, offset, radii, hounsfield, uptake in ORGANS:
        centre = (
            share * height + rng.normal(0, 6),
            offset[0] * size + rng.normal(0, 4),
            offset[1] * size + rng.normal(0, 4),
        )
        scaled = [radius * size * rng.uniform(0.92, 1.08) for radius in radii]
        field = make_smooth_field(rng, wavelength_mm=2.5)
        distance = distance_near(points, centre, scaled, wobble=0.06, field=field)
        paint_both(ct, pet, distance, hounsfield, uptake * rng.uniform(0.7, 1.3))


def draw_lesion(ct, pet, points, patient: str, skin, rng) -> np.ndarray:
    """Paint an avid lesion with a less avid core into muscle; return it, (Z, Y, X) bool.

    It has voxels in every slice of its window, and in no other.
    """
    start, stop = POSITIVE_SLICES[patient]
    middle = (start + stop - 1) / 2
    plane = round(middle)
    radius = RADIUS_MM[patient] * points.shape[1] / 100
    centre = choose_place(skin[plane], radius, rng)
    field = make_smooth_field(rng, wavelength_mm=2.2)
    label = np.zeros(skin.shape, bool)
    half_height = (stop - start) / 2 * SPACING_MM
    height = float(points[plane, 0, 0, 0]) + (middle - plane) * SPACING_MM
    at = (height, *points[(plane, *centre)][1:])
    distance = distance_near(
        points, at, (half_height, radius, radius * rng.uniform(0.8, 1.2)), wobble=0.08, field=field
    )
    label[start:stop] = distance[start:stop] <= 0
    for z in range(start, stop):  # an end cap thinner than a voxel still has a middle
        if not label[z].any():
            label[z].flat[distance[z].argmin()] = True
    paint_both(ct, pet, distance, 38, rng.uniform(5, 9))
    core = distance + rng.uniform(0.45, 0.6) * radius
    paint_both(ct, pet, core, 22, rng.uniform(2.5, 4))
    return label


def distance_near(points, centre, radii, **shape) -> np.ndarray:
    """Return `ellipsoid_distance` where it is small, and `FAR_MM` everywhere else."""
    distance = np.full(points.shape[:-1], FAR_MM, np.float32)
    box = []
    for axis, (at, radius) in enumerate(zip(centre, radii, strict=True)):
        line = points[tuple(slice(None) if i == axis else 0 for i in range(3))][:, axis]
        inside = np.flatnonzero(np.abs(line - at) < 1.4 * radius + FAR_MM)
        box.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(0, 0))
    box = tuple(box)
    if distance[box].size:
        found = ellipsoid_distance(points[box], centre, radii, **shape)
        distance[box] = np.minimum(found, FAR_MM)
    return distance


def choose_place(skin: np.ndarray, radius: float, rng) -> tuple[int, int]:
    """Return the pixel of a slice that a lesion is centred on: as deep in the body as it needs."""
    depth = -skin + rng.uniform(0, 4, skin.shape)
    wanted = min(0.75 * radius, float(depth.max()) - 1)
    candidates = np.argwhere(depth >= wanted)
    return tuple(int(i) for i in candidates[rng.integers(len(candidates))])


def paint_both(ct, pet, distance, hounsfield: float, uptake: float) -> None:
    """Paint a solid into both images: sharp on CT, blurred on PET."""
    paint(ct, np.float32(hounsfield), fraction_inside(distance, SPACING_MM))
    paint(pet, np.float32(uptake), fraction_inside(distance, BLUR_MM))
