"""The command line `bssan COMMAND`. Each group of commands is a module of bssan_lib/commands/.

Exit codes: 0 success; 1 an error in the program or in a notebook; 2 an error that the user can fix; 130 interrupted;
141 the program that receives the output has ended.
"""

import argparse
import os
import signal
import sys

from bssan_lib import __version__
from bssan_lib.commands import check, compare, explore, figures, gallery, photos, run, search
from bssan_lib.commands.options import visible
from bssan_lib.errors import BssanError, NotebookError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # prints a name that is not UTF-8 with \\x.. in it
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = options.command(options) or 0
        sys.stdout.flush()
        return code
    except BssanError as error:
        print(f"bssan: {_visible_lines(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the program that receives the output has ended, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python fails again when it exits
        return 141
    except OSError as error:  # a file or folder of the user, for which no command has a more exact message
        print(
            f"bssan: {_visible_lines(error.filename or 'standard output')[:300]}: {error.strerror or error}; check its name, "
            "its type, its permissions and the free disk space",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nbssan: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except NotebookError as error:  # its message contains the notebook's traceback
        print(f"bssan: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bssan", description="Image-text matching by attention in both directions.")
    parser.add_argument("--version", action="version", version=f"bssan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for group in (run, compare, check, photos, figures, gallery, search, explore):
        group.add_commands(commands)
    return parser


def _visible_lines(text: object) -> str:
    return "\n".join(visible(line) for line in str(text).split("\n"))


def _interrupt(signum, frame):
    raise KeyboardInterrupt
