"""An exported model in a program that is not Python: thirty lines of C on TensorFlow's C API."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from common.export.parity import PARITY, difference, read_parity
from common.export.passport import read_passport
from common.export.saved_model import read_signatures

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("consumer.c")
OUTPUTS = {"fetal_brain": ("volume", "labels"), "vertebra": ("serving_default", "mask")}
"""Two, whose signatures differ: what they compute is TensorFlow's own in C as in Python."""


@pytest.fixture(scope="session")
def consumer(tmp_path_factory):
    """The compiled program, linked with the two libraries of the tensorflow package."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to compile tests/common/export/consumer.c with")
    package = Path(sysconfig.get_path("purelib")) / "tensorflow"
    libraries = [package / f"libtensorflow_{name}.so.2" for name in ("cc", "framework")]
    if not all(path.is_file() for path in libraries):
        pytest.skip(f"this tensorflow package has no C libraries in {package}")
    program = tmp_path_factory.mktemp("consumer") / "consumer"
    words = ["gcc", "-Wall", "-Werror", "-O1", f"-I{package / 'include'}", SOURCE, *libraries,
             f"-Wl,-rpath,{package}", "-o", program]  # fmt: skip
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("paper", OUTPUTS)
def test_c_program_computes_the_recorded_output(exported, consumer, tmp_path, paper):
    """Nothing of ours and nothing of Python's takes part."""
    folder = exported(paper).folder
    signature, output = OUTPUTS[paper]
    places = read_signatures(folder)[signature]
    inputs, outputs = read_parity(folder / PARITY)
    expected = outputs[f"{signature}/{output}"]
    words = [consumer, folder, places["outputs"][output]["tensor"], tmp_path / "out.raw"]
    for name, array in inputs[signature].items():
        array.astype(np.float32).tofile(tmp_path / f"{name}.raw")
        shape = ",".join(map(str, array.shape))
        words += [places["inputs"][name]["tensor"], tmp_path / f"{name}.raw", shape]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tuple(map(int, done.stdout.split())) == expected.shape
    found = np.fromfile(tmp_path / "out.raw", expected.dtype).reshape(expected.shape)
    limit = read_passport(folder)["parity"][f"{signature}/{output}"]["tolerance"]
    assert difference(found, expected) <= limit
    assert np.ptp(expected) > 0


def test_c_program_says_what_is_wrong(consumer, tmp_path):
    done = subprocess.run(
        [consumer, tmp_path, "out:0", tmp_path / "o", "in:0", tmp_path / "i", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
