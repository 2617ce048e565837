"""Small good inputs, of which the tests make bad ones, and how each bad one has to end."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bssan_lib.commands.cli import main

OLD = Path(__file__).parent.parent / "old"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with features, a run, an index and twelve pictures with captions."""
    monkeypatch.chdir(tmp_path)
    return make_place(tmp_path)


def make_place(folder: Path) -> Path:
    """Puts the files of `place` into a folder."""
    for name in ("features", "run", "index"):
        shutil.copytree(OLD / name, folder / name, ignore=shutil.ignore_patterns("train_*", "dev_*", "last.*"))
    settings = folder / "run" / "config.yaml"
    settings.write_text(settings.read_text().replace("/tmp/old", str(folder)))
    meta = folder / "index" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"checkpoint": str(folder / "run")}))
    (folder / "table" / "images").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (40, 32), (20 * number, 90, 30)).save(folder / "table" / "images" / f"{number}.png")
    rows = "".join(f"{number}.png,a picture of number {number}\n" for number in range(12))
    (folder / "table" / "captions.csv").write_text("image,caption\n" + rows)
    return folder


def contents(folder: Path) -> dict:
    """Every path under a folder with its kind and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = os.lstat(path).st_mode
        found[str(path)] = kind, path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return found


@pytest.fixture
def refused(place, capsys):
    """A function (arguments, words of the message): the command ends with 2 in one sentence and changes nothing."""

    def check(arguments, *said, sizes_only=False):
        before = contents(place)
        code = main([str(argument) for argument in arguments])
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.count("bssan: ") == 1 and "Traceback" not in error and "\x1b" not in error
        for words in said:
            assert words in error, error
        after = contents(place)
        assert after == before or sizes_only, sorted(set(after) ^ set(before)) or [
            k for k in after if after[k] != before[k]
        ]

    return check


def evaluate(*more):
    return ["evaluate", "--checkpoint", "run", "--data", "features", "--split", "test", "--bootstrap", "5", *more]


def save_npy(path, array):
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
