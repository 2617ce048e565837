"""The whole series at a small scale, as `make reproduce` executes it at full scale."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from bssan_lib.report import LARGEST_NOTEBOOK
from bssan_lib.runs import repository_root

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="there are no numbered notebooks in notebooks/ yet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bssan_lib",
            "reproduce",
            "--config",
            "configs/scenes-small.yaml",
            "--out",
            str(folder / "run"),
            "-p",
            f"data.prepared={folder / 'prepared'}",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder / "run" / "report.html") in done.stdout
    return folder / "run"


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_every_notebook_ran_to_its_end(run):
    assert sorted(path.name for path in (run / "notebooks").glob("*.ipynb")) == [
        path.name for path in NOTEBOOKS
    ]
    for source in NOTEBOOKS:
        path = run / "notebooks" / source.name
        code = [
            cell
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code" and cell.source.strip()
        ]
        assert all(cell.execution_count for cell in code), source.name
        assert not [output for output in outputs(path) if output.output_type == "error"], source.name


def test_pictures_are_stored_and_notebooks_stay_small(run):
    pictures = 0
    for path in (run / "notebooks").glob("*.ipynb"):
        assert path.stat().st_size < LARGEST_NOTEBOOK, path.name
        pictures += sum("image/png" in output.get("data", {}) for output in outputs(path))
    assert pictures >= 6


def test_the_metrics_have_their_keys(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert {
        "dataset",
        "split",
        "protocol",
        "n_images",
        "n_captions",
        "i2t",
        "t2i",
        "rsum",
        "ci95",
        "grounding",
        "model",
        "seconds",
    } <= set(metrics)
    for direction in ("i2t", "t2i"):
        assert set(metrics[direction]) >= {"R@1", "R@5", "R@10", "MedR"}
        assert 0 <= metrics[direction]["R@1"] <= metrics[direction]["R@10"] <= 100
    recalls = [metrics[direction][key] for direction in ("i2t", "t2i") for key in ("R@1", "R@5", "R@10")]
    assert metrics["rsum"] == pytest.approx(sum(recalls), abs=0.06)


def test_the_report_page_needs_no_network(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""<(img|script|link|iframe)\b[^>]*\b(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert "<script" not in page and "@import" not in page
    assert page.count("data:image/png;base64,") >= 6 and "<math" in page
    assert all(f'id="{path.stem}"' in page for path in NOTEBOOKS)


def test_committed_notebooks_bear_their_outputs():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) < LARGEST_NOTEBOOK, path.name
        assert (
            "injected-parameters" not in text
            and "papermill" not in nbformat.reads(text, as_version=4).metadata
        )
        assert any(
            output.output_type == "display_data" for output in outputs(path)
        ), f"{path.name} shows nothing"
