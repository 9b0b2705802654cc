"""Where voxels lie: spacing, origin and direction of a volume, and when two volumes share a grid.

Arrays are (Z, Y, X); a geometry is ordered (x, y, z), in mm. Coordinates grow to the left, to the
back and cranially (LPS), as in SimpleITK and DICOM.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
from nibabel import Nifti1Header

from common.errors import DataError

Frames = Literal["one", "first"]
"""Of a 4-D file: it must hold one volume, or the first of several is taken."""
GRID_TOLERANCE = 0.1
"""Two grids are one if no corner of the volume is further off than this part of a voxel's edge:
more than any file format's rounding, less than what moves a voxel's centre into another voxel."""
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}
POSITIVE = "LPS"
"""Towards which coordinates grow."""


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie in space; ordered (x, y, z)."""

    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    """Row-major 3 x 3 matrix; its columns are the directions of the array's x, y and z axes."""
    nifti: Nifti1Header | None = field(default=None, compare=False, repr=False)
    """Header of the NIfTI file that stated it; see `common.data.nifti`."""
    remarks: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What in the file's statement is worth a look, such as two forms that differ."""

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing in the order of the array's axes."""
        return self.spacing_mm[::-1]


@dataclass(frozen=True)
class Volume:
    """Voxels (Z, Y, X) and where they lie."""

    array: np.ndarray
    geometry: Geometry

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing in the order of the array's axes."""
        return self.geometry.spacing_zyx_mm


def check_same_grid(
    first: Volume | tuple[tuple[int, ...], Geometry],
    second: Volume | tuple[tuple[int, ...], Geometry],
    *,
    names: tuple[str, str],
) -> None:
    """Refuse two volumes whose voxels do not lie at the same places.

    The shapes must be equal, and no corner voxel may lie further from its counterpart than
    `GRID_TOLERANCE` times the smallest spacing; this covers spacing, origin and direction at once.

    Args:
        first, second: a volume, or what `common.data.volumes.read_geometry` returns.
        names: what the message calls the two, file names as a rule.

    Raises:
        DataError: they differ; names both and what differs.
    """
    (shape, geometry), (other_shape, other_geometry) = (
        (grid.array.shape, grid.geometry) if isinstance(grid, Volume) else grid
        for grid in (first, second)
    )
    on_two_grids = f"{names[0]} and {names[1]}: expected one voxel grid, found"
    if tuple(shape) != tuple(other_shape):
        raise DataError(f"{on_two_grids} shape (z, y, x) {tuple(shape)} and {tuple(other_shape)}")
    apart = largest_distance_mm(shape, geometry, other_geometry)
    # Written so that a geometry with NaN is refused.
    if not apart <= GRID_TOLERANCE * min(geometry.spacing_mm):
        remarks = [
            f"; {name}: {remark}"
            for name, grid in zip(names, (geometry, other_geometry), strict=True)
            for remark in grid.remarks
        ]
        raise DataError(
            f"{on_two_grids} {_differences(geometry, other_geometry)} (up to {apart:.3g} mm "
            f"apart){''.join(remarks)}"
        )


def largest_distance_mm(shape: tuple[int, ...], first: Geometry, second: Geometry) -> float:
    """Return how far the corner voxels of a volume (Z, Y, X) move from a geometry to another."""
    indices = np.array(list(product(*((0, size - 1) for size in shape[::-1]))))
    corners = [
        each.origin_mm + indices * each.spacing_mm @ np.reshape(each.direction, (3, 3)).T
        for each in (first, second)
    ]
    return float(np.linalg.norm(corners[0] - corners[1], axis=1).max())


def orientation_of(geometry: Geometry) -> str:
    """Return towards what the axes x, y, z of a file grow, such as "LPS"; the nearest if oblique.

    Raises:
        DataError: no nearest one, since two axes lean to the same direction.
    """
    direction = np.reshape(geometry.direction, (3, 3))
    nearest = np.abs(direction).argmax(axis=0)
    if sorted(nearest) != [0, 1, 2]:
        raise DataError(f"found the direction {geometry.direction}; expected three clear axes")
    return "".join(
        POSITIVE[axis] if direction[axis, column] > 0 else OPPOSITE[POSITIVE[axis]]
        for column, axis in enumerate(nearest)
    )


def _differences(first: Geometry, second: Geometry) -> str:
    shown = []
    for name, kind in (
        ("spacing_mm", "spacing (x, y, z) in mm"),
        ("origin_mm", "origin (x, y, z) in mm"),
        ("direction", "direction"),
    ):
        pair = getattr(first, name), getattr(second, name)
        if not np.allclose(*pair, rtol=1e-4, atol=1e-4):
            one, other = (", ".join(f"{value:.5g}" for value in values) for values in pair)
            shown.append(f"{kind} ({one}) and ({other})")
    return "; ".join(shown) or "slightly different spacings, origins or directions"
