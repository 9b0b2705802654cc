"""Fixtures shared by all tests."""

import gc
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import common  # noqa: F401  # before any test module imports TensorFlow

# As the command line sets it; TensorFlow reads it once, when a test module imports it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def release():
    """Let go of a module's networks and graphs, which Keras and reference cycles keep."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
    gc.collect()


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Small recorded outputs of the originals, kept in the project."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Larger recorded or real material that lies beside the project, not in it."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"the recorded material is not beside the project (looked for {folder})")
    return folder


@pytest.fixture(scope="session")
def golden(golden_dir, request):
    """Recorded arrays by paper and file: `golden("raseg")("small_a")["logits"]`.

    What is too large for the project is looked for beside it. The folder of a paper's tests gives
    this fixture to them for their paper: `golden("small_a")["logits"]`.
    """

    def of(paper):
        def load(name):
            path = golden_dir / paper / f"{name}.npz"
            if not path.is_file():
                path = request.getfixturevalue("shared") / "golden" / paper / f"{name}.npz"
            with np.load(path) as file:
                return dict(file)

        return load

    return of


@pytest.fixture(scope="session")
def recipe():
    """The module that draws the recorded weights and inputs of a paper again from their seeds.

    Given to the tests of a paper for their paper, as `golden` is.
    """
    return lambda paper: importlib.import_module(f"recipes.{paper}")
