"""Where the project lies, and which papers it has: found by the files of their packages."""

from pathlib import Path

from common.errors import OptionError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `common` and the papers' packages."""


def find_papers(having: str = "config.py", *, root: Path = ROOT) -> list[str]:
    """Return the papers, which are packages with a `config.py`, that have a file of this name."""
    papers = {path.parent.name for path in root.glob("*/config.py")}
    return sorted(paper for paper in papers if (root / paper / having).is_file())


def choose_papers(paper: str | None, *, having: str) -> list[str]:
    """Return the paper that `--paper` names, or all that have a file; see `find_papers`.

    Raises:
        OptionError: it is not one of them.
    """
    papers = find_papers(having)
    if paper is not None and paper not in papers:
        raise OptionError(f"--paper {paper}: expected one of {', '.join(papers)}")
    return papers if paper is None else [paper]
