"""Finding and checking cases: the source folder in CSI's layout, and the prepared trees.

Axis order everywhere: (Z, Y, X), z grows cranially.

Source layout: one flat folder with `case<id>.mhd` and `case<id>_label.mhd`, the data files beside.
Prepared layout: <root>/{train,test}/{img,seg,weight}/, with `case1.mhd`, `case1_label.mhd` and
`case1_weight.nrrd`.
"""

import glob
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.data.geometry import Volume, check_same_grid
from common.data.labels import integer_labels
from common.data.names import check_id
from common.data.nnunet import read_dataset
from common.data.phantoms import read_marker
from common.data.volumes import check_scan, explain_unread, is_volume, read_volume, stem_of
from common.errors import DataError, OptionError
from common.runs.folder import load_run
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


def find_volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes of a folder by name without ending, in the order of the numbers in it.

    Hidden files and files of other kinds are passed over [V20]. Raises `DataError` where the folder
    does not exist or two files have one name.
    """
    volumes: dict[str, Path] = {}
    for path in list_volumes(folder):
        check_new_name(path, volumes)
        volumes[stem_of(path)] = path
    return volumes


def list_volumes(folder: Path) -> list[Path]:
    """Return the volumes of a folder, which must exist, in the order of the numbers in names."""
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with scans")
    paths = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
    return [path for path in paths if is_volume(path)]


def check_new_name(path: Path, volumes: Mapping[str, Path]) -> None:
    """Refuse a volume that has, but for its ending, the name of an earlier one."""
    stem = stem_of(path)
    if stem in volumes:
        raise DataError(f"{path} and {volumes[stem].name} have one name; expected one of them")


def natural_key(name: str) -> tuple:
    """Return a sort key by which case2 comes before case10."""
    # Superscript digits count as digits for str.isdigit, but int refuses them.
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))


def find_source_cases(folder: Path) -> list[Case]:
    """Find the scans `<name><id>.mhd` of a flat folder and their labels, by rising number.

    Raises `DataError` for a folder without scans, a scan without label or number, a label without
    scan, a number twice. Source: data/preprocessing.py, which takes every file without `raw` in its
    name.
    """
    volumes = find_volumes(folder)
    cases: list[Case] = []
    for name in volumes:
        if name.endswith(LABEL_MARK):
            check_scan_of_labels(name, volumes)
        else:
            cases.append(source_case(name, volumes))
    check_some(cases, folder)
    for case in cases:
        check_number(case, cases, folder)
    return sorted(cases, key=lambda case: case.number)


def find_nnunet_cases(folder: Path) -> list[Case]:
    """Find the labelled cases of a data set in nnU-Net's layout, numbered in their order: case1_...

    Labels mean what they do in the paper's own folders: larger ones lie further up.
    """
    dataset = read_dataset(folder, channels=1)
    return [
        Case(f"case{number}_{case.id}", case.images[0], case.label)
        for number, case in enumerate(dataset.labelled, start=1)
    ]


def check_scan_of_labels(name: str, volumes: Mapping[str, Path]) -> None:
    """Refuse labels without a scan; `name` is theirs, without its ending."""
    if name.removesuffix(LABEL_MARK) not in volumes:
        raise DataError(f"{volumes[name]} has no scan; expected {name.removesuffix(LABEL_MARK)}")


def source_case(name: str, volumes: Mapping[str, Path]) -> Case:
    """Return the case of a scan; it must have a number, labels and a name that can be an id."""
    path = volumes[name]
    check_id(name, str(path.parent))
    if not re.search(r"\d", name):
        raise DataError(f"{path}: no number in its name; expected one, such as case1.mhd")
    label = volumes.get(name + LABEL_MARK)
    if label is None:
        raise DataError(
            f"{path} has no labels; expected {name}{LABEL_MARK} beside it, to train or evaluate "
            "with; predict --image takes it as it is"
        )
    return Case(name, path, label)


def check_some(cases: Collection, folder: Path) -> None:
    """Refuse a folder without cases."""
    if not cases:
        hint = explain_unread(path.name for path in Path(folder).iterdir())
        raise DataError(f"{folder}: no scans; expected case1.mhd, case1_label.mhd, ...{hint}")


def check_number(case: Case, cases: Sequence[Case], folder: Path) -> None:
    """Refuse a case whose number another one has."""
    twins = [other.id for other in cases if other.number == case.number]
    if len(twins) > 1:
        raise DataError(
            f"{folder}: number {case.number} occurs twice, in {twins[0]} and {twins[1]}; expected "
            "one scan for each, whose first digits are its number"
        )


def find_prepared_cases(root: Path, subset: str) -> list[Case]:
    """Find the cases of the "train" or "test" part of a prepared tree, matched by name.

    Raises `DataError` where a folder is missing or empty, or a file has no counterpart.
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
    """Read a scan; raise `DataError` for one that cannot be read, is not three-dimensional, has NaN
    or infinite voxels or is constant.
    """
    volume = read_volume(path)
    check_scan(volume.array, path)
    return volume


