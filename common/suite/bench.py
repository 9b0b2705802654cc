"""`python -m common bench`: the benchmark of every paper, one after the other."""

from collections.abc import Sequence

from common.cli import Parser
from common.errors import OptionError
from common.papers import find_papers
from common.suite.reproduce import run_papers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks, whatever becomes of the others; returns 0, or 1 where one failed."""
    parser = Parser(prog="python -m common bench", description=__doc__)
    parser.add_argument("--paper", help="one paper; default: all")
    options = parser.parse_args(argv)
    papers = find_papers("bench.py")
    if options.paper and options.paper not in papers:
        raise OptionError(f"--paper {options.paper}: expected one of {', '.join(papers)}")
    return run_papers([options.paper] if options.paper else papers, ["bench"], preset="")[0]
