"""Measure one training step or one call of a paper's network in a process of its own.

`python -m common.cost.probe` reads a request as JSON from its input and writes what it measured as
JSON to its output; `measure` does both ends. The largest memory of a process never falls again, so
every measurement gets a process. Where memory does not suffice, that process is the one to end.
"""

import json
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import OptionError
from common.files import as_yaml, plain, write_text_atomically
from common.papers import ROOT
from common.runtime import load_tensorflow_quietly

Kind = Literal["training", "prediction"]
OUT_OF_MEMORY = ("ResourceExhaustedError", "MemoryError", "OOM when allocating")
"""What TensorFlow and Python end with where the kernel refuses memory instead of ending them."""


@dataclass(frozen=True)
class Measured:
    """What a probe found."""

    seconds: float
    """Of one step or call, the fastest; the first, which compiles, does not count."""
    first_seconds: float
    start_bytes: int
    """Held by the process before the first step, network and TensorFlow included."""
    peak_bytes: int
    """Held at most."""
    memory: Literal["process", "device"]
    """Whose the peak is."""


def measure(
    paper: str,
    config: Any,
    kind: Kind,
    *,
    scan: tuple[int, ...] | None = None,
    mixed_precision: bool = False,
) -> Measured | None:
    """Run some steps, or calls, on random numbers in another process; None if memory ran out.

    A process that failed for another reason is an `OptionError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_text_atomically(Path(folder) / "config.yaml", as_yaml(plain(config)))
        request = {"paper": paper, "folder": folder, "kind": kind, "scan": scan,
                   "mixed": mixed_precision}  # fmt: skip
        words, asked = [sys.executable, "-m", "common.cost.probe"], json.dumps(request)
        done = subprocess.run(words, input=asked, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return Measured(**json.loads(done.stdout.splitlines()[-1]))
    if done.returncode == -signal.SIGKILL or any(word in done.stderr for word in OUT_OF_MEMORY):
        return None
    lines = done.stderr.strip().splitlines() or ["no message"]
    last = f"signal {-done.returncode}" if done.returncode < 0 else lines[-1]
    raise OptionError(f"the measurement of {kind} failed: {last} (--probe false does without it)")


if __name__ == "__main__":
    with suppress(OSError):  # not Linux, or not allowed: else the kernel ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    load_tensorflow_quietly()
    from common.cost.probed import run_request

    print(json.dumps(run_request(json.load(sys.stdin))))
