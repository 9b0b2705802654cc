"""What the original was recorded with: weights by recipe, batches, its files."""

import pytest


@pytest.fixture(scope="session")
def golden(golden):
    """Recorded arrays by file name: `golden("dice")["soft/y_true"]`."""
    return golden("sarcoma")


@pytest.fixture(scope="session")
def recipe(recipe):
    """The module `recipes/sarcoma.py`."""
    return recipe("sarcoma")


@pytest.fixture(scope="session")
def petct(golden_dir):
    """A file the original accepts: true patients, slices and windows, planes of 20 x 16."""
    return golden_dir / "sarcoma" / "synthetic_petct.h5"


@pytest.fixture(scope="session")
def keras2_files(shared):
    """The same trained weights, saved by Keras 2.1.6 and by tf-keras 2.21."""
    folder = shared / "golden" / "sarcoma"
    return folder / "model_w4_keras216.h5", folder / "model_w4_tfkeras.h5"
