"""The two arrays that hold all volumes: opening, checking, normalising, splitting, writing.

Axis order everywhere: (row, column, slice), then channels; the volumes of a file come first.
Channel 0 is the scan after contrast, channel 1 the one before.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data import arrays
from common.data.labels import integer_labels
from common.data.names import can_name_a_file
from common.errors import DataError, OptionError
from common.files import make_folder, scratch_folder, write_json
from raseg.binaries import encode, words_of
from raseg.config import CHANNELS, Config

PAIRS = {"synovitis": "images_and_labels.npy", "bme": "t2imgs_and_prereg_labels.npy"}
"""Image and label of every volume, (N, 2, rows, columns, slices), by task (make_datasets.py)."""
PRE = "pre_images.npy"
"""The scans before contrast, (N, rows, columns, slices)."""
GEOMETRY = "geometry.json"
"""Ours, optional: {"spacing_mm": [row, column, slice]}; the original's arrays say nothing of it."""


PATIENTS = "patients.json"
"""Ours: whose each volume is, where they were taken from another data set."""


@dataclass(frozen=True)
class Volumes:
    """All volumes of a folder, memory-mapped: only what is asked for is read."""

    folder: Path
    pairs: np.ndarray
    """(N, 2, rows, columns, slices); index 0 image, index 1 label."""
    pre: np.ndarray | None
    """(N, rows, columns, slices), or None for one channel."""
    spacing_mm: tuple[float, float, float] | None
    """Row, column, slice; None where nobody noted it."""

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, slices of every volume."""
        return self.pairs.shape[2:]

    def image(self, number: int) -> np.ndarray:
        """Return one finite volume (rows, columns, slices, channels) in the file's dtype."""
        before = [] if self.pre is None else [self.pre[number]]
        image = np.stack([self.pairs[number, 0], *before], axis=-1)
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            where = f"{self.folder}, volume {number}"
            raise DataError(f"{where}: found NaN or infinite intensities; expected finite numbers")
        return image

    def label(self, number: int) -> np.ndarray:
        """Return one label (rows, columns, slices) uint8; it may hold 0 and 1 alone."""
        label = np.asarray(self.pairs[number, 1])
        name = f"{self.folder}, volume {number}"
        return integer_labels(label, name, least=0, most=1).astype(np.uint8)


def open_volumes(folder: Path, config: Config) -> Volumes:
    """Open the arrays of a task without reading them.

    The folder holds the files named in `PAIRS` and, where the task has two channels, `PRE`.

    Raises:
        DataError: a file is missing, damaged, of another rank or no numbers, or the two differ in
            the number or size of volumes.
    Source: make_datasets.py, raseg_predict.py (both read the arrays whole).
    """
    folder = Path(folder)
    pairs, pre = open_pairs(folder, config), open_pre(folder, config)
    if pre is not None:
        check_partners(folder, pairs, pre, config)
    return Volumes(folder, pairs, pre, read_spacing(folder))


def files_of(folder: Path, config: Config) -> list[Path]:
    """Return the arrays of a task."""
    names = [PAIRS[config.task], *([PRE] if len(CHANNELS[config.task]) > 1 else [])]
    return [Path(folder) / name for name in names]


def open_pairs(folder: Path, config: Config) -> np.ndarray:
    """Open images and labels, (N, 2, rows, columns, slices)."""
    path = folder / PAIRS[config.task]
    pairs = open_array(path, rank=5, axes="volumes, 2, rows, columns, slices")
    if pairs.shape[1] != 2:
        found = f"{pairs.shape[1]} entries on the second axis"
        raise DataError(f"{path}: found {found}; expected image and label")
    if not pairs.size:
        raise DataError(f"{path}: found shape {pairs.shape}; expected at least one voxel")
    return pairs


def open_pre(folder: Path, config: Config) -> np.ndarray | None:
    """Open the scans before contrast, (N, rows, columns, slices); None where the task has none."""
    if len(CHANNELS[config.task]) < 2:
        return None
    return open_array(folder / PRE, rank=4, axes="volumes, rows, columns, slices")


def check_partners(folder: Path, pairs: np.ndarray, pre: np.ndarray, config: Config) -> None:
    """Refuse scans before contrast that differ from the others in number or size."""
    name = PAIRS[config.task]
    if len(pre) != len(pairs):
        counts = f"{len(pre)} volumes, {name} {len(pairs)}"
        raise DataError(f"{folder / PRE} holds {counts}; expected as many in both")
    if pre.shape[1:] != pairs.shape[2:]:
        sizes = f"{words_of(pre.shape[1:])}, {name} of {words_of(pairs.shape[2:])}"
        raise DataError(
            f"{folder / PRE} holds volumes of {sizes} rows, columns, slices; expected the same"
        )


