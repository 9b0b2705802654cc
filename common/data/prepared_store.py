"""Prepared cases on the disk: a folder of arrays for each, read as memory maps, and an index."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.arrays import open_array
from common.data.names import check_id
from common.errors import DataError, RunError, WriteError
from common.files import read_json, write_folder_atomically

INDEX = "prepared.json"
"""Says from which files and how the cases of a folder were prepared."""


class CaseArrays(Mapping):
    """Arrays of one prepared case by name, opened as memory maps at every access.

    Nothing is kept open, so that memory does not grow with the number of cases:
    `np.array(arrays["image"][patch])` reads the patch alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        if not path.exists():
            raise KeyError(name)
        try:
            return open_array(path)
        except DataError as failure:
            raise DataError(f"{failure}; prepare again") from failure

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self._folder.glob("*.npy")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class PreparedCase:
    """One prepared case in a folder of its own."""

    id: str
    folder: Path

    @property
    def arrays(self) -> CaseArrays:
        """The arrays by name, read-only memory maps, opened when asked for."""
        return CaseArrays(self.folder)


def write_prepared_case(
    folder: Path, case_id: str, arrays: Mapping[str, np.ndarray]
) -> PreparedCase:
    """Write the arrays of one case as <folder>/<case_id>/<name>.npy, all or none of them.

    The arrays have any numeric dtype and shape; an older case of this id is replaced.

    Raises:
        DataError: `case_id` cannot be a folder's name, or the disk is full or unwritable.
    """
    check_id(case_id, str(folder))
    target = Path(folder) / case_id
    with write_folder_atomically(target, replace=True, error=WriteError) as unfinished:
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", np.asarray(array), allow_pickle=False)
    return PreparedCase(case_id, target)


def has_arrays(folder: Path, case_id: str, names: Iterable[str]) -> bool:
    """Return whether a prepared case has arrays of these names that can be read."""
    arrays = PreparedCase(case_id, folder / case_id).arrays
    try:
        return all(arrays[name].size for name in names)
    except (KeyError, DataError):
        return False


def read_index(folder: Path, expected: Mapping[str, Any], *, cases: str) -> dict[str, Any]:
    """Return the index of a folder; without cases where they were prepared in another way.

    Args:
        folder: of prepared cases, or new.
        expected: `paper`, and what else the index must say for its cases to be those wanted.
        cases: what they are called, in the index and in messages.

    Raises:
        DataError: the folder holds something else than prepared cases of the paper.
    """
    fresh = {**expected, cases: {}}
    path = folder / INDEX
    if not folder.exists():
        return fresh
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; expected a folder of prepared {cases}")
    if not path.is_file():
        foreign = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if foreign:
            raise DataError(
                f"{folder} holds {min(foreign)} but no {INDEX}; expected a new or empty folder, or "
                f"one of prepared {cases}"
            )
        return fresh
    try:
        index = read_json(path)
        paper, found = index["paper"], index[cases]
    except (RunError, TypeError, KeyError):
        raise DataError(f"{path} is damaged; expected a folder of prepared {cases}") from None
    if paper != expected["paper"]:
        raise DataError(f"{folder} was prepared for {paper}; expected {expected['paper']}")
    same = isinstance(found, dict) and all(index.get(k) == v for k, v in expected.items())
    return index if same else fresh
