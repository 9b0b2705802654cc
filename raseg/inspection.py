"""What `prepare --check` looks at: the arrays, every volume in them, the split, the disk.

Axis order everywhere: (row, column, slice), then channels; the volumes of a file come first.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.data.inspection import Entry, Inspection, listed, numbers
from raseg import data
from raseg.binaries import Layout, encode, loss_of_fractions, words_of
from raseg.config import CHANNELS, Config


def inspect_arrays(
    folder: Path, config: Config, out: Path, *, held_out: int | None = None
) -> Inspection:
    """Find everything that is wrong with the arrays of a folder.

    The answer has a line per volume, one for each file, for the split (unless `held_out`, that is
    `--val`, is None) and for the disk, where `out` is looked at for room.
    """
    folder = Path(folder)
    inspection = Inspection(folder, unit="volume")
    pairs = open_and_describe(
        inspection.general(data.PAIRS[config.task]), data.open_pairs, folder, config
    )
    pre = None
    if len(CHANNELS[config.task]) == 2:
        second = inspection.general(data.PRE)
        pre = open_and_describe(second, data.open_pre, folder, config)
    inspect_spacing(inspection.general(data.GEOMETRY), folder)
    if pairs is None:
        return inspection
    if pre is not None:
        second.attempt(data.check_partners, folder, pairs, pre, config)
        pre = None if second.faults else pre
    volumes = data.Volumes(folder, pairs, pre, None)
    for number in inspection.track(range(len(volumes))):
        inspect_volume(inspection.entry(str(number)), volumes, number, config)
    if held_out is not None:
        inspect_split(inspection.general("split"), len(volumes), config, held_out)
    inspection.check_space(out, bytes_of_binaries(volumes, config, held_out or 0))
    return inspection


def open_and_describe(entry: Entry, opened_by: Callable, folder: Path, config: Config):
    """Return a file's array, or None, and put its shape and type into its line."""
    array = entry.attempt(opened_by, folder, config)
    if array is not None:
        entry.facts[str(array.dtype)] = words_of(array.shape)
    return array


def inspect_spacing(entry: Entry, folder: Path) -> None:
    """Check the spacing noted beside the arrays."""
    spacing = entry.attempt(data.read_spacing, folder)
    if spacing is not None:
        entry.facts["mm"] = numbers(spacing)
    elif not entry.faults:
        entry.note("absent: distances and volumes cannot be given in millimetres")


def inspect_volume(entry: Entry, volumes: data.Volumes, number: int, config: Config) -> None:
    """Check images and label of one volume; only this volume is in memory."""
    entry.facts["rows x columns x slices"] = words_of(volumes.shape)
    image = entry.attempt(volumes.image, number)
    if image is not None:
        name = f"{volumes.folder}, volume {number}"
        entry.attempt(encode, image, wrap=config.wrap_intensities, what=name)
        entry.facts["intensities"] = f"{image.min():.6g} to {image.max():.6g}"
        if (loss := loss_of_fractions(image)) > 0:
            entry.facts["lost as whole numbers"] = f"{100 * loss:.2g} %"
        for channel, title in enumerate(CHANNELS[config.task][: image.shape[-1]]):
            if image[..., channel].min() == image[..., channel].max():
                entry.note(f"every voxel of {title} is {image[..., channel].flat[0]}")
    label = entry.attempt(volumes.label, number)
    if label is None:
        entry.facts["label voxels"] = f"values {listed(np.unique(volumes.pairs[number, 1]))}"
        return
    entry.facts["label voxels"] = str(int(label.sum()))
    if not label.any():
        entry.note("its label is empty: nothing to learn from and no Dice to measure")


def inspect_split(entry: Entry, count: int, config: Config, held_out: int) -> None:
    """Check that volumes are left to train with."""
    split = entry.attempt(
        data.split_volumes, count, held_out=held_out, validation=config.validation_volumes
    )
    if split is not None:
        entry.facts |= {name: str(len(members)) for name, members in split.items()}


def bytes_of_binaries(volumes: data.Volumes, config: Config, held_out: int) -> int:
    """Return the size of all binaries that `prepare` writes of some volumes."""
    layout = Layout(tuple(config.patch_shape or volumes.shape), len(CHANNELS[config.task]))
    each = config.patches_per_volume if config.patch_shape else 1
    return max(len(volumes) - held_out, 0) * each * layout.record_bytes
