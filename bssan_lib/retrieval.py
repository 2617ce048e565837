"""From a matrix of scores to R@K, median rank and rsum, both ways, with intervals. Notebook 05.

    i2t   an image looks for its captions:  rank of the best of them among all captions
    t2i   a caption looks for its image:    rank of that image among all images
    R@K   percent of queries whose rank is at most K        MedR  median of the ranks, 1 is best
    rsum  R@1 + R@5 + R@10 of both directions, 600 at most

A rank is 1 + the number of wrong candidates that score at least as much as the best right one. So ties count
against the model, and a model that scores everything alike finds nothing. Who belongs to whom is said by
`cap2im`, never by arithmetic: an image may have any number of captions, or none. One without is still a
candidate of t2i, but no query of i2t.

Protocols: "full" ranks everything; "5k" the first 5,000 images; "1k-5fold" five folds of 1,000 images each,
with their own captions as the only candidates, and the mean of each named metric over the folds. A gallery of
1,000 is easier than one of 5,000: numbers of different protocols do not compare.

Letters: N images, C captions, Q queries, S bootstrap samples, E evaluations, P pairs.
"""

from dataclasses import dataclass

import numpy as np

from bssan_lib.errors import BssanError, ConfigError, DataError

RECALLS = (1, 5, 10)
MEASURES = tuple(f"{way} R@{k}" for way in ("i2t", "t2i") for k in RECALLS)  # what rsum is the sum of
PROTOCOLS = {"full": None, "5k": (1, 5000), "1k-5fold": (5, 1000)}  # folds, images in each; None: all
CHUNK = 2**22  # numbers of a score matrix held at a time, so that a memory-mapped one is never loaded whole
CHANCE = {"text": 25.0, "image": 25.0, "group": 100 / 6}  # four scores in random order


@dataclass(frozen=True)
class Ranks:
    """Ranks of one fold's queries, 1 is best.

    i2t: [Q] for the image rows `images` [Q]. t2i: [Q'] for the caption rows `captions` [Q'], which belong to
    the image rows `caption_images` [Q'].
    """

    i2t: np.ndarray
    images: np.ndarray
    t2i: np.ndarray
    captions: np.ndarray
    caption_images: np.ndarray


def check_scores(scores: np.ndarray, cap2im: np.ndarray, positives: np.ndarray | None = None) -> None:
    """Raise DataError unless scores [N, C], cap2im [C] in 0..N-1 and positives [C, N] (or None) agree."""
    if scores.ndim != 2:
        raise DataError(f"Expected a score matrix [images, captions], got shape {scores.shape}.")
    n, c = scores.shape
    if np.shape(cap2im) != (c,):
        raise DataError(f"Expected an image row for each of {c} captions in cap2im, got {np.shape(cap2im)}. "
                        "Scores are [images, captions]; are they transposed?")
    outside = np.flatnonzero((np.asarray(cap2im) < 0) | (np.asarray(cap2im) >= n))
    if len(outside):
        row = outside[0]
        raise DataError(f"cap2im row {row} names image {cap2im[row]}, but scores have {n} images.")
    if positives is not None and positives.shape != (c, n):
        raise DataError(f"Expected positives [captions, images] = {(c, n)}, got {positives.shape}.")


