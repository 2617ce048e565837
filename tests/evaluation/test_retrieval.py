"""Ranks, metrics and protocols against numbers worked by hand and against plain loops.

Letters: N images, C captions.
"""

import re

import numpy as np
import pytest

from bssan_lib.errors import BssanError, ConfigError, DataError
from bssan_lib.evaluation import retrieval
from bssan_lib.evaluation.retrieval import (
    fold_ranks,
    pair_metrics,
    protocol_folds,
    protocol_ranks,
    rank_metrics,
    retrieval_metrics,
)


def naive_ranks(scores, cap2im, positives=None):
    """The definition, one query at a time. Returns lists of i2t and t2i ranks."""
    n, c = scores.shape
    right = lambda i, j: bool(positives[j, i]) if positives is not None else cap2im[j] == i  # noqa: E731
    i2t, t2i = [], []
    for i in range(n):
        own = [scores[i, j] for j in range(c) if right(i, j)]
        if own:
            i2t.append(1 + sum(scores[i, j] >= max(own) for j in range(c) if not right(i, j)))
    for j in range(c):
        own = [scores[i, j] for i in range(n) if right(i, j)]
        if own:
            t2i.append(1 + sum(scores[i, j] >= max(own) for i in range(n) if not right(i, j)))
    return i2t, t2i


def uneven(n, rng, most=7):
    """cap2im of n images with 1 to `most` captions each, in mixed order."""
    return rng.permutation(np.repeat(np.arange(n), rng.integers(1, most + 1, n)))


def test_ranks_by_hand():
    # image 0 has captions 0 and 3, image 1 has caption 1, image 2 has caption 2
    cap2im = np.array([0, 1, 2, 0])
    scores = np.array(
        [
            [0.1, 0.9, 0.2, 0.3],  # best own 0.3 (caption 3): caption 1 is ahead -> 2
            [0.5, 0.8, 0.6, 0.9],  # own 0.8: caption 3 is ahead -> 2
            [0.4, 0.3, 0.7, 0.1],  # own 0.7 -> 1
        ]
    )
    ranks = fold_ranks(scores, cap2im)
    assert ranks.i2t.tolist() == [2, 2, 1] and ranks.images.tolist() == [0, 1, 2]
    # caption 0: own 0.1, ahead 0.5 and 0.4 -> 3; 1: 0.8, ahead 0.9 -> 2; 2: 0.7 -> 1; 3: 0.3, ahead 0.9 -> 2
    assert ranks.i2t.dtype == ranks.t2i.dtype == np.int64
    assert protocol_ranks(scores, cap2im)[0].t2i.tolist() == ranks.t2i.tolist()
    assert ranks.t2i.tolist() == [3, 2, 1, 2] and ranks.caption_images.tolist() == [0, 1, 2, 0]
    metrics = retrieval_metrics(scores, cap2im)
    assert metrics["i2t"] == pytest.approx({"R@1": 100 / 3, "R@5": 100, "R@10": 100, "MedR": 2})
    assert metrics["t2i"] == pytest.approx({"R@1": 25, "R@5": 100, "R@10": 100, "MedR": 2})
    assert metrics["rsum"] == pytest.approx(100 / 3 + 25 + 400)


def test_all_that_satisfy_by_hand():
    cap2im = np.array([0, 1, 2])
    positives = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)  # caption 0 is true of image 1 as well
    scores = np.array([[0.2, 0.5, 0.1], [0.9, 0.4, 0.3], [0.1, 0.6, 0.7]])
    ranks = fold_ranks(scores, cap2im, positives)
    assert ranks.t2i.tolist() == [1, 3, 1]  # caption 0 finds image 1, which is right too
    assert ranks.i2t.tolist() == [2, 1, 1]  # image 1 finds caption 0
    assert fold_ranks(scores, cap2im).t2i.tolist() == [2, 3, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [1, 53, 2**22])
