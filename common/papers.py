"""Where the project lies, and which papers it has: found by the files of their packages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `common` and the papers' packages."""


def find_papers(having: str = "config.py", *, root: Path = ROOT) -> list[str]:
    """Return the papers whose package has a file of this name, sorted.

    A paper is a package with a `config.py`.
    """
    return sorted(
        path.parent.name
        for path in root.glob(f"*/{having}")
        if (path.parent / "config.py").is_file()
    )
