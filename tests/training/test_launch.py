"""Training and evaluation from a shell, in one process and in two, which must give the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bssan_lib.runs import repository_root
from bssan_lib.vision.backbone import grid_boxes

ROOT = repository_root()
K, D, IMAGES = 5, 13, {"train": 37, "dev": 11}
SETTINGS = [
    "model.joint_size=11",
    "model.word_size=7",
    "model.global_size=3",
    "model.dropout=0",
    "model.word_dropout=0",
    "model.region_dropout=0",
    "training.epochs=2",
    "training.batch_size=8",
    "training.warmup_steps=2",
    "training.learning_rate=0.005",
    "data.min_word_count=1",
    "training.mixed_precision=no",
]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A folder in the field's format: features, captions, two of them an image."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(3)
    for name, images in IMAGES.items():
        np.save(folder / f"{name}_ims.npy", rng.normal(size=(images, K, D)).astype(np.float32))
        captions = [" ".join(rng.choice([f"w{i}" for i in range(17)], size=3 + row % 5)) for row in range(5 * images)]
        (folder / f"{name}_caps.txt").write_text("\n".join(captions) + "\n")
        np.save(folder / f"{name}_boxes.npy", np.tile(grid_boxes(1, K), (images, 1, 1)))
    phrases = [
        {"caption": row, "words": [row % 3], "type": f"kind{row % 2}", "boxes": [[0.1, 0.1, 0.2 + row % 7 / 10, 0.9]]}
        for row in range(0, 5 * IMAGES["dev"], 2)
    ]
    (folder / "dev_phrases.jsonl").write_text("".join(json.dumps(phrase) + "\n" for phrase in phrases))
    return folder


def bssan(*arguments, processes=1, code=0):
    """Runs `bssan ARGUMENTS`, over several processes where told, as a user does; returns what it prints."""
    several = ["--processes", processes] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "bssan_lib", *map(str, [*arguments, *several])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory, features):
    """A run trained by one process and one trained by two."""
    folder = tmp_path_factory.mktemp("runs")
    for count, name in ((1, "one"), (2, "two")):
        settings = [part for setting in SETTINGS for part in ("-p", setting)]
        said = bssan(
            "train",
            "--config",
            "configs/precomp.yaml",
            "--data",
            features,
            "--out",
            folder / name,
            *settings,
            processes=count,
        )
        assert said.count("trained:") == 1  # the first process speaks for all
    return folder


def test_two_processes_train_a_run_as_one_does(runs):
    one, two = (load_file(runs / name / "checkpoints" / "best" / "model.safetensors") for name in ("one", "two"))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-5, rtol=0, msg=name)
    assert (runs / "two" / "vocabulary.json").read_text() == (runs / "one" / "vocabulary.json").read_text()
    assert not list((runs / "two").rglob("*.partial"))


def test_a_finished_training_is_only_read(runs):
    last = runs / "one" / "checkpoints" / "last.safetensors"
    before = last.read_bytes()
    bssan("train", "--config", runs / "one" / "config.yaml", "--out", runs / "one")
    assert last.read_bytes() == before


def test_two_processes_measure_as_one_does(runs, features):
    found = []
    for count in (1, 2):
        out = runs / f"{count}.json"
        said = bssan(
            "evaluate",
            "--checkpoint",
            runs / "one",
            "--data",
            features,
            "--split",
            "dev",
            "--grounding-checks",
            "--memory",
            "4KiB",
            "--out",
            out,
            processes=count,
        )
        assert said.count("metrics written") == 1
        found.append({key: value for key, value in json.loads(out.read_text()).items() if key != "seconds"})
    assert found[0] == found[1] and found[0]["n_images"] == IMAGES["dev"]
    assert found[0]["grounding"]["n_phrases"] == 28 and "shuffled_combined" in found[0]["grounding"]


def test_a_notebook_starts_processes_of_its_own(tmp_path, runs):
    code = (
        "from pathlib import Path; from bssan_lib.config import load_config; from bssan_lib.runs import open_run\n"
        "from bssan_lib.training.launch import prepare_run, train_run\n"
        f"run = open_run({str(tmp_path / 'run')!r}, {str(runs / 'one' / 'config.yaml')!r})\n"
        "prepare_run(run); train_run(run, processes=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "run" / "checkpoints" / "best" / "model.safetensors")
    for name, weights in load_file(runs / "one" / "checkpoints" / "best" / "model.safetensors").items():
        torch.testing.assert_close(found[name], weights, atol=1e-5, rtol=0, msg=name)


def test_torchrun_starts_the_same_processes(tmp_path, runs, features):
    starter = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "bssan_lib",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    arguments = [
        "evaluate",
        "--checkpoint",
        runs / "one",
        "--data",
        features,
        "--split",
        "dev",
        "--out",
        tmp_path / "x.json",
    ]
    done = subprocess.run(
        [*starter, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "x.json").read_text())["n_images"] == IMAGES["dev"]


def test_what_goes_wrong_is_one_sentence_from_several_processes_too(tmp_path, features):
    (tmp_path / "broken").mkdir()
    for path in features.iterdir():
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken" / "dev_caps.txt").write_text("one caption\n\nand an empty line before\n")
    given = ("train", "--config", "configs/precomp.yaml", "--data", tmp_path / "broken", "--out", tmp_path / "run")
    errors = bssan(*given, processes=2, code=2)
    assert errors.count("bssan: ") == 1 and "line 2: the caption is empty" in errors and "Traceback" not in errors
    errors = bssan("train", "--config", "configs/precomp.yaml", "--data", features, "--processes", "0", code=2)
    assert "--processes 0: expected 1 or more" in errors
