"""The teachers' notebooks: every code cell runs, in a process of its own; nothing is stored."""

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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path):
    """In the order of the notebook; pictures are drawn, not shown."""
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join(cells(path, "code")), encoding="utf-8")
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "No divergence in" in done.stdout
    for words in SAID[path.stem]:
        assert words in done.stdout, done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["notebook.py"]
