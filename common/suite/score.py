"""Label maps against references, whoever made them: two files, or two folders of the same names.

`python -m common score LABELS REFERENCE` prints a row per case and label and their means, and
writes them with `--out`. A reference may also be an RTSTRUCT file of DICOM, of which `--structure`
names the contours and `--scan` the series they were drawn on; with `--scan` a DICOM Segmentation of
that series is a label map, too.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure label maps; return 0, or 2 where some could not be used."""
    parser = Parser(prog="python -m common score", description=__doc__)
    parser.add_argument("labels", type=Path, help="label map, or folder of <id>.nii.gz, ...")
    parser.add_argument("reference", type=Path, help="the same of the references, or RTSTRUCT file")
    parser.add_argument("--structure", help="name of the contours, or what it begins with")
    parser.add_argument("--scan", type=Path, help="series of the contours, or of a segmentation")
    parser.add_argument("--out", type=Path, help="CSV file of the rows")
    options = parser.parse_args(argv)
    work = importlib.import_module("common.evaluation.score")  # after --help was answered
    work.score_all(**vars(options))
    return 0
