"""The training binaries: fixed-length records of little-endian 16-bit words, no header.

A record is the label (rows, columns, slices), then the image (rows, columns, slices, channels),
both in C order. An index beside the binaries says their shape; binaries of the original, which have
none, are taken to hold its 512 x 512 x 20 volumes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import DataError
from common.files import plain
from raseg.config import CHANNELS, VOLUME_SHAPE, Config

BINS = 5
"""Files the training set is split into (make_datasets.py)."""
WORD = np.dtype("<u2")
MOST_LOSS = 0.03
"""Largest part of the intensities' deviation that may be lost with their fractions."""
SETTINGS = "patch_shape", "patches_per_volume", "validation_volumes", "wrap_intensities"
"""Fields of the configuration, beside the task, that say what the binaries hold."""


@dataclass(frozen=True)
class Layout:
    """Sizes of one record: rows, columns, slices; channels."""

    shape: tuple[int, int, int]
    channels: int

    @property
    def label_words(self) -> int:
        """16-bit words of the label."""
        return int(np.prod(self.shape))

    @property
    def record_bytes(self) -> int:
        """31 457 280 for two channels of 512 x 512 x 20 (asserted in raseg_input.py)."""
        return WORD.itemsize * self.label_words * (1 + self.channels)


class Record(NamedTuple):
    """The file of one record and its position there, from 0."""

    path: Path
    number: int


@dataclass(frozen=True)
class Binaries:
    """The binaries of one tag."""

    layout: Layout
    training: tuple[Record, ...]
    validation: tuple[Record, ...]
    files: tuple[Path, ...]
    index: dict
    """What `prepare` noted beside them; empty for binaries of the original."""


def training_path(folder: Path, tag: str, number: int) -> Path:
    """Return the path of training binary 1 to 5."""
    return Path(folder) / f"train_and_label_{tag}_batch_{number}.bin"


def validation_path(folder: Path, tag: str) -> Path:
    """Return the path of the validation binary, which the original forgot to write [R12]."""
    return Path(folder) / f"val_and_label_{tag}_batch_1.bin"


def index_path(folder: Path, tag: str) -> Path:
    """Return the path of the index."""
    return Path(folder) / f"train_and_label_{tag}.json"


def split_into_bins(records: int) -> list[int]:
    """Return how many records each of the five files holds (make_datasets.py)."""
    # [R13] With fewer than five records the first four files are empty.
    each = records // BINS
    return [each] * (BINS - 1) + [records - (BINS - 1) * each]


def encode(values: np.ndarray, *, wrap: bool, what: str) -> np.ndarray:
    """Turn numbers into the 16-bit words of a record.

    Args:
        values: (..., channels), any real dtype; fractions are cut off towards zero.
        wrap: take numbers outside 0..65535 modulo 65536, as the original's cast [R4].
        what: name of the volume, for the message.
    Returns:
        Array of the same shape, `<u2`: little-endian unsigned 16-bit.
    Raises:
        DataError: a number is NaN or infinite, or too much is lost with the fractions, as of a
            volume scaled to 0..1; without `wrap`: a number does not fit.
    Source: make_datasets.py.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise DataError(f"{what}: found NaN or infinite values; expected finite numbers")
        if (loss := loss_of_fractions(values)) > MOST_LOSS:
            raise DataError(
                f"{what}: values of {values.min():.4g} to {values.max():.4g} would lose "
                f"{100 * loss:.0f} % of their deviation as whole numbers; expected a scanner's "
                f"units, or multiplied ones, with less than {100 * MOST_LOSS:.0f} %"
            )
        values = np.trunc(values)
    low, high = values.min(), values.max()
    if not wrap and (low < 0 or high > 65535):
        wrong = low if low < 0 else high
        raise DataError(
            f"{what}: found the value {wrong}, which 16 bits cannot hold; expected 0 to 65535 "
            "(--wrap_intensities true wraps it as the original)"
        )
    if values.dtype.kind == "f":
        values = values.astype(np.int64)  # a negative float's cast to unsigned is undefined
    return values.astype(WORD)


def loss_of_fractions(values: np.ndarray) -> float:
    """Return the deviation of the fractions of a volume (..., channels) as a part of that of its
    values, of the channel where it is largest; 0 for integers."""
    if values.dtype.kind != "f":
        return 0.0
    axes = tuple(range(values.ndim - 1))
    lost = (values - np.trunc(values)).std(axes, dtype=np.float64)
    spread = values.std(axes, dtype=np.float64)
    return float(np.max(np.divide(lost, spread, out=np.zeros_like(lost), where=spread > 0)))


def settings_of(config: Config) -> dict:
    """Return what the index keeps of a configuration, as JSON gives it back."""
    return plain({name: getattr(config, name) for name in SETTINGS})


def write_record(file, label: np.ndarray, image: np.ndarray) -> None:
    """Append words of `encode`: the label, then the image with its channels last."""
    for words in (label, image):
        file.write(np.ascontiguousarray(words, WORD).data)


def read_record(record: Record, layout: Layout, *, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read one record in Python; training reads through `raseg.sampling`.

    Returns image (rows, columns, slices, channels) and label (rows, columns, slices), 16-bit
    integers, read as signed ones where the original did [R4].
    """
    size, dtype = layout.record_bytes, "<i2" if signed else WORD
    words = np.fromfile(
        record.path, dtype, count=size // WORD.itemsize, offset=record.number * size
    )
    label, image = np.split(words, [layout.label_words])
    return image.reshape(*layout.shape, layout.channels), label.reshape(layout.shape)


