"""The teachers' notebooks: every code cell runs; nothing is stored."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("*/*.ipynb"))
SAID = {
    "dhcp_fetal": ["first divergence: path2_block2", "begins -16", "code: labels [2]"],
    "fetal_brain": ["first divergence: enc_unit_2/conv3d/Conv3D", "0.5625"],
    "raseg": ["first divergence: h2_conv1", "voxels above 32 767"],
    "sarcoma": ["first divergence: conv2d_8", "scores Dice 0.5", "input rows 8, 28, 48"],
    "vertebra": ["first divergence: conv_up@32", "port: "],
}
"""What a reader must find in the output of each."""
RUN_ALL = """
import os, sys, traceback
from pathlib import Path

for path in map(Path, sys.argv[1:]):
    os.chdir(path.parent)
    with open("said.txt", "w") as sys.stdout:
        try:
            exec(compile(path.read_text(), path.name, "exec"), {"__name__": "__main__"})
        except Exception:
            traceback.print_exc(file=sys.stdout)
"""


def cells(path, kind):
    """Sources of a notebook's cells."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in stored if cell["cell_type"] == kind]


def test_there_is_one_for_every_paper():
    assert [path.stem for path in NOTEBOOKS] == sorted(SAID)
    assert all(path.parent.name == path.stem for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_is_stored_and_nothing_is_copied(path):
    """No outputs; functions are imported, never defined; ten to fifteen cells or a few more."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in stored if cell["cell_type"] == "code"]
    assert 10 <= len(stored) <= 18
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for source in cells(path, "code"):
        nodes = ast.walk(ast.parse(source))
        assert not [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)], source
    assert "say nothing about patients" in cells(path, "markdown")[0]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for each notebook with its code and what it printed; all in one process."""
    places = {path.stem: tmp_path_factory.mktemp(path.stem) for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        text = "\n\n".join(cells(path, "code"))
        (places[path.stem] / "notebook.py").write_text(text, encoding="utf-8")
    programs = [place / "notebook.py" for place in places.values()]
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *programs], env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return places


@pytest.mark.parametrize("paper", SAID)
def test_every_cell_runs(places, paper):
    """In the order of the notebook; pictures are drawn, not shown."""
    said = (places[paper] / "said.txt").read_text()
    assert "No divergence in" in said, said
    for words in SAID[paper]:
        assert words in said, said
    left = sorted(entry.name for entry in places[paper].iterdir())
    assert left == ["notebook.py", "said.txt"]
