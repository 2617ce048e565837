"""The numbered notebooks, executed in order into a run folder.

A notebook is finished when state.json of the run names it with the checksum of its source. Finished notebooks
are skipped; one that was interrupted is executed again, and its own steps (features, checkpoints) go on where
they stopped. Executed notebooks appear under their name only when whole.
"""

import ast
import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from bssan_lib import errors
from bssan_lib.errors import NotebookError, RunError
from bssan_lib.files import write_json
from bssan_lib.reading import read_json
from bssan_lib.runs import LOCK_VARIABLE, Run, open_run, project_folder
from bssan_lib.series.outputs import settle_streams, settle_widgets

PARAMETERS = ("run", "config", "data", "overrides")  # what every notebook's parameters cell sets


def reproduce(
    config, data=None, out=None, start: str | None = None, parameters: dict | None = None, notebooks=None
) -> Run:
    """Executes the series; returns the run with metrics.json and report.html written.

    start: a number such as "03": that notebook and all after it are executed even if they were finished.
    parameters: {"training.epochs": 2}. notebooks: a folder; by default the project's.
    Raises RunError (folder in use, other settings), any BssanError of a notebook, NotebookError for the rest.
    """
    from bssan_lib.series.report import write_report

    run = open_run(out, config, data, parameters)
    sources = find_notebooks(notebooks)
    first = _position(sources, start)
    done = _read_state(run)
    for number, source in enumerate(sources):
        title = f"[{number + 1}/{len(sources)}] {source.stem}"
        digest = source_digest(source)
        whole = done.get(source.name) == digest and (run.notebooks / source.name).exists()
        if whole and (first is None or number < first):
            print(f"{title}: finished before, skipped (--from {source.name[:2]} does it again)", flush=True)
            continue
        if first is not None and number < first:
            raise RunError(
                f"--from {start}: {source.stem} comes before it and is not finished in {run.folder}; leave --from out"
            )
        for later in sources[number:]:  # they were made from what is about to change
            done.pop(later.name, None)
        _write_state(run, done)
        began = time.monotonic()
        print(f"{title}: under way", flush=True)
        execute(source, run)
        done[source.name] = digest
        _write_state(run, done)
        print(f"{title}: done in {_duration(time.monotonic() - began)}", flush=True)
    write_report(run, [run.notebooks / source.name for source in sources])
    return run