def open_array(path: Path, *, rank: int, axes: str) -> np.ndarray:
    """Memory-map one .npy file of real numbers with `rank` axes; `axes` names them in messages."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected an array ({axes})")
    array = arrays.open_array(path)
    if array.ndim != rank:
        raise DataError(f"{path}: found {array.ndim} axes {array.shape}; expected {rank} ({axes})")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: found values of type {array.dtype}; expected real numbers")
    return array


def read_spacing(folder: Path) -> tuple[float, float, float] | None:
    """Read the spacing noted beside the arrays, or None where there is no note."""
    path = folder / GEOMETRY
    if not path.is_file():
        return None
    try:
        spacing = tuple(float(value) for value in json.loads(path.read_text())["spacing_mm"])
        if len(spacing) != 3 or not all(value > 0 for value in spacing):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise DataError(f'{path}: expected {{"spacing_mm": [row, column, slice]}} in mm') from None
    return spacing


def refuse_existing(path: Path) -> None:
    """Refuse to write an array where there is one."""
    if path.exists():
        raise DataError(f"{path} exists; expected a folder without it (--out)")


def write_volumes(
    out: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str], *, source: str
) -> None:
    """Write arrays of volumes into a folder, and whose each volume is."""
    make_folder(Path(out), f"--out {out}")
    for name, array in arrays.items():
        with scratch_folder(Path(out) / name) as scratch:
            np.save(scratch / name, array)
            (scratch / name).replace(Path(out) / name)
    write_json(Path(out) / PATIENTS, {"source": source, "patients": list(names)})


def split_volumes(count: int, *, held_out: int, validation: int = 0) -> dict[str, list[int]]:
    """Divide the volumes by their order: training first, then validation, then held out.

    The last `held_out` volumes (the original's --val) are the test set, the `validation` ones
    before them are watched while training [R12]. `OptionError`: a number is negative or nothing is
    left to train with. Source: make_datasets.py; ledger R19.
    """
    if held_out < 0 or validation < 0:
        raise OptionError(f"--val {held_out}, validation_volumes {validation}: expected 0 or more")
    # [R19] By position; a patient's later scans may fall on either side.
    training = count - held_out - validation
    if training < 1:
        watched = f" and --validation_volumes {validation}" if validation else ""
        raise OptionError(
            f"--val {held_out}{watched} leave {training} of {count} volumes to train with; "
            "expected at least 1"
        )
    return {
        "training": list(range(training)),
        "validation": list(range(training, training + validation)),
        "test": list(range(training + validation, count)),
    }


def normalise(image: np.ndarray) -> np.ndarray:
    """Shift and scale every channel of a volume to mean 0 and deviation 1.

    Takes (rows, columns, slices, channels) of any real dtype, returns float32 of the same shape.

    The deviation is at least 1 / sqrt(voxels), so that a constant channel becomes zeros. Statistics
    are taken in float64: in float32 they are wrong in the third digit at full size [R5].

    Source: raseg_predict.py:23, raseg_input.py:184-234.
    """
    whitened = np.empty(image.shape, np.float32)
    for channel in range(image.shape[-1]):
        values = image[..., channel].astype(np.float64)
        values -= values.mean()
        deviation = np.sqrt(np.square(values).mean())
        values /= max(deviation, 1 / np.sqrt(values.size))
        whitened[..., channel] = values
    return whitened


def prepare_volume(image: np.ndarray, config: Config, *, name: str) -> np.ndarray:
    """Return the network's input for a raw volume at prediction, float32 of the same shape.

    With `predict_from_stored` [R6] fractions are cut off first, as the binaries do.
    """
    image = read_words(image, config, name=name)
    if config.predict_from_stored and config.read_as_signed:
        image = image.view("<i2")
    return normalise(image)


def read_words(image: np.ndarray, config: Config, *, name: str) -> np.ndarray:
    """Return a volume as the binaries would hold it, where it is predicted from them [R6]."""
    if not config.predict_from_stored:
        return image
    return encode(image, wrap=config.wrap_intensities, what=name)


def read_split(record) -> Mapping[str, list[int]]:
    """Return the numbers of a run's volumes by subset."""
    subsets = record.read_split().items()
    return {name: [int(entry["volume"]) for entry in entries] for name, entries in subsets}


def choose_volumes(record, volumes: Volumes, imgn: int | None) -> list[int]:
    """Return the numbers of the volumes to segment [R1]; `OptionError` where there are none."""
    numbers = read_split(record).get("test", []) if imgn is None else [imgn]
    if not numbers:
        raise OptionError("--imgn is not given, and the run has no held-out volumes to predict")
    last, most = max(numbers), len(volumes) - 1
    if not 0 <= last <= most:
        raise OptionError(f"--imgn {last}: expected 0 to {most}, the volumes there are")
    return numbers


def check_tag(tag: str | None) -> None:
    """Refuse a tag that is missing or cannot be part of a file's name."""
    if tag is None:
        raise OptionError("--tag: expected a name for this set of binaries")
    if not can_name_a_file(tag):
        raise OptionError(f"--tag {tag!r}: expected a short word that can be part of a file's name")