def test_fast_ranks_agree_with_the_definition(monkeypatch, seed, chunk):
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    cap2im = uneven(13, rng)
    scores = rng.integers(0, 11, (13, len(cap2im))).astype(np.float32)  # many ties
    positives = rng.random((len(cap2im), 13)) < 0.2
    for known in (None, positives):
        ranks, (i2t, t2i) = fold_ranks(scores, cap2im, known), naive_ranks(scores, cap2im, known)
        assert ranks.i2t.tolist() == i2t and ranks.t2i.tolist() == t2i


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_dtypes_of_scores(dtype):
    rng = np.random.default_rng(2)
    cap2im = uneven(11, rng)
    scores = rng.integers(-7, 7, (11, len(cap2im))).astype(dtype)
    assert fold_ranks(scores, cap2im).t2i.tolist() == naive_ranks(scores, cap2im)[1]


def test_a_constant_score_finds_nothing():
    cap2im = np.repeat(np.arange(13), 5)
    metrics = retrieval_metrics(np.zeros((13, 65)), cap2im)
    assert metrics["rsum"] == 0 and metrics["i2t"]["MedR"] == 61 and metrics["t2i"]["MedR"] == 13


def test_own_captions_that_tie_are_not_ahead_of_each_other():
    scores = np.array([[0.7, 0.7, 0.1], [0.2, 0.3, 0.4]])
    assert fold_ranks(scores, np.array([0, 0, 1])).i2t.tolist() == [1, 1]


def test_an_image_without_captions_is_a_candidate_and_no_query():
    scores = np.array([[0.5, 0.1], [0.9, 0.2], [0.3, 0.8]])  # image 1 has no caption
    ranks = fold_ranks(scores, np.array([0, 2]))
    assert ranks.images.tolist() == [0, 2] and ranks.i2t.tolist() == [1, 1]
    assert ranks.t2i.tolist() == [2, 1]


def test_a_caption_true_of_no_image_is_no_query():
    positives = np.array([[True, False], [False, False]])
    ranks = fold_ranks(np.eye(2), np.array([0, 1]), positives)
    assert ranks.captions.tolist() == [0] and ranks.images.tolist() == [0]


@pytest.mark.parametrize("seed", range(3))
def test_order_of_rows_and_monotone_scores_change_nothing(seed):
    rng = np.random.default_rng(seed)
    cap2im = uneven(17, rng)
    scores = rng.normal(size=(17, len(cap2im)))
    metrics = retrieval_metrics(scores, cap2im)
    images, captions = rng.permutation(17), rng.permutation(len(cap2im))
    new_row = np.argsort(images)
    assert retrieval_metrics(scores[images][:, captions], new_row[cap2im[captions]]) == metrics
    assert retrieval_metrics(np.exp(scores), cap2im) == metrics


