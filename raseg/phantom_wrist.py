"""One synthetic wrist: bones, joints, vessels, and the disease that the networks look for.

Axis order (row, column, slice); millimetres from the centre: rows run from the hand to the forearm,
columns from thumb to little finger, slices from the back to the palm. Synovitis is a thin layer
around bones of the carpus that contrast agent brightens, as it does the vessels; bone marrow oedema
is a bright spot within a bone on T2 with fat suppressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.phantoms import (
    SmoothField,
    ellipsoid_distance,
    fraction_inside,
    make_smooth_field,
    paint,
    rician_noise,
    rotation_matrix,
)

FIELD_OF_VIEW_MM = 84.0
SLICE_MM = 2.5
FAT, MUSCLE, CORTEX, MARROW, JOINT, VESSEL, DISEASE = range(7)
INTENSITIES = {
    "synovitis": {
        # after and before contrast
        FAT: (760, 740), MUSCLE: (330, 300), CORTEX: (70, 65), MARROW: (640, 625),
        JOINT: (300, 280), VESSEL: (900, 210), DISEASE: (820, 270),
    },
    "bme": {
        FAT: (130,), MUSCLE: (240,), CORTEX: (50,), MARROW: (110,), JOINT: (520,),
        VESSEL: (700,), DISEASE: (560,),
    },
}  # fmt: skip
"""Scanner units by tissue and channel."""


@dataclass(frozen=True)
class Bone:
    """An ellipsoid with a rough surface."""

    centre_mm: np.ndarray
    radii_mm: np.ndarray
    rotation: np.ndarray
    is_carpal: bool


@dataclass(frozen=True)
class Wrist:
    """Everything that is drawn once per volume, as functions of space."""

    bones: Sequence[Bone]
    vessels: Sequence[tuple[np.ndarray, float]]
    """Column and slice of each, and its radius, mm."""
    radii_mm: tuple[float, float]
    """Half width and half thickness of the forearm's cross-section."""
    texture: SmoothField
    roughness: SmoothField
    swelling: SmoothField
    thickness_mm: float
    lesions: Sequence[tuple[np.ndarray, float]]
    bias: SmoothField


