"""python -m bssan_lib: the same as the console script `bssan`."""

import sys

from bssan_lib.commands.cli import main

sys.exit(main())
