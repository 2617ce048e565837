"""bssan explore: the attention explorer as a web page on this machine alone."""

import argparse
import json
import os
import secrets
import socket
import tempfile
from pathlib import Path

from bssan_lib.errors import RunError

HOST = "127.0.0.1"
# Nothing is loaded from elsewhere, and no other page may show this one. Voila's own scripts stand in the page and use
# eval; a widget's script comes as a blob.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws://127.0.0.1:* data: blob:; "
    "frame-ancestors 'self'; form-action 'self'"
)
TITLE = """# Attention explorer

Words look at regions, objects read words. Point at either to see the other; choose a picture and a caption, type your
own, or hand in a photograph, which stays in this program's memory."""


def add_commands(commands) -> None:
    """Adds `explore` to the parser of `bssan`."""
    explore = commands.add_parser("explore", help="look at attention in a browser: any picture, any caption")
    explore.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint or a run folder (default: the packaged model)"
    )
    explore.add_argument("--data", metavar="DIR", help="prepared features (default: those of the run)")
    explore.add_argument(
        "--port", type=int, default=8866, metavar="N", help="of the page on this machine (default: 8866)"
    )
    explore.add_argument("--no-browser", action="store_true", help="print the page's address and open nothing")
    explore.set_defaults(command=_explore)


def _explore(options: argparse.Namespace) -> None:
    checkpoint, data = (str(Path(given).absolute()) if given else None for given in (options.checkpoint, options.data))
    _refuse_what_cannot_open(checkpoint, data)
    _check_port(options.port)
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "explorer.ipynb"
        notebook.write_text(json.dumps(page(checkpoint, data)), encoding="utf-8")
        serve(notebook, options.port, not options.no_browser)


def page(checkpoint: str | None, data: str | None) -> dict:
    """The notebook behind the page: a title and the explorer."""
    source = f"from bssan_lib.explorer import open_explorer\n\nopen_explorer({checkpoint!r}, {data!r})"
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {"cell_type": "markdown", "id": "title", "metadata": {}, "source": TITLE},
            {
                "cell_type": "code",
                "id": "explorer",
                "metadata": {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            },
        ],
    }


def serve(notebook: Path, port: int, browser: bool) -> None:
    """Serves a notebook by Voila on this machine until interrupted; the address carries a token of its own."""
    from voila.app import Voila

    from bssan_lib.series.reproduce import kernel_paths

    os.environ.update(kernel_paths())
    token = secrets.token_urlsafe(24)
    print(f"The explorer: http://{HOST}:{port}/?token={token}\nCtrl-C ends it.", flush=True)
    arguments = [
        str(notebook),
        f"--port={port}",
        "--Voila.port_retries=0",
        f"--Voila.ip={HOST}",
        f"--Voila.token={token}",
        "--Voila.log_level=ERROR",
        f"--Voila.open_browser={browser}",
        "--VoilaConfiguration.file_allowlist=",
        "--KernelManager.transport=ipc",
        "--MappingKernelManager.cull_idle_timeout=3600",
        "--MappingKernelManager.cull_interval=300",
    ]
    settings = {"headers": {"Content-Security-Policy": POLICY}, "ws_ping_timeout": 30_000}  # as long as its interval
    Voila.launch_instance(argv=arguments, tornado_settings=settings)


def _refuse_what_cannot_open(checkpoint: str | None, data: str | None) -> None:
    """Mistakes are told here, in a sentence, before a browser opens."""
    from bssan_lib.explorer.galleries import features_folder
    from bssan_lib.models.checkpoint import find_checkpoint

    if checkpoint:
        find_checkpoint(checkpoint)
    if data:
        features_folder(data)


def _check_port(port: int) -> None:
    with socket.socket() as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise RunError(f"port {port} of {HOST} cannot be used ({error}); name another with --port") from None