def find_binaries(folder: Path, tag: str, config: Config) -> Binaries:
    """Find the binaries of a tag and check that they are whole.

    `config` uses task, and patch_shape for binaries without an index. `DataError`: none are there,
    a record is truncated, or the index says something else.
    """
    paths = [training_path(folder, tag, number + 1) for number in range(BINS)]
    if not any(path.is_file() for path in paths):
        raise DataError(
            f"--tag {tag}: found none of {paths[0]} ... {paths[-1].name}; expected the binaries "
            "that `prepare` writes"
        )
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing; expected {BINS} training binaries")
    index = read_index(index_path(folder, tag))
    check_settings(index, config, paths[0])
    layout = layout_of(index, config)
    training = tuple(record for path in paths for record in list_records(path, layout))
    if not training:
        raise DataError(f"{paths[-1]}: found no record in any binary; expected at least one")
    expected = index.get("records", {}).get("training", len(training))
    if len(training) != expected:
        raise DataError(
            f"{paths[0].parent}: found {len(training)} training records of {tag}; expected "
            f"{expected}, as {index_path(folder, tag).name} says"
        )
    watched = validation_path(folder, tag)
    validation = tuple(list_records(watched, layout)) if watched.is_file() else ()
    files = (*paths, watched) if validation else tuple(paths)
    return Binaries(layout, training, validation, files, index)


def list_records(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a file, which must end with a record's end."""
    whole, rest = divmod(path.stat().st_size, layout.record_bytes)
    if rest:
        raise DataError(
            f"{path}: record {whole + 1} is truncated: found {rest} of {layout.record_bytes} bytes "
            f"({words_of(layout.shape)} voxels, {layout.channels} channels and a label)"
        )
    yield from (Record(path, number) for number in range(whole))


def read_index(path: Path) -> dict:
    """Read the index of a tag; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        tuple(index["shape"]), index["task"], index["records"]["training"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged; expected the index that `prepare` writes") from None
    return index


def check_settings(index: dict, config: Config, path: Path) -> None:
    """Refuse an index that states another task or other settings than the configuration."""
    if index and index["task"] != config.task:
        raise DataError(f"{path} was written for --task {index['task']}; found {config.task}")
    for name, value in settings_of(config).items():
        stored = index.get("settings", {}).get(name, value)
        if stored != value:
            raise DataError(
                f"{path} was written with --{name} {json.dumps(stored)}; found "
                f"{json.dumps(value)}, expected the preset and options of `prepare`"
            )


def layout_of(index: dict, config: Config) -> Layout:
    """Return the layout the index states; without an index, the original's or a patch's."""
    shape = index["shape"] if index else config.patch_shape or VOLUME_SHAPE
    return Layout(tuple(shape), len(CHANNELS[config.task]))


def words_of(shape: Sequence[int]) -> str:
    """Return a shape as "512 x 512 x 20"."""
    return " x ".join(map(str, shape))


def list_split(binaries: Binaries) -> dict[str, list[dict]]:
    """Return the numbers of the volumes by subset; empty lists for binaries of the original."""
    split = binaries.index.get("split", {"training": [], "validation": [], "test": []})
    return {name: [{"volume": number} for number in numbers] for name, numbers in split.items()}
