"""bssan compare: compares stored evaluations in tables (text, Markdown, LaTeX), a figure and JSON.

The command imports slow libraries only when it needs them.
"""

import argparse
import os
from pathlib import Path

from bssan_lib.commands.options import check_samples, visible, width_of
from bssan_lib.errors import ConfigError


def add_commands(commands) -> None:
    """Adds `compare` to the parser of `bssan`."""
    compare = commands.add_parser(
        "compare", help="compare methods over their seeds: means, deviations, intervals, paired differences"
    )
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="a run folder, a checkpoint with metrics.json, or a file of `bssan evaluate --out`; those "
        "that differ only in the seed, or have the same NAME, are one method",
    )
    compare.add_argument("--names", metavar="A,B,...", help="names of the methods, in their order")
    compare.add_argument("--against", metavar="NAME", help="the reference method (default: the first)")
    compare.add_argument("--bootstrap", type=int, default=1000, help="samples for the intervals (default: 1000)")
    compare.add_argument(
        "--title", default="", metavar="TEXT", help="title of the figure (default: data, split and protocol)"
    )
    compare.add_argument("--width", default="two", metavar="one|two|INCHES", help="width of the figure (default: two)")
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
        raise ConfigError(f"--out {out}: expected a folder, which may be new; got a file")
    names = [name.strip() for name in options.names.split(",")] if options.names is not None else None
    records = [read_record(path, name) for name, path in map(parse_named_run, options.runs)]
    comparison = compare(records, names, options.against, options.bootstrap)
    print("\n".join(visible(line) for line in format_comparison(comparison).split("\n")))
    if out:
        written = write_comparison(comparison, out, options.title, width_of(options.width))
        print("written: " + ", ".join(str(path) for path in written))


def parse_named_run(argument: str) -> tuple[str | None, str]:
    """Parses "NAME=RUN" into (name, run) and "RUN" into (None, run). A path that exists may contain "="."""
    name, equals, path = argument.partition("=")
    if not equals or Path(argument).exists():
        return None, argument
    if not name or not path:
        raise ConfigError(f"{argument}: expected NAME=RUN, such as w2r=runs/w2r-1")
    return name, path
