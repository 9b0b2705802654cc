"""The ledger of every paper card, held to the code and to the presets."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted(path.parent.name for path in ROOT.glob("*/README.md")
               if (path.parent / "config.py").is_file())  # fmt: skip
COLUMNS = ["id", "where", "paper", "code", "port", "effect", "shown by"]


def ledger(paper):
    """Return the rows of a paper card's ledger as dicts."""
    lines = (ROOT / paper / "README.md").read_text(encoding="utf-8").splitlines()
    header = "| " + " | ".join(COLUMNS) + " |"
    assert header in lines, f"{paper}/README.md has no ledger with the columns {COLUMNS}"
    rows = []
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == len(COLUMNS), line
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def ids_in_code(paper):
    """Return the ledger ids that the paper's sources carry, as in [F5]."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / paper).rglob("*.py")]
    return {found for text in sources for found in re.findall(r"\[([A-Z]\d+)\]", text)}


@pytest.mark.parametrize("paper", CARDS)
def test_code_and_ledger_name_the_same_ids(paper):
    rows = ledger(paper)
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    not_ported = {row["id"] for row in rows if row["shown by"] == "–"}
    assert ids_in_code(paper) == set(ids) - not_ported


@pytest.mark.parametrize("paper", CARDS)
def test_settings_in_the_ledger_are_those_of_the_presets(paper):
    presets = importlib.import_module(f"{paper}.config").PRESETS
    checked = 0
    for row in ledger(paper):
        for voice in ("paper", "code", "port"):
            for name, value in re.findall(r"`(\w+)=([^`]+)`", row[voice]):
                assert getattr(presets[voice], name) == ast.literal_eval(value), (row["id"], voice)
                checked += 1
    assert checked > 10


@pytest.mark.parametrize("paper", CARDS)
def test_every_row_names_a_test_that_exists(paper):
    tests = {}
    for folder in (f"tests/{paper}", "tests/common"):
        for path in (ROOT / folder).rglob("test_*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            tests.setdefault(path.name, set()).update(found)
    for row in ledger(paper):
        if row["shown by"] != "–":
            name, _, function = row["shown by"].partition("::")
            assert function in tests.get(name, set()), row["shown by"]
