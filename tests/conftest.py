"""Fixtures shared by all tests."""

import ctypes
import gc
import importlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from common.cost.memory import memory_held
from common.runtime import usable_cores  # before any test module imports TensorFlow

# As the command line sets it; TensorFlow reads it once, when a test module imports it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # A worker, and what it starts, computes with its share of the cores.
    SHARE = str(max(1, usable_cores() // WORKERS))
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, SHARE)

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Begin with the files whose tests take long: a worker that gets one last keeps all waiting."""
    if "FULL_SIZE" not in os.environ:
        for item in items:
            if item.get_closest_marker("full_size"):
                item.add_marker(pytest.mark.skip(reason="full size: make test-full"))
    long = {item.path for item in items if item.get_closest_marker("alone")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Draw the same numbers in every run, whatever was drawn before: fixtures' too."""
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test marked `alone` in a process of its own.

    TensorFlow's allocator for oneDNN never gives memory back: what one large network took, all
    later tests of the process would hold.
    """
    if pyfuncitem.get_closest_marker("alone") is None or "TEST_ALONE" in os.environ:
        return None
    environment = {**os.environ, "TEST_ALONE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)  # its folder is another session's
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid],
        cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return True


@pytest.fixture(scope="session")
def held():
    """What the process held when `release` last let go, in bytes."""
    return {"bytes": memory_held()}


@pytest.fixture(scope="module", autouse=True)
def release(held):
    """Let go of a module's networks and graphs, which Keras and reference cycles keep.

    Their memory goes back to the system: what the largest test took is not held by all after it.
    Where little was taken since the last time, that would be a second for nothing.
    """
    yield
    if memory_held() < held["bytes"] + 2**28:
        return
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    held["bytes"] = memory_held()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: a folder of the session, which `make(folder)` fills.

    The workers of pytest-xdist share it: the first to ask makes it, while others wait. Folders of
    names with the same first part are made one after the other.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def give(name, make):
        folder = root / "made_once" / name
        with FileLock(root / f"{Path(name).parts[0]}.lock"):
            if not (folder / ".made").exists():
                shutil.rmtree(folder, ignore_errors=True)  # where it failed before
                folder.mkdir(parents=True)
                make(folder)
                (folder / ".made").touch()
        return folder

    return give


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
