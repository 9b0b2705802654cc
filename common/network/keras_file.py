"""What a .keras file holds, read as data: neither Keras nor TensorFlow is needed."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np

from common.errors import RunError, one_line

MOST_PACKED = 20
"""Times a file's size that its arrays may take; Keras does not pack them."""
WEIGHTS = "model.weights.h5"
"""Where a .keras file, which is a zip archive, holds its arrays."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .keras file by their names in it.

    Raises:
        RunError: it is not such a file.
    """
    names: list[str] = []
    try:
        most = path.stat().st_size * MOST_PACKED
        with zipfile.ZipFile(path) as archive:
            if (size := archive.getinfo(WEIGHTS).file_size) > most:
                raise ValueError(f"found {size} bytes of arrays; expected {most} at most")
            content = archive.read(WEIGHTS)
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visit(names.append)
            stored = {name: file[name] for name in names if isinstance(file[name], h5py.Dataset)}
            if (size := sum(array.nbytes for array in stored.values())) > most:
                raise ValueError(f"found arrays of {size} bytes; expected {most} at most")
            if any(array.external or array.is_virtual for array in stored.values()):
                raise ValueError("found arrays that lie in other files")
            return {name: array[()] for name, array in stored.items()}
    except Exception as failure:  # the archive and HDF5 have errors of many kinds
        raise RunError(f"{path} cannot be read as a Keras model: {one_line(failure)}") from failure
