"""Writes the training binaries, all of a tag or none, one volume in memory at a time."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.phantoms import read_marker
from common.data.rng import rng_for
from common.errors import DataError, WriteError
from common.files import atomic_file, write_json
from raseg import binaries
from raseg.config import CHANNELS, Config
from raseg.data import Volumes
from raseg.patches import cut_patch, draw_centres


def write_binaries(
    volumes: Volumes, split, folder: Path, *, tag: str, config: Config, seed: int
) -> list[int]:
    """Write all binaries of a tag, or none where a volume cannot be used or the disk is full.

    Older binaries of the tag are replaced; the seed draws the patches' places. Returns the records
    in each of the five training binaries.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as refusal:
        raise DataError(f"{folder} cannot be made ({refusal.strerror})") from None
    each = config.patches_per_volume if config.patch_shape else 1
    counts = binaries.split_into_bins(len(split["training"]) * each)
    sizes = {
        binaries.training_path(folder, tag, bin_ + 1): count for bin_, count in enumerate(counts)
    }
    watched = len(split["validation"]) * each
    if watched:
        sizes[binaries.validation_path(folder, tag)] = watched
    else:
        binaries.validation_path(folder, tag).unlink(missing_ok=True)
    order = [*split["training"], *split["validation"]]
    shown = tqdm(order, desc="prepare", unit="volume", disable=None)
    records = make_records(volumes, shown, config, seed)
    with ExitStack() as stack:  # every file takes its name when the last one is complete
        files = [stack.enter_context(atomic_file(path, error=WriteError)) for path in sizes]
        for file, count in zip(files, sizes.values(), strict=True):
            for _ in range(count):
                binaries.write_record(file, *next(records))
        if next(records, None) is not None:
            raise ValueError("more records than were counted")
    index = {  # what the binaries themselves do not say
        "task": config.task,
        "settings": binaries.settings_of(config),
        "channels": CHANNELS[config.task],
        "shape": list(config.patch_shape or volumes.shape),
        "volume_shape": list(volumes.shape),
        "records": {"training": sum(counts), "validation": watched, "bins": counts},
        "split": split,
        "data": str(volumes.folder.absolute()),
        "phantom": read_marker(volumes.folder) is not None,
    }
    write_json(binaries.index_path(folder, tag), index)
    return counts


def make_records(
    volumes: Volumes, numbers, config: Config, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield label and image words of every record, in the order of `numbers`."""
    warned = False
    for number in numbers:
        name = f"{volumes.folder}, volume {number}"
        image = binaries.encode(volumes.image(number), wrap=config.wrap_intensities, what=name)
        label = volumes.label(number).astype(binaries.WORD)
        if config.read_as_signed and not warned and image.max() > 32767:
            warned = True
            print(
                f"warning: {name}: intensities above 32767 will be read as negative "
                "(--read_as_signed)",
                file=sys.stderr,
            )
        if config.patch_shape is None:
            yield label, image
            continue
        for centre in draw_centres(label, config.patches_per_volume, rng_for(seed, number)):
            yield tuple(cut_patch(array, centre, config.patch_shape) for array in (label, image))
