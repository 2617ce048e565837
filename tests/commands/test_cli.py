"""The command line as a user meets it: exit codes and sentences, in processes of their own."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from bssan_lib.commands.cli import main
from bssan_lib.commands.options import run_folder
from bssan_lib.runs import open_run, repository_root


def bssan(*arguments, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(repository_root())}
    return subprocess.run(
        [sys.executable, "-m", "bssan_lib", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(done, *said):
    """Exit code 2, one message that says `said`, no traceback."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("bssan: ") and "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr, done.stderr


def test_help_names_the_commands_without_loading_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bssan_lib", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository_root())},
    )
    assert done.returncode == 0
    commands = ("reproduce", "prepare", "train", "evaluate", "attend", "index", "search", "explore")
    assert all(command in done.stdout for command in commands)
    assert not any(f" {slow}" in done.stderr for slow in ("torch", "papermill", "voila", "faiss"))


def test_no_command_and_an_unknown_option_are_usage_errors(capsys):
    for arguments in ([], ["train"], ["evaluate", "--chekpoint", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_train_and_reproduce_write_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder(None, "scenes") == tmp_path / "runs" / "scenes"
    assert (repository_root() / "configs").is_dir()  # of the same name, which does not matter
    assert run_folder("configs", "scenes") == tmp_path / "configs"
    assert run_folder("../r", "scenes") == tmp_path / ".." / "r"
    assert open_run(run_folder("configs", "scenes"), "configs/scenes-small.yaml").folder == tmp_path / "configs"
    for command in ("train", "reproduce"):  # the run that was made there, with other settings
        done = bssan(command, "--config", "configs/scenes.yaml", "--out", "configs", cwd=tmp_path)
        refused(done, f"{tmp_path / 'configs'} was made with other settings")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config", "absent.yaml"], ["absent.yaml"]),
        (["--config", "c.yaml", "-p", "training.epoch=3"], ["training.epoch", "did you mean 'training.epochs'"]),
        (["--config", "c.yaml", "-p", "training.epochs"], ["-p training.epochs: expected KEY=VALUE"]),
        (["--config", "c.yaml", "-p", "training.epochs=many"], ["should be a valid integer, got 'many'"]),
        (["--config", "c.yaml", "-p", "data.windows=[3"], ["data.windows", "[3"]),
        (["--config", "bad.yaml"], ["bad.yaml", "unknown key training.epoch"]),
        (["--config", "c.yaml", "-p", "data.source=flickr8k"], ["--data"]),
        (["--config", "c.yaml", "-p", "data.source=flickr8k", "--data", "nowhere"], ["nowhere"]),
        (["--config", "c.yaml", "--out", "c.yaml/run"], ["c.yaml/run", "cannot be written"]),
    ],
)
def test_reproduce_refuses_before_it_begins(tmp_path, arguments, said):
    (tmp_path / "c.yaml").write_text("name: mini\n")
    (tmp_path / "bad.yaml").write_text("training:\n  epoch: 3\n")
    refused(bssan("reproduce", *arguments, cwd=tmp_path), *said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "c.yaml"]


def test_a_failing_notebook_is_told_without_a_wall_of_traceback(tmp_path, series):
    (tmp_path / "c.yaml").write_text("name: mini\n")
    folder = series(
        n01_first=[
            "# First",
            "from bssan_lib.errors import DataError",
            "raise DataError('pictures/7.jpg: zero bytes; fetch it again')",
        ]
    )
    arguments = ["reproduce", "--config", "c.yaml", "--notebooks", folder]
    refused(bssan(*arguments, cwd=tmp_path), "01_first, cell In [", "pictures/7.jpg: zero bytes; fetch it again")
    series(n01_first=["# First", "{}['no such key']"])
    done = bssan(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and "KeyError: 'no such key'" in done.stderr  # no fault of the user's
    assert "papermill" not in done.stderr and len(done.stderr.splitlines()) < 30


def test_a_series_that_ends_well_names_what_it_wrote(tmp_path, series):
    (tmp_path / "c.yaml").write_text("name: mini\n")
    folder = series(n01_first=["# First", "1 + 1"])
    done = bssan("reproduce", "--config", "c.yaml", "--notebooks", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "figures"):
        assert str(tmp_path / "runs" / "mini" / name) in done.stdout
        assert (tmp_path / "runs" / "mini" / name).exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--checkpoint", "none", "--data", "."], ["none: no checkpoint here"]),
        (["--checkpoint", "none", "--data", ".", "--out", "no/folder/m.json"], ["no/folder"]),
    ],
)
def test_evaluate_refuses_what_is_not_there(tmp_path, arguments, said):
    refused(bssan("evaluate", *arguments, "--split", "test", cwd=tmp_path), *said)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained model for features of size 5."""
    import torch

    from bssan_lib.config import ModelConfig
    from bssan_lib.data import Vocabulary
    from bssan_lib.models.bssan import BSSAN
    from bssan_lib.models.checkpoint import save_checkpoint

    torch.manual_seed(3)
    vocabulary = Vocabulary(["<pad>", "<unk>", "a", "dog", "runs"])
    model = BSSAN(ModelConfig(joint_size=7, word_size=3), len(vocabulary), 5, False)
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "best"
    save_checkpoint(folder, model, vocabulary, None, {})
    return folder


def features(folder, size):
    """A folder in the field's format: 3 images of 2 regions, 5 captions an image."""
    folder.mkdir()
    np.save(folder / "test_ims.npy", np.random.default_rng(2).normal(size=(3, 2, size)).astype(np.float32))
    (folder / "test_caps.txt").write_text("a dog runs\n" * 14 + "a horse $ runs\n")
    return folder


