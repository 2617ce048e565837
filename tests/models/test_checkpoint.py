"""Checkpoints: what is written is read back, and whatever else lies there is refused in words.

Letters: B images, C captions, K regions, T words, D feature size.
"""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bssan_lib.config import ModelConfig
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import CheckpointError
from bssan_lib.evaluation.photograph import load_pretrained
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import (
    FILES,
    check_backbone,
    find_checkpoint,
    load_checkpoint,
    rename_weights,
    save_checkpoint,
    save_weights,
)

ROOT = Path(__file__).parents[2]
D = 11
VOCABULARY = Vocabulary(["<pad>", "<unk>", "red", "star", "étoile", "星"])
BACKBONE = {"name": "made up", "grid": [1, 5], "dimension": D}
INFO = {"epoch": 3, "step": 17, "seed": 5, "dev": {"rsum": 123.25}}


def make_model(place=True, **settings):
    torch.manual_seed(2)
    return BSSAN(ModelConfig(joint_size=13, word_size=7, **settings), len(VOCABULARY), D, place)


def scores_of(model):
    """[3, 2] of images and captions made from a seed."""
    rng = np.random.default_rng(0)
    regions = torch.tensor(rng.normal(size=(3, 5, D)), dtype=torch.float32)
    boxes = torch.tensor(np.sort(rng.random((5, 2, 2)), axis=1).reshape(5, 4), dtype=torch.float32)
    with torch.inference_mode():
        images = model.encode_images(regions, None, boxes, boxes)
        captions = model.encode_captions(torch.tensor([[2, 3, 5], [4, 1, 0]]), torch.tensor([3, 2]))
        return model.score(images, captions).joint


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "best", make_model(), VOCABULARY, BACKBONE, INFO)
    return tmp_path / "best"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"direction": "o2w"},
        {"reading": "inputs"},
        {"tie_projections": True, "gate": "half"},
        {"place": False, "lstm_layers": 2},
        {"bilinear": False, "encoder": "gru"},
        {"gate": "pair", "global_term": True},
    ],
)
def test_round_trip(tmp_path, settings):
    model = make_model(**settings).eval()
    save_checkpoint(tmp_path, model, VOCABULARY, BACKBONE, INFO)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.config == model.config and not loaded.model.training
    assert (loaded.backbone, loaded.info, loaded.folder) == (BACKBONE, INFO, tmp_path)
    assert loaded.vocabulary.words == VOCABULARY.words
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert torch.equal(scores_of(loaded.model), scores_of(model))


def test_features_of_unknown_making_and_without_boxes(tmp_path):
    save_checkpoint(tmp_path, make_model(place=False), VOCABULARY, None, {})
    loaded = load_checkpoint(tmp_path)
    assert loaded.backbone is None and loaded.info == {} and not loaded.model.has_place


def test_saving_again_replaces_whole_files(folder):
    other = make_model()
    with torch.no_grad():
        other.gate_logit.fill_(1.5)
    save_checkpoint(folder, other, VOCABULARY, BACKBONE, INFO | {"epoch": 4})
    loaded = load_checkpoint(folder)
    assert loaded.info["epoch"] == 4 and loaded.model.gate_logit.item() == 1.5
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_half_precision_weights_are_widened(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "model.safetensors")
    loaded = load_checkpoint(folder)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_the_best_of_a_run_folder(tmp_path):
    best = tmp_path / "run" / "checkpoints" / "best"
    save_checkpoint(best, make_model(), VOCABULARY, BACKBONE, INFO)
    (tmp_path / "run" / "config.yaml").write_text("name: a run's own settings are no checkpoint\n")
    for given in (best, best.parent, tmp_path / "run", str(tmp_path / "run")):
        assert find_checkpoint(given) == best
        assert load_checkpoint(given).info == INFO


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"no checkpoint here; .*{missing}.* missing.*or a run folder"):
        load_checkpoint(folder)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no checkpoint here"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "nonsense"])
def test_damaged_weights(folder, damage):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "header": b"\xff" * 8 + whole[8:],
            "nonsense": b"weights" * 100,
        }[damage]
    )
    with pytest.raises(CheckpointError, match="model.safetensors: damaged or incomplete"):
        load_checkpoint(folder)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "write",
    [lambda trap, path: path.write_bytes(pickle.dumps(trap)), lambda trap, path: torch.save({"weights": trap}, path)],
)
def test_a_pickle_is_refused_and_never_run(folder, tmp_path, write):
    sprung = tmp_path / "sprung"
    write(Trap(sprung), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        load_checkpoint(folder)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap works: it would have been seen


def test_another_vocabulary_is_refused(folder):
    Vocabulary([*VOCABULARY.words[:-1], "other"]).save(folder / "vocabulary.json")
    with pytest.raises(CheckpointError, match="the vocabulary .6 words.* differs from the one used in training"):
        load_checkpoint(folder)


def test_a_changed_vocabulary_is_refused(folder):
    path = folder / "vocabulary.json"
    path.write_text(path.read_text(encoding="utf-8").replace("star", "stars"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="was changed after it was saved"):
        load_checkpoint(folder)


def test_weights_of_another_model(folder):
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, model=config["model"] | {"joint_size": 17})
    with pytest.raises(CheckpointError, match="the weights do not fit config.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{}", '"text"', "\xff\xfe"])
