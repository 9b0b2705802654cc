"""From the files of a patient to the tensor that a passport asks for, and back to a label file.

Volumes are (Z, Y, X) as `common.data.volumes` reads them; a tensor has the axes its passport names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.geometry import OPPOSITE, Geometry, Volume, check_same_grid, orientation_of
from common.data.labels import inside
from common.data.volumes import check_scan, read_geometry, read_volume
from common.errors import DataError

AS_STORED = "as stored"
"""The orientation of a model that takes the axes as the file has them."""


@dataclass(frozen=True)
class Turn:
    """Which axis of a file becomes which axis of the model, and which are flipped."""

    sources: tuple[int, int, int] = (0, 1, 2)
    """For every axis x, y, z of the model, the file's."""
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, array_zyx: np.ndarray) -> np.ndarray:
        """Turn an array (Z, Y, X, ...) of the file into the model's."""
        turned = array_zyx.transpose(*self._zyx(self.sources), *range(3, array_zyx.ndim))
        return np.flip(turned, [2 - axis for axis in range(3) if self.flipped[axis]])

    def undo(self, array_zyx: np.ndarray) -> np.ndarray:
        """Turn an array (Z, Y, X, ...) of the model back into the file's."""
        flat = np.flip(array_zyx, [2 - axis for axis in range(3) if self.flipped[axis]])
        back = tuple(self.sources.index(axis) for axis in range(3))
        return flat.transpose(*self._zyx(back), *range(3, array_zyx.ndim))

    @staticmethod
    def _zyx(sources: Sequence[int]) -> list[int]:
        """Write a permutation of x, y, z as one of the axes z, y, x."""
        return [2 - axis for axis in sources[::-1]]


@dataclass(frozen=True)
class Scan:
    """A patient's files as the model takes them."""

    tensor: np.ndarray
    """In the passport's axes and the signature's type."""
    axes: str
    """Of the tensor, such as "YXZC"."""
    turn: Turn
    geometry: Geometry
    """Of the first file, as it is."""

    def back(self, output: np.ndarray) -> np.ndarray:
        """Return an output in the tensor's axes as the file's Z, Y, X; a class axis may follow."""
        axes = self.axes.replace("C", "")
        order = [axes.index(letter) for letter in "ZYX"]
        return self.turn.undo(output.transpose(*order, *range(3, output.ndim)))


def read_scan(paths: Sequence[Path], entry: Mapping, *, dtype: str, reorient: bool = False) -> Scan:
    """Read a patient's files, one per channel, as a tensor of `dtype` in the axes of the passport.

    `entry` is that of the input in the passport: axes, channels, orientation, spacing_mm, sizes.
    `reorient` turns axes to the model's orientation; voxels are moved, never interpolated.

    Raises:
        DataError: a file cannot be read or is not a scan, the number of files, the orientation, the
            spacing or the size is another than the passport's, or the files lie on several grids.
    """
    channels = list(entry["channels"])
    if len(paths) != len(channels):
        wanted = "1 scan" if len(channels) == 1 else f"{len(channels)} scans, in this order"
        found = "1 scan" if len(paths) == 1 else f"{len(paths)} scans"
        raise DataError(f"found {found}; the model expects {wanted}: {', '.join(channels)}")
    volumes = [_read(path, entry.get("intensity_range")) for path in paths]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        check_same_grid(volumes[0], volume, names=(str(paths[0]), str(path)))
    geometry = volumes[0].geometry
    turn = find_turn(paths[0], geometry, entry["orientation"], reorient=reorient)
    axes = entry["axes"]
    letters = axes.replace("C", "")
    spacing = dict(zip("XYZ", (geometry.spacing_mm[axis] for axis in turn.sources), strict=True))
    check_spacing(paths[0], [spacing[letter] for letter in letters], entry)
    arrays = [turn.apply(volume.array) for volume in volumes]
    stacked = np.stack(arrays, axis=-1) if "C" in axes else arrays[0]
    tensor = stacked.transpose(["ZYXC".index(letter) for letter in axes])
    spatial = [size for size, letter in zip(tensor.shape, axes, strict=True) if letter != "C"]
    check_size(paths[0], spatial, entry)
    return Scan(np.ascontiguousarray(tensor, dtype=dtype), axes, turn, geometry)


def read_mask(path: Path, scan: Scan, like: Path, *, dtype: str) -> np.ndarray:
    """Read a region of interest, every voxel other than 0, as the tensor that belongs to a scan's;
    `DataError` if it is none, empty, or on another grid than the scan's file `like`."""
    volume = read_volume(path)
    check_same_grid(read_geometry(like), volume, names=(str(like), str(path)))
    region = inside(volume.array, str(path))
    if not region.any():
        raise DataError(f"{path}: found nothing in the mask; expected voxels other than 0")
    order = ["ZYX".index(letter) for letter in scan.axes.replace("C", "")]
    tensor = scan.turn.apply(region).transpose(order)
    return np.ascontiguousarray(tensor, dtype=dtype)


def find_turn(path: Path, geometry: Geometry, wanted: str, *, reorient: bool) -> Turn:
    """Return how a file is turned to the model's orientation, or raise `DataError`."""
    if wanted == AS_STORED or (found := orientation_of(geometry)) == wanted:
        return Turn()
    if not reorient:
        raise DataError(
            f"{path}: found the orientation {found}; expected {wanted} (axes x, y, z), or "
            "--reorient, which turns the scan and its labels back without interpolation"
        )
    flipped = tuple(letter not in found for letter in wanted)
    letters = (OPPOSITE[w] if turned else w for w, turned in zip(wanted, flipped, strict=True))
    return Turn(tuple(map(found.index, letters)), flipped)


def check_spacing(path: Path, found: Sequence[float], entry: Mapping) -> None:
    """Raise `DataError` for voxels of another size, in mm along the passport's axes, than expected
    (None: any), by more than the share `tolerance` (None: rounding alone)."""
    expected = entry["spacing_mm"]["expected"]
    if expected is None:
        return
    share = float(entry["spacing_mm"]["tolerance"] or 1e-3)
    if not np.allclose(found, expected, rtol=share, atol=0.0):
        raise DataError(
            f"{path}: found voxels of {_times(found)} mm ({_axes(entry)}); expected "
            f"{_times(expected)} mm within {share:.1%}: resample the scan first, as for training"
        )


def check_size(path: Path, found: Sequence[int], entry: Mapping) -> None:
    """Raise `DataError` for a scan with fewer or more voxels than the model takes."""
    least, most = entry.get("minimum_size"), entry.get("maximum_size")
    shown = f"{path}: found {_times(found)} voxels ({_axes(entry)}); expected"
    if least and np.less(found, least).any():
        raise DataError(f"{shown} at least {_times(least)}")
    if most and np.greater(found, most).any():
        raise DataError(f"{shown} at most {_times(most)}")


def _read(path: Path, limits: Sequence[float] | None) -> Volume:
    volume = read_volume(path)
    array = volume.array
    check_scan(array, path)
    if limits and not (limits[0] <= array.min() and array.max() <= limits[1]):
        raise DataError(
            f"{path}: found intensities from {array.min():g} to {array.max():g}; expected "
            f"{limits[0]:g} to {limits[1]:g}"
        )
    return volume


def _axes(entry: Mapping) -> str:
    return ", ".join(entry["axes"].replace("C", "").lower())


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
