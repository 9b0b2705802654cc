"""`python -m vertebra <verb>`; the original's script and option names are answered too."""

import sys

from common.cli import main

if __name__ == "__main__":
    sys.exit(
        main(
            "vertebra",
            verb_aliases={
                "data.preprocessing": "prepare",
                "instance_segmentation": "predict",
                "eval": "evaluate",
            },
            option_aliases={
                "--weight": "--run",
                "--checkpoints": "--run",
                "--iterations": "--max_steps",
                "--log_interval": "--steps_per_evaluation",
                "--log-interval": "--steps_per_evaluation",
                "--lr": "--learning_rate",
                "-c": "--cuda_devices",
            },
        )
    )
