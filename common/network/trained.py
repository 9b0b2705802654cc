"""The trained network of a run folder, held to the configuration beside it."""

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from common.errors import RunError

if TYPE_CHECKING:
    import keras

WEIGHTS = "model.weights.h5"
"""Where a .keras file, which is a zip archive, holds its arrays."""
SEED_STATE = "seed_generator"
"""In the names of states of random generators, which are variables but no parameters."""


def load_trained(network: "keras.Model", run: Path) -> "keras.Model":
    """Give a freshly built network the weights of a run.

    The network that the file describes is not built, which takes as long as building `network`.

    Args:
        network: what the run's configuration describes.
        run: run folder with `model.keras`.

    Returns:
        `network`, with the weights of the file.

    Raises:
        RunError: there is no trained network, it cannot be read, or it is another architecture.
    """
    path = Path(run) / "model.keras"
    if not path.is_file():
        raise RunError(f"{path} is missing; expected the network of a finished training run")
    stored = [array for name, array in read_arrays(path).items() if SEED_STATE not in name]
    if sorted(array.shape for array in stored) != sorted(
        tuple(weight.shape) for weight in network.weights
    ):
        raise RunError(
            f"{path} is another architecture ({sum(array.size for array in stored)} parameters) "
            f"than {Path(run) / 'config.yaml'} describes ({network.count_params()} parameters)"
        )
    try:
        network.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError) as problem:
        first_line = str(problem).strip().partition("\n")[0]
        raise RunError(f"{path} cannot be read as a Keras model: {first_line[:200]}") from None
    return network


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .keras file by their names in it.

    Raises:
        RunError: it is not such a file.
    """
    arrays: dict[str, np.ndarray] = {}

    def take(name: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            arrays[name] = entry[()]

    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(WEIGHTS)
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(take)
    except (OSError, KeyError, zipfile.BadZipFile) as failure:
        raise RunError(f"{path} cannot be read as a Keras model: {failure}") from failure
    return arrays
