"""Finding and checking cases: the source folder in CSI's layout, and the prepared trees.

Axis order everywhere: (Z, Y, X), z grows cranially.

Source layout: one flat folder with `case<id>.mhd` and `case<id>_label.mhd`, the data files beside.
Prepared layout: <root>/{train,test}/{img,seg,weight}/, with `case1.mhd`, `case1_label.mhd` and
`case1_weight.nrrd`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.volumes import FORMATS, Volume, check_same_grid, read_volume
from vertebra.config import Config
from vertebra.preparation import to_raw_scale

SUBSETS = ("train", "test")
LABEL_MARK = "_label"


@dataclass(frozen=True)
class Case:
    """A scan and what belongs to it."""

    id: str
    """Name of the scan without its ending."""
    image_path: Path
    """Absolute, so that a run's split.json holds wherever it is read from."""
    label_path: Path | None = None
    weight_path: Path | None = None

    @property
    def number(self) -> int:
        """First run of digits of the name, by which cases are split."""
        return int(re.search(r"\d+", self.id).group())

    @classmethod
    def from_dict(cls, entry: Mapping[str, str | None]) -> "Case":
        """Return the case that an entry of a run's split.json describes."""
        paths = {key: Path(value) for key, value in entry.items() if key != "id" and value}
        return cls(entry["id"], **paths)


def stem_of(path: Path) -> str:
    """Return a file's name without its ending, also without both of `.nii.gz`."""
    name = path.name
    for ending in sorted(FORMATS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def find_volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes of a folder by name without ending, in the order of the numbers in it.

    Files with `raw` in their name are the data of others; hidden files and files of other kinds are
    passed over [V20].

    Raises:
        DataError: the folder does not exist, or two files have one name.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with scans")
    volumes = {}
    for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        name = path.name.lower()
        known = any(name.endswith(ending) for ending in FORMATS)
        if not known or name.startswith(".") or not path.is_file():
            continue
        stem = stem_of(path)
        if stem in volumes:
            raise DataError(f"{path} and {volumes[stem].name} have one name; expected one of them")
        volumes[stem] = path
    return volumes


def natural_key(name: str) -> tuple:
    """Return a sort key by which case2 comes before case10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def find_source_cases(folder: Path) -> list[Case]:
    """Find the scans of a flat folder and their labels.

    Args:
        folder: holds `<name><id>.mhd` (or another format) and `<name><id>_label.mhd`.

    Returns:
        The cases by rising number.

    Raises:
        DataError: no scan, a scan without label or without a number, a label without scan, a
            number twice, or a header whose data file is missing.

    Source: data/preprocessing.py, which takes every file without `raw` in its name.
    """
    volumes = find_volumes(folder)
    cases = []
    for name, path in volumes.items():
        if name.endswith(LABEL_MARK):
            if name.removesuffix(LABEL_MARK) not in volumes:
                raise DataError(f"{path} has no scan; expected {name.removesuffix(LABEL_MARK)}")
            continue
        if not re.search(r"\d", name):
            raise DataError(f"{path}: no number in its name; expected one, such as case1.mhd")
        label = volumes.get(name + LABEL_MARK)
        if label is None:
            raise DataError(f"{path} has no labels; expected {name}{LABEL_MARK} beside it")
        cases.append(Case(name, path, label))
    if not cases:
        raise DataError(f"{folder}: no scans; expected case1.mhd, case1_label.mhd, ...")
    numbers = [case.number for case in cases]
    for number in numbers:
        if numbers.count(number) > 1:
            raise DataError(f"{folder}: number {number} occurs twice; expected one scan for each")
    return sorted(cases, key=lambda case: case.number)


def find_prepared_cases(root: Path, subset: str) -> list[Case]:
    """Find the cases of one subset of a prepared tree; img, seg and weight are matched by name.

    Args:
        root: of `prepare`.
        subset: "train" or "test".

    Raises:
        DataError: a folder is missing or empty, or a file has no counterpart.
    """
    folder = Path(root) / subset
    images, labels, weights = (find_volumes(folder / kind) for kind in ("img", "seg", "weight"))
    if not images:
        raise DataError(f"{folder / 'img'}: no scans; expected what `prepare` writes")
    cases = []
    for name, path in images.items():
        parts = {"seg": labels.get(name + LABEL_MARK), "weight": weights.get(name + "_weight")}
        for kind, part in parts.items():
            if part is None:
                raise DataError(f"{path}: nothing of this name in {folder / kind}; prepare again")
        cases.append(Case(name, path, parts["seg"], parts["weight"]))
    return cases


def load_scan(path: Path) -> Volume:
    """Read a scan and refuse what cannot be segmented.

    Raises:
        DataError: it cannot be read (a .mhd without its data file, for one), is not
            three-dimensional, has NaN or infinite voxels or is constant.
    """
    volume = read_volume(path)
    if not np.isfinite(volume.array).all():
        count = int(np.count_nonzero(~np.isfinite(volume.array)))
        raise DataError(f"{path}: found {count} NaN or infinite voxels; expected finite values")
    if volume.array.min() == volume.array.max():
        raise DataError(f"{path}: every voxel is {volume.array.flat[0]}; expected a scan")
    return volume


def load_labels(path: Path) -> Volume:
    """Read a label volume; its values must be whole numbers from 0.

    Raises:
        DataError: it cannot be read, or holds other values.
    """
    volume = read_volume(path)
    array = volume.array
    if not np.issubdtype(array.dtype, np.integer):
        with np.errstate(invalid="ignore"):
            wrong = array[~(np.isfinite(array) & (array == np.floor(array)))]
        if wrong.size:
            raise DataError(f"{path}: found the label value {wrong[0]}; expected whole numbers")
        volume = Volume(array.astype(np.int32), volume.geometry)
    if volume.array.min() < 0:
        raise DataError(f"{path}: found the label {volume.array.min()}; expected labels from 0")
    return volume


def load_case(case: Case, config: Config) -> tuple[Volume, Volume]:
    """Read a scan with its labels.

    Args:
        case: with `label_path`.
        config: uses `intensity` [V34].

    Returns:
        Scan on the raw scale and labels, on one grid, with at least one vertebra.

    Raises:
        DataError: see `load_scan` and `load_labels`; the two differ in shape or geometry; there is
            no vertebra.
    """
    image, labels = load_scan(case.image_path), load_labels(case.label_path)
    check_same_grid(image, labels, names=(str(case.image_path), str(case.label_path)))
    if not labels.array.any():
        raise DataError(f"{case.label_path}: no vertebra is labelled; expected labels above 0")
    array, _ = to_raw_scale(image.array, config)
    return Volume(array, image.geometry), labels


def is_phantom(folder: Path) -> bool:
    """Say whether a folder, or one above it, was marked as synthetic by the phantom writer."""
    from common.phantoms import read_marker

    folder = Path(folder).absolute()
    return any(read_marker(place) is not None for place in (folder, *folder.parents[:3]))


def describe_cases(cases: Sequence[Case]) -> list[dict]:
    """Return cases as a run's split.json holds them."""
    from dataclasses import asdict

    return [asdict(case) for case in cases]
