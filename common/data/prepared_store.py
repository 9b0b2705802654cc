"""Prepared cases on the disk: a folder of arrays for each, read as memory maps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import write_folder_atomically


class CaseArrays(Mapping):
    """Arrays of one prepared case by name, opened as memory maps at every access.

    Nothing is kept open, so that memory does not grow with the number of cases: take what is
    needed and let go. `np.array(arrays["image"][patch])` reads the patch alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        if not path.exists():
            raise KeyError(name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as failure:
            raise DataError(f"{path} is no readable array: {failure}; prepare again") from failure

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


class CaseStore(Mapping):
    """Prepared cases of a folder by id, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __getitem__(self, case_id: str) -> PreparedCase:
        folder = self.folder / case_id
        if case_id.startswith(".") or not folder.is_dir():
            raise KeyError(case_id)
        return PreparedCase(case_id, folder)

    def __iter__(self) -> Iterator[str]:
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return (path.name for path in folders if path.is_dir() and not path.name.startswith("."))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def write_prepared_case(
    folder: Path, case_id: str, arrays: Mapping[str, np.ndarray]
) -> PreparedCase:
    """Write the arrays of one case as <folder>/<case_id>/<name>.npy, all or none of them.

    Args:
        folder: of all prepared cases; made if missing.
        case_id: one path component; an older case of this id is replaced.
        arrays: by name, of any numeric dtype and shape.
    Returns:
        The case as it can now be read.
    Raises:
        DataError: `case_id` cannot be a folder's name, or the disk is full or unwritable.
    """
    if not case_id or case_id.startswith(".") or "/" in case_id or "\0" in case_id:
        raise DataError(f"case id {case_id!r} cannot name a folder; expected no / and no leading .")
    target = Path(folder) / case_id
    with write_folder_atomically(target, replace=True, error=DataError) as unfinished:
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", np.asarray(array), allow_pickle=False)
    return PreparedCase(case_id, target)
