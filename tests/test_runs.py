"""Run folders: settings that must agree, paths, the lock, and what is recorded."""

import base64
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bssan_lib import runs
from bssan_lib.config import load_config
from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.runs import check_parameters, open_run, repository_root, resolve_path, set_seed
from bssan_lib.viz import screen_png

HOLD = """
import sys
from bssan_lib.runs import open_run
open_run(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text("name: mini\ntraining:\n  epochs: 3\n")
    yield path
    for folder in list(runs._locks):  # the lock otherwise lasts as long as the test process
        runs._locks.pop(folder).release()


def test_opening_makes_a_complete_folder(tmp_path, settings):
    run = open_run("r", settings, overrides={"training.batch_size": 7})
    assert run.folder == tmp_path / "r"
    assert run.checkpoints.is_dir() and run.figures.is_dir()
    stored = load_config(run.folder / "config.yaml")
    assert stored == run.config and stored.training.batch_size == 7 and stored.training.epochs == 3
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["seed"] == stored.seed and environment["packages"]["torch"]
    assert environment["device"] and environment["torch_threads"] >= 1


def test_a_run_opens_again_without_its_configuration(settings):
    first = open_run("r", settings, overrides={"seed": 5})
    assert open_run("r").config == first.config
    assert open_run("r", settings, overrides={"seed": 5}).config == first.config


def test_other_settings_are_refused_with_both_values(settings):
    open_run("r", settings)
    with pytest.raises(RunError) as caught:
        open_run("r", settings, overrides={"training.epochs": 2, "model.place": False})
    assert "training.epochs: 3 in the run, 2 now" in str(caught.value)
    assert "model.place: True in the run, False now" in str(caught.value)
    assert "batch_size" not in str(caught.value)
    with pytest.raises(RunError, match="training.epochs"):
        open_run("r", overrides={"training.epochs": 2})
    assert load_config("r/config.yaml").training.epochs == 3


def test_no_run_and_no_configuration(settings):
    with pytest.raises(RunError, match="not a run folder yet"):
        open_run("absent")
    assert not os.path.exists("absent")


def test_nothing_is_made_for_a_setting_that_does_not_exist(settings):
    with pytest.raises(ConfigError):
        open_run("r", settings, overrides={"training.epoch": 2})
    assert not os.path.exists("r")


def test_data_must_be_there_before_a_run_is_made(settings):
    settings.write_text("data:\n  source: flickr8k\n")
    with pytest.raises(DataError, match="--data"):
        open_run("r", settings)
    with pytest.raises(DataError, match="nowhere"):
        open_run("r", settings, data="nowhere")
    assert not os.path.exists("r")


def test_data_and_features_are_kept_as_absolute_paths(tmp_path, settings, monkeypatch):
    (tmp_path / "drawn").mkdir()
    run = open_run("r", settings, data="drawn")
    assert run.config.data.folder == str(tmp_path / "drawn")
    assert run.prepared.parent == tmp_path / "prepared"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_run("../r", settings).prepared == run.prepared


def test_a_folder_that_cannot_be_written(tmp_path, settings):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        open_run(tmp_path / "file" / "r", settings)


def test_a_second_process_is_refused_and_told_who(settings):
    open_run("r", settings).close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "r"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository_root())},
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            open_run("r")
        holder.kill()
        holder.wait()
    open_run("r")  # a lock dies with its holder


def test_closing_lets_another_process_in(settings):
    run = open_run("r", settings)
    command = [sys.executable, "-c", HOLD, "r"]
    environment = {**os.environ, "PYTHONPATH": str(repository_root())}
    refused = subprocess.run(command, input="", text=True, capture_output=True, env=environment)
    assert refused.returncode == 1 and f"process {os.getpid()}" in refused.stderr
    inside = subprocess.run(
        command, input="", text=True, capture_output=True, env={**environment, runs.LOCK_VARIABLE: str(run.folder)}
    )
    assert inside.stdout == "held\n"  # a kernel that the holder started
    run.close()
    assert subprocess.run(command, input="", text=True, capture_output=True, env=environment).stdout == "held\n"


@pytest.mark.parametrize("inside", [".", "notebooks", "bssan_lib"])
def test_a_notebooks_default_means_the_same_from_anywhere_in_the_repository(monkeypatch, inside):
    root = repository_root()
    (root / inside).mkdir(exist_ok=True)
    monkeypatch.chdir(root / inside)
    assert resolve_path("../runs/not-there-yet") == root / "runs" / "not-there-yet"
    assert resolve_path("../configs/scenes.yaml") == root / "configs" / "scenes.yaml"
    assert resolve_path("configs/scenes.yaml") == root / "configs" / "scenes.yaml"
    # as notebooks of extra/ name them
    assert resolve_path("../../runs/not-there-yet") == root / "runs" / "not-there-yet"
    assert resolve_path("../../configs/scenes.yaml") == root / "configs" / "scenes.yaml"


def test_a_path_from_the_working_directory_comes_first(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "scenes.yaml").write_text("name: own\n")
    monkeypatch.chdir(tmp_path)
    assert resolve_path("configs/scenes.yaml") == tmp_path / "configs" / "scenes.yaml"
    assert resolve_path("runs/new") == tmp_path / "runs" / "new"


def test_an_unknown_notebook_parameter_names_the_nearest():
    allowed = {"run", "config", "data", "overrides"}
    check_parameters({"In": ["", "anything = 1", '# Parameters\nrun = "r"\ndata = None\n']}, allowed)
    with pytest.raises(ConfigError, match="'overides'; did you mean 'overrides'"):
        check_parameters({"In": ["", "# Parameters\noverides = {}\n"]}, allowed)
    with pytest.raises(ConfigError, match="'zzz'; known: config, data, overrides, run"):
        check_parameters({"In": ["", "# Parameters\nzzz = 3\n"]}, allowed)


def test_a_seed_repeats_all_three_generators():
    import random

    import numpy as np
    import torch

    def draw(seed):
        set_seed(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw(7)
    assert draw(7) == first
    assert all(a != b for a, b in zip(draw(11), first, strict=True))


def test_a_kept_figure_is_saved_for_a_paper_and_shown_small(settings):
    import matplotlib.pyplot as plt

    run = open_run("r", settings)
    figure, axes = plt.subplots(figsize=(3.25, 2))
    axes.imshow([[0, 1], [2, 3]])
    shown = run.keep(figure, "two_by_two", prefix="05_", direction="w2r", seed=3)
    assert sorted(path.name for path in run.figures.iterdir()) == [
        f"05_two_by_two.{ending}" for ending in ("pdf", "png", "svg", "txt")
    ]
    assert (run.figures / "05_two_by_two.txt").read_text() == "direction: w2r\nseed: 3\n"
    data, metadata = shown._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "two by two"
    assert len(base64.b64decode(data["image/png"])) < (run.figures / "05_two_by_two.png").stat().st_size
    assert not plt.fignum_exists(figure.number)
    run.keep(plt.figure(), "without_a_note")
    assert not (run.figures / "without_a_note.txt").exists() and (run.figures / "without_a_note.pdf").exists()


def test_a_small_shape_keeps_its_colour_on_the_screen():
    import matplotlib.pyplot as plt

    noise = np.random.default_rng(3).integers(150, 250, (60, 60, 3), dtype=np.uint8)
    noise[28:32, 28:32] = 132, 56, 176
    figure = plt.figure(figsize=(3, 3))
    figure.add_axes((0, 0, 1, 1)).imshow(noise, interpolation="nearest")
    shown = Image.open(io.BytesIO(screen_png(figure))).convert("RGB")
    colour = shown.getpixel((shown.width // 2, shown.height // 2))
    assert np.abs(np.subtract(colour, (132, 56, 176))).max() <= 6
