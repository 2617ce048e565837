"""NaN and infinity are refused wherever numbers are read, and so are ranks that are not whole."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile.conftest import evaluate

WEIGHTS = "run/checkpoints/best/model.safetensors"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize(
    "command",
    [
        ["rank", "table/images/1.png", "captions.txt", "--checkpoint", "run"],
        ["find", "a dog", "table/images", "--checkpoint", "run"],
        evaluate(),
        ["search", "index", "a dog", "--checkpoint", "run"],
    ],
)
def test_weights_that_are_no_numbers(place, refused, command, value):
    (place / "captions.txt").write_text("a dog\n")
    weights = load_file(WEIGHTS)
    weights = {name: torch.full_like(tensor, value) for name, tensor in weights.items()}
    save_file(weights, WEIGHTS)
    refused(command)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers(place, refused, value):
    features = np.lib.format.open_memmap("features/test_ims.npy", mode="r+")
    features[1] = value
    features.flush()
    refused(evaluate("--out", "m.json"), "NaN or infinite for image row(s) 1")


def ranks_with(change):
    with np.load("run/metrics.ranks.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez("run/metrics.ranks.npz", **(arrays | change(arrays)))


RANKS = {
    "emptied": lambda a: {name: a[name][:0] for name in a if name != "about"},
    "one emptied": lambda a: {"0_i2t": a["0_i2t"][:0]},
    "shortened": lambda a: {name: a[name][:5] for name in ("0_t2i", "0_captions", "0_caption_images")},
    "one shortened": lambda a: {"0_t2i": a["0_t2i"][:-1]},
    "NaN": lambda a: {"0_t2i": np.full(10, np.nan)},
    "zero": lambda a: {"0_t2i": a["0_t2i"] * 0},
    "negative": lambda a: {"0_i2t": -a["0_i2t"]},
    "beyond the gallery": lambda a: {"0_t2i": a["0_t2i"] + 100},
    "other axes": lambda a: {"0_t2i": a["0_t2i"][:, None]},
    "no folds": lambda a: {"about": np.array(json.dumps(json.loads(str(a["about"])) | {"folds": 0}))},
    "folds no number": lambda a: {"about": np.array(json.dumps(json.loads(str(a["about"])) | {"folds": "1"}))},
    "about a list": lambda a: {"about": np.array("[1]")},
}


@pytest.mark.parametrize("kind", RANKS)
def test_ranks_that_are_not_whole(place, refused, kind):
    ranks_with(RANKS[kind])
    refused(["compare", "run"], "metrics.ranks.npz", "evaluate")


METRICS = {
    "NaN": {"rsum": float("nan")},
    "infinity": {"rsum": float("inf")},
    "a recall of NaN": {"i2t": {"R@1": float("nan"), "R@5": 1.0, "R@10": 1.0, "MedR": 1.0}},
    "a recall as text": {"i2t": {"R@1": "50", "R@5": 1.0, "R@10": 1.0}},
    "a recall missing": {"i2t": {"R@5": 50.0}},
    "no images": {"n_images": 0},
    "images as text": {"n_images": "2"},
    "a list for text": {"dataset": ["scenes"]},
    "intervals as text": {"ci95": "none"},
    "intervals of NaN": {"ci95": {"rsum": [float("nan"), 1.0]}},
    "directions as a list": {"directions": [1]},
    "run as a list": {"run": [1]},
    "settings as a list": {"run": {"config": [1]}},
    "members as text": {"ensemble": "three"},
}


@pytest.mark.parametrize("command", [["compare"], ["figure", "recalls", "--out", "f.pdf"]])
def test_metrics_of_other_types(place, refused, command):
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    for change in METRICS.values():
        (place / "m.json").write_text(json.dumps(metrics | change))
        refused([*command, "m.json"], "m.json", "bssan evaluate")


@pytest.mark.parametrize("number", ["1e999", "-Infinity", "NaN"])
def test_json_numbers_beyond_all_numbers(place, refused, number):
    text = (place / "run" / "metrics.json").read_text()
    (place / "m.json").write_text(text.replace('"seconds"', f'"x": {number}, "seconds"', 1))
    refused(["compare", "m.json"], number)
