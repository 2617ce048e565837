"""python -m bssan_lib: the same as the console script `bssan`."""

import sys

from .cli import main

sys.exit(main())
