"""The trained network of a run folder: written, and read back for its configuration."""

import os
from pathlib import Path

import keras

from common.errors import RunError, one_line
from common.files import scratch_folder
from common.network.keras_file import read_arrays

SEED_STATE = "seed_generator"
"""In the names of states of random generators, which are variables but no parameters."""


def load_trained(network: keras.Model, run: Path) -> keras.Model:
    """Give a freshly built network the weights of a run, and return it.

    Args:
        network: what the run's configuration describes.
        run: run folder with `model.keras`. The network that this file describes is not built: that
            takes as long as building `network`.

    Raises:
        RunError: there is no trained network, it cannot be read, or it is another architecture.
    """
    path = Path(run) / "model.keras"
    if not path.is_file():
        raise RunError(f"{path} is missing; expected the network of a finished training run")
    stored = [array for name, array in read_arrays(path).items() if SEED_STATE not in name]
    wanted = [tuple(weight.shape) for weight in network.weights]
    if sorted(array.shape for array in stored) != sorted(wanted):
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


def save_network(model: keras.Model, path: Path) -> None:
    """Write a trained network as a .keras file, which loads after `import <paper>`.

    Loss, metrics and optimiser of its training stay out of the file. Where the network has Keras'
    own layers alone, as in `fetal_brain`, the file needs nothing of this project.

    Args:
        model: a functional model; it is left as it is.
        path: file ending in .keras, in an existing folder; it is replaced whole or not at all.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    bare = keras.Model(model.input, model.output, name=model.name)
    target = Path(os.path.realpath(path))
    try:
        # A folder, since Keras wants the file's ending and `remove_leftovers` another one.
        with scratch_folder(target) as folder:
            bare.save(folder / path.name)
            os.replace(folder / path.name, target)
    except OSError as refusal:
        raise RunError(f"{path} cannot be written: {one_line(refusal)}") from refusal
