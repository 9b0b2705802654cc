"""Data sets in the layout of nnU-Net and the Medical Segmentation Decathlon.

`dataset.json` names channels and labels; `imagesTr/<id>_0000.nii.gz` is the first channel of a
training case (the Decathlon's `<id>.nii.gz`, of one channel), `labelsTr/<id>.nii.gz` its labels;
`imagesTs` and, where there is one, `labelsTs` hold the test cases.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.names import check_id
from common.data.volumes import is_volume, stem_of
from common.errors import DataError, RunError
from common.files import read_json

DESCRIPTION = "dataset.json"
LAST_CHANNEL = 9999


@dataclass(frozen=True)
class NnunetCase:
    """Where one case lies."""

    id: str
    images: tuple[Path, ...]
    """One per channel, in their order."""
    label: Path | None


@dataclass(frozen=True)
class NnunetDataset:
    """What a data set says of itself, and its cases in the order of their ids."""

    folder: Path
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    """Number by name; labels that are unions of several are left out."""
    training: tuple[NnunetCase, ...]
    test: tuple[NnunetCase, ...]

    @property
    def labelled(self) -> tuple[NnunetCase, ...]:
        """The cases that have labels, those to test on last."""
        return tuple(case for case in (*self.training, *self.test) if case.label)

    @property
    def described(self) -> str:
        """The data set in a line, for the terminal."""
        labels = ", ".join(f"{number} {name}" for name, number in self.labels.items())
        return (
            f"{len(self.training)} to train on, then {len(self.test)} to test; channels "
            f"{', '.join(self.channels)}; labels {labels}"
        )


def read_dataset(folder: Path, *, channels: int | None = None) -> NnunetDataset:
    """Find the cases of a data set.

    Args:
        folder: of dataset.json.
        channels: how many the caller takes; None: any.

    Raises:
        DataError: a part is missing or cannot be understood, a case lacks a channel or its labels,
            or there are other channels than the caller takes.
    """
    folder = Path(folder).absolute()
    path = folder / DESCRIPTION
    try:
        stored = read_json(path)
        names = _by_number(stored.get("channel_names") or stored["modality"])
        labels = _numbers_of(stored["labels"])
    except RunError as failure:
        raise DataError(f"{failure}; expected the description of an nnU-Net data set") from None
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise DataError(
            f"{path}: not understood ({failure!r}); expected channel_names and labels"
        ) from None
    if channels is not None and len(names) != channels:
        raise DataError(f"{path}: found the channels {', '.join(names)}; expected {channels}")
    training = _find_cases(folder, "Tr", names)
    if not training:
        raise DataError(f"{folder / 'imagesTr'}: found no cases; expected <id>_0000.nii.gz, ...")
    without = [case.id for case in training if case.label is None]
    if without:
        raise DataError(f"{folder / 'labelsTr'}: found no labels of {without[0]}; expected some")
    return NnunetDataset(folder, names, labels, training, _find_cases(folder, "Ts", names))


def _by_number(names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _numbers_of(labels: Mapping[str, Any]) -> dict[str, int]:
    """Return numbers by name of nnU-Net's labels, or of the Decathlon's names by number."""
    if all(isinstance(name, str) and name.isdecimal() for name in labels):
        return {str(name): int(number) for number, name in labels.items()}
    return {name: int(value) for name, value in labels.items() if not isinstance(value, list)}


def _find_cases(folder: Path, part: str, channels: Sequence[str]) -> tuple[NnunetCase, ...]:
    """Return the cases of one part, Tr or Ts, by id; none where its folder is absent."""
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    if not images.is_dir():
        return ()
    scans: dict[str, dict[int, Path]] = {}
    for path in sorted(each for each in images.iterdir() if is_volume(each)):
        found = re.fullmatch(r"(.+)_(\d{4})", stem_of(path))
        case_id, number = (found[1], int(found[2])) if found else (stem_of(path), 0)
        check_id(case_id, str(path))
        scans.setdefault(case_id, {})[number] = path
    masks = {}
    if labels.is_dir():
        masks = {stem_of(path): path for path in labels.iterdir() if is_volume(path)}
    cases = []
    for case_id, files in sorted(scans.items()):
        if sorted(files) != list(range(len(channels))):
            found = ", ".join(f"_{number:04d}" for number in sorted(files))
            raise DataError(
                f"{images}: found {case_id} with {found}; expected a file for each of the channels "
                f"{', '.join(channels)}"
            )
        ordered = tuple(files[number] for number in range(len(channels)))
        cases.append(NnunetCase(case_id, ordered, masks.get(case_id)))
    return tuple(cases)