def spacing_of(shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the spacing of rows, columns, slices in mm that shows the same field of view."""
    return (FIELD_OF_VIEW_MM / shape[0], FIELD_OF_VIEW_MM / shape[1], SLICE_MM * 20 / shape[2])


def make_wrist(
    shape: tuple[int, int, int], rng: np.random.Generator, task: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw one wrist for a task, "synovitis" or "bme".

    Returns images (rows, columns, slices) int16 by channel, and label of the same shape, 0 and 1.
    """
    wrist = draw_wrist(rng)
    spacing = spacing_of(shape)
    values = INTENSITIES[task]
    images = [np.empty(shape, np.int16) for _ in values[FAT]]
    label = np.zeros(shape, np.uint8)
    gain, sigma = rng.uniform(0.7, 1.3), rng.uniform(15, 28)
    rows, columns, slices = (
        (np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)
    )
    # Slice by slice, so that a volume of the original's size fits into memory.
    for number, height in enumerate(slices):
        points = np.stack(np.meshgrid(rows, columns, [height], indexing="ij"), axis=-1)[:, :, 0]
        points = points.astype(np.float32)
        tissues, diseased = divide_tissues(wrist, points, spacing[0], task)
        label[..., number] = diseased
        shading = np.exp(0.15 * wrist.bias(points))
        grain = 1 + 0.06 * wrist.texture(points)
        for channel, image in enumerate(images):
            signal = np.full(points.shape[:2], 12.0, np.float32)
            for tissue, fraction in tissues:
                paint(signal, values[tissue][channel] * grain, fraction)
            signal = rician_noise(signal * shading, rng, sigma=sigma)
            image[..., number] = np.rint(np.clip(signal * gain, 0, 32_000))
    return images, label


def draw_wrist(rng: np.random.Generator) -> Wrist:
    """Choose bones, vessels and the extent of the disease."""
    size = rng.uniform(0.92, 1.08)
    bones = [
        Bone(np.array(centre) * size + rng.normal(0, 0.6, 3), np.array(radii) * size
             * rng.uniform(0.92, 1.08, 3), rotation_matrix(rng.normal(0, 0.15, 3)), carpal)
        for centre, radii, carpal in BONES
    ]  # fmt: skip
    vessels = []
    for _ in range(6):
        angle = rng.uniform(0, 2 * np.pi)
        place = np.array([23.0 * np.cos(angle), 12.5 * np.sin(angle)]) * size
        vessels.append((place, rng.uniform(0.9, 1.6)))
    carpal = [bone for bone in bones if bone.is_carpal]
    lesions = [
        (bone.centre_mm + rng.normal(0, 1.5, 3), rng.uniform(4.5, 7.0))
        for bone in (carpal[index] for index in rng.choice(len(carpal), 3, replace=False))
    ]
    return Wrist(
        bones=bones,
        vessels=vessels,
        radii_mm=(30.0 * size, 17.5 * size),
        texture=make_smooth_field(rng, wavelength_mm=9.0),
        roughness=make_smooth_field(rng, wavelength_mm=2.5),
        swelling=make_smooth_field(rng, wavelength_mm=30.0),
        thickness_mm=rng.uniform(2.2, 3.4),
        lesions=lesions,
        bias=make_smooth_field(rng, wavelength_mm=220.0),
    )


BONES = [
    ((34.0, -9.0, 0.0), (21.0, 12.5, 8.5), False),  # radius
    ((36.0, 15.0, 1.0), (19.0, 6.5, 6.0), False),  # ulna
    ((7.0, -13.0, 0.5), (6.0, 6.5, 5.5), True),  # scaphoid
    ((7.5, 0.0, 0.0), (5.5, 5.5, 6.0), True),  # lunate
    ((7.0, 12.0, 0.5), (5.0, 5.5, 5.0), True),  # triquetrum
    ((-6.5, -18.0, 2.0), (5.5, 5.0, 5.5), True),  # trapezium
    ((-7.0, -8.5, 0.0), (5.5, 4.5, 5.5), True),  # trapezoid
    ((-7.0, 1.5, 0.0), (7.0, 5.0, 6.0), True),  # capitate
    ((-6.0, 12.0, 1.0), (5.5, 5.5, 5.5), True),  # hamate
    *[((-33.0, x, 0.0), (19.0, 4.2, 4.2), False) for x in (-19.0, -7.5, 3.5, 14.5)],
]
"""Centre (row, column, slice) and radii in mm, and whether a joint capsule is around it."""


def divide_tissues(
    wrist: Wrist, points: np.ndarray, edge: float, task: str
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """Return what lies where in one slice of points (rows, columns, 3) mm.

    Returns tissues with the share of every pixel they fill, in the order they are painted over each
    other; and the disease's mask (rows, columns). Edges are blurred over `edge` mm.
    """
    width, depth = wrist.radii_mm
    width = width + np.float32(0.12) * np.maximum(-points[..., 0], 0)  # the hand is broader
    inside = np.hypot(points[..., 1] / width, points[..., 2] / depth)
    skin = (inside - 1) * np.float32(depth)
    bones = np.full(points.shape[:2], 1e3, np.float32)
    carpal = bones.copy()
    for bone in wrist.bones:
        if abs(points[0, 0, 2] - bone.centre_mm[2]) > 1.2 * bone.radii_mm.max() + 6:
            continue  # too far from this slice to matter
        distance = ellipsoid_distance(
            points, bone.centre_mm, bone.radii_mm, rotation=bone.rotation, wobble=0.05,
            field=wrist.roughness,
        )  # fmt: skip
        np.minimum(bones, distance, out=bones)
        if bone.is_carpal:
            np.minimum(carpal, distance, out=carpal)
    tubes = np.full(points.shape[:2], 1e3, np.float32)
    for place, radius in wrist.vessels:
        away = np.hypot(points[..., 1] - place[0], points[..., 2] - place[1]) - radius
        np.minimum(tubes, away.astype(np.float32), out=tubes)
    tubes = np.maximum(tubes, 2.5 - bones)
    thickness = wrist.thickness_mm * np.clip(0.55 + 0.8 * wrist.swelling(points), 0, 1.3)
    # Negative inside the layer: off the bone, not thicker than the swelling, beneath the skin.
    disease = np.maximum(np.maximum(0.2 - bones, carpal - thickness), skin + 3.5)
    if task == "bme":
        spots = [np.linalg.norm(points - place, axis=-1) - r for place, r in wrist.lesions]
        disease = np.maximum(np.minimum.reduce(spots), bones + 1.0).astype(np.float32)
    tissues = [
        (FAT, fraction_inside(skin, edge)),
        (MUSCLE, fraction_inside(skin + 4.0, 2 * edge)),
        (VESSEL, fraction_inside(tubes, edge)),
        (JOINT, fraction_inside(carpal - 2.0, edge)),
        (CORTEX, fraction_inside(bones, edge)),
        (MARROW, fraction_inside(bones + 1.0, edge)),
        (DISEASE, fraction_inside(disease, edge)),
    ]
    return tissues, disease < 0
