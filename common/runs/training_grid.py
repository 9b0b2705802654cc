"""The orientation and voxel size that a network was trained on, and scans that have others.

The network sees voxels. A scan of another orientation is turned, which moves voxels and changes
none; one of another voxel size is refused, or interpolated where that is asked for.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from common.data.geometry import Geometry, Volume, orientation_of
from common.data.volumes import read_geometry
from common.errors import DataError
from common.runs.folder import Run, load_run

SPACING_TOLERANCE = 0.1
"""Share by which voxels may differ from those of the training, where a paper says no other."""


@dataclass(frozen=True)
class TrainingGrid:
    """What all scans of a training had in common."""

    orientation: str
    """Towards what the axes x, y, z grow, such as "LPS"."""
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Fit:
    """How the arrays (x, y, z[, channels]) of one scan come to a network's grid and back."""

    there: np.ndarray
    """Orientation, as nibabel has it."""
    back: np.ndarray
    shape: tuple[int, ...]
    """Voxels (x, y, z) of the turned scan."""
    step: tuple[float, ...] | None = None
    """Its voxels per voxel of the network's grid; None: nothing is interpolated."""
    words: str = ""
    """What is done, for the user; empty: nothing."""

    def to_network(self, array: np.ndarray, order: int) -> np.ndarray:
        """Turn an array, and interpolate it by splines of an order, 0 for labels."""
        turned = apply_orientation(array, self.there)
        if self.step is None:
            return turned
        size = [max(1, round(n / step)) for n, step in zip(self.shape, self.step, strict=True)]
        return _interpolate(turned, self.step, size, order)

    def to_scan(self, array: np.ndarray, order: int = 1) -> np.ndarray:
        """Bring what a network found back to the scan's grid, by the same kind of splines."""
        if self.step is not None:
            array = _interpolate(array, [1 / step for step in self.step], self.shape, order)
        return apply_orientation(array, self.back)


def find_training_grid(
    scans: Iterable[Path], *, tolerance: float = SPACING_TOLERANCE
) -> TrainingGrid | None:
    """Return what scans have in common; None where they differ by more than the tolerance."""
    grids = [read_geometry(path, frames="first", flat=True)[1] for path in scans]
    orientations, spacings = {*map(orientation_of, grids)}, np.array([g.spacing_mm for g in grids])
    if len(orientations) != 1 or not np.allclose(spacings, spacings[0], rtol=tolerance):
        return None
    return TrainingGrid(orientations.pop(), tuple(np.median(spacings, axis=0).tolist()))


def record_grid(
    record: Run, scans: Iterable[Path], *, tolerance: float = SPACING_TOLERANCE
) -> None:
    """Write into a run's manifest what its training's scans have in common, or that they differ."""
    grid = find_training_grid(scans, tolerance=tolerance)
    if grid is None:
        print("note: the training scans differ in orientation or voxel size, so that predict will "
              "take any scan as it is", file=sys.stderr)  # fmt: skip
    record.record(training_grid=grid and asdict(grid))


def recorded_grid(run: Path) -> TrainingGrid | None:
    """Return what a run says of its training's scans; None where it says nothing."""
    grid = load_run(run).manifest.get("training_grid")
    return grid and TrainingGrid(grid["orientation"], tuple(grid["spacing_mm"]))


def fit_scan(
    scan: Geometry,
    shape: Sequence[int],
    grid: TrainingGrid,
    *,
    resample: bool = False,
    tolerance: float = SPACING_TOLERANCE,
) -> Fit:
    """Return how a scan of a shape (x, y, z) comes to the grid of a network's training.

    Raises:
        DataError: its voxels are of another size and it is not to be resampled.
    """
    found = orientation_of(scan)
    here, trained = (axcodes2ornt(tuple(axes)) for axes in (found, grid.orientation))
    there = ornt_transform(here, trained)
    axes = np.argsort(there[:, 0])
    spacing, shape = np.array(scan.spacing_mm)[axes], tuple(int(shape[axis]) for axis in axes)
    words = "" if found == grid.orientation else f"turned from {found} to {grid.orientation}"
    step = None
    if not np.allclose(spacing, grid.spacing_mm, rtol=tolerance, atol=0):
        sizes = f"{_times(spacing)} mm", f"{_times(grid.spacing_mm)} mm"
        if not resample:
            raise DataError(
                f"found voxels of {sizes[0]} ({grid.orientation}); the network was trained on "
                f"{sizes[1]} and sees voxels, not millimetres: expected those within "
                f"{tolerance:.0%}, or --resample, which interpolates the scan and "
                "brings the results back to its grid"
            )
        step = tuple((np.array(grid.spacing_mm) / spacing).tolist())
        words = ", ".join(filter(None, [words, f"resampled from {sizes[0]} to {sizes[1]}"]))
    return Fit(there, ornt_transform(trained, here), shape, step, words)


def segment_on_grid(
    volume: Volume,
    segment: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    grid: TrainingGrid | None,
    resample: bool,
    tolerance: float,
    name: str,
) -> dict[str, np.ndarray]:
    """Segment a scan (Z, Y, X) on the grid of its network's training, and bring back what is found.

    Args:
        volume: the scan.
        segment: takes an array (Z, Y, X); gives "labels" (Z, Y, X) and perhaps "probabilities"
            (Z, Y, X, classes).
        grid: of the training; None: it is not known, the scan is taken as it is.
        resample, tolerance: see `fit_scan`.
        name: of the scan, for messages; what is done to it is said on stderr.

    Raises:
        DataError: its voxels are of another size and it is not to be resampled.
    """
    if grid is None:
        return segment(volume.array)
    shape = volume.array.shape[::-1]
    try:
        fit = fit_scan(volume.geometry, shape, grid, resample=resample, tolerance=tolerance)
    except DataError as refusal:
        raise DataError(f"{name}: {refusal}") from None
    if not fit.words:
        return segment(volume.array)
    print(f"{name}: {fit.words}", file=sys.stderr)
    found = segment(np.ascontiguousarray(fit.to_network(volume.array.T, 1).T))
    orders = {"labels": 0, "probabilities": 1}  # labels are not interpolated
    return {
        what: np.swapaxes(fit.to_scan(np.swapaxes(array, 0, 2), orders[what]), 0, 2)
        for what, array in found.items()
    }


def _interpolate(array: np.ndarray, step: Sequence[float], size: Sequence[int], order: int):
    """Take every step-th voxel, the low corners of both grids being one place."""
    from scipy import ndimage  # which takes long to load, for few scans

    offset = [(each - 1) / 2 for each in step]
    volumes = array[..., np.newaxis] if array.ndim == 3 else array
    found = [
        ndimage.affine_transform(
            volumes[..., n], step, offset, tuple(size), order=order, mode="nearest"
        )
        for n in range(volumes.shape[-1])
    ]
    return found[0] if array.ndim == 3 else np.stack(found, axis=-1)


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
