"""`python -m common bench`: every paper and its alternatives, timed on this processor.

Runs `python -m <paper> bench` for one paper or for all, whatever becomes of the others, and keeps
the numbers as results/bench-<processor>.json; `python -m common results update` shows them in
docs/performance.md. With `--onednn` the quick presets are timed with oneDNN and without it instead.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser
from common.cost.turns import Contest, Side
from common.errors import OptionError, RunError
from common.files import read_json
from common.papers import choose_papers
from common.runtime import ONEDNN as ONEDNN_SWITCH
from common.runtime import load_tensorflow_quietly
from common.suite.bench_results import BESIDE, ONEDNN, keep
from common.suite.contests import INFERENCE, TRAINING, run_contests

AS_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
           "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # fmt: skip
"""What limits oneDNN, PyTorch's own kernels and MKL to AVX2."""

ONEDNN_WAYS = {
    "with oneDNN": {ONEDNN_SWITCH: "1"},
    "without": {ONEDNN_SWITCH: "0"},
    "with, AVX2 alone": {ONEDNN_SWITCH: "1", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
"""Environment by way. Without oneDNN the kernels are Eigen's, which the wheel holds compiled."""
SCANS = {"raseg": (48, 48, 20)}
"""Size of the scans with oneDNN and without, of a paper whose network takes whole ones."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns 0, or 1 where a paper failed."""
    parser = Parser(prog="python -m common bench", description=__doc__)
    parser.add_argument("--paper", help="one paper; default: all")
    parser.add_argument("--turns", type=int, default=3, help="timed calls of a side; default: 3")
    parser.add_argument("--onednn", action="store_true", help="quick presets, with it and without")
    parser.add_argument("--as-avx2", action="store_true", help="limit both frameworks to AVX2")
    options = parser.parse_args(argv)
    papers = choose_papers(options.paper, having="bench.py")
    if options.turns < 1:
        raise OptionError(f"--turns: found {options.turns}; expected 1 or more")
    if options.onednn and options.as_avx2:
        raise OptionError("--onednn measures as on AVX2 as well; expected it without --as-avx2")
    if options.as_avx2:
        os.environ.update(AS_AVX2)
    section = ONEDNN if options.onednn else BESIDE
    measure = measure_onednn if options.onednn else measure_beside
    path, failed = None, []
    for paper in papers:
        with tempfile.TemporaryDirectory() as folder:
            to = Path(folder) / "measured.json"
            if not measure(paper, options.turns, to):
                failed.append(paper)
            if to.is_file():
                path = keep(section, paper, read_json(to))
    if path is not None:
        print(f"Kept in {path}; `python -m common results update` shows it in docs/performance.md")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def measure_beside(paper: str, turns: int, to: Path) -> bool:
    """Run the `bench` of a paper, which writes its numbers; return whether it succeeded."""
    words = [sys.executable, "-m", paper, "bench", "--turns", str(turns), "--to", str(to)]
    return subprocess.run(words, check=False).returncode == 0


def measure_onednn(paper: str, turns: int, to: Path) -> bool:
    """Time the quick preset of a paper with and without oneDNN; return whether it succeeded."""
    load_tensorflow_quietly()
    try:
        run_contests(paper, list_onednn_contests(paper), turns=turns, to=to)
    except RunError as failure:
        print(f"{paper}: {failure}", file=sys.stderr)
        return False
    return True


def list_onednn_contests(paper: str) -> list[Contest]:
    """Return a training step and a prediction of a paper's quick preset, by way of computing."""
    functions = {TRAINING: "common.study.onednn:train", INFERENCE: "common.study.onednn:predict"}
    return [
        Contest(
            work,
            "preset quick",
            # Not the same: TensorFlow's own gradient of a pooling differs where maxima tie.
            tuple(Side(way, function, environment=variables, is_same=False)
                  for way, variables in ONEDNN_WAYS.items()),
            {"paper": paper, "scan": SCANS.get(paper)},
        )
        for work, function in functions.items()
    ]  # fmt: skip
