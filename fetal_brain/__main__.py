"""`python -m fetal_brain <verb>`; the original's script and option names are answered too."""

import sys

from common.cli import main

if __name__ == "__main__":
    sys.exit(
        main(
            "fetal_brain",
            verb_aliases={"deploy": "predict"},
            option_aliases={
                "--model_path": "--run",
                "--save_path": "--run",
                "-p": "--run",
                "--data_csv": "--train_csv",
                "--restart": "--overwrite",
                "-c": "--cuda_devices",
            },
        )
    )
