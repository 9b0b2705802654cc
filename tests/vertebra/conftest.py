"""What the original was recorded with: phantoms, weights, oracles."""

import pytest


@pytest.fixture(scope="session")
def golden(golden):
    """Recorded arrays by file name: `golden("losses")["FP"]`."""
    return golden("vertebra")


@pytest.fixture(scope="session")
def recipe(recipe):
    """The module `recipes/vertebra.py`."""
    return recipe("vertebra")
