"""Checkpoints: what is written is read back, and whatever else lies there is refused in words.

Letters: B images, C captions, K regions, T words, D feature size.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bssan_lib.checkpoint import FILES, find_checkpoint, load_checkpoint, save_checkpoint, save_weights
from bssan_lib.config import ModelConfig
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import CheckpointError
from bssan_lib.model import BSSAN

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


@pytest.mark.parametrize("settings", [
    {}, {"direction": "o2w"}, {"reading": "inputs"}, {"tie_projections": True, "gate": "half"},
    {"place": False, "lstm_layers": 2}, {"bilinear": False, "encoder": "gru"}, {"gate": "pair", "global_term": True},
])
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
    path.write_bytes({
        "cut": whole[: len(whole) // 2], "empty": b"", "header": b"\xff" * 8 + whole[8:],
        "nonsense": b"weights" * 100,
    }[damage])
    with pytest.raises(CheckpointError, match="model.safetensors: damaged or incomplete"):
        load_checkpoint(folder)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [
    lambda trap, path: path.write_bytes(pickle.dumps(trap)),
    lambda trap, path: torch.save({"weights": trap}, path),
])
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
    with pytest.raises(CheckpointError, match="the vocabulary .6 words.* is not the one this model"):
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
    with pytest.raises(CheckpointError, match="config.json: not the settings of a checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize("changes", [
    {"joint_size": "large"}, {"joint_size": -3}, {"reading": "aloud"}, {"direction": "both"}, {"cells": 5},
])
def test_settings_that_do_not_exist(folder, changes):
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, model=config["model"] | changes)
    with pytest.raises(CheckpointError, match="config.json: not the settings of a checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize("dimension", [None, "11", -2, [11]])
def test_feature_sizes_that_are_none(folder, dimension):
    change_config(folder, dimension=dimension)
    with pytest.raises(CheckpointError, match="config.json: not the settings of a checkpoint"):
        load_checkpoint(folder)


def test_a_full_disk_leaves_the_earlier_weights_and_says_so(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    code = f"""
import resource, signal, torch
from pathlib import Path
from bssan_lib.checkpoint import save_weights
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
