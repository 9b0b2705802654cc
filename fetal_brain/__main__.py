"""`python -m fetal_brain <verb>`; the original's script and option names are answered too."""

import sys

from common.cli import main

if __name__ == "__main__":
    sys.exit(
        main(
            "fetal_brain",
            verb_aliases={"deploy": "predict"},
            option_aliases={"--model_path": "--run", "-p": "--run", "-c": "--cuda_devices"},
        )
    )
