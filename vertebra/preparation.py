"""From a scanner's grid to the isotropic one: resampling, distance weights, cropping, splitting.

Arrays are (Z, Y, X), z grows cranially; the geometry is ordered (x, y, z).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import SimpleITK

from common.data.geometry import Geometry, Volume
from common.data.itk_files import to_itk
from common.errors import DataError
from vertebra.config import Config

HOUNSFIELD_OFFSET = 1024
PADDING = -1100
"""Lower values are no tissue but what a scanner or a resampler put outside its circle."""
SOFT_TISSUE = 850, 1250
"""Unsigned values of fat, water and muscle."""
ENOUGH = 0.01, 0.05
"""Least shares of negative values in Hounsfield units, of soft tissue in unsigned values."""
SAMPLED = 1_000_000


def isotropic_size(size: int, spacing_mm: float, target_mm: float) -> int:
    """Return the voxels that cover an axis at another spacing, rounded up as the original does."""
    return math.ceil(size * spacing_mm / target_mm)


def nearest_index(count: int, size: int, step: float) -> np.ndarray:
    """Return the old voxel that each of `count` new ones of an axis is copied from, -1 for none.

    `step` is the new spacing in old voxels; of two equally near voxels the higher one is taken.
    Source: SimpleITK's nearest-neighbour resampling, as data/preprocessing.py calls it.
    """
    position = np.arange(count) * step
    index = np.floor(position + 0.5).astype(np.int64)
    return np.where(position < size - 0.5, index, -1)


def resample_nearest(volume: Volume, spacing_mm: float, outside: float) -> Volume:
    """Resample (Z, Y, X) of any dtype to isotropic voxels by nearest neighbour.

    Dtype, origin and direction stay; `outside` is the value beyond the last voxel's edge.
    """
    indices = [
        nearest_index(isotropic_size(size, spacing, spacing_mm), size, spacing_mm / spacing)
        for size, spacing in zip(volume.array.shape, volume.spacing_zyx_mm, strict=True)
    ]
    array = volume.array[np.ix_(*indices)]
    for axis, index in enumerate(indices):
        array[(slice(None),) * axis + (index < 0,)] = outside
    return Volume(array, replace(volume.geometry, spacing_mm=(spacing_mm,) * 3))


def resample_smoothly(volume: Volume, spacing_mm: float, outside: float, order: str) -> Volume:
    """Resample to isotropic voxels by "linear" or "bspline" interpolation [V24].

    The grid is that of `resample_nearest`; integer images are rounded and stay within their type.
    """
    size = [
        isotropic_size(n, spacing, spacing_mm)
        for n, spacing in zip(volume.array.shape[::-1], volume.geometry.spacing_mm, strict=True)
    ]
    kind = SimpleITK.sitkLinear if order == "linear" else SimpleITK.sitkBSpline
    resampled = SimpleITK.Resample(
        to_itk(Volume(volume.array.astype(np.float32), volume.geometry)), size,
        SimpleITK.Transform(), kind, volume.geometry.origin_mm, (spacing_mm,) * 3,
        volume.geometry.direction, float(outside),
    )  # fmt: skip
    array, dtype = SimpleITK.GetArrayFromImage(resampled), volume.array.dtype
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    geometry = replace(volume.geometry, spacing_mm=(float(spacing_mm),) * 3)
    return Volume(array.astype(dtype), geometry)


def make_isotropic(volume: Volume, config: Config) -> Volume:
    """Resample a scan to voxels of `spacing_mm` by `image_interpolation` and `outside` [V24]."""
    outside = 0 if config.outside == "zero" else volume.array.min()
    same = all(abs(s - config.spacing_mm) < 1e-6 for s in volume.geometry.spacing_mm)
    if config.image_interpolation == "nearest" or same:
        return resample_nearest(volume, config.spacing_mm, outside)
    return resample_smoothly(volume, config.spacing_mm, outside, config.image_interpolation)


def make_isotropic_mask(volume: Volume, config: Config) -> Volume:
    """Resample labels: always the nearest voxel's, background outside."""
    return resample_nearest(volume, config.spacing_mm, 0)


def upright(volume: Volume) -> Volume:
    """Reorder the axes so that x, y, z grow to the left, to the back and cranially [V37]."""
    direction = np.reshape(volume.geometry.direction, (3, 3))
    if (np.abs(direction).argmax(axis=0) == (0, 1, 2)).all() and (direction.diagonal() > 0).all():
        return volume
    return from_itk(SimpleITK.DICOMOrient(to_itk(volume), "LPS"))


def back_to_source(mask: Volume, source: tuple[tuple[int, int, int], Geometry]) -> Volume:
    """Resample a mask onto the grid of the scan it was made from, by nearest neighbour."""
    shape, geometry = source
    resampled = SimpleITK.Resample(
        to_itk(mask), to_itk(Volume(np.empty(shape, np.uint8), geometry)), SimpleITK.Transform(),
        SimpleITK.sitkNearestNeighbor, 0,
    )  # fmt: skip
    return Volume(SimpleITK.GetArrayFromImage(resampled), geometry)


def from_itk(image) -> Volume:
    """Return a SimpleITK image as a volume."""
    geometry = Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(SimpleITK.GetArrayFromImage(image), geometry)


