"""The command line: `bssan COMMAND`; each group of commands is a module of bssan_lib/commands/.

Exit codes: 0 done; 1 a fault of the program or of a notebook; 2 an error that the user can fix; 130 interrupted;
141 what takes the output has ended.
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
        if hasattr(stream, "reconfigure"):  # a name that is not UTF-8 is printed with \\x.. in it
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
    except BrokenPipeError:  # what takes the output has ended, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail once more at its end
        return 141
    except OSError as error:  # a file or folder of the user's, where no command has a better sentence
        print(
            f"bssan: {_visible_lines(error.filename or 'standard output')[:300]}: {error.strerror or error}; look at its name, "
            "its kind, its permissions and the room on the disk",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nbssan: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except NotebookError as error:  # its message holds the notebook's traceback
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
