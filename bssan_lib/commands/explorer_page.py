"""The attention explorer as a web page: one notebook, served by Voila on this machine."""

import json
import logging
import os
import secrets
import socket
import tempfile
from pathlib import Path

from tornado.web import HTTPError
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler

from bssan_lib.errors import RunError

HOST = "127.0.0.1"
PAGES = 8  # at most open at once; each has a kernel of about 600 MB
# The page loads nothing from other hosts and cannot be embedded in other pages. Voila's scripts are inline and use
# eval; the script of a widget is a blob.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws://127.0.0.1:* data: blob:; "
    "frame-ancestors 'self'; form-action 'self'"
)
TITLE = """# Attention explorer

Choose an image and a caption, type a caption, or open your own photograph. Point at a word to see its regions, or at a
region to see its words. Your photograph stays in the memory of this program."""


def serve(
    checkpoint: str | None, data: str | None, port: int, browser: bool, pages: int = PAGES, ping: float = 30
) -> None:
    """Serves the explorer until it is interrupted.

    port: 0 means any free port. The address contains a token, and other machines cannot connect. One kernel is kept
    ready for the next page; a kernel ends with its page, at the latest five minutes later. browser: open one. pages:
    how many can be open at once. ping: seconds between two pings; a page that misses three of them counts as closed.
    """
    from bssan_lib.series.reproduce import kernel_paths

    os.environ.update(kernel_paths())
    port, token = _free(port), secrets.token_urlsafe(24)
    print(f"The explorer: http://{HOST}:{port}/?token={token}\nCtrl-C ends it.", flush=True)
    # Tornado reads the milliseconds of jupyter_server as seconds and warns about them.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="bssan-explore-") as folder:
        notebook = Path(folder) / "explorer.ipynb"
        notebook.write_text(json.dumps(_page(checkpoint, data)), encoding="utf-8")
        arguments = [
            str(notebook),
            f"--port={port}",
            "--Voila.port_retries=0",
            f"--Voila.ip={HOST}",
            f"--Voila.token={token}",
            "--Voila.log_level=ERROR",
            f"--Voila.open_browser={browser}",
            "--VoilaConfiguration.file_allowlist=",
            "--VoilaConfiguration.preheat_kernel=True",
            "--KernelManager.transport=ipc" if os.name == "posix" else "--KernelManager.transport=tcp",
            "--MappingKernelManager.cull_idle_timeout=300",
            "--MappingKernelManager.cull_interval=30",
        ]
        settings = {
            "headers": {"Content-Security-Policy": POLICY},
            "explorer_pages": pages,
            "ws_ping_interval": int(1000 * ping),
            "ws_ping_timeout": int(3000 * ping),
        }
        Server.launch_instance(argv=arguments, tornado_settings=settings)


class _Pages(TornadoVoilaHandler):
    """Serves the page, or an error if too many pages are open."""

    async def get(self, path: str | None = None) -> None:
        pages = self.settings["explorer_pages"]
        waiting = sum(len(pool) for pool in self.kernel_manager._pools.values())  # ready, without a page
        if len(self.kernel_manager.list_kernel_ids()) - waiting >= pages:
            raise HTTPError(503, reason=f"{pages} pages are open; close one and reload this page")
        self.xsrf_token  # noqa: B018  sets the cookie that the page needs to end its kernel
        await super().get(path)


class Server(Voila):
    def init_handlers(self) -> list:
        return [(one[0], _Pages, *one[2:]) if one[1] is TornadoVoilaHandler else one for one in super().init_handlers()]


def _page(checkpoint: str | None, data: str | None) -> dict:
    """The notebook behind the page: a title and the explorer."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    source = f"from bssan_lib.explorer import open_explorer\n\nopen_explorer({checkpoint!r}, {data!r})"
    return new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        cells=[new_markdown_cell(TITLE), new_code_cell(source)],
    )


def _free(port: int) -> int:
    """The port, or any free port for 0. Raises RunError if the port cannot be used."""
    with socket.socket() as test:
        if os.name == "posix":  # on other systems the option lets two programs share a port
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise RunError(f"port {port} of {HOST} cannot be used ({error}); give another one with --port") from None
        return test.getsockname()[1]
