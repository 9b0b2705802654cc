"""`python -m common.suite_results`: the former name of `python -m common results`."""

import sys

from common.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["results", *sys.argv[1:]]))
