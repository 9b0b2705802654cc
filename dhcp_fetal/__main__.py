"""`python -m dhcp_fetal <verb>`; the original's script and option names are answered too."""

import sys

from common.cli import main

OPTIONS = {
    "-model": "--model_cfg",
    "-train": "--train_cfg",
    "-test": "--test_cfg",
    "-load": "--load",
    "-dev": "--device",
    "-resetopt": "--reset_optimiser",
}


def choose_verb(words: list[str]) -> list[str]:
    """Let `deepMedicRun` stand for train or predict, as its options say."""
    if words[:1] == ["deepMedicRun"]:
        return ["train" if "-train" in words else "predict", *words[1:]]
    return words


if __name__ == "__main__":
    sys.exit(
        main(
            "dhcp_fetal",
            argv=choose_verb(sys.argv[1:]),
            verb_aliases={"normalise_t2w_images": "prepare"},
            option_aliases=OPTIONS,
        )
    )
