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
    return cli.main(
        "vertebra",
        argv=without_checkpoints(sys.argv[1:]),
        command_aliases=COMMAND_ALIASES,
        option_aliases=OPTION_ALIASES,
    )


def without_checkpoints(words: list[str]) -> list[str]:
    """Return the words without the original's --checkpoints, and say so, where the run is named.

    The original has a folder for weights and one for snapshots; here one run folder holds both.
    """
    names = [word.partition("=")[0] for word in words]
    if "--checkpoints" not in names or not {"--run", "--weight"} & {*names}:
        return words
    place = names.index("--checkpoints")
    print("--checkpoints: passed over; snapshots lie in checkpoints/ of the run", file=sys.stderr)
    return words[:place] + words[place + (1 if "=" in words[place] else 2) :]


if __name__ == "__main__":
    sys.exit(main())
