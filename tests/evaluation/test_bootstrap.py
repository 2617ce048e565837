"""Bootstrap over images: intervals and paired samples against loops that draw images one by one.

Letters: N images, C captions.
"""

from dataclasses import fields

import numpy as np
import pytest

from bssan_lib.errors import DataError
from bssan_lib.evaluation import bootstrap, retrieval
from bssan_lib.evaluation.bootstrap import bootstrap_intervals, interval, resampled_counts, resampled_recalls
from bssan_lib.evaluation.retrieval import MEASURES, Ranks, fold_ranks, metrics_of_folds, protocol_ranks, rank_metrics

N, CAP2IM = 13, np.repeat(np.arange(13), [1, 2, 3, 5, 1, 2, 7, 1, 3, 2, 1, 5, 2])


def ranks_of(n, captions, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    cap2im = np.repeat(np.arange(n), captions)
    scores = spread * rng.normal(size=(n, len(cap2im))) + 2 * (np.arange(n)[:, None] == cap2im)
    return fold_ranks(scores, cap2im)


def test_intervals_hold_the_point_and_narrow_with_n():
    widths = []
    for n in (41, 167, 661):
        ranks = ranks_of(n, 3, seed=n)
        point, bounds = metrics_of_folds([ranks]), bootstrap_intervals(ranks, samples=307)
        for way in ("i2t", "t2i"):
            for name, (low, high) in bounds[way].items():
                assert low <= point[way][name] <= high
        assert bounds["rsum"][0] < point["rsum"] < bounds["rsum"][1]
        # relative to R@1 itself, which falls as the gallery grows
        low, high = bounds["t2i"]["R@1"]
        widths.append((high - low) / point["t2i"]["R@1"])
    assert widths[0] > widths[1] > widths[2]


def test_intervals_repeat_with_their_seed():
    ranks = ranks_of(53, 2, seed=1)
    assert bootstrap_intervals(ranks, 101, seed=3) == bootstrap_intervals([ranks], 101, seed=3)
    assert bootstrap_intervals(ranks, 101, seed=3) != bootstrap_intervals(ranks, 101, seed=4)


def test_resampling_agrees_with_drawing_images_one_by_one():
    rng = np.random.default_rng(11)
    ranks, owners = rng.integers(1, 17, 31), rng.integers(0, 7, 31)
    owners[:7] = np.arange(7)
    counts = resampled_counts(7, 13, np.random.default_rng(0))
    assert counts.shape == (13, 7) and (counts.sum(1) == 7).all()
    fast = bootstrap._resampled_metrics(ranks, owners, counts)
    for sample in range(13):
        expected = rank_metrics(np.repeat(ranks, counts[sample, owners]))
        assert {name: values[sample] for name, values in fast.items()} == pytest.approx(expected)


def test_images_that_all_agree_leave_no_doubt():
    perfect = fold_ranks(np.eye(7), np.arange(7))
    bounds = bootstrap_intervals([perfect, perfect], samples=17)
    assert bounds["rsum"] == [600, 600] and bounds["i2t"]["MedR"] == [1, 1]


def test_an_interval_leaves_out_a_fortieth_on_each_side():
    assert interval(np.arange(1001)[::-1]) == [25.0, 975.0]


def test_images_without_captions_are_never_drawn():
    scores = np.array([[0.5, 0.1], [0.9, 0.2], [0.3, 0.8]])  # image 1 has no caption
    assert bootstrap_intervals(fold_ranks(scores, np.array([0, 2])), samples=11)["i2t"]["R@1"] == [100, 100]


def test_samples_and_seed_by_default():
    ranks = ranks_of(29, 2, seed=1)
    assert bootstrap_intervals(ranks) == bootstrap_intervals(ranks, 1000, 0)
    assert np.array_equal(resampled_recalls([[ranks]]), resampled_recalls([[ranks]], 1000, 0))


@pytest.mark.parametrize("chunk", [1, 100])
def test_chunks_of_samples_change_nothing(chunk, monkeypatch):
    ranks = ranks_of(29, 2, seed=1)
    expected = bootstrap_intervals(ranks, samples=31)
    monkeypatch.setattr(bootstrap, "CHUNK", chunk)
    assert bootstrap_intervals(ranks, samples=31) == expected


def test_nothing_found_in_any_sample():
    ranks = np.full(7, 12)
    metrics = bootstrap._resampled_metrics(ranks, np.arange(7), resampled_counts(7, 5, np.random.default_rng(0)))
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "R@1": [0.0] * 5,
        "R@5": [0.0] * 5,
        "R@10": [0.0] * 5,
        "MedR": [12.0] * 5,
    }


