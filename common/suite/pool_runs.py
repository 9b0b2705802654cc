"""One report of several runs: the folds of a cross-validation, seeds of one experiment, or both.

`python -m common pool-runs RUN... --to FOLDER` takes run folders that evaluate has measured and
writes a folder with one report over all their cases, which `results record` and `compare-runs` take
like a run. Each case must be measured once per seed; the measures of several seeds are averaged by
case, and the mean of each seed is said beside the spread over cases. `--over TABLE` draws Dice and
HD95 over the other columns of a table with the column id, such as an age.
"""

from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of several runs; return 0."""
    parser = Parser(prog="python -m common pool-runs", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="runs that evaluate has measured")
    parser.add_argument("--to", required=True, type=Path, help="folder of the report, which is new")
    parser.add_argument("--over", type=Path, help="table of id and what the measures depend on")
    options = parser.parse_args(argv)
    from common.evaluation.pooled import write_pool  # after --help was answered

    write_pool(options.runs, options.to, over=options.over)
    return 0
