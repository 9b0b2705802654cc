"""One synthetic CT of a spine: curved column, vertebrae with arches and processes, ribs, noise.

Points are millimetres in the array's axis order (Z, Y, X) from the centre of the scan; z grows
cranially, y backwards. Densities are Hounsfield units; files hold them plus 1024, as CSI's do.
"""

import numpy as np

from common.data.geometry import Geometry, Volume
from common.data.phantoms import grid_points, make_smooth_field

OFFSET = 1024
"""CSI's files are unsigned: water is 1024."""
AIR, LUNG, TISSUE, DISC, SPONGY, CORTEX, RIB = -1000, -820, 40, 90, 230, 620, 520
NOISE = 22.0
PITCH_MM = 27.0
"""From one vertebra to the next in the middle of the column."""
CORTEX_MM = 1.8


class Column:
    """The middle line of the bodies: y and x as functions of z, in mm.

    It is bent at random, well to the front and back, a little to the side.
    """

    def __init__(self, rng: np.random.Generator):
        self.bend_mm = rng.uniform(5, 10), rng.uniform(-4, 4)
        self.wavelength_mm = rng.uniform(280, 380), rng.uniform(300, 400)
        self.phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        self.offset_mm = rng.uniform(6, 12), rng.uniform(-5, 5)

    def at(self, z: float) -> tuple[float, float]:
        """Return (y, x) at a height."""
        return tuple(
            offset + bend * np.sin(2 * np.pi * z / length + phase)
            for offset, bend, length, phase in zip(
                self.offset_mm, self.bend_mm, self.wavelength_mm, self.phase, strict=True
            )
        )

    def tilt(self, z: float) -> np.ndarray:
        """Return the axes of a vertebra at a height as rows (up, back, side) of a matrix."""
        (y0, x0), (y1, x1) = self.at(z - 1), self.at(z + 1)
        up = np.array([2.0, y1 - y0, x1 - x0])
        up /= np.linalg.norm(up)
        back = np.array([0.0, 1.0, 0.0]) - up[1] * up
        back /= np.linalg.norm(back)
        return np.stack([up, back, np.cross(up, back)])


def make_scan(
    shape: tuple[int, int, int],
    spacing_zyx_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[Volume, Volume]:
    """Make a scan (Z, Y, X) and its labels, both int16.

    Labels are 100, 200, ... from the bottom, as in CSI larger ones further up. The lowest and
    highest vertebra are cut by the ends of the scan as a rule.
    """
    points = grid_points(shape, spacing_zyx_mm)
    column = Column(rng)
    image = make_torso(points, rng)
    labels = np.zeros(shape, np.int16)
    half_mm = shape[0] * spacing_zyx_mm[0] / 2
    z, label = -half_mm - PITCH_MM * rng.uniform(0.0, 0.4), 0
    paint_column(image, points, column)
    while z < half_mm + PITCH_MM / 2:
        scale = 1.0 - 0.12 * z / half_mm + rng.uniform(-0.03, 0.03)
        label += 100
        near = np.abs(points[:, 0, 0, 0] - z) < 45
        if near.any():
            distance = vertebra_distance(points[near], z, column, scale=scale)
            paint_vertebra(image, labels, distance, label=label, at=near)
        z += PITCH_MM * scale
    image += rng.normal(0, NOISE, shape).astype(np.float32)
    stored = np.clip(np.rint(image + OFFSET), 0, 4095).astype(np.int16)
    labels = number_from_bottom(labels)
    geometry = Geometry(tuple(spacing_zyx_mm[::-1]), (-80.0, -60.0, -300.0))
    return Volume(stored, geometry), Volume(labels, geometry)


def make_torso(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a body with lungs in its upper part and ribs in its wall, in air."""
    z, y, x = (points[..., axis] for axis in range(3))
    outline = np.hypot(y / 66, x / 70)
    texture = make_smooth_field(rng, wavelength_mm=30)
    image = np.where(outline < 1, TISSUE + 15 * texture(points), AIR).astype(np.float32)
    top = z[-1, 0, 0]
    for side in (-1, 1):
        lung = ((z - 0.9 * top) / 75) ** 2 + ((y + 22) / 30) ** 2 + ((x - side * 33) / 22) ** 2
        image[lung < 1] = LUNG
    wall = np.abs(outline - 0.88) * 66 < 2.5
    phase = rng.uniform(0, PITCH_MM)
    height = np.mod(z - 0.5 * y + phase, PITCH_MM)
    image[wall & (height < 8) & (z > -0.2 * top)] = RIB
    return image


def paint_column(image: np.ndarray, points: np.ndarray, column: Column) -> None:
    """Fill the column with disc, so that vertebrae are separated by it."""
    for index, z in enumerate(points[:, 0, 0, 0]):
        y, x = column.at(float(z))
        plane = points[index]
        image[index][np.hypot((plane[..., 1] - y) / 14.5, (plane[..., 2] - x) / 17.5) < 1] = DISC


def vertebra_distance(points: np.ndarray, z: float, column: Column, *, scale: float) -> np.ndarray:
    """Return about how many mm points (..., 3) lie outside a vertebra at height z, negative inside.

    At scale 1 a body is 20 mm high.
    """
    centre = np.array([z, *column.at(z)], np.float32)
    axes = column.tilt(z).astype(np.float32) / np.float32(scale)
    up, back, side = np.moveaxis((points - centre) @ axes.T, -1, 0)
    waist = 1.0 - 0.12 * np.clip(1 - (up / 10) ** 2, 0, 1)
    body = np.maximum((np.hypot(back / 14, side / 17) - waist) * 14, np.abs(up) - 10)
    canal = np.hypot(back - 22, side * 0.9)
    arch = np.maximum(np.abs(canal - 10.5) - 3, np.abs(up) - 6)
    arch = np.maximum(arch, 11 - back)
    spinous = np.maximum(np.abs(side) - 3, np.abs(back - 40) - 8)
    spinous = np.maximum(spinous, np.abs(up + 0.4 * (back - 32)) - 5)
    transverse = np.maximum(np.abs(up - 1) - 4, np.abs(back - 20) - 4)
    transverse = np.maximum(transverse, np.abs(np.abs(side) - 19) - 9)
    return scale * np.minimum.reduce([body, arch, spinous, transverse])


def paint_vertebra(
    image: np.ndarray, labels: np.ndarray, distance: np.ndarray, *, label: int, at: np.ndarray
) -> None:
    """Paint a vertebra in place, in the slices `at`, where nothing else is labelled."""
    free = labels[at] == 0
    density = np.where(distance > -CORTEX_MM, CORTEX, SPONGY)
    inside = (distance < 0) & free
    image[at] = np.where(inside, density, image[at])
    labels[at] = np.where(inside, label, labels[at])


def number_from_bottom(labels: np.ndarray) -> np.ndarray:
    """Return labels renumbered 100, 200, ... without gaps."""
    present = np.unique(labels)
    numbers = np.arange(len(present)) * 100 if present[0] == 0 else np.arange(len(present))
    return numbers[np.searchsorted(present, labels)].astype(np.int16)
