"""bssan explore: the attention explorer as a web page that only this machine can open."""

import argparse
from pathlib import Path


def add_commands(commands) -> None:
    """Adds `explore` to the parser of `bssan`."""
    explore = commands.add_parser("explore", help="show attention in a browser, for any image and caption")
    explore.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint or a run folder (default: the packaged model)"
    )
    explore.add_argument("--data", metavar="DIR", help="prepared features (default: those of the run)")
    explore.add_argument(
        "--port", type=int, default=8866, metavar="N", help="port of the page; 0: any free port (default: 8866)"
    )
    explore.add_argument("--no-browser", action="store_true", help="print the address and do not open a browser")
    explore.set_defaults(command=_explore)


def _explore(options: argparse.Namespace) -> None:
    checkpoint, data = (str(Path(given).absolute()) if given else None for given in (options.checkpoint, options.data))
    # Wrong options raise an error here, before a browser opens. torch is imported only if there are options to check.
    if checkpoint:
        from bssan_lib.models.checkpoint import find_checkpoint

        find_checkpoint(checkpoint)
    if data:
        from bssan_lib.explorer.galleries import features_folder

        features_folder(data)
    from bssan_lib.commands.explorer_page import serve

    serve(checkpoint, data, options.port, not options.no_browser)
