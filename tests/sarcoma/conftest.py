"""What the original was recorded with: weights by recipe, batches, its files."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(golden_dir):
    """Recorded arrays by file name: `golden("dice")["soft/y_true"]`."""

    def load(name):
        with np.load(golden_dir / "sarcoma" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="session")
def recipe():
    """The module `recipe.py` beside this file; tests are no package to import it from."""
    path = Path(__file__).with_name("recipe.py")
    spec = importlib.util.spec_from_file_location("sarcoma_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def petct(golden_dir):
    """A file the original accepts: true patients, slices and windows, planes of 20 x 16."""
    return golden_dir / "sarcoma" / "synthetic_petct.h5"


@pytest.fixture(scope="session")
def keras2_files(shared):
    """The same trained weights, saved by Keras 2.1.6 and by tf-keras 2.21."""
    folder = shared / "golden" / "sarcoma"
    return folder / "model_w4_keras216.h5", folder / "model_w4_tfkeras.h5"
