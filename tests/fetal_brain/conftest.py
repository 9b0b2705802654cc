"""What the original was recorded with: weights, batches and its checkpoint."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(golden_dir):
    """Recorded arrays by file name: `golden("layers")["pool_even_in"]`."""

    def load(name):
        with np.load(golden_dir / "fetal_brain" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


def load_beside(name):
    """Load a module beside this file; tests are no package to import it from."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"fetal_brain_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recipe():
    """The module `recipe.py`: weights and batches drawn again from their seeds."""
    return load_beside("recipe")


@pytest.fixture(scope="session")
def commands():
    """The module `commands.py`: how a command is run and what it may leave behind."""
    return load_beside("commands")


@pytest.fixture(scope="session")
def work(commands, tmp_path_factory):
    """One whole passage through the commands on tiny phantoms."""
    return commands.make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def initialisation(golden_dir):
    """Shape, largest value and deviation of each of the original's 82 variables at its start."""
    return json.loads((golden_dir / "fetal_brain" / "init.json").read_text())


@pytest.fixture(scope="session")
def recipe_weights(golden, initialisation, recipe):
    """{original variable name: array} of the recorded network."""
    import tensorflow as tf

    # On a GPU, TF32 convolutions round far outside the tolerances of a recorded comparison.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    kernels = golden("layers")
    up_kernels = {kernels[key].shape: kernels[key] for key in ("upkernel_1x1x1", "upkernel_1x2x2")}
    return recipe.make_weights({n: v["shape"] for n, v in initialisation.items()}, up_kernels)


@pytest.fixture(scope="session")
def original_checkpoint(shared):
    """Folder with a real checkpoint and a real export of the original."""
    return shared / "golden" / "fetal_brain" / "model_dir"
