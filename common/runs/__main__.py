"""`python -m common.runs replay`: the former name of `python -m common replay`."""

import sys

from common.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
