"""What a .keras file holds, read as data: neither Keras nor TensorFlow is needed."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np

from common.errors import RunError

WEIGHTS = "model.weights.h5"
"""Where a .keras file, which is a zip archive, holds its arrays."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .keras file by their names in it.

    Raises:
        RunError: it is not such a file.
    """
    names: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(WEIGHTS)
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visit(names.append)
            return {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}
    except (OSError, KeyError, zipfile.BadZipFile) as failure:
        raise RunError(f"{path} cannot be read as a Keras model: {failure}") from failure
