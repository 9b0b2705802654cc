"""`python -m sarcoma <verb>`; the original's script names are answered too."""

import sys

from common.cli import main

if __name__ == "__main__":
    sys.exit(
        main(
            "sarcoma",
            # [S7] The README's names and the files' names; neither script ran as released.
            verb_aliases={
                "data_gen": "prepare",
                "data-gen": "prepare",
                "evaluation": "evaluate",
            },
        )
    )