def test_settings_that_are_none(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="config.json: expected the settings of a checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "changes", [{"joint_size": "large"}, {"joint_size": -3}, {"reading": "aloud"}, {"direction": "both"}, {"cells": 5}]
)
def test_settings_that_do_not_exist(folder, changes):
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, model=config["model"] | changes)
    with pytest.raises(CheckpointError, match="config.json: expected the settings of a checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize("dimension", [None, "11", -2, [11]])
def test_feature_sizes_that_are_none(folder, dimension):
    change_config(folder, dimension=dimension)
    with pytest.raises(CheckpointError, match="config.json: expected the settings of a checkpoint"):
        load_checkpoint(folder)


def test_a_full_disk_leaves_the_earlier_weights_and_says_so(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    code = f"""
import resource, signal, torch
from pathlib import Path
from bssan_lib.models.checkpoint import save_weights
from bssan_lib.errors import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # writing fails past 4 kB, as on a full disk
try:
    save_weights({{"a": torch.zeros(100_000)}}, Path({str(path)!r}))
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "cannot be written" in done.stdout, done.stdout + done.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


KILLED_SAVES = """
import os, shutil, sys
from pathlib import Path
import tests.models.test_checkpoint as shared
import torch

old, place = Path(sys.argv[1]), Path(sys.argv[2])
vocabulary = shared.Vocabulary([*shared.VOCABULARY.words[:-1], "other"])
model = shared.make_model()
with torch.no_grad():
    model.gate_logit.fill_(1.5)

def save(folder, stop_at):
    steps = 0

    def kill(event, arguments):  # called by Python itself before each step that changes a file
        nonlocal steps
        if event in ("os.rename", "os.remove") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            steps += str(folder) in str(arguments[0])
            if steps == stop_at:
                os._exit(9)

    sys.addaudithook(kill)
    shared.save_checkpoint(folder, model, vocabulary, shared.BACKBONE, shared.INFO | {"epoch": 4})

for step in range(1, 100):
    folder = shutil.copytree(old, place / str(step))
    child = os.fork()
    if child == 0:
        save(folder, step)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


def state_of(folder):
    """(epoch, last word, gate) of a checkpoint: all of one save or all of the other."""
    loaded = load_checkpoint(folder)
    return loaded.info["epoch"], loaded.vocabulary.words[-1], loaded.model.gate_logit.item()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_step_of_a_save_leaves_the_old_or_the_new_checkpoint(folder, tmp_path):
    place = tmp_path / "stopped"
    place.mkdir()
    subprocess.run([sys.executable, "-c", KILLED_SAVES, folder, place], cwd=ROOT, check=True)
    stopped = sorted(place.iterdir(), key=lambda path: int(path.name))
    old, new = (3, "星", 0.0), (4, "other", 1.5)
    found = [state_of(path) for path in stopped]
    change = found.index(new)
    assert len(found) > 10 and found == [old] * change + [new] * (len(found) - change)
    assert 0 < change < len(found) - 2  # killed while the files are moved: already the new one
    for path in stopped:  # the next save is a whole one again
        save_checkpoint(path, make_model(), VOCABULARY, BACKBONE, INFO | {"epoch": 5})
        assert state_of(path) == (5, "星", 0.0)
        assert {file.name for file in path.iterdir() if file.suffix != ".partial"} == set(FILES)


def test_a_reader_beside_a_training_never_sees_two_epochs(tmp_path):
    """One process saves again and again, with the epoch in the settings and in the weights."""
    code = f"""
import torch
import tests.models.test_checkpoint as shared
model = shared.make_model()
for epoch in range(40):
    with torch.no_grad():
        model.gate_logit.fill_(epoch)
    shared.save_checkpoint({str(tmp_path / "best")!r}, model, shared.VOCABULARY, None, {{"epoch": epoch}})
    print(epoch, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "0\n"
        while writer.poll() is None:
            epoch, _, gate = state_of(tmp_path / "best")
            assert epoch == gate
    assert state_of(tmp_path / "best")[0] == 39 and writer.returncode == 0


@pytest.mark.parametrize("key", ["name", "features", "image_size", "preprocessing", "weights_sha256"])
def test_features_of_another_backbone_are_refused(folder, key):
    """Of the same size, but made otherwise: each part of the description counts, the hash of the weights too."""
    trained = {
        "name": "a",
        "features": "map",
        "image_size": 224,
        "preprocessing": "resize",
        "weights_sha256": "0f" * 32,
    }
    checkpoint = replace(load_checkpoint(folder), backbone=trained)

    def split(backbone):
        return SimpleNamespace(folder=folder, name="test", meta={"backbone": backbone})

    check_backbone(checkpoint, split(trained | {"grid": [3, 3]}))
    check_backbone(checkpoint, split(None))  # made elsewhere: nothing is known about them
    with pytest.raises(CheckpointError, match=f"{key} is 'other' here and "):
        check_backbone(checkpoint, split(trained | {key: "other"}))


def test_weights_and_optimizer_states_of_earlier_versions_get_their_current_names():
    names = ["look.weight", "optimizer/exp_avg/look.weight", "outlook.weight", "look.weight.x"]
    current = ["first_query.weight", "optimizer/exp_avg/first_query.weight", "outlook.weight", "look.weight.x"]
    assert list(rename_weights({name: torch.zeros(1) for name in names})) == current


@pytest.mark.parametrize(("name", "tune"), [("flickr8k", "stage"), ("flickr8k-pixels", "all")])
def test_every_packaged_model_can_be_loaded(name, tune):
    checkpoint = load_pretrained(name)
    assert checkpoint.model.config.tune == tune and "dog" in checkpoint.vocabulary.words


def test_word_vectors_are_not_a_packaged_model():
    with pytest.raises(CheckpointError, match="Expected one of flickr8k, flickr8k-pixels"):
        load_pretrained("glove")
