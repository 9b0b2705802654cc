"""Arrays in .npy files, used through memory maps."""

import os
from pathlib import Path

import numpy as np

from common.errors import DataError, one_line


def open_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file, any shape and plain dtype, as a read-only memory map.

    Raises:
        DataError: the file is missing, damaged, shorter than its header says, or holds objects.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as failure:  # numpy parses the header as Python, which has errors of its own
        raise DataError(f"{path} is no readable .npy array: {one_line(failure)}") from failure


def create_array(path: Path, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.memmap:
    """Make a .npy file of zeros and return it as a memory map to write to.

    All of its space is reserved: where a disk fills up under a map, the process is killed.

    Raises:
        OSError: the disk has not the space, or the file cannot be written.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return array
