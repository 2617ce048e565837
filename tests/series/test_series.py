"""The whole series at a small scale, as `make reproduce` executes it at full scale."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from bssan_lib.config import load_config
from bssan_lib.errors import RunError
from bssan_lib.runs import Run, repository_root
from bssan_lib.series.figure_gallery import GALLERY, publish_figures
from bssan_lib.series.outputs import LARGEST_NOTEBOOK, series_files

ROOT = repository_root()
NOTEBOOKS = series_files(ROOT / "notebooks")
NAMES = [path.relative_to(ROOT / "notebooks") for path in NOTEBOOKS]

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="there are no numbered notebooks in notebooks/ yet")


SMALL = {
    "model.joint_size": 32,
    "model.word_size": 16,
    "training.epochs": 1,
    "training.single_epochs": 1,
    "training.batch_size": 16,
    "training.warmup_steps": 2,
    "data.min_word_count": 1,
    "evaluation.bootstrap": 20,
    "ablation.images": 12,
    "ablation.dev_images": 7,
    "ablation.epochs": 1,
    "ablation.seeds": [1, 2],
    "ablation.joint_size": 8,
    "ablation.batch_size": 16,
    "ablation.slow_images": 4,
    "ablation.slow_dev_images": 4,
    "ablation.slow_batch_size": 8,
}


def call(command, folder, python_path=None):
    """Runs a command in a folder; returns what it printed."""
    others = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own = {**others, **({"PYTHONPATH": str(python_path)} if python_path else {})}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=own, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def reproduce(config, folder, *more, settings=None):
    """Runs the command in the repository; returns its run folder."""
    command = [sys.executable, "-m", "bssan_lib", "reproduce", "--config", f"configs/{config}.yaml"]
    command += ["--out", folder / "run", *more]
    for key, value in (settings or {}).items():
        command += ["-p", f"{key}={value}"]
    assert str(folder / "run" / "report.html") in call(command, ROOT, ROOT)
    return folder / "run"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command `bssan` of a fresh environment into which the wheel was installed; other packages are those of this one."""
    place = tmp_path_factory.mktemp("installed")
    kept = ("bssan_lib", "notebooks", "configs", "docs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md")
    (place / "source").mkdir()
    for name in kept:
        one, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(one, place / "source" / name, ignore=ignored) if one.is_dir() else shutil.copy(
            one, place / "source"
        )
    pip = [sys.executable, "-m", "pip"]
    call([*pip, "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", place, place / "source"], place)
    shutil.rmtree(place / "source")
    venv.create(place / "venv", with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(place / "venv"), "platbase": str(place / "venv")})
    python = Path(paths["scripts"]) / "python"
    (wheel,) = place.glob("bssan-*.whl")
    call([*pip, "--python", python, "install", "-q", "--no-deps", wheel], place)
    (Path(paths["purelib"]) / "others.pth").write_text(sysconfig.get_path("purelib") + os.linesep)
    return python.parent / "bssan"


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    """The run of the wheel in an empty folder, with a configuration by its name."""
    folder = tmp_path_factory.mktemp("series")
    printed = call([installed, "reproduce", "--config", "scenes-small"], folder)
    assert str(folder / "runs" / "scenes-small" / "report.html") in printed
    return folder / "runs" / "scenes-small"


def test_a_wheel_brings_the_notebooks_and_the_model(installed, tmp_path):
    assert "jupyter lab mine/notebooks" in call([installed, "notebooks", "mine"], tmp_path)
    assert series_files(tmp_path / "mine" / "notebooks") == [tmp_path / "mine" / "notebooks" / name for name in NAMES]
    assert (tmp_path / "mine" / "configs" / "scenes.yaml").read_bytes() == (ROOT / "configs/scenes.yaml").read_bytes()
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (97, 131, 3), np.uint8)).save(tmp_path / "photo.png")
    call([installed, "attend", "photo.png", "a dog runs", "--out", "attention.png"], tmp_path)
    assert (tmp_path / "attention.png").is_file()