def protocol_folds(n_images: int, protocol: str) -> list[tuple[int, int]]:
    """The folds of a protocol as (first, last + 1) image rows.

    ConfigError for an unknown protocol, DataError where the images are too few for it.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol {protocol!r}. Choose one of {', '.join(PROTOCOLS)}.")
    if PROTOCOLS[protocol] is None:
        return [(0, n_images)]
    folds, size = PROTOCOLS[protocol]
    if n_images < folds * size:
        raise DataError(f"Protocol {protocol} needs {folds * size} images, but this split has {n_images}. "
                        "Use protocol full.")
    return [(fold * size, (fold + 1) * size) for fold in range(folds)]


def _refuse_nan(block: np.ndarray, first: int, captions: np.ndarray) -> None:
    """block: scores of image rows first, first + 1, ... with the given captions."""
    bad = np.isnan(block)
    if bad.any():
        rows = np.flatnonzero(bad.any(1))
        shown = ", ".join(str(first + row) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        caption = captions[np.flatnonzero(bad[rows[0]])[0]]
        raise BssanError(f"Scores are not numbers (NaN) for image row(s) {shown}, first with caption row "
                         f"{caption}. Look for NaN in that image's features or in the checkpoint.")


def fold_ranks(
    scores: np.ndarray, cap2im: np.ndarray, positives: np.ndarray | None = None,
    images: tuple[int, int] | None = None,
) -> Ranks:
    """Rank the images of one fold against their captions, and those captions against the same images.

    scores: [N, C], may be memory-mapped; read twice in chunks of rows. cap2im: [C]. positives: [C, N] bool,
    every image a caption is right for, instead of its own alone. images: first and last + 1 row, else all.
    Raises BssanError that names the rows where a score is NaN, DataError where shapes disagree or no image of
    the fold has a caption.
    """
    cap2im = np.asarray(cap2im)
    check_scores(scores, cap2im, positives)
    start, stop = images if images is not None else (0, scores.shape[0])
    captions = np.flatnonzero((cap2im >= start) & (cap2im < stop))
    if not len(captions):
        raise DataError(f"Image rows {start} to {stop - 1} have no caption at all: nothing to retrieve.")
    everything = len(captions) == len(cap2im)
    step = max(1, CHUNK // len(captions))

    def blocks():
        for first in range(start, stop, step):
            last = min(first + step, stop)
            block = np.asarray(scores[first:last])
            block = block if everything else block[:, captions]
            if positives is None:
                right = cap2im[captions] == np.arange(first, last)[:, None]
            else:
                right = positives[:, first:last].T if everything else positives[captions, first:last].T
            yield first, block, right

    image_ranks, asking = [], []
    best = np.full(len(captions), -np.inf)  # each caption's best right image
    answered = np.zeros(len(captions), bool)
    for first, block, right in blocks():
        _refuse_nan(block, first, captions)
        known = np.where(right, block, -np.inf)
        image_ranks.append(1 + ((block >= known.max(1)[:, None]) & ~right).sum(1))
        asking.append(right.any(1))
        np.maximum(best, known.max(0), out=best)
        answered |= right.any(0)
    ahead = np.zeros(len(captions), np.int64)
    best = best.astype(np.result_type(scores.dtype, np.float16))  # compared as stored, without a wider copy
    for _, block, right in blocks():
        ahead += ((block >= best) & ~right).sum(0)
    asking = np.concatenate(asking)
    return Ranks(
        i2t=np.concatenate(image_ranks)[asking], images=start + np.flatnonzero(asking),
        t2i=1 + ahead[answered], captions=captions[answered], caption_images=cap2im[captions[answered]],
    )


def protocol_ranks(
    scores: np.ndarray, cap2im: np.ndarray, protocol: str = "full", positives: np.ndarray | None = None
) -> list[Ranks]:
    """One Ranks for each fold. scores: [N, C]. cap2im: [C]. positives: [C, N] bool or None."""
    return [fold_ranks(scores, cap2im, positives, fold) for fold in protocol_folds(scores.shape[0], protocol)]


def rank_metrics(ranks: np.ndarray) -> dict[str, float]:
    """ranks: [Q], 1 is best -> {"R@1", "R@5", "R@10"} in percent and "MedR", the plain median."""
    recalls = {f"R@{k}": 100.0 * float(np.mean(ranks <= k)) for k in RECALLS}
    return {**recalls, "MedR": float(np.median(ranks))}


def _rsum(i2t: dict, t2i: dict):
    return sum(way[f"R@{k}"] for way in (i2t, t2i) for k in RECALLS)


def _mean_of(folds: list[dict]) -> dict:
    """Mean over folds by name: adding metrics up by position once made an rsum of one direction alone."""
    mean = {way: {name: sum(fold[way][name] for fold in folds) / len(folds) for name in folds[0][way]}
            for way in ("i2t", "t2i")}
    return {**mean, "rsum": _rsum(mean["i2t"], mean["t2i"])}


def ranks_metrics(folds: list[Ranks]) -> dict:
    """{"i2t": {"R@1", "R@5", "R@10", "MedR"}, "t2i": {...}, "rsum"}: means over the folds, R@K in percent.

    folds: ranks i2t [Q] and t2i [Q'] of each.
    """
    return _mean_of([{"i2t": rank_metrics(fold.i2t), "t2i": rank_metrics(fold.t2i)} for fold in folds])


def evaluate_protocol(
    scores: np.ndarray, cap2im: np.ndarray, protocol: str = "full", positives: np.ndarray | None = None
) -> dict:
    """The metrics of `ranks_metrics` under a protocol.

    scores: [N, C], larger is closer. cap2im: [C]. positives: [C, N] bool counts every image that satisfies a
    caption, and every caption true of an image, as right; without it only a caption's own image is.
    """
    return ranks_metrics(protocol_ranks(scores, cap2im, protocol, positives))


def retrieval_metrics(scores: np.ndarray, cap2im: np.ndarray, positives: np.ndarray | None = None) -> dict:
    """`evaluate_protocol` with protocol full: scores [N, C], cap2im [C], positives [C, N] bool or None."""
    return evaluate_protocol(scores, cap2im, "full", positives)


def resampled_counts(n: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n items is drawn in each sample of n with replacement. Returns [S, n] integers."""
    drawn = rng.integers(0, n, (samples, n)) + n * np.arange(samples)[:, None]
    return np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n)


