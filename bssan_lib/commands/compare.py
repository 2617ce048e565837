"""bssan compare: stored evaluations beside each other, as a table, a figure, Markdown, LaTeX and numbers.

Libraries that take seconds to import are imported by the command when it needs them.
"""

import argparse
import os
from pathlib import Path

from bssan_lib.commands.options import check_samples, visible, width_of
from bssan_lib.errors import ConfigError


def add_commands(commands) -> None:
    """Adds `compare` to the parser of `bssan`."""
    compare = commands.add_parser(
        "compare", help="methods over their seeds: mean, deviation, intervals, paired differences; table and figure"
    )
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="a run folder, a checkpoint with metrics.json, or a file of `bssan evaluate --out`; those "
        "that differ in the seed alone, or have the same NAME, are one method",
    )
    compare.add_argument("--names", metavar="A,B,...", help="what the methods are called, in their order")
    compare.add_argument(
        "--against", metavar="NAME", help="the method the others are compared with (default: the first)"
    )
    compare.add_argument("--bootstrap", type=int, default=1000, help="samples for the intervals (default: 1000)")
    compare.add_argument(
        "--title", default="", metavar="TEXT", help="above the figure (default: data, split and protocol)"
    )
    compare.add_argument("--width", default="two", metavar="one|two|INCHES", help="of the figure (default: two)")
    compare.add_argument(
        "--out", metavar="DIR", help="write table.md, table.tex, comparison.json and rsum.pdf, .svg, .png there"
    )
    compare.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> None:
    from bssan_lib.comparison.compare import compare
    from bssan_lib.comparison.tables import format_comparison, write_comparison
    from bssan_lib.evaluation.records import read_record

    out = Path(options.out) if options.out else None
    check_samples(options.bootstrap, 1)
    if out and os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"--out {out}: a file; expected a folder, which is made if it is not there")
    names = [name.strip() for name in options.names.split(",")] if options.names is not None else None
    records = [read_record(path, name) for name, path in map(named, options.runs)]
    comparison = compare(records, names, options.against, options.bootstrap)
    print("\n".join(visible(line) for line in format_comparison(comparison).split("\n")))
    if out:
        written = write_comparison(comparison, out, options.title, width_of(options.width))
        print("written: " + ", ".join(str(path) for path in written))


def named(given: str) -> tuple[str | None, str]:
    """ "NAME=RUN" as (name, run), "RUN" as (None, run); a path that exists is a path, whatever it is called."""
    name, equals, path = given.partition("=")
    if not equals or Path(given).exists():
        return None, given
    if not name or not path:
        raise ConfigError(f"{given}: expected NAME=RUN, such as w2r=runs/w2r-1")
    return name, path