def test_perfect_and_transposed():
    cap2im = np.array([0, 0, 1, 2, 2, 2, 3])
    perfect = (np.arange(5)[:, None] == cap2im).astype(float)
    assert retrieval_metrics(perfect, cap2im)["rsum"] == 600
    expected = (
        "Expected an image row for each of 5 captions in cap2im, got (7,). "
        "Scores are [images, captions]. Are they transposed?"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        retrieval_metrics(perfect.T, cap2im)


def test_more_right_answers_never_hurt():
    rng = np.random.default_rng(7)
    cap2im = uneven(11, rng)
    scores = rng.normal(size=(11, len(cap2im)))
    positives = cap2im[:, None] == np.arange(11)
    same = retrieval_metrics(scores, cap2im, positives)
    assert same == retrieval_metrics(scores, cap2im)
    more = retrieval_metrics(scores, cap2im, positives | (rng.random(positives.shape) < 0.1))
    assert more["t2i"]["R@1"] >= same["t2i"]["R@1"] and more["i2t"]["R@1"] >= same["i2t"]["R@1"]


def test_nan_names_its_rows():
    scores = np.zeros((7, 11))
    scores[3, 5] = scores[6, 2] = np.nan
    with pytest.raises(BssanError, match=r"image row\(s\) 3, 6, first with caption row 5"):
        retrieval_metrics(scores, np.arange(11) % 7)


@pytest.mark.parametrize("rows, shown", [(5, "2, 3, 4, 5, 6, first"), (6, "2, 3, 4, 5, 6, ..., first")])
def test_of_many_rows_with_nan_five_are_named(rows, shown):
    scores = np.zeros((11, 11))
    scores[2 : 2 + rows, 7] = np.nan
    with pytest.raises(BssanError, match=rf"image row\(s\) {shown} with caption row 7"):
        retrieval_metrics(scores, np.arange(11))


def test_a_fold_without_captions_is_named(monkeypatch):
    with pytest.raises(DataError, match="Image rows 3 to 6 have no caption"):
        fold_ranks(np.zeros((7, 3)), np.array([0, 1, 2]), images=(3, 7))


def test_bad_shapes_say_what_was_expected():
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        retrieval_metrics(np.zeros(3), np.zeros(3, int))
    with pytest.raises(DataError, match="row 1 is image 2"):
        retrieval_metrics(np.zeros((2, 3)), np.array([0, 2, 1]))
    with pytest.raises(DataError, match="no caption"):
        retrieval_metrics(np.zeros((2, 0)), np.zeros(0, int))
    with pytest.raises(DataError, match=r"\(3, 2\), got \(2, 3\)"):
        retrieval_metrics(np.zeros((2, 3)), np.zeros(3, int), np.zeros((2, 3), bool))


def test_rank_metrics_by_hand():
    assert rank_metrics(np.array([1, 2, 5, 6, 10, 11, 3, 1])) == {"R@1": 25.0, "R@5": 62.5, "R@10": 87.5, "MedR": 4.0}


def test_protocol_folds():
    assert protocol_folds(7, "full") == [(0, 7)]
    assert protocol_folds(5003, "5k") == [(0, 5000)]
    assert protocol_folds(5000, "1k-5fold") == [(k, k + 1000) for k in (0, 1000, 2000, 3000, 4000)]
    with pytest.raises(DataError, match="needs 5000 images, but this split has 4999"):
        protocol_folds(4999, "1k-5fold")
    with pytest.raises(ConfigError, match="'1k'.*full, 5k, 1k-5fold"):
        protocol_folds(5000, "1k")


def test_five_folds_by_hand(monkeypatch):
    # Five folds of two images with one caption each. Fold f: both right in folds 0 to 2; in fold 3 images and
    # captions are swapped (all ranks 2); in fold 4 only caption 9 goes wrong. Across folds everything
    # scores high, which a fold must not see.
    monkeypatch.setitem(retrieval.PROTOCOLS, "1k-5fold", (5, 2))
    scores = np.full((11, 11), 9.0)
    for fold in range(5):
        scores[2 * fold : 2 * fold + 2, 2 * fold : 2 * fold + 2] = np.eye(2)
    scores[6:8, 6:8] = 1 - np.eye(2)
    scores[8:10, 8:10] = [[1.0, 0.6], [0.2, 0.5]]  # images right; caption 9 prefers image 8
    metrics = retrieval_metrics(scores, np.arange(11), protocol="1k-5fold")
    assert metrics["i2t"] == pytest.approx({"R@1": 80, "R@5": 100, "R@10": 100, "MedR": 1.2})  # 1 1 1 2 1
    assert metrics["t2i"] == pytest.approx({"R@1": 70, "R@5": 100, "R@10": 100, "MedR": 1.3})  # 1 1 1 2 1.5
    assert metrics["rsum"] == pytest.approx(550)  # both directions, each once
    assert [fold.captions.tolist() for fold in protocol_ranks(scores, np.arange(11), "1k-5fold")][4] == [8, 9]
    assert retrieval_metrics(scores, np.arange(11))["rsum"] < 550


def test_folds_hold_their_own_captions_whatever_the_order(monkeypatch):
    monkeypatch.setitem(retrieval.PROTOCOLS, "1k-5fold", (5, 3))
    rng = np.random.default_rng(5)
    cap2im = uneven(17, rng)  # two images more than the protocol uses
    scores, positives = rng.normal(size=(17, len(cap2im))), rng.random((len(cap2im), 17)) < 0.3
    for known in (None, positives):
        expected = []
        for fold in range(5):
            captions = np.flatnonzero(cap2im // 3 == fold)
            part = scores[3 * fold : 3 * fold + 3][:, captions]
            some = None if known is None else known[captions][:, 3 * fold : 3 * fold + 3]
            expected.append(retrieval_metrics(part, cap2im[captions] - 3 * fold, some))
        metrics = retrieval_metrics(scores, cap2im, known, "1k-5fold")
        for way in ("i2t", "t2i"):
            for name in metrics[way]:
                assert metrics[way][name] == pytest.approx(np.mean([fold[way][name] for fold in expected]))
        assert metrics["rsum"] == pytest.approx(np.mean([fold["rsum"] for fold in expected]))


def test_five_thousand_images_memory_mapped(tmp_path):
    scores = np.lib.format.open_memmap(tmp_path / "scores.npy", "w+", np.float16, (5003, 5003))
    rows = np.arange(5003)
    scores[rows, rows] = 1
    scores[rows[1:], rows[:-1]] = 2  # from image 1 on, the caption before comes first
    full, short = (retrieval_metrics(scores, rows, protocol=protocol) for protocol in ("full", "5k"))
    folds = retrieval_metrics(scores, rows, protocol="1k-5fold")
    assert full["i2t"]["R@1"] == pytest.approx(100 / 5003)
    assert short["i2t"]["R@1"] == pytest.approx(100 / 5000)
    assert short["t2i"]["R@1"] == pytest.approx(100 / 5000)  # caption 4999, its rival image 5000 is left out
    assert folds["i2t"]["R@1"] == pytest.approx(0.1) and folds["rsum"] == pytest.approx(400.2)


def test_pairs_by_hand():
    scores = np.full((6, 6), 5.0)  # scores across pairs play no part
    scores[0:2, 0:2] = [[0.9, 0.1], [0.2, 0.8]]  # both right
    scores[2:4, 2:4] = [[0.9, 0.7], [0.6, 0.5]]  # image 3 prefers caption 2, caption 3 prefers image 2
    scores[4:6, 4:6] = [[0.5, 0.4], [0.8, 0.9]]  # both images right; caption 4 prefers image 5
    table = pair_metrics(scores, ["colour", "colour", "relation"])
    assert table["colour"] == {"n": 2, "text": 50, "image": 50, "group": 50}
    assert table["relation"] == {"n": 1, "text": 100, "image": 0, "group": 0}
    assert table["all"] == pytest.approx({"n": 3, "text": 200 / 3, "image": 100 / 3, "group": 100 / 3})
    assert pair_metrics(np.ones((6, 6)), ["size"] * 3)["all"]["text"] == 0  # a tie is a failure


@pytest.mark.parametrize(
    "scores, text, image",
    [
        ([[0.5, 0.5], [0.2, 0.9]], 0, 100),  # image 0 is undecided
        ([[0.9, 0.2], [0.5, 0.5]], 0, 100),  # image 1
        ([[0.5, 0.2], [0.5, 0.9]], 100, 0),  # caption 0
        ([[0.9, 0.5], [0.2, 0.5]], 100, 0),  # caption 1
    ],
)
def test_one_tie_in_a_pair_is_a_failure(scores, text, image):
    assert pair_metrics(np.array(scores), ["size"])["size"] == {"n": 1, "text": text, "image": image, "group": 0}


def test_random_pairs_come_out_at_chance():
    scores = np.random.default_rng(0).normal(size=(2 * 1009, 2 * 1009)).astype(np.float32)
    table = pair_metrics(scores, ["size"] * 1009)
    for name in ("text", "image", "group"):
        assert table["all"][name] == pytest.approx(table["chance"][name], abs=4.5)


def test_pairs_of_wrong_size():
    with pytest.raises(DataError, match=r"\[4, 4\] for 2 pairs.*\(4, 6\)"):
        pair_metrics(np.zeros((4, 6)), ["size", "colour"])
    scores = np.zeros((6, 6))
    scores[5, 4] = np.nan
    with pytest.raises(BssanError, match="pair 2: image rows 4 and 5"):
        pair_metrics(scores, ["size", "colour", "size"])
