"""Where the project lies, and which papers it has: found by the files of their packages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `common` and the papers' packages."""


def find_papers(having: str = "config.py", *, root: Path = ROOT) -> list[str]:
    """Return the papers, which are packages with a `config.py`, that have a file of this name."""
    papers = {path.parent.name for path in root.glob("*/config.py")}
    return sorted(paper for paper in papers if (root / paper / having).is_file())
