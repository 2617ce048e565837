"""Outputs of executed notebooks: reduced for a run folder, and cleaned for committing."""

import re
import sys
from pathlib import Path
from typing import Any

from bssan_lib.errors import RunError
from bssan_lib.files import write_text
from bssan_lib.runs import Run, repository_root

WIDGET = "application/vnd.jupyter.widget-view+json"
VIEW_TYPE = "application/vnd.bssan.attention+json"  # the data of an attention view, see bssan_lib/explorer/view.py
LARGEST_NOTEBOOK = 1_000_000  # bytes; web forges stop rendering larger ones


def series_files(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder in order, then those of its extra/ in order of name."""
    patterns = ("[0-9][0-9]_*.ipynb", "extra/[!.]*.ipynb")
    return [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]


def merge_streams(notebook) -> None:
    """Joins printed text and keeps only the last state of each progress bar, as a terminal does."""
    for cell in notebook.cells:
        outputs: list[Any] = []
        for output in cell.get("outputs", []):
            if (
                outputs
                and output.output_type == outputs[-1].output_type == "stream"
                and output.name == outputs[-1].name
            ):
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if output.output_type == "stream":
                output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n"))
        if outputs:
            cell.outputs = outputs


def remove_widgets(notebook) -> None:
    """Removes widgets that have a picture beside them, because they need a kernel and their state is large."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop(WIDGET, None)


def publish_notebooks(run: Run, folder: Path) -> list[Path]:
    """Writes a run's executed notebooks, with outputs, over those of the same name in `folder` and its extra/.

    Removes papermill's metadata, machine paths and injected parameters. Raises RunError if a notebook is missing or
    larger than 1 MB.
    """
    import nbformat

    written = []
    for target in series_files(folder):
        executed = run.notebooks / target.relative_to(folder)
        if not executed.exists():
            raise RunError(f"{executed}: not executed yet; run `bssan reproduce` first")
        notebook = nbformat.read(executed, as_version=4)
        clean_notebook(notebook)
        text = nbformat.writes(notebook)
        if len(text.encode()) > LARGEST_NOTEBOOK:
            raise RunError(
                f"{target.name}: {len(text.encode())} bytes with its outputs, expected at most "
                f"{LARGEST_NOTEBOOK}; draw fewer or smaller pictures"
            )
        write_text(target, text if text.endswith("\n") else text + "\n")
        written.append(target)
    return written


def clean_notebook(notebook) -> None:
    """Removes papermill's metadata and machine paths from an executed notebook, and numbers its cells again."""
    notebook.cells = [cell for cell in notebook.cells if not is_injected(cell)]
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)  # the state of widgets is large, and pictures do not need it
    number = 0
    for cell in notebook.cells:
        for trace in ("papermill", "execution"):
            cell.metadata.pop(trace, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            number += 1
            cell.execution_count = number
        cell.outputs = [_without_paths(output) for output in map(_without_widget, cell.outputs) if output is not None]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count


def is_injected(cell) -> bool:
    """Whether papermill injected this cell, which sets parameters."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def _without_widget(output):
    """An output without widgets; None if nothing is left, as for progress bars."""
    data = output.get("data", {})
    data.pop(VIEW_TYPE, None)  # there is a picture beside it
    return None if data.pop(WIDGET, None) and not set(data) - {"text/plain"} else output


def _without_paths(value):
    """The same output without this machine's paths; pictures stay unchanged."""
    if isinstance(value, str):
        shown_as = {str(repository_root()): ".", sys.prefix: ".venv", str(Path.home()): "~"}
        for path, shown in sorted(shown_as.items(), key=lambda item: -len(item[0])):  # the longest first
            if len(path) > 1:
                value = re.sub(re.escape(path) + r"(?=[/\s'\"]|$)", shown, value)
        return value.replace("./runs/", "runs/")
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, dict):
        for key in value:
            if key not in ("image/png", "image/jpeg"):
                value[key] = _without_paths(value[key])
    return value
