"""The command line: `bssan COMMAND`; each group of commands is a module of bssan_lib/commands/.

Exit codes: 0 done; 2 something the user can mend, said in a sentence; 1 a fault of ours; 130 interrupted.
"""

import argparse
import signal
import sys

from . import __version__
from .commands import check, compare, explore, figures, photos, run, search
from .errors import BssanError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.command(options)
        return 0
    except BssanError as error:
        print(f"bssan: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbssan: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if type(error).__name__ != "NotebookError":  # that one has said all there is to say
            raise
        print(f"bssan: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bssan", description="Image-text matching by attention in both directions."
    )
    parser.add_argument("--version", action="version", version=f"bssan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for group in (run, compare, check, photos, figures, search, explore):
        group.add_commands(commands)
    return parser


def _interrupt(signum, frame):
    raise KeyboardInterrupt