def test_evaluate_measures_a_run_on_features(tmp_path, checkpoint):
    data = features(tmp_path / "precomp", 5)
    done = bssan(
        "evaluate",
        "--checkpoint",
        checkpoint.parent.parent,
        "--data",
        data,
        "--split",
        "test",
        "--bootstrap",
        7,
        "--out",
        "m.json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["n_images"], metrics["n_captions"], metrics["protocol"]) == (3, 15, "full")
    assert f"rsum {metrics['rsum']:.1f}" in " ".join(done.stdout.split())


def test_evaluate_compares_attention_with_what_it_must_beat(tmp_path, checkpoint):
    data = features(tmp_path / "precomp", 5)
    np.save(data / "test_boxes.npy", np.tile(np.float32([[0, 0, 0.5, 1], [0.5, 0, 1, 1]]), (3, 1, 1)))
    phrase = {"words": [0, 1], "type": "animals", "boxes": [[0.6, 0.25, 0.75, 0.5]]}
    rows = [json.dumps({"caption": caption} | phrase) for caption in range(15)]
    (data / "test_phrases.jsonl").write_text("\n".join(rows) + "\n")
    arguments = ["evaluate", "--checkpoint", checkpoint, "--data", data, "--split", "test", "--out", "m.json"]
    plain, checked = bssan(*arguments, cwd=tmp_path), bssan(*arguments, "--grounding-checks", cwd=tmp_path)
    assert plain.returncode == 0 and checked.returncode == 0, plain.stderr + checked.stderr
    assert "combined" in plain.stdout and "shuffled" not in plain.stdout
    found = json.loads((tmp_path / "m.json").read_text())["grounding"]
    assert found["n_phrases"] == 15 and found["baselines"]["center"] == 0
    row = next(line for line in checked.stdout.splitlines() if line.startswith("untrained w2r"))
    assert f"{found['untrained_w2r']['pointing_game']:.1f} (" in row
    assert f"{found['untrained_w2r']['mass_in_box']:.1f}" in row


@pytest.mark.parametrize(
    "size, arguments, said",
    [
        (7, ["--split", "test"], ["7", "5"]),
        (5, ["--split", "dev"], ["dev", "test"]),
        (5, ["--split", "test", "--protocol", "5k"], ["5000", "3"]),
        (5, ["--split", "test", "--memory", "some"], ["some"]),
    ],
)
def test_evaluate_refuses_what_does_not_fit(tmp_path, checkpoint, size, arguments, said):
    data = features(tmp_path / "precomp", size)
    refused(
        bssan("evaluate", "--checkpoint", checkpoint, "--data", data, *arguments, "--out", "m.json", cwd=tmp_path),
        *said,
    )
    assert not (tmp_path / "m.json").exists()


def test_evaluate_cannot_extract_features_of_an_unknown_backbone(tmp_path, checkpoint):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "Flickr8k.token.txt").write_text("7.jpg#0\ta dog runs\n")
    refused(
        bssan("evaluate", "--checkpoint", checkpoint, "--data", tmp_path / "raw", "--split", "test"),
        "unknown backbone",
        "_ims.npy",
    )


def test_evaluate_measures_raw_pictures_whose_only_split_is_the_test_split(tmp_path):
    from PIL import Image

    from bssan_lib.config import ModelConfig
    from bssan_lib.data import Vocabulary
    from bssan_lib.evaluation.photograph import FeatureExtractor
    from bssan_lib.models.bssan import BSSAN
    from bssan_lib.models.checkpoint import load_checkpoint, save_checkpoint
    from bssan_lib.vision.backbone import load_backbone

    raw = tmp_path / "photographs"
    (raw / "Flicker8k_Dataset").mkdir(parents=True)
    names = [f"{i}_made_up.jpg" for i in range(3)]
    for i, name in enumerate(names):
        Image.new("RGB", (29, 31), (80 * i, 7, 200)).save(raw / "Flicker8k_Dataset" / name)
    lines = [f"{name}#{j}\ta dog runs {j}" for name in names for j in range(5)]
    (raw / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (raw / "Flickr_8k.testImages.txt").write_text("\n".join(names) + "\n")
    vocabulary = Vocabulary(["<pad>", "<unk>", "a", "dog", "runs"])
    model = BSSAN(ModelConfig(joint_size=7, word_size=3), len(vocabulary), 1280, True)
    made = load_backbone(image_size=96, grid=2).descriptor
    save_checkpoint(tmp_path / "best", model, vocabulary, made, {})
    assert FeatureExtractor(load_checkpoint(tmp_path / "best"), "cpu").backbone.descriptor == made
    arguments = ["evaluate", "--checkpoint", "best", "--data", "photographs", "--out", "m.json"]
    done = bssan(*arguments, "--split", "test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["split"], metrics["n_images"], metrics["n_captions"]) == ("test", 3, 15)
    (prepared,) = (tmp_path / "prepared").glob("flickr8k-*")
    assert (
        json.loads((prepared / "meta.json").read_text())["backbone"] == made
    )  # pooled as the checkpoint's features were
    refused(bssan(*arguments, "--split", "dev", cwd=tmp_path), "dev", "test")
    (raw / "Flicker8k_Dataset" / names[1]).unlink()  # kept features are used, pictures are not needed
    assert bssan(*arguments, "--split", "test", cwd=tmp_path).returncode == 0


def test_explore_refuses_before_a_browser_opens(tmp_path):
    refused(bssan("explore", "--no-browser", "--checkpoint", tmp_path), str(tmp_path), "no checkpoint here")
    (tmp_path / "Flickr8k.token.txt").write_text("7.jpg#0\ta dog runs\n")
    refused(bssan("explore", "--no-browser", "--data", tmp_path), "prepare them first", "bssan prepare")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(bssan("explore", "--no-browser", "--port", port), f"port {port} of 127.0.0.1", "--port")