# -- several evaluations under the same samples


def random_folds(seed, strength=0.0, n=N, cap2im=CAP2IM):
    """Ranks of random scores, in which right pairs are ahead by `strength`."""
    scores = np.random.default_rng(seed).normal(size=(n, len(cap2im)))
    return protocol_ranks(scores + strength * (cap2im == np.arange(n)[:, None]), cap2im)


def naive_recalls(fold, drawn):
    """One sample, a query at a time: the recalls [6] of the queries that the drawn images bring, as often as drawn."""
    found = []
    for ranks, owners in ((fold.i2t, fold.images), (fold.t2i, fold.caption_images)):
        asked = [rank for image in drawn for rank, owner in zip(ranks, owners) if owner == image]
        found += [100 * sum(rank <= k for rank in asked) / len(asked) for k in (1, 5, 10)]
    return found


@pytest.mark.parametrize("chunk", [1, 53, 2**22])
def test_the_paired_bootstrap_is_the_naive_loop(monkeypatch, chunk):
    monkeypatch.setattr(bootstrap, "CHUNK", chunk)
    evaluations = [random_folds(seed, strength) for seed, strength in ((1, 0.0), (2, 1.0), (3, 2.0))]
    recalls = resampled_recalls(evaluations, samples=17, seed=5)
    rng = np.random.default_rng(5)
    for sample in range(17):
        drawn = rng.integers(0, N, N)
        for number, (fold,) in enumerate(evaluations):
            assert recalls[number, sample] == pytest.approx(naive_recalls(fold, drawn))


def test_folds_are_drawn_in_themselves_and_averaged(monkeypatch):
    monkeypatch.setitem(retrieval.PROTOCOLS, "1k-5fold", (5, 3))
    rng = np.random.default_rng(7)
    cap2im = np.repeat(np.arange(17), 2)
    folds = protocol_ranks(rng.normal(size=(17, 34)), cap2im, "1k-5fold")
    recalls = resampled_recalls([folds], samples=11, seed=3)[0]
    rng = np.random.default_rng(3)
    drawn = [[fold.images[rng.integers(0, 3, 3)] for _ in range(11)] for fold in folds]
    for sample in range(11):
        expected = np.mean([naive_recalls(fold, drawn[f][sample]) for f, fold in enumerate(folds)], axis=0)
        assert recalls[sample] == pytest.approx(expected)


def test_it_draws_what_the_intervals_of_one_evaluation_draw():
    folds = random_folds(2, 1.0)
    recalls = resampled_recalls([folds], samples=101)[0]
    own = bootstrap_intervals(folds, samples=101)
    assert np.percentile(recalls.sum(1), [2.5, 97.5]) == pytest.approx(own["rsum"])
    for number, measure in enumerate(MEASURES):
        way, name = measure.split(" ", 1)
        assert np.percentile(recalls[:, number], [2.5, 97.5]) == pytest.approx(own[way][name])


def test_other_queries_cannot_be_paired():
    with pytest.raises(DataError, match="Evaluations 1 and 0 differ in the images"):
        resampled_recalls([random_folds(0), random_folds(0, n=7, cap2im=np.arange(7))])
    with pytest.raises(DataError, match="Evaluation 1 has 2 folds, evaluation 0 has 1"):
        resampled_recalls([random_folds(0), random_folds(0) * 2])
    moved = [
        Ranks(
            **{f.name: getattr(random_folds(0)[0], f.name) for f in fields(Ranks)}
            | {"caption_images": CAP2IM[::-1].copy()}
        )
    ]
    with pytest.raises(DataError, match="differ in the caption images"):
        resampled_recalls([random_folds(0), moved])