def load_labels(path: Path) -> Volume:
    """Read a label volume; its values must be integers from 0."""
    volume = read_volume(path, finite=False)
    return replace(volume, array=integer_labels(volume.array, str(path), least=0))


def load_case(case: Case, config: Config) -> tuple[Volume, Volume]:
    """Read a scan on the raw scale [V34], and its labels on the same grid.

    What was done to the scale is said on stderr. Raises `DataError` where one cannot be used, the
    two differ in shape or geometry, or there is no vertebra.
    """
    image, labels = load_scan(case.image_path), load_labels(case.label_path)
    check_same_grid(image, labels, names=(str(case.image_path), str(case.label_path)))
    check_labelled(labels, case.label_path)
    array, note = to_raw_scale(image.array, config, name=str(case.image_path))
    if note:
        print(f"{case.id}: {note}", file=sys.stderr)
    return Volume(array, image.geometry), labels


def check_labelled(labels: Volume, path: Path) -> None:
    """Refuse labels without any vertebra."""
    if not labels.array.any():
        raise DataError(f"{path}: no vertebra is labelled; expected labels above 0")


def is_phantom(folder: Path) -> bool:
    """Say whether a folder, or one above it, was marked as synthetic by the phantom writer."""
    folder = Path(folder).absolute()
    return any(read_marker(place) is not None for place in (folder, *folder.parents[:3]))


def files_of(cases: Sequence[Case]) -> list[Path]:
    """Return all files of cases in order, also the data files beside a .mhd header."""
    return [
        file
        for case in cases
        for volume in (case.image_path, case.label_path, case.weight_path)
        if volume is not None
        for file in sorted(volume.parent.glob(f"{glob.escape(stem_of(volume))}.*"))
    ]


def choose_scans(
    run: Path, elsewhere: Path | None, *, test_dir: Path | None, image: Path | None
) -> list[Path]:
    """Return the scans that the options name; files with `_label` in their name are left out.

    Raises `DataError` for a folder without scans, `OptionError` for two sources or none.
    """
    if image is not None and test_dir is not None:
        raise OptionError("--image and --test_dir were both given; expected one of them")
    if image is not None:
        return [image]
    if test_dir is not None:
        scans = [path for name, path in find_volumes(test_dir).items()
                 if not name.endswith(LABEL_MARK)]  # fmt: skip
        if not scans:
            raise DataError(f"{test_dir}: no scans; expected case1.mhd, ...")
        return scans
    if elsewhere is not None:
        raise OptionError(
            "--weights and --model need --test_dir or --image; expected scans to segment"
        )
    scans = [Path(entry["image_path"]) for entry in load_run(run).read_split()["test"]]
    if not scans:
        raise OptionError(f"{run} has no test cases; expected --test_dir or --image")
    return scans


def cases_of_labels(label_dir: Path, test_dir: Path | None) -> list[Case]:
    """Return the cases of a folder of references, matched by name, not by position [V20]."""
    images = find_volumes(test_dir) if test_dir else {}
    return [
        Case(name.removesuffix(LABEL_MARK), images.get(name.removesuffix(LABEL_MARK), Path()), path)
        for name, path in find_volumes(label_dir).items()
        if name.endswith(LABEL_MARK)
    ]


def prediction_path(folder: Path, case_id: str) -> Path:
    """Return where the mask of a scan lies: <folder>/<scan>_pred.nrrd, as in the original."""
    return folder / f"{case_id}_pred.nrrd"
