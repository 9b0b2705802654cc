"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

import common  # noqa: F401  # before any test module imports TensorFlow

# As the command line sets it; TensorFlow reads it once, when a test module imports it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[1]


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
