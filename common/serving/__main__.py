"""`python -m common.serving segment|check|bench`: use an exported model, here or on a server.

  segment SCAN... -o LABELS   label map of a scan; a scan per channel, in the passport's order
  segment LIST.csv -o FOLDER  those of a list: id, a scan per channel, perhaps mask; --workers
  check                       the recorded case of the export, asked again
  bench                       sizes and times of the messages of a scan, gRPC beside JSON

Without --url the SavedModel is evaluated in this process; with it TensorFlow Serving is asked.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.cli import Parser, run_guarded, spell_options
from common.cohort.work import Workers, add_options
from common.data.dicom_paths import choose_series
from common.errors import OptionError
from common.runtime import forbid_keras, load_tensorflow_quietly
from common.serving.lists import segment_list
from common.serving.protocol import Patience
from common.serving.segment import check, segment

PROGRAM = "python -m common.serving"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three commands; return its exit status, 2 after a mistake."""
    words = spell_options(sys.argv[1:] if argv is None else argv, {})

    def act() -> None:
        for line in run(build_parser().parse_args(words)):
            print(line)

    return run_guarded("common.serving", act)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; its options are the arguments of the functions."""
    parser = Parser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    segment = commands.add_parser("segment", help="label map of a scan")
    segment.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    segment.add_argument("-o", "--output", type=Path, required=True, help="label map to write")
    segment.add_argument("--series", help="SeriesInstanceUID in a SCAN with several series")
    segment.add_argument("--mask", type=Path, help="region of interest, for models that take one")
    segment.add_argument("--probabilities", type=Path, help="probability of any label, float32")
    segment.add_argument("--reorient", action="store_true",
                         help="turn the scan to the model's orientation and back")  # fmt: skip
    segment.add_argument("--passport", type=Path, help="passport.json, if --model is not here")
    add_options(segment)
    check = commands.add_parser("check", help="ask the recorded case again")
    bench = commands.add_parser("bench", help="measure the messages")
    bench.add_argument("--shape", help="Z,Y,X of the scan; default: 40,256,256")
    bench.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    for command in (segment, check, bench):
        command.add_argument("--model", type=Path, help="models/<name>/<version>")
        command.add_argument("--url", help="grpc://host:8500 or http://host:8501; default: here")
        command.add_argument(
            "--deadline_s", type=float, default=Patience.deadline_s,
            help="for one request with its retries (default: %(default)s)",
        )  # fmt: skip
        command.add_argument(
            "--retries", type=int, default=Patience.retries,
            help="of a server that is away or overloaded, 0.5, 1, 2, ... s apart "
            "(default: %(default)s)",
        )  # fmt: skip
        command.add_argument(
            "--max_message_mib", type=float,
            help="what one message may have (default: 2047 for gRPC, 256 for JSON)",
        )  # fmt: skip
    return parser


def run(options: argparse.Namespace) -> Sequence[str]:
    """Run the command that was chosen and return the lines to print."""
    if options.url is None and options.command != "bench":
        if "keras" not in sys.modules:
            forbid_keras()  # an exported model never needs it
        load_tensorflow_quietly()
    given = vars(options)
    command = given.pop("command")
    given["patience"] = Patience(given.pop("deadline_s"), given.pop("retries"))
    if command == "segment":
        return run_segment(given)
    if options.model is None:
        raise OptionError("--model is missing; expected models/<name>/<version>")
    if command == "check":
        return check(**given)
    from common.serving.bench import bench

    return bench(**given)


def run_segment(given: dict[str, Any]) -> Sequence[str]:
    """Segment the one scan or the list of scans that the options name."""
    on = Workers(**{each.name: given.pop(each.name) for each in fields(Workers)})
    scans, series = given.pop("scans"), given.pop("series")
    if [scan.suffix.lower() for scan in scans] == [".csv"]:
        for name in ("mask", "probabilities"):
            if given.pop(name) is not None:
                raise OptionError(f"--{name} belongs to one scan; found the list {scans[0]}")
        segment_list(scans[0], on=on, **given)
        return []
    if on.asked:
        raise OptionError("--workers, --scheduler: expected a list of scans, LIST.csv")
    return [segment([choose_series(scan, series) for scan in scans], **given)]


if __name__ == "__main__":
    sys.exit(main())
