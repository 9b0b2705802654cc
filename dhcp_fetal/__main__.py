"""`python -m dhcp_fetal <command>` or `dhcp-fetal <command>`; the original's names work too."""

import sys
import warnings
from collections.abc import Sequence

from common import cli

COMMAND_ALIASES = {"normalise_t2w_images": "prepare", "deepMedicRun": "train` or `predict"}
OPTION_ALIASES = {
    "-model": "--model_cfg",
    "-train": "--train_cfg",
    "-test": "--test_cfg",
    "-load": "--load",
    "-dev": "--device",
    "-resetopt": "--reset_optimiser",
}


def choose_command(words: Sequence[str]) -> list[str]:
    """Let `deepMedicRun` stand for train or predict, as its options say."""
    if list(words[:1]) == ["deepMedicRun"]:
        return ["train" if "-train" in words else "predict", *words[1:]]
    return list(words)


def main() -> int:
    """Run the command that this process was started with; return its exit status."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        return cli.main(
            "dhcp_fetal",
            argv=choose_command(sys.argv[1:]),
            command_aliases=COMMAND_ALIASES,
            option_aliases=OPTION_ALIASES,
        )


if __name__ == "__main__":
    sys.exit(main())
