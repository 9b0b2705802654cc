"""The same weights give the same outputs on TensorFlow, JAX and PyTorch, a process for each."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
JOB = Path(__file__).with_name("backends_job.py")
PREDICTION = 1e-5
"""Of the largest output; 3e-6 was measured."""
TRAINING = 3e-4
"""Of the largest output; 8e-5 was measured: the moments of a few voxels magnify rounding."""


def run(backend, *words):
    """Run the job on a backend."""
    done = subprocess.run(
        [sys.executable, JOB, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Weights, inputs and TensorFlow's outputs of every network."""
    folder = tmp_path_factory.mktemp("backends")
    run("tensorflow", "write", folder)
    return folder


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_outputs_equal_those_of_tensorflow(backend, request):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; the extra `backends` has it")
    folder = request.getfixturevalue("written")
    run(backend, "repeat", folder)
    ours = sorted(folder.glob("*_tensorflow.npz"))
    assert len(ours) == 15
    for path in ours:
        with (
            np.load(path) as expected,
            np.load(path.with_name(path.name.replace("tensorflow", backend))) as found,
        ):
            assert set(expected.files) == set(found.files)
            assert any(name.startswith("predict") for name in expected.files)
            for name in expected.files:
                tolerance = PREDICTION if name.startswith("predict") else TRAINING
                np.testing.assert_allclose(
                    found[name],
                    expected[name],
                    rtol=0,
                    atol=tolerance * max(1.0, np.abs(expected[name]).max()),
                    err_msg=f"{path.stem} {name}",
                )
