"""`python -m common.runs replay`: the former name of `python -m common replay`."""

import sys

from common.__main__ import main

sys.exit(main())
