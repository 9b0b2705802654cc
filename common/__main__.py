"""`python -m common COMMAND`: what concerns all papers, or a run or model of any of them."""

import importlib
import sys
from collections.abc import Sequence

from common.cli import run_guarded, unknown_command

COMMANDS = {
    "reproduce": ("common.suite.reproduce", "run every paper from data to report"),
    "bench": ("common.suite.bench", "time the papers beside what else could be used"),
    "report": ("common.suite.collect", "write the page of runs again, without running anything"),
    "results": ("common.suite.results", "keep what runs measured; write the tables of the READMEs"),
    "score": ("common.suite.score", "measure label maps against references, of any origin"),
    "compare-runs": ("common.suite.compare_runs", "say whether one run beats another, by case"),
    "pool-runs": ("common.suite.pool_runs", "make one report of folds or seeds"),
    "replay": ("common.runs.replay", "train a run again and compare the weights"),
    "verify": ("common.export.verify", "verify an exported model against its passport"),
    "publish-card": ("common.export.card", "write a model card; nothing is sent"),
    "bench-gpu": ("common.cost.bench_gpu", "time the networks on a GPU, with JAX or TensorFlow"),
}
"""Command: module with `main(words) -> exit status`, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status, 2 after a mistake of the user's."""
    words = list(sys.argv[1:] if argv is None else argv)

    def act() -> int:
        if not words or words[0] in ("-h", "--help"):
            print("usage: python -m common COMMAND [options]\n\ncommands:")
            lines = (f"  {name:<12} {what}" for name, (_, what) in COMMANDS.items())
            print("\n".join(lines), flush=True)
            return 0 if words else 2
        if words[0] not in COMMANDS:
            raise unknown_command(words[0], list(COMMANDS))
        module, _ = COMMANDS[words[0]]
        return importlib.import_module(module).main(words[1:])

    return run_guarded(f"common {words[0] if words else ''}", act)


if __name__ == "__main__":
    sys.exit(main())
