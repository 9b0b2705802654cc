"""`python -m sarcoma <command>` or `sarcoma <command>`; the original's names work too."""

import sys

from common import cli

COMMAND_ALIASES = {
    # [S7] The README's names and the files' names; neither script ran as released.
    "data_gen": "prepare",
    "data-gen": "prepare",
    "evaluation": "evaluate",
}
OPTION_ALIASES: dict[str, str] = {}


def main() -> int:
    """Run the command that this process was started with; return its exit status."""
    return cli.main("sarcoma", command_aliases=COMMAND_ALIASES, option_aliases=OPTION_ALIASES)


if __name__ == "__main__":
    sys.exit(main())
