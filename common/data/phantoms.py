"""Building blocks of synthetic scans: smooth fields, solids, artefacts, a marker.

Points are millimetres in the array's axis order (Z, Y, X), measured from the centre of the grid.
Solids are functions of points rather than rasters, so that a moved or bent anatomy is the same
function at moved points: nothing is resampled and a label is as sharp as its definition.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import OptionError, RunError, WriteError
from common.files import read_json, write_folder_atomically, write_json

MARKER = "phantom.json"
"""Lies beside the list of cases and says that they are synthetic."""


def grid_points(shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Return where the voxels of a grid lie: points (*shape, ndim) float32, in mm from its centre.

    The spacing is in the order of the array's axes.
    """
    axes = [
        (np.arange(size, dtype=np.float32) - (size - 1) / 2) * np.float32(step)
        for size, step in zip(shape, spacing_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def rotation_matrix(angles_rad: Sequence[float]) -> np.ndarray:
    """Return the rotation about axis 0, then axis 1, then axis 2: (3, 3) float64, for use as
    `points @ matrix.T`. A positive angle turns the next axis towards the one after it."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[second, second] = turn[third, third] = np.cos(angle)
        turn[second, third] = -np.sin(angle)
        turn[third, second] = np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class SmoothField:
    """A smooth random function of space: plane waves of one wavelength in random directions.

    Over many fields the value at any point has mean 0 and variance 1.
    """

    wave_vectors: np.ndarray
    """(terms, ndim) float32, radians per mm."""
    phases: np.ndarray
    """(terms,) float32, radians."""

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the values at points (..., ndim) as (...) float32."""
        waves = np.asarray(points, np.float32) @ self.wave_vectors.T
        waves += self.phases
        np.cos(waves, out=waves)
        return waves.sum(axis=-1) * np.float32(np.sqrt(2 / len(self.phases)))


def make_smooth_field(
    rng: np.random.Generator, *, wavelength_mm: float, terms: int = 16, dimensions: int = 3
) -> SmoothField:
    """Draw a smooth field whose structures are about half a wavelength wide.

    Few waves (`terms`) look striped, many like clouds; `dimensions` are those of the points.
    """
    directions = rng.standard_normal((terms, dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return SmoothField(
        wave_vectors=(2 * np.pi / wavelength_mm * directions).astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, terms).astype(np.float32),
    )


def ellipsoid_distance(
    points: np.ndarray,
    centre_mm: Sequence[float],
    radii_mm: Sequence[float],
    *,
    rotation: np.ndarray | None = None,
    wobble: float = 0.0,
    field: SmoothField | None = None,
) -> np.ndarray:
    """Return how far points lie outside an ellipsoid, along the ray from its centre.

    Args:
        points: (..., ndim) mm.
        centre_mm: of the ellipsoid.
        radii_mm: along the ellipsoid's own axes.
        rotation: (ndim, ndim), turns the ellipsoid's axes into those of the points.
        wobble: relative change of the radius where `field` is 1; 0.1 gives a gentle potato.
        field: a smooth function on the unit sphere, needed for a wobble.

    Returns:
        Distance (...) float32 in mm, negative inside, 0 on the surface; at the centre minus the
        smallest radius.
    """
    radii = np.asarray(radii_mm, np.float32)
    offsets = np.asarray(points, np.float32) - np.asarray(centre_mm, np.float32)
    if rotation is not None:
        offsets = offsets @ np.asarray(rotation, np.float32)
    length = np.sqrt(np.einsum("...i,...i->...", offsets, offsets))
    relative = offsets / radii
    level = np.sqrt(np.einsum("...i,...i->...", relative, relative))
    at_centre = level < 1e-6
    level = np.where(at_centre, np.float32(1), level)
    surface = np.where(at_centre, radii.min(), length / level)
    if wobble and field is not None:
        relative /= level[..., None]
        surface = surface * np.clip(1 + np.float32(wobble) * field(relative), 0.2, None)
    return length - surface


def fraction_inside(distance_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Return the share of a voxel that lies inside; the edge is a ramp of about one voxel."""
    return np.clip(0.5 - distance_mm / np.float32(edge_mm), 0, 1)


def paint(image: np.ndarray, value: Any, fraction: np.ndarray) -> None:
    """Mix a tissue into an image, in place: `fraction` of `value`, the rest as it was."""
    image += fraction * (value - image)


def bias_field(
    points: np.ndarray, rng: np.random.Generator, *, strength: float, wavelength_mm: float
) -> np.ndarray:
    """Return a positive, slowly varying gain at points (..., ndim) in mm, as a receive coil has.

    The gain's logarithm has the standard deviation `strength`; the wavelength should be at least
    the size of the field of view.
    """
    return np.exp(strength * make_smooth_field(
        rng, wavelength_mm=wavelength_mm, dimensions=np.shape(points)[-1])(points))  # fmt: skip


def rician_noise(signal: np.ndarray, rng: np.random.Generator, *, sigma: float) -> np.ndarray:
    """Return the magnitude of a signal with Gaussian noise of `sigma` in both of its channels."""
    real = signal + np.float32(sigma) * rng.standard_normal(signal.shape, np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(signal.shape, np.float32)
    return np.hypot(real, imaginary)


@contextmanager
def phantom_folder(
    out: Path, *, generator: str, seed: int, facts: Mapping[str, Any]
) -> Iterator[Path]:
    """Yield an empty folder that becomes `out`, with its marker, if the block ends well.

    Args:
        out: folder to make. One that holds nothing but an earlier phantom is replaced.
        generator: module that writes the phantom, such as "fetal_brain.phantom".
        seed: of the phantom.
        facts: further entries of the marker that JSON can hold.

    Raises:
        OptionError: `out` is a file, or holds a file that no phantom wrote.
        DataError: the folder cannot be written.
    """
    out = Path(out).absolute()
    refuse_foreign_content(out)
    with write_folder_atomically(out, replace=True, error=WriteError) as folder:
        yield folder
        paths = (path for path in folder.rglob("*") if path.is_file())
        files = sorted(str(path.relative_to(folder)) for path in paths)
        marker = {"synthetic": True, "generator": generator, "seed": seed, **facts, "files": files}
        write_json(folder / MARKER, marker)
        refuse_foreign_content(out)


def refuse_foreign_content(out: Path) -> None:
    """Raise `OptionError` unless a folder is absent, empty, or an earlier phantom and no more."""
    if not out.exists():
        return
    if not out.is_dir():
        raise OptionError(f"{out} is a file; expected a folder to write the phantom to")
    marker = read_marker(out) or {}
    own = {MARKER, *marker.get("files", ())}
    for path in sorted(out.rglob("*")):
        if not path.is_dir() and str(path.relative_to(out)) not in own:
            raise OptionError(
                f"{out} holds {path.relative_to(out)}, which no phantom wrote; expected an empty"
                " folder or an earlier phantom"
            )


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return the marker of the phantom in a folder, or None where there is none."""
    try:
        marker = read_json(Path(folder) / MARKER)
    except RunError:
        return None
    return marker if isinstance(marker, dict) and marker.get("synthetic") is True else None
