"""Verify an exported model against its passport: files, signatures, recorded input and output.

`python -m common verify models/<name>/<version>` needs TensorFlow and nothing else of what
trained the model; Keras cannot even be imported while it runs. A model is a program: a graph with
operations that this suite's exports never have is not run without --trust. Exit status 0: all is
as the passport says; 1: something is not; 2: the folder is not an exported model.
"""

from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser
from common.export.passport import check_folder
from common.report.tables import format_table
from common.runtime import forbid_keras, load_tensorflow_quietly

COLUMNS = ("check", "result", "detail")


def main(words: Sequence[str]) -> int:
    """Verify the folder that the command line names, print a table, return the exit status."""
    parser = Parser(prog="python -m common verify", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="MODELS/NAME/VERSION")
    parser.add_argument(
        "--trust", action="store_true",
        help="run the graph even if it has operations that this suite's exports never have",
    )  # fmt: skip
    options = parser.parse_args(words)
    folder = options.folder
    check_folder(folder)
    forbid_keras()
    load_tensorflow_quietly()
    from common.export.checks import verify

    checks = verify(folder, trust=options.trust)
    print(format_table([dict(zip(COLUMNS, check, strict=True)) for check in checks]))
    failed = [check.what for check in checks if check.result != "ok"]
    print(f"{folder}: {'FAILED: ' + ', '.join(failed) if failed else 'as its passport says'}")
    return 1 if failed else 0