def test_features_in_the_fields_format_run_through_all_notebooks(tmp_path):
    """As SCAN distributes them: train once, dev and test with every image five times, no boxes, no pictures."""
    data, random = tmp_path / "f30k_precomp", np.random.default_rng(3)
    data.mkdir()
    words = "a man dog ball red runs jumps beach with two children water".split()
    meanings = random.normal(size=(len(words), 2048)).astype(np.float32)
    for split, images, repeat in (("train", 24, 1), ("dev", 7, 5), ("test", 7, 5)):
        features, lines = random.random((images, 36, 2048), np.float32), []
        for image in range(images):  # each region shows a word of the image's own, so that there is something to learn
            shown = random.choice(len(words), 4, replace=False)
            features[image] += meanings[shown[np.arange(36) % 4]]
            lines += [" ".join(words[i] for i in random.choice(shown, random.integers(3, 9))) for _ in range(5)]
        np.save(data / f"{split}_ims.npy", features.repeat(repeat, axis=0))
        (data / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    found = json.loads(
        (reproduce("precomp", tmp_path, "--data", str(data), settings=SMALL) / "metrics.json").read_text()
    )
    assert (found["split"], found["n_images"], found["n_captions"]) == ("test", 7, 35)
    assert "grounding" not in found


@pytest.mark.skipif("BSSAN_DATA" not in os.environ, reason="no Flickr8k folder: set BSSAN_DATA to one to run this test")
def test_photographs_run_through_all_notebooks(tmp_path):
    source, data = Path(os.environ["BSSAN_DATA"]).resolve(), tmp_path / "flickr8k"
    data.mkdir()
    for name in ("Flicker8k_Dataset", "flickr30k_entities_annotations.zip"):
        (data / name).symlink_to(source / name)
    texts = source / "Flickr8k_text"
    kept = []
    for split, images in (("train", 24), ("dev", 7)):
        names = (texts / f"Flickr_8k.{split}Images.txt").read_text().split()[:images]
        (data / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        kept += names
    rows = (texts / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if row.split("#")[0] in kept]
    (data / "Flickr8k.token.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = SMALL | {
        "data.prepared": tmp_path / "prepared",
        "data.image_size": 224,
        "training.mixed_precision": "no",
        "model.word_size": 101,
    }
    run = reproduce("flickr8k-tuned", tmp_path, "--data", str(data), settings=settings)
    found = json.loads((run / "metrics.json").read_text())
    assert (found["dataset"], found["split"], found["n_images"], found["n_captions"]) == ("flickr8k", "dev", 7, 35)
    assert found["grounding"]["n_phrases"] > 35


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_every_notebook_ran_to_its_end(run):
    assert sorted((run / "notebooks").rglob("*.ipynb")) == sorted(run / "notebooks" / name for name in NAMES)
    for name in NAMES:
        path = run / "notebooks" / name
        code = [
            cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source.strip()
        ]
        assert all(cell.execution_count for cell in code), name
        assert not [output for output in outputs(path) if output.output_type == "error"], name


def test_pictures_are_stored_and_notebooks_stay_small(run):
    pictures = 0
    for path in series_files(run / "notebooks"):
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


def test_the_gallery_shows_what_the_series_draws_and_no_photographs(run, tmp_path):
    made = Run(run, load_config(run / "config.yaml"), run / "prepared")
    written = publish_figures(made, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert all(f"({name}.png)" in page and (tmp_path / f"{name}.pdf") in written for name in GALLERY)
    assert all(path.stat().st_size > 500 for path in written if path.suffix != ".txt")
    made.config.data.source = "flickr8k"
    with pytest.raises(RunError, match="expected a run on the built-in scenes"):
        publish_figures(made, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_report_page_needs_no_network(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""<(img|script|link|iframe)\b[^>]*\b(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert "@import" not in page and not re.search(r"url\(\s*['\"]?(https?:)?//", page)
    scripts = re.findall(r"<script\b([^>]*)>", page)  # of the attention views: their data, and one that draws them
    assert scripts.count(' type="module"') == 1 and set(scripts) == {' type="module"', ' type="application/json"'}
    assert scripts.count(' type="application/json"') == page.count('<div class="attention"><img ') >= 3
    assert page.count("data:image/png;base64,") >= 6 and "<math" in page
    assert all(f'id="{path.stem}"' in page for path in NOTEBOOKS)


def test_committed_notebooks_bear_their_outputs():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) < LARGEST_NOTEBOOK, path.name
        assert "injected-parameters" not in text and "papermill" not in nbformat.reads(text, as_version=4).metadata
        assert any("image/png" in output.get("data", {}) for output in outputs(path)), f"{path.name} shows no picture"
