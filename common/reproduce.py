"""The main job: every paper from data to report, each stage a command of its own.

`python -m common.reproduce [--paper NAME] [--preset quick] [--data FOLDER] [--bench]` finds the
papers of the project and runs `python -m <paper> reproduce` (or `bench`) for each. A paper is a
folder with a `reproduce.py`; none is listed here.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


class StageError(UserError):
    """A stage of a paper's main job failed; what it said stands above."""


@dataclass(frozen=True)
class Stage:
    """One command of a paper: a verb and its options."""

    verb: str
    options: Sequence[object]


def find_papers() -> list[str]:
    """Return the papers of the project by name: the packages with a `reproduce.py`."""
    return sorted(path.parent.name for path in ROOT.glob("*/reproduce.py")
                  if (path.parent / "config.py").is_file())  # fmt: skip


def run_stages(paper: str, stages: Sequence[Stage]) -> None:
    """Run the stages of one paper in order, each in its own process, and time them.

    Args:
        paper: package name.
        stages: what to run.

    Raises:
        StageError: a stage ended with another status than 0; the rest is not run.
    """
    start = time.monotonic()
    for number, stage in enumerate(stages, start=1):
        words = [str(word) for word in stage.options]
        print(
            f"[{paper} {number}/{len(stages)}] python -m {paper} {stage.verb} {' '.join(words)}",
            file=sys.stderr,
            flush=True,
        )
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", paper, stage.verb, *words], cwd=Path.cwd(), check=False
        )
        if done.returncode:
            raise StageError(f"{stage.verb} failed with status {done.returncode}")
        print(
            f"[{paper} {number}/{len(stages)}] {stage.verb}: {time.monotonic() - began:.0f} s, "
            f"{time.monotonic() - start:.0f} s so far",
            file=sys.stderr,
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job of one paper or of all; go on when one fails.

    Returns:
        0, or 1 when a paper failed, or 2 when a paper is named that there is not.
    """
    parser = argparse.ArgumentParser(prog="python -m common.reproduce", description=__doc__)
    parser.add_argument("--paper", help="one paper; default: all")
    parser.add_argument("--preset", default="quick", help="whose numbers (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of your own data; default: phantoms")
    parser.add_argument("--bench", action="store_true", help="run the benchmarks instead")
    options = parser.parse_args(argv)
    papers = find_papers()
    if options.paper and options.paper not in papers:
        parser.error(f"--paper {options.paper}: expected one of {', '.join(papers)}")
    words = ["bench"]
    if not options.bench:
        words = ["reproduce", "--preset", options.preset]
        words += ["--data", str(options.data)] if options.data else []
    failed = []
    for paper in [options.paper] if options.paper else papers:
        status = subprocess.run([sys.executable, "-m", paper, *words], check=False).returncode
        if status:
            failed.append(paper)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
