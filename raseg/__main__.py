"""`python -m raseg <verb>`; the original's script and option names are answered too."""

import sys

from common.cli import main

VERB_ALIASES = {
    "make_datasets": "prepare",
    "raseg_train": "train",
    "raseg_predict": "predict",
}
OPTION_ALIASES = {
    "-t": "--tag",
    "-v": "--val",
    "--train_dir": "--run",
    "--checkpoint_dir": "--run",
}

if __name__ == "__main__":
    sys.exit(main("raseg", verb_aliases=VERB_ALIASES, option_aliases=OPTION_ALIASES))