def to_raw_scale(image: np.ndarray, config: Config, *, name: str) -> tuple[np.ndarray, str]:
    """Bring a scan to the unsigned scale that the network knows: air near 0, water near 1024.

    The image has any shape and real dtype; `intensity` says its scale [V34]. Returns the image (a
    new one where something changed) and what was done, in words, or "". Raises `DataError`, which
    calls the image `name`, where it is on neither scale.
    """
    if config.intensity == "as_is":
        return image, ""
    scale = find_scale(image, name) if config.intensity == "detect" else config.intensity
    if scale == "unsigned":
        if image.min() >= 0:
            return image, ""
        return np.maximum(image, 0), "negative values became 0"
    wide = image.astype(np.int32 if np.issubdtype(image.dtype, np.integer) else np.float32)
    shifted = np.maximum(wide + HOUNSFIELD_OFFSET, 0)
    if np.issubdtype(image.dtype, np.integer) and shifted.max() <= np.iinfo(np.int16).max:
        shifted = shifted.astype(np.int16)
    return shifted, f"Hounsfield units: {HOUNSFIELD_OFFSET} was added"


def find_scale(image: np.ndarray, name: str) -> Literal["hu", "unsigned"]:
    """Tell a CT's scale by the bulk of its voxels: padding and single values do not count.

    Fat and air are negative in Hounsfield units, also where low values were cut off; soft tissue
    is near 1024 in unsigned values. Raises `DataError` where neither is so.
    """
    values = image.ravel()[:: max(image.size // SAMPLED, 1)]
    values = values[(values > PADDING) & (values > values.min())]
    low, high = np.percentile(values, (1, 99)) if values.size else (0, 0)
    if low < -20 and high > 40 and np.mean(values < -20) > ENOUGH[0]:
        return "hu"
    least, most = SOFT_TISSUE
    if values.size and np.mean((values >= least) & (values < most)) > ENOUGH[1]:
        return "unsigned"
    raise DataError(
        f"{name}: found values of {low:.4g} to {high:.4g}, but for outliers; expected a CT in "
        "Hounsfield units (water 0) or in unsigned values (water 1024); --intensity hu, unsigned "
        "or as_is if it is one"
    )


def crop_range(labels: np.ndarray, *, name: str) -> tuple[int, int]:
    """Return the slices from the middle of the lowest vertebra to that of the highest [V28].

    The first and the last vertebra are cut in half on purpose: the network must see partial ones.
    The second number is the slice after the last. Raises `DataError`, which calls the volume
    `name`, for less than two vertebrae or labels that run against z. Source: data/preprocessing.py.
    """
    present = np.unique(labels)
    present = present[present > 0]
    if present.size == 0:
        raise DataError(f"{name}: no vertebra is labelled; expected labels above 0")
    low, high = (middle_slice(labels, value) for value in (present[0], present[-1]))
    if high <= low:
        if present.size == 1:
            raise DataError(f"{name}: found a single vertebra; expected two or more")
        raise DataError(
            f"{name}: found labels that grow downwards; expected larger labels further up, or"
            " --layout verse, whose labels grow downwards"
        )
    return low, high


def middle_slice(labels: np.ndarray, value: int) -> int:
    """Return the slice half-way between a label's lowest and highest slice, rounded down."""
    slices = np.flatnonzero((labels == value).any(axis=(1, 2)))
    return int((slices[0] + slices[-1]) / 2)


def crop_z(volume: Volume, low: int, high: int, *, keep_geometry: bool) -> Volume:
    """Keep the slices from `low` to below `high`.

    The origin moves to the first slice kept; without `keep_geometry` it becomes 0, the spacing 1
    and the rotation none [V21].
    """
    geometry = Geometry((1.0, 1.0, 1.0))
    if keep_geometry:
        direction = np.reshape(volume.geometry.direction, (3, 3))
        shift = direction[:, 2] * (low * volume.geometry.spacing_mm[2])
        origin = tuple(float(c) for c in volume.geometry.origin_mm + shift)
        geometry = replace(volume.geometry, origin_mm=origin)
    return Volume(volume.array[low:high], geometry)


def check_room(shape: Sequence[int], config: Config, *, name: str) -> None:
    """Raise `DataError` for a cropped volume that the windows of the released code leave [V7]."""
    edge = config.patch_size
    if config.window_limits == "x_size" and not edge <= shape[2] <= min(shape):
        raise DataError(
            f"{name}: {' x '.join(map(str, shape))} voxels are left after cropping, which patches"
            f" of {edge} leave; expected x of at least {edge} and no larger than y and z, or"
            " --window_limits per_axis"
        )


def split_ids(ids: Sequence[int], config: Config) -> dict[str, list[int]]:
    """Divide case numbers into {"train": ..., "test": ...}, ascending [V25].

    By id: train below int(cases * ratio), so that ids from 1 give one case less than the ratio
    says. Else the first int(cases * ratio) cases, at least one on either side.
    """
    ids = sorted(ids)
    limit = int(len(ids) * config.split_ratio)
    if config.split_by_id:
        return {"train": [n for n in ids if n < limit], "test": [n for n in ids if n >= limit]}
    limit = min(max(limit, 1), max(len(ids) - 1, 1))
    return {"train": ids[:limit], "test": ids[limit:]}
