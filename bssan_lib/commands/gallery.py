"""bssan gallery: draws the repository's figures of freely licensed photographs, with the commands on their page."""

import argparse
from pathlib import Path

from bssan_lib.commands import figures, photos
from bssan_lib.commands.options import add_checkpoint


def add_commands(commands) -> None:
    """Adds `gallery` to the parser of `bssan`."""
    gallery = commands.add_parser("gallery", help="draw the repository's figures of freely licensed photographs again")
    add_checkpoint(gallery)
    gallery.add_argument("--out", default="figures", metavar="DIR", help="the folder (default: figures)")
    gallery.set_defaults(command=_gallery)


def _gallery(options: argparse.Namespace) -> None:
    from bssan_lib.series.figure_gallery import publish_photographs

    page = publish_photographs(Path(options.out), draw, options.checkpoint)[-1]
    print(f"page with the figures: {page}")


def draw(arguments: list[str]) -> None:
    """Runs one command that draws a figure: ["figure", "boxes", "--image", ...]. Raises the errors of that command."""
    parser = argparse.ArgumentParser(prog="bssan")
    commands = parser.add_subparsers(required=True)
    for group in (figures, photos):
        group.add_commands(commands)
    options = parser.parse_args(arguments)
    options.command(options)
