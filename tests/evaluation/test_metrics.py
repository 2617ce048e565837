"""evaluate() from a real small model to the file, its tables, and the functions of notebooks 05 and extra/05b.

Letters: N images, C captions, K regions, M objects, D feature size.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from bssan_lib.config import ModelConfig
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.raw import Phrase
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.evaluation.faithfulness import ORDERS
from bssan_lib.evaluation.metrics import evaluate, failures, json_values, nearest, write_metrics
from bssan_lib.evaluation.retrieval import pair_metrics, retrieval_metrics
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.evaluation.tables import (
    above_table,
    baseline_table,
    deletion_table,
    format_table,
    grounding_table,
    interval_table,
    metrics_table,
    pairs_table,
    published_table,
    verdict,
)
from bssan_lib.models.checkpoint import Checkpoint

WORDS = ["<pad>", "<unk>", "red", "star", "blue", "ring", "above"]
N, K, M, D = 7, 5, 3, 11


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    from bssan_lib.models.bssan import BSSAN

    model = BSSAN(ModelConfig(joint_size=13, word_size=11), len(WORDS), dimension=D, place=True).eval()
    return Checkpoint(model, Vocabulary(WORDS), {"name": "made up"}, {}, None)


def make_split(folder, name="test", n=N, cap2im=None, phrases=None, satisfies=None, notes=None):
    rng = np.random.default_rng(3)
    cap2im = np.array([0, 2, 1, 3, 2, 4, 5, 6, 6, 6, 2]) if cap2im is None else cap2im
    captions = [" ".join(rng.choice(WORDS[2:], rng.integers(2, 5))) for _ in cap2im]

    def boxes(k):
        return np.sort(rng.random((n, k, 2, 2)), axis=2).reshape(n, k, 4).astype(np.float32)

    return PreparedSplit(
        folder=Path(folder),
        name=name,
        regions=rng.normal(size=(n, K, D)).astype(np.float32),
        objects=rng.normal(size=(n, M, D)).astype(np.float32),
        boxes=boxes(K),
        object_boxes=boxes(M),
        captions=captions,
        cap2im=np.asarray(cap2im),
        ids=[f"{row}.png" for row in range(n)],
        phrases=phrases,
        satisfies=satisfies,
        meta={"source": "scenes", "splits": {name: {"notes": notes or {}}}},
    )


PHRASES = [
    Phrase(0, (0,), "colour", ((0.1, 0.1, 0.6, 0.7),)),
    Phrase(0, (1,), "shape", ((0.1, 0.1, 0.6, 0.7),)),
    Phrase(3, (0, 1), "relation", ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0))),
    Phrase(7, (1,), "shape", ((0.2, 0.3, 0.9, 0.8),)),
    Phrase(8, (0,), "shape", ()),
]


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    satisfies = np.random.default_rng(5).random((11, N)) < 0.2
    split = make_split(tmp_path_factory.mktemp("data"), phrases=PHRASES)
    satisfies[np.arange(11), split.cap2im] = True
    split = make_split(split.folder, phrases=PHRASES, satisfies=satisfies)
    return split, evaluate(checkpoint, split, bootstrap=53, progress=False)


def test_every_number_comes_from_the_scores(checkpoint, whole):
    split, metrics = whole
    scores = score_split(checkpoint, split, progress=False)
    assert list(metrics) == [
        "dataset",
        "split",
        "protocol",
        "n_images",
        "n_captions",
        "i2t",
        "t2i",
        "rsum",
        "ci95",
        "directions",
        "satisfying",
        "grounding",
        "model",
        "seconds",
    ]
    assert (metrics["dataset"], metrics["split"], metrics["protocol"]) == ("scenes", "test", "full")
    assert (metrics["n_images"], metrics["n_captions"]) == (7, 11)
    expected = retrieval_metrics(scores.joint, split.cap2im)
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["directions"] == {
        "w2r": retrieval_metrics(scores.w2r, split.cap2im),
        "o2w": retrieval_metrics(scores.o2w, split.cap2im),
    }
    assert metrics["satisfying"] == retrieval_metrics(scores.joint, split.cap2im, split.satisfies)
    assert metrics["grounding"]["n_phrases"] == 3 and set(metrics["seconds"]) == {"encode", "score", "attend"}
    assert metrics["model"]["vocabulary_sha256"] == checkpoint.vocabulary.sha256
    assert metrics["model"]["parameters"] == sum(p.numel() for p in checkpoint.model.parameters())
    for way in ("i2t", "t2i"):
        for name, (low, high) in metrics["ci95"][way].items():
            assert low <= metrics[way][name] <= high


def test_unknown_entries_are_left_out(checkpoint, tmp_path):
    metrics = evaluate(checkpoint, make_split(tmp_path), bootstrap=0, progress=False)
    assert not {"ci95", "satisfying", "grounding", "pairs"} & set(metrics)
    bare = [Phrase(0, (0,), "people", ())]
    assert "grounding" not in evaluate(checkpoint, make_split(tmp_path, phrases=bare), progress=False)
    assert format_table(metrics).startswith("scenes test, protocol full: 7 images, 11 captions")


def test_twice_the_same_numbers(checkpoint, whole):
    split, metrics = whole
    again = evaluate(checkpoint, split, bootstrap=53, progress=False)
    assert {**json_values(again), "seconds": None} == {**json_values(metrics), "seconds": None}
    scores = score_split(checkpoint, split, progress=False)
    given = evaluate(checkpoint, split, bootstrap=53, progress=False, scores=scores)
    assert {**json_values(given), "seconds": None} == {**json_values(metrics), "seconds": None}
    assert given["seconds"].items() >= scores.seconds.items()


def test_a_protocol_is_refused_before_anything_is_scored(checkpoint, tmp_path):
    with pytest.raises(DataError, match="needs 5000 images, but this split has 7"):
        evaluate(checkpoint, make_split(tmp_path), protocol="1k-5fold")
    with pytest.raises(ConfigError, match="'5fold'"):
        evaluate(checkpoint, make_split(tmp_path), protocol="5fold")


def test_a_split_of_pairs(checkpoint, tmp_path):
    kinds = ["colour", "relation", "colour"]
    split = make_split(tmp_path, "pairs", n=6, cap2im=np.arange(6), notes={"kinds": kinds})
    metrics = evaluate(checkpoint, split, bootstrap=0, progress=False)
    assert metrics["pairs"] == pair_metrics(score_split(checkpoint, split, progress=False).joint, kinds)
    assert "Minimal pairs" in format_table(metrics) and "chance" in format_table(metrics)
    wrong = make_split(tmp_path, "pairs", n=6, cap2im=np.array([0, 1, 2, 3, 5, 4]), notes={"kinds": kinds})
    with pytest.raises(DataError, match="'pairs' has minimal pairs"):
        evaluate(checkpoint, wrong, bootstrap=0, progress=False)


def test_the_split_test_includes_the_pairs_of_its_folder(checkpoint, tmp_path):
    from PIL import Image

    from bssan_lib.data.prepared import open_prepared
    from bssan_lib.data.raw import RawSplit
    from bssan_lib.data.writing import write_split

    for row in range(4):
        Image.new("RGB", (16, 16), (60 * row, 20, 90)).save(tmp_path / f"{row}.png")
    ids, captions = [f"{row}.png" for row in range(4)], ["red star", "blue star", "red ring", "blue ring"]

    def extract(images):
        mean = np.stack([np.asarray(image).mean((0, 1)) for image in images])
        return np.cos(mean[:, None, :1] * np.arange(1, K + 1)[:, None] / 50 + np.arange(D)).astype(np.float32)

    backbone = SimpleNamespace(
        descriptor={"name": "made up", "grid": [1, K], "dimension": D},
        extract=extract,
        object_boxes=None,
        boxes=np.array([[k / K, 0, (k + 1) / K, 1] for k in range(K)], np.float32),
        pool_objects=lambda regions: regions,
    )
    for name, notes in (("test", {}), ("pairs", {"kinds": ["colour", "colour"]})):
        raw = RawSplit(name, ids, tmp_path, captions, np.arange(4), notes=notes)
        write_split(tmp_path / "prepared", raw, backbone, progress=False, meta={"source": "scenes"})
    metrics = evaluate(checkpoint, open_prepared(tmp_path / "prepared", "test"), bootstrap=0, progress=False)
    alone = evaluate(checkpoint, open_prepared(tmp_path / "prepared", "pairs"), bootstrap=0, progress=False)
    assert metrics["pairs"] == alone["pairs"] and metrics["pairs"]["colour"]["n"] == 2


def test_the_file(whole, tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_metrics(whole[1], path)
    read = json.loads(path.read_text())
    assert list(read) == list(whole[1]) and read["i2t"]["R@1"] == round(whole[1]["i2t"]["R@1"], 4)
    assert sorted(file.name for file in path.parent.iterdir()) == ["metrics.json", "metrics.ranks.npz"]


def test_json_values():
    value = {"a": np.float32(33.33333), "b": [np.int64(3), float("nan"), np.inf], "c": 0.000123456, "d": True}
    assert json_values(value) == {"a": 33.3333, "b": [3, None, None], "c": 0.0001235, "d": True}
    assert json_values({"x": np.array([0.0, -2.00004])}) == {"x": [0.0, -2.0]}
    assert json_values(np.bool_(True)) is True and json_values(None) is None


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="metrics cannot be written"):
        write_metrics({"a": 1}, tmp_path / "file" / "metrics.json")
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(DataError, match="metrics.json"):
        write_metrics({"a": 1}, tmp_path / "metrics.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "metrics.json"]


def test_tables(whole):
    metrics = whole[1]
    table = metrics_table(metrics)
    assert list(table.index) == ["joint", "W2R alone", "O2W alone", "joint, all that satisfy"]
    assert table.loc["joint", "t2i R@5"] == metrics["t2i"]["R@5"]
    assert table.loc["O2W alone", "rsum"] == metrics["directions"]["o2w"]["rsum"]
    aims = grounding_table(metrics)
    assert list(aims.index) == ["overall", "colour", "relation", "shape"]
    assert aims["phrases"].tolist() == [3, 1, 1, 2]
    assert aims.loc["shape", "centre"] == metrics["grounding"]["by_type"]["shape"]["baselines"]["center"]
    text = format_table(metrics)
    assert f"{metrics['rsum']:.1f}" in text and "95% intervals" in text and "W2R pointing" in text


SCORES = np.array([[0.1, 0.9, 0.2, 0.3], [0.5, 0.8, 0.6, 0.9], [0.4, 0.3, 0.7, 0.1]])
CAP2IM = np.array([0, 1, 2, 0])


def test_intervals_stand_beside_their_numbers():
    way = {"R@1": 11.0, "R@5": 13.0, "R@10": 17.0}
    spans = {key: [value - 2, value + 3] for key, value in way.items()}
    table = interval_table({"i2t": way, "t2i": way, "ci95": {"i2t": spans, "t2i": spans}})
    assert table.loc["t2i", "R@5"] == "13.0 (11.0 to 16.0)"
    assert interval_table({"i2t": way, "t2i": way}).loc["i2t", "R@10"] == "17.0"


def test_a_verdict_is_of_the_whole_interval():
    assert [verdict(span) for span in ([0.1, 2], [-2, -0.1], [-1, 2], None)] == ["above", "below", "within noise", ""]


def test_baselines_and_differences_of_both_directions():
    found = {
        "w2r": {"pointing_game": 61.0, "mass_in_box": 43.0},
        "o2w": {"pointing_game": 7.0, "mass_on_words": 11.0, "pointing_game_of_object": 31.0},
        "baselines": {"center": 53.0, "uniform_mass": 29.0, "uniform_words": 13.0, "uniform_words_of_object": 17.0},
        "ci95": {"w2r": {"pointing_game": [59.0, 63.0]}},
        "above": {
            "center": {
                "w2r": {"pointing_game": {"difference": 8.0, "ci95": [5.0, 11.0]}},
                "prior": {"pointing_game": {"difference": 2.0, "ci95": [1.0, 3.0]}},
            },
            "prior": {"w2r": {"pointing_game": {"difference": -1.0, "ci95": [-3.0, 2.0]}}},
        },
    }
    table = baseline_table({"grounding": found})
    assert table.loc["W2R, pointing game"].tolist() == ["61.0 (59.0 to 63.0)", "53.0", "the picture's centre", "+8.0"]
    assert table["difference"].tolist() == ["+8.0", "+14.0", "-6.0", "-2.0", "+14.0"]
    table = above_table({"grounding": found})
    assert table.index.tolist() == [
        ("w2r", "the picture's centre"),
        ("w2r", "the prior"),
    ]  # the prior is no map of a model
    assert table["verdict"].tolist() == ["above", "within noise"] and table.iloc[0, 0] == "+8.0 (+5.0 to +11.0)"


def test_pairs_are_sorted_and_compared_with_chance():
    rows = {
        "count": {"n": 50, "text": 9.0, "image": 8.0, "group": 2.0},
        "shape": {"n": 50, "text": 97.0, "image": 96.0, "group": 95.0},
    }
    rows |= {
        "size": {"n": 50, "text": 30.0, "image": 30.0, "group": 20.0},
        "all": {"n": 150, "text": 45.0, "image": 44.0, "group": 39.0},
    }
    table = pairs_table({**rows, "chance": {"text": 25.0, "image": 25.0, "group": 100 / 6}})
    assert table.index.tolist() == ["shape", "size", "count", "all"]
    assert table["against chance"].tolist() == ["above", "within noise", "below", "above"]  # two standard errors: 10.5


def test_deletion_says_how_much_less_the_score_falls():
    deletion = {order: {"own": [0.5, 0.25]} for order in ORDERS} | {"removed": [0, 50]}
    deletion |= {f"most minus {order}": {"fall": 0.07, "fall_ci95": [0.02, 0.11]} for order in ORDERS[1:]}
    table = deletion_table(deletion)
    assert table.columns.tolist() == ["0%", "50%", "falls less"] and table.index.tolist() == list(ORDERS)
    assert table.loc["most"].tolist() == ["0.500", "0.250", ""]
    assert table.loc["random", "falls less"] == "+0.070 (+0.020 to +0.110)"


def test_a_run_stands_below_published_results():
    columns = ["i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10"]
    published = pd.DataFrame([["one", "CNN", 2.0, 3.0, 5.0, 7.0, 11.0, 13.0]], columns=["method", "features", *columns])
    way = {"R@1": 17.04, "R@5": 19.0, "R@10": 23.0}
    table = published_table(published, {"split": "dev", "i2t": way, "t2i": {**way, "R@1": 29.0}}, "grid")
    assert table["i2t R@1"].tolist() == [2.0, "–", 17.0] and table["t2i R@1"].tolist() == [7.0, "–", 29.0]
    assert table.iloc[2, :2].tolist() == ["this run, dev, one model", "grid"]


def test_nearest_by_hand():
    rows, values, right = nearest(SCORES, CAP2IM, 0, "i2t", k=3)
    assert rows.tolist() == [1, 3, 2] and values.tolist() == [0.9, 0.3, 0.2]
    assert right.tolist() == [False, True, False]
    rows, values, right = nearest(SCORES, CAP2IM, 3, "t2i", k=5)
    assert rows.tolist() == [1, 0, 2] and right.tolist() == [False, True, False]
    positives = np.zeros((4, 3), bool)
    positives[[0, 1, 2, 3, 3], [0, 1, 2, 0, 1]] = True  # caption 3 is true of image 1 too
    assert nearest(SCORES, CAP2IM, 3, "t2i", positives=positives)[2].tolist() == [True, True, False]
    assert nearest(SCORES, CAP2IM, 1, "i2t", positives=positives)[2].tolist() == [True, True, False, False]


def test_failures_by_hand():
    queries, ranks = failures(SCORES, CAP2IM, "t2i", k=2)  # ranks 3 2 1 2
    assert queries.tolist() == [0, 1] and ranks.tolist() == [3, 2]
    queries, ranks = failures(SCORES, CAP2IM, "i2t", k=7)  # ranks 2 2 1
    assert queries.tolist() == [0, 1, 2] and ranks.tolist() == [2, 2, 1]


def test_a_direction_that_does_not_exist():
    for function, arguments in ((nearest, (0, "w2r")), (failures, ("w2r",))):
        with pytest.raises(ConfigError, match="'w2r'"):
            function(SCORES, CAP2IM, *arguments)