def _resampled_metrics(ranks: np.ndarray, owners: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """ranks: [Q]. owners: [Q], the column of counts [S, images] a query goes with -> metrics, each [S]."""
    order = np.argsort(ranks, kind="stable")
    ranks = ranks[order]
    below = counts[:, owners[order]].cumsum(1)  # [S, Q]: queries drawn up to this place in the order of ranks
    total = below[:, -1]
    metrics = {}
    for k in RECALLS:
        within = np.searchsorted(ranks, k, side="right")
        metrics[f"R@{k}"] = 100.0 * below[:, within - 1] / total if within else np.zeros(len(total))
    lower, upper = ((below <= middle[:, None]).sum(1) for middle in ((total - 1) // 2, total // 2))
    metrics["MedR"] = (ranks[lower] + ranks[upper]) / 2
    return metrics


def bootstrap_intervals(folds: Ranks | list[Ranks], samples: int = 1000, seed: int = 0) -> dict:
    """95% percentile intervals of every metric, over images.

    Images are drawn with replacement, each bringing its captions as queries; the gallery stays as it was, so
    an image drawn twice asks twice but is found once. This says how the numbers would vary with other
    queries, not with another training. folds: ranks (i2t [Q], t2i [Q']) against the captions' own
    images, each fold drawn in itself. Memory: a few times CHUNK numbers.
    Returns {"i2t": {"R@1": [low, high], ...}, "t2i": {...}, "rsum": [low, high]}.
    """
    rng = np.random.default_rng(seed)
    folds = [folds] if isinstance(folds, Ranks) else folds
    drawn = []
    for fold in folds:
        images = np.union1d(fold.images, fold.caption_images)
        owners = {"i2t": fold.images, "t2i": fold.caption_images}
        parts = {way: [] for way in owners}
        step = max(1, CHUNK // max(len(images), len(fold.t2i)))
        for first in range(0, samples, step):
            counts = resampled_counts(len(images), min(step, samples - first), rng)
            for way, part in parts.items():
                columns = np.searchsorted(images, owners[way])
                part.append(_resampled_metrics(getattr(fold, way), columns, counts))
        drawn.append({way: {name: np.concatenate([one[name] for one in part]) for name in part[0]}
                      for way, part in parts.items()})
    mean = _mean_of(drawn)
    return {
        **{way: {name: interval(values) for name, values in mean[way].items()} for way in ("i2t", "t2i")},
        "rsum": interval(mean["rsum"]),
    }


def _image_hits(fold: Ranks, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits [n, 6] and queries [n, 6] of each of the n images, in the order of MEASURES."""
    hits, asked = [], []
    for ranks, owners in ((fold.i2t, fold.images), (fold.t2i, fold.caption_images)):
        columns = np.searchsorted(images, owners)
        hits += [np.bincount(columns[ranks <= k], minlength=len(images)) for k in RECALLS]
        asked += [np.bincount(columns, minlength=len(images))] * len(RECALLS)
    return np.stack(hits, 1).astype(float), np.stack(asked, 1).astype(float)


def resampled_recalls(evaluations: list[list[Ranks]], samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Recalls of several evaluations of one gallery, all of them under the same resampled images: a paired bootstrap.

    evaluations: E lists of folds. In each sample, images are drawn as in `bootstrap_intervals` (with its very draws),
    and every evaluation answers the queries that they bring; so a difference within a sample is one between models,
    not between easy and hard images. Returns [E, S, 6] percent, in the order of MEASURES; rsum is the sum over these.
    Raises DataError where the evaluations do not have the same queries. Memory: a few times CHUNK numbers.
    """
    for number, evaluation in enumerate(evaluations):
        if len(evaluation) != len(evaluations[0]):
            raise DataError(f"Evaluation {number} has {len(evaluation)} folds, evaluation 0 has {len(evaluations[0])}.")
        for fold, first in zip(evaluation, evaluations[0]):
            for part in ("images", "captions", "caption_images"):
                if not np.array_equal(getattr(fold, part), getattr(first, part)):
                    raise DataError(f"Evaluation {number} has other {part.replace('_', ' ')} as queries than "
                                    "evaluation 0: they are not of the same gallery, so they cannot be paired.")
    rng = np.random.default_rng(seed)
    recalls = np.zeros((len(evaluations), samples, len(MEASURES)))
    for folds in zip(*evaluations):
        images = np.union1d(folds[0].images, folds[0].caption_images)
        hits, asked = (np.stack(part) for part in zip(*(_image_hits(fold, images) for fold in folds)))  # [E, n, 6]
        step = max(1, CHUNK // len(images))
        for first in range(0, samples, step):
            counts = resampled_counts(len(images), min(step, samples - first), rng).astype(float)  # [s, n]
            recalls[:, first:first + step] += 100.0 * (counts @ hits) / (counts @ asked[0])
    return recalls / len(evaluations[0])


def interval(values: np.ndarray) -> list[float]:
    """values: [S] of a metric over bootstrap samples -> [2.5%, 97.5%]."""
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]


def pair_metrics(scores: np.ndarray, kinds: list[str]) -> dict:
    """Can the model tell two scenes apart that differ in one thing alone?

    scores: [2P, 2P]; images 2i and 2i + 1 go with captions 2i and 2i + 1. kinds: P names such as "colour".
    text: both images prefer their own caption. image: both captions prefer their own image. group: both.
    A tie is a failure. (Winoground, Thrush et al., CVPR 2022.) Returns percentages, {kind: {"n", "text",
    "image", "group"}, ...} and the rows "all" and "chance", which is what random scores get.
    """
    count = len(kinds)
    if scores.shape != (2 * count, 2 * count) or not count:
        raise DataError(f"Expected scores [{2 * count}, {2 * count}] for {count} pairs of images with one "
                        f"caption each, got {scores.shape}.")
    i = np.arange(count)
    blocks = np.asarray(scores).reshape(count, 2, count, 2)[i, :, i, :]  # [P, image, caption]
    if np.isnan(blocks).any():
        pair = np.flatnonzero(np.isnan(blocks).any((1, 2)))[0]
        raise BssanError(f"Scores are not numbers (NaN) for pair {pair}: image rows {2 * pair} "
                         f"and {2 * pair + 1}.")
    (a, b), (c, d) = blocks.transpose(1, 2, 0)
    right = {"text": (a > b) & (d > c), "image": (a > c) & (d > b)}
    right["group"] = right["text"] & right["image"]
    rows = {kind: np.array([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
    rows["all"] = np.ones(count, bool)
    table = {}
    for kind, row in rows.items():
        percent = {name: 100.0 * float(hit[row].mean()) for name, hit in right.items()}
        table[kind] = {"n": int(row.sum()), **percent}
    return {**table, "chance": dict(CHANCE)}
