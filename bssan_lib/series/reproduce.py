"""Executes the numbered notebooks, then those of extra/, in order into a run folder.

A notebook is finished if state.json of the run contains it with the checksum of its source. Finished notebooks are
skipped. An interrupted notebook is executed again, and its slow steps (features, training) continue where they stopped.
An executed notebook gets its final name when it is complete.
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
from bssan_lib.series.outputs import merge_streams, remove_widgets, series_files

PARAMETERS = ("run", "config", "data", "overrides")  # set by the parameters cell of every notebook


def reproduce(
    config, data=None, out=None, start: str | None = None, parameters: dict | None = None, notebooks=None
) -> Run:
    """Executes the series, writes metrics.json and report.html, and returns the run.

    start: a number such as "03" or "05a": executes that notebook and all later ones, even if finished. parameters:
    {"training.epochs": 2}. notebooks: a folder, by default the project's. Raises RunError (folder in use, other
    settings), any BssanError of a notebook, or NotebookError for other errors in it.
    """
    from bssan_lib.series.report import write_report

    run = open_run(out, config, data, parameters)
    sources = find_notebooks(notebooks)
    names = [source.relative_to(sources[0].parent).as_posix() for source in sources]  # "extra/05a_....ipynb"
    first = _position(sources, start)
    done = _read_state(run)
    for number, (name, source) in enumerate(zip(names, sources)):
        title = f"[{number + 1}/{len(sources)}] {name.removesuffix('.ipynb')}"
        digest = source_digest(source)
        whole = done.get(name) == digest and (run.notebooks / name).exists()
        if whole and (first is None or number < first):
            print(f"{title}: finished already, skipped (--from {_number(source)} executes it again)", flush=True)
            continue
        if first is not None and number < first:
            raise RunError(
                f"--from {start}: {source.stem} comes before it and is not finished in {run.folder}; run without --from"
            )
        for later in names[number:]:  # they depend on this notebook
            done.pop(later, None)
        _write_state(run, done)
        began = time.monotonic()
        print(f"{title}: running", flush=True)
        execute(source, run, run.notebooks / name)
        done[name] = digest
        _write_state(run, done)
        print(f"{title}: done in {_duration(time.monotonic() - began)}", flush=True)
    write_report(run, [run.notebooks / name for name in names])
    return run


def find_notebooks(folder=None) -> list[Path]:
    """The notebooks NN_*.ipynb of a folder, then those of its extra/, in order.

    Raises RunError if there are none or a parameter is missing.
    """
    folder = Path(project_folder() / "notebooks" if folder is None else folder).absolute()
    found = series_files(folder)
    if not found or found[0].parent != folder:
        raise RunError(f"{folder}: expected numbered notebooks such as 01_data_preparation.ipynb, found none")
    for path in found:
        missing = [name for name in PARAMETERS if name not in _parameters_of(path)]
        if missing:
            raise RunError(f"{path}: its cell tagged 'parameters' does not set {', '.join(missing)}")
    return found


def source_digest(path: Path) -> str:
    """SHA-256 of a notebook's cells without their outputs."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in _read_notebook(path)["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def execute(source: Path, run: Run, target: Path) -> None:
    """Executes one notebook with papermill into `target`, which appears when it is complete.

    A failed notebook is kept as NAME.failed.ipynb. Raises the BssanError of the notebook, with its cell, or
    NotebookError for any other error.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f".{source.stem}.partial.ipynb")
    failed = target.with_name(f"{source.stem}.failed.ipynb")
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
            extra_arguments=["--log-level=50"],  # without log lines of the kernel
        )

    try:
        with _kernel_environment(run.folder), _quiet_connections():
            _in_thread(work)
        notebook = nbformat.read(partial, as_version=4)
        merge_streams(notebook)
        remove_widgets(notebook)
        notebook.metadata.get("papermill", {}).pop("input_path", None)  # the complete source
        nbformat.write(notebook, partial)
        os.replace(partial, target)
        failed.unlink(missing_ok=True)
    except papermill.PapermillExecutionError as error:
        os.replace(partial, failed)
        raise _own_error(error, source, failed) from None
    except DeadKernelError:
        raise NotebookError(f"{source.stem}: its kernel died, probably because memory ran out") from None
    finally:
        partial.unlink(missing_ok=True)


def _kill(pid: int) -> None:
    """Kills a process and its children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _in_thread(work) -> None:
    """Calls work(kernel manager class) in another thread, so that Ctrl-C reaches this one, which kills the kernel.

    In the main thread, nbclient would handle the signal and report a dead kernel.
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
        except BaseException as error:  # raised again in the calling thread
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
    """Hides tornado's tracebacks of connections that a dying kernel closes.

    papermill raises the errors of the notebook itself.
    """
    logger = logging.getLogger("tornado.general")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _kernel_environment(folder: Path):
    """Sets the environment of kernels: the lock, this interpreter's kernel, this package, inline pictures."""
    before = dict(os.environ)
    os.environ[LOCK_VARIABLE] = str(folder)
    os.environ.pop("MPLBACKEND", None)  # with MPLBACKEND=Agg no picture would be stored
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the debugger would print a warning at each start
    os.environ.update(kernel_paths())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def kernel_paths() -> dict[str, str]:
    """Environment variables that make a kernel use this interpreter and import this package."""
    own = {
        "JUPYTER_PATH": Path(sys.prefix) / "share" / "jupyter",
        "PYTHONPATH": Path(__file__).resolve().parent.parent.parent,
    }
    return {
        name: os.pathsep.join([str(path)] + ([os.environ[name]] if os.environ.get(name) else []))
        for name, path in own.items()
    }


class _Live:
    """Forwards a kernel's stderr: everything to a terminal, only complete lines to a log."""

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
    return NotebookError(
        text + "\n".join(traceback[-20:]) + f"\nThe notebook with its outputs up to the error: {failed}"
    )


def _parameters_of(path: Path) -> set[str]:
    """The names set by the cell tagged "parameters"."""
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
        if start.zfill(len(_number(source))) in (_number(source), source.stem):
            return number
    raise RunError(f"--from {start}: expected one of the notebooks {', '.join(map(_number, sources))}")


def _number(source: Path) -> str:
    """What names a notebook after --from: "03" of 03_o2w_attention.ipynb, "05a" of 05a_....ipynb."""
    return source.stem.partition("_")[0]


def _read_notebook(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as a notebook: {error}") from None


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
