"""`python -m raseg <command>` or `raseg <command>`; the original's names work too."""

import sys

from common import cli

COMMAND_ALIASES = {"make_datasets": "prepare", "raseg_train": "train", "raseg_predict": "predict"}
OPTION_ALIASES = {"-t": "--tag", "-v": "--val", "--train_dir": "--run", "--checkpoint_dir": "--run"}


def main() -> int:
    """Run the command that this process was started with; return its exit status."""
    return cli.main("raseg", command_aliases=COMMAND_ALIASES, option_aliases=OPTION_ALIASES)


if __name__ == "__main__":
    sys.exit(main())