def find_notebooks(folder=None) -> list[Path]:
    """The notebooks NN_*.ipynb of a folder in order, each with a whole parameters cell. Raises RunError."""
    folder = project_folder() / "notebooks" if folder is None else folder
    found = sorted(Path(folder).absolute().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise RunError(f"{folder}: no numbered notebooks there; expected 01_data_preparation.ipynb and so on")
    for path in found:
        missing = [name for name in PARAMETERS if name not in _parameters_of(path)]
        if missing:
            raise RunError(f"{path}: its cell tagged 'parameters' does not set {', '.join(missing)}")
    return found


def source_digest(path: Path) -> str:
    """SHA-256 of a notebook's cells without their outputs."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in _read_notebook(path)["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def execute(source: Path, run: Run) -> None:
    """Executes one notebook with papermill into run.notebooks, under its own name once it is whole.

    A notebook that fails is kept as NAME.failed.ipynb. Raises the BssanError that the notebook raised, saying
    in which cell, or NotebookError for any other reason.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    partial = run.notebooks / f".{source.stem}.partial.ipynb"
    failed = run.notebooks / f"{source.stem}.failed.ipynb"
    values: dict[str, Any] = {"run": str(run.folder), "config": None, "data": None, "overrides": {}}

    def work(manager_class):
        papermill.execute_notebook(
            nbformat.read(source, as_version=4),
            str(partial).replace("{", "{{").replace("}", "}}"),
            values,
            kernel_name="python3",
            language="python",
            cwd=str(source.parent),
            progress_bar=sys.stderr.isatty(),
            stderr_file=_Live(sys.stderr),
            kernel_manager_class=manager_class,
            extra_arguments=["--log-level=50"],  # kernels print remarks of their own at start and shutdown
        )

    try:
        with _kernel_environment(run.folder), _quiet_connections():
            _in_thread(work)
        notebook = nbformat.read(partial, as_version=4)
        settle_streams(notebook)
        settle_widgets(notebook)
        notebook.metadata.get("papermill", {}).pop("input_path", None)  # the whole source once more
        nbformat.write(notebook, partial)
        os.replace(partial, run.notebooks / source.name)
        failed.unlink(missing_ok=True)
    except papermill.PapermillExecutionError as error:
        os.replace(partial, failed)
        raise _own_error(error, source, failed) from None
    except DeadKernelError:
        raise NotebookError(f"{source.stem}: its kernel died; most often memory ran out") from None
    finally:
        partial.unlink(missing_ok=True)


def _kill(pid: int) -> None:
    """Ends a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _in_thread(work) -> None:
    """Runs work(kernel manager class) beside this thread, which alone gets signals: Ctrl-C kills the kernel.

    In the main thread nbclient would take the signals for itself, and they would look like a dead kernel.
    """
    from jupyter_client import AsyncKernelManager

    managers, failure = [], []

    class Manager(AsyncKernelManager):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            managers.append(self)

    def target():
        try:
            work(Manager)
        except BaseException as error:  # handed to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        while thread.is_alive():
            for manager in managers:
                process = getattr(manager.provisioner, "process", None)
                if process is not None:
                    _kill(process.pid)
            thread.join(0.2)
        raise
    if failure:
        raise failure[0]


@contextlib.contextmanager
def _quiet_connections():
    """Keeps tornado's tracebacks of connections to a kernel that ends in the middle of a message out of stderr.

    What went wrong in the notebook is raised by papermill; these come and go with the machine's load.
    """
    logger = logging.getLogger("tornado.general")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _kernel_environment(folder: Path):
    """What a kernel inherits: the lock's name, this interpreter's kernel, this package, inline pictures."""
    before = dict(os.environ)
    os.environ[LOCK_VARIABLE] = str(folder)
    os.environ.pop("MPLBACKEND", None)  # MPLBACKEND=Agg would execute and store no picture
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or the debugger prints a warning at each start
    os.environ.update(kernel_paths())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def kernel_paths() -> dict[str, str]:
    """The two environment variables by which a kernel is of this interpreter and imports this package."""
    own = {
        "JUPYTER_PATH": Path(sys.prefix) / "share" / "jupyter",
        "PYTHONPATH": Path(__file__).resolve().parent.parent.parent,
    }
    return {
        name: os.pathsep.join([str(path)] + ([os.environ[name]] if os.environ.get(name) else []))
        for name, path in own.items()
    }


class _Live:
    """Passes a kernel's stderr on: progress bars as they are to a terminal, finished lines alone to a log."""

    def __init__(self, stream):
        self.stream, self.rest = stream, ""

    def write(self, text: str) -> None:
        if self.stream.isatty():
            self.stream.write(text)
            return
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.rpartition("\r")[2].strip():
                self.stream.write(line.rpartition("\r")[2] + "\n")

    def flush(self) -> None:
        self.stream.flush()


def _own_error(error, source: Path, failed: Path) -> Exception:
    """A papermill error as the BssanError that was raised in the notebook, or as NotebookError."""
    code = "\n".join("    " + line for line in error.source.strip().splitlines()[:12])
    text = f"{source.stem}, cell In [{error.exec_count}]:\n{code}\n"
    known = getattr(errors, error.ename, None)
    if isinstance(known, type) and issubclass(known, errors.BssanError):
        return known(text + error.evalue)
    traceback = re.sub("\x1b\\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    return NotebookError(text + "\n".join(traceback[-20:]) + f"\nThe notebook as far as it came: {failed}")


def _parameters_of(path: Path) -> set[str]:
    """Names that the cell tagged "parameters" sets."""
    sources = [
        "".join(cell["source"])
        for cell in _read_notebook(path)["cells"]
        if "parameters" in cell["metadata"].get("tags", [])
    ]
    nodes = ast.parse("\n".join(sources)).body
    return {t.id for node in nodes if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}


def _position(sources: list[Path], start: str | None) -> int | None:
    if start is None:
        return None
    for number, source in enumerate(sources):
        if source.name.startswith(f"{start:0>2}_") or source.stem == start:
            return number
    raise RunError(f"--from {start}: no such notebook; there are {', '.join(s.name[:2] for s in sources)}")


def _read_notebook(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not a notebook: {error}") from None


def _read_state(run: Run) -> dict[str, str]:
    try:
        return read_json(run.notebooks / "state.json")
    except (OSError, ValueError):
        return {}


def _write_state(run: Run, done: dict[str, str]) -> None:
    write_json(run.notebooks / "state.json", done)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
