"""`python -m fetal_brain <command>` or `fetal-brain <command>`; the original's names work too."""

import sys

from common import cli

COMMAND_ALIASES = {"deploy": "predict"}
OPTION_ALIASES = {
    **dict.fromkeys(("--model_path", "--save_path", "-p"), "--run"),
    "--data_csv": "--train_csv", "--restart": "--overwrite", "-c": "--cuda_devices",
}  # fmt: skip


def main() -> int:
    """Run the command that this process was started with; return its exit status."""
    return cli.main("fetal_brain", command_aliases=COMMAND_ALIASES, option_aliases=OPTION_ALIASES)


if __name__ == "__main__":
    sys.exit(main())
