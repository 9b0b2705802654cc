"""`python -m vertebra <command>` or `vertebra <command>`; the original's names work too."""

import sys

from common import cli

COMMAND_ALIASES = {
    "data.preprocessing": "prepare",
    "instance_segmentation": "predict",
    "eval": "evaluate",
}
OPTION_ALIASES = {
    "--weight": "--run",
    "--checkpoints": "--run",
    "--iterations": "--max_steps",
    "--log_interval": "--steps_per_evaluation",
    "--log-interval": "--steps_per_evaluation",
    "--lr": "--learning_rate",
    "-c": "--cuda_devices",
}


def main() -> int:
    """Run the command that this process was started with; return its exit status."""
    return cli.main("vertebra", command_aliases=COMMAND_ALIASES, option_aliases=OPTION_ALIASES)


if __name__ == "__main__":
    sys.exit(main())
