"""What the original was recorded with: phantoms, weights, oracles."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(golden_dir):
    """Recorded arrays by file name: `golden("losses")["FP"]`."""

    def load(name):
        with np.load(golden_dir / "vertebra" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="session")
def recipe():
    """The module `recipe.py` beside this file; tests are no package to import it from."""
    path = Path(__file__).with_name("recipe.py")
    spec = importlib.util.spec_from_file_location("vertebra_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
