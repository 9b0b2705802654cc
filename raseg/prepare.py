"""Write the training binaries from the two arrays: the original's make_datasets."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.names import can_name_a_file
from common.errors import OptionError
from raseg.config import Config, Preset

if TYPE_CHECKING:
    import numpy as np

    from raseg.data import Volumes


def prepare(
    tag: str | None = None,
    val: int | None = None,
    *,
    config: Config,
    preset: Preset = "port",
    data: Path = Path("datasets"),
    data_dir: Path = Path("datasets/bins"),
    seed: int = 42,
    check: bool = False,
) -> None:
    """Write the training binaries from images_and_labels.npy and pre_images.npy.

    Five files train_and_label_<tag>_batch_<n>.bin, in the port a val_and_label_<tag>_batch_1.bin,
    and an index beside them. One volume is in memory at a time.

    Args:
        tag: name of this set of binaries.
        val: volumes at the end that are held out.
        config: task, validation_volumes, wrap_intensities and, for the draft, the patches.
        preset: where the numbers come from; options after it change single ones.
        data: folder of the arrays.
        data_dir: folder of the binaries.
        seed: of the patches' places (draft).
        check: only look: print everything that is wrong with any array or volume, write nothing,
            and end with status 2 if anything keeps the data from being used; needs no --tag, and
            --val only to look at the split.
    """
    from raseg.data import open_volumes, split_volumes

    if check:
        from raseg.inspection import inspect_arrays

        inspect_arrays(data, config, data_dir, held_out=val).conclude()
        return
    check_tag(tag)
    if val is None:
        raise OptionError("--val: expected the number of volumes that are held out")
    volumes = open_volumes(data, config)
    split = split_volumes(len(volumes), held_out=val, validation=config.validation_volumes)
    counts = write_binaries(volumes, split, data_dir, tag=tag, config=config, seed=seed)
    print(f"Records in the training binaries: {counts}; held out: {len(split['test'])} volumes")
    if split["validation"]:
        print(f"Watched while training: {len(split['validation'])} volumes")
    print(f"Binaries: {data_dir / f'train_and_label_{tag}_batch_1.bin'} ...")


def check_tag(tag: str | None) -> None:
    """Refuse a tag that cannot be part of a file's name.

    Raises:
        OptionError: it is missing, or the rule for ids refuses it.
    """
    if tag is None:
        raise OptionError("--tag: expected a name for this set of binaries")
    if not can_name_a_file(tag):
        raise OptionError(f"--tag {tag!r}: expected a short word that can be part of a file's name")


def write_binaries(
    volumes: "Volumes", split, folder: Path, *, tag: str, config: Config, seed: int
) -> list[int]:
    """Write all binaries of a tag, or none where a volume cannot be used.

    Args:
        volumes: of `open_volumes`.
        split: of `split_volumes`.
        folder: made if missing; older binaries of this tag are replaced.
        tag: name of the set.
        config: see `prepare`.
        seed: of the patches' places.
    Returns:
        Records in each of the five training binaries.
    Raises:
        DataError: a volume cannot be stored (see `raseg.binaries.encode`), or the disk is full.
    """
    from contextlib import ExitStack

    from tqdm import tqdm

    from common.errors import DataError
    from common.files import atomic_file, write_json
    from raseg.binaries import (
        index_path,
        split_into_bins,
        training_path,
        validation_path,
        write_record,
    )

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as refusal:
        raise DataError(f"{folder} cannot be made ({refusal.strerror})") from None
    each = config.patches_per_volume if config.patch_shape else 1
    counts = split_into_bins(len(split["training"]) * each)
    paths = [training_path(folder, tag, number + 1) for number in range(len(counts))]
    validation_counts = [len(split["validation"]) * each] if split["validation"] else []
    if validation_counts:
        paths.append(validation_path(folder, tag))
    else:
        validation_path(folder, tag).unlink(missing_ok=True)
    order = [*split["training"], *split["validation"]]
    records = make_records(
        volumes, tqdm(order, desc="prepare", unit="volume", disable=None), config, seed
    )
    with ExitStack() as stack:  # every file takes its name when the last one is complete
        files = [stack.enter_context(atomic_file(path, error=DataError)) for path in paths]
        for file, count in zip(files, [*counts, *validation_counts], strict=True):
            for _ in range(count):
                write_record(file, *next(records))
        if next(records, None) is not None:
            raise ValueError("more records than were counted")
    index = describe(volumes, split, config, counts=counts, watched=sum(validation_counts))
    write_json(index_path(folder, tag), index)
    return counts


def make_records(
    volumes: "Volumes", numbers, config: Config, seed: int
) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
    """Yield label and image words of every record, in order.

    Args:
        volumes: of `open_volumes`.
        numbers: of the volumes.
        config: uses patch_shape, patches_per_volume, wrap_intensities, read_as_signed.
        seed: of the patches' places.
    """
    from common.data.rng import rng_for
    from raseg.binaries import WORD, encode
    from raseg.patches import cut_patch, draw_centres

    warned = False
    for number in numbers:
        name = f"{volumes.folder}, volume {number}"
        image = encode(volumes.image(number), wrap=config.wrap_intensities, what=name)
        label = volumes.label(number).astype(WORD)
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
        centres = draw_centres(label, config.patches_per_volume, rng_for(seed, number))
        for centre in centres:
            yield (
                cut_patch(label, centre, config.patch_shape),
                cut_patch(image, centre, config.patch_shape),
            )


def describe(volumes: "Volumes", split, config: Config, *, counts, watched: int) -> dict:
    """Return the index: what the binaries themselves do not say."""
    from common.data.phantoms import read_marker
    from raseg.config import CHANNELS

    return {
        "task": config.task,
        "channels": CHANNELS[config.task],
        "shape": list(config.patch_shape or volumes.shape),
        "volume_shape": list(volumes.shape),
        "records": {"training": sum(counts), "validation": watched, "bins": counts},
        "split": split,
        "data": str(volumes.folder.absolute()),
        "phantom": read_marker(volumes.folder) is not None,
    }
