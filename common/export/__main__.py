"""`python -m common.export verify`: the former name of `python -m common verify`."""

import sys

from common.__main__ import main

sys.exit(main())
