"""From a matrix of scores to R@K, median rank and rsum, in both directions. Notebook 05.

    i2t   the query is an image:     rank of the best of its captions among all captions
    t2i   the query is a caption:    rank of its image among all images
    R@K   percent of queries whose rank is at most K        MedR  median of the ranks, 1 is best
    rsum  R@1 + R@5 + R@10 of both directions, at most 600

A rank is 1 + the number of wrong candidates whose score is at least that of the best right one. So ties count against
the model, and a model with equal scores for all pairs finds nothing. `cap2im` contains the image row of each caption.
An image may have any number of captions; without captions it is a candidate of t2i, but not a query of i2t.

Protocols: "full" ranks everything; "5k" ranks the first 5,000 images; "1k-5fold" ranks five folds of 1,000 images each,
with their own captions as the only candidates, and takes the mean of each metric over the folds. A gallery of 1,000 is
easier than one of 5,000, so numbers of different protocols cannot be compared. `bootstrap` computes intervals.

Letters: N images, C captions, Q queries, P pairs.
"""

from dataclasses import dataclass

import numpy as np

from bssan_lib.errors import BssanError, ConfigError, DataError

DIRECTIONS = ("i2t", "t2i")
RECALLS = (1, 5, 10)
MEASURES = tuple(f"{direction} R@{k}" for direction in DIRECTIONS for k in RECALLS)  # rsum is their sum
# Folds and images in each; None: all images.
PROTOCOLS: dict[str, tuple[int, int] | None] = {"full": None, "5k": (1, 5000), "1k-5fold": (5, 1000)}
CHUNK = 2**22  # numbers of a score matrix in memory at a time, so that a memory-mapped one is never loaded whole
CHANCE = {"text": 25.0, "image": 25.0, "group": 100 / 6}  # percent right if four scores are in random order


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
    """Raises DataError unless scores [N, C], cap2im [C] in 0..N-1 and positives [C, N] (or None) agree."""
    if scores.ndim != 2:
        raise DataError(f"Expected a score matrix [images, captions], got shape {scores.shape}.")
    n, c = scores.shape
    if np.shape(cap2im) != (c,):
        raise DataError(
            f"Expected an image row for each of {c} captions in cap2im, got {np.shape(cap2im)}. "
            "Scores are [images, captions]. Are they transposed?"
        )
    outside = np.flatnonzero((np.asarray(cap2im) < 0) | (np.asarray(cap2im) >= n))
    if len(outside):
        row = outside[0]
        raise DataError(f"cap2im row {row} is image {cap2im[row]}, but the scores have {n} images.")
    if positives is not None and positives.shape != (c, n):
        raise DataError(f"Expected positives [captions, images] = {(c, n)}, got {positives.shape}.")


def protocol_folds(n_images: int, protocol: str) -> list[tuple[int, int]]:
    """The folds of a protocol as image rows (first, last + 1).

    Raises ConfigError for an unknown protocol, DataError if the split has too few images.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol {protocol!r}. Choose one of {', '.join(PROTOCOLS)}.")
    sizes = PROTOCOLS[protocol]
    if sizes is None:
        return [(0, n_images)]
    folds, size = sizes
    if n_images < folds * size:
        raise DataError(
            f"Protocol {protocol} needs {folds * size} images, but this split has {n_images}. Use protocol full."
        )
    return [(fold * size, (fold + 1) * size) for fold in range(folds)]


def _refuse_nan(block: np.ndarray, first: int, captions: np.ndarray) -> None:
    """Raises BssanError for NaN or infinity. block: scores of image rows first, first + 1, ... with the given caption rows."""
    bad = ~np.isfinite(block)
    if bad.any():
        rows = np.flatnonzero(bad.any(1))
        shown = ", ".join(str(first + row) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        caption = captions[np.flatnonzero(bad[rows[0]])[0]]
        raise BssanError(
            f"Scores are NaN or infinite for image row(s) {shown}, first with caption row {caption}. Look for NaN in that image's "
            "features or in the checkpoint."
        )


def fold_ranks(
    scores: np.ndarray, cap2im: np.ndarray, positives: np.ndarray | None = None, images: tuple[int, int] | None = None
) -> Ranks:
    """Ranks the captions of a fold for each of its images, and the images for each of these captions.

    scores: [N, C], may be memory-mapped; it is read twice in chunks of rows. cap2im: [C]. positives: [C, N] bool,
    all images that are right for a caption; None: only its own image. images: first and last + 1 row; None: all.
    Raises BssanError with the rows of NaN or infinite scores, DataError if shapes disagree or no image of the fold has a
    caption.
    """
    cap2im = np.asarray(cap2im)
    check_scores(scores, cap2im, positives)
    start, stop = images if images is not None else (0, scores.shape[0])
    captions = np.flatnonzero((cap2im >= start) & (cap2im < stop))
    if not len(captions):
        raise DataError(f"Image rows {start} to {stop - 1} have no caption, so there is nothing to retrieve.")
    whole = len(captions) == len(cap2im)
    step = max(1, CHUNK // len(captions))

    def blocks():
        for first in range(start, stop, step):
            last = min(first + step, stop)
            block = np.asarray(scores[first:last])
            block = block if whole else block[:, captions]
            if positives is None:
                right = cap2im[captions] == np.arange(first, last)[:, None]
            else:
                right = positives[:, first:last].T if whole else positives[captions, first:last].T
            yield first, block, right

    image_ranks, has_caption = [], []
    best = np.full(len(captions), -np.inf)  # score of each caption's best right image
    has_image = np.zeros(len(captions), bool)
    for first, block, right in blocks():
        _refuse_nan(block, first, captions)
        right_scores = np.where(right, block, -np.inf)
        image_ranks.append(1 + ((block >= right_scores.max(1)[:, None]) & ~right).sum(1))
        has_caption.append(right.any(1))
        np.maximum(best, right_scores.max(0), out=best)
        has_image |= right.any(0)
    higher = np.zeros(len(captions), np.int64)
    # In the dtype of the scores, so that the comparison does not convert them.
    best = best.astype(np.result_type(scores.dtype, np.float16))
    for _, block, right in blocks():
        higher += ((block >= best) & ~right).sum(0)
    is_query = np.concatenate(has_caption)
    return Ranks(
        i2t=np.concatenate(image_ranks)[is_query],
        images=start + np.flatnonzero(is_query),
        t2i=1 + higher[has_image],
        captions=captions[has_image],
        caption_images=cap2im[captions[has_image]],
    )


def protocol_ranks(
    scores: np.ndarray, cap2im: np.ndarray, protocol: str = "full", positives: np.ndarray | None = None
) -> list[Ranks]:
    """The ranks of each fold. scores: [N, C]. cap2im: [C]. positives: [C, N] bool or None."""
    return [fold_ranks(scores, cap2im, positives, fold) for fold in protocol_folds(scores.shape[0], protocol)]


def rank_metrics(ranks: np.ndarray) -> dict[str, float]:
    """ranks: [Q], 1 is best -> {"R@1", "R@5", "R@10"} in percent and "MedR", the plain median."""
    recalls = {f"R@{k}": 100.0 * float(np.mean(ranks <= k)) for k in RECALLS}
    return {**recalls, "MedR": float(np.median(ranks))}


def mean_of_folds(folds: list[dict]) -> dict:
    """Mean over folds of each metric, and rsum of the means. folds: {"i2t": {name: number or array}, "t2i": {...}}."""
    mean = {
        direction: {name: sum(fold[direction][name] for fold in folds) / len(folds) for name in folds[0][direction]}
        for direction in DIRECTIONS
    }
    return {**mean, "rsum": sum(mean[direction][f"R@{k}"] for direction in DIRECTIONS for k in RECALLS)}


def metrics_of_folds(folds: list[Ranks]) -> dict:
    """{"i2t": {"R@1", "R@5", "R@10", "MedR"}, "t2i": {...}, "rsum"}: means over the folds, R@K in percent."""
    return mean_of_folds([{"i2t": rank_metrics(fold.i2t), "t2i": rank_metrics(fold.t2i)} for fold in folds])


def retrieval_metrics(
    scores: np.ndarray, cap2im: np.ndarray, positives: np.ndarray | None = None, protocol: str = "full"
) -> dict:
    """The metrics of `metrics_of_folds` under a protocol.

    scores: [N, C], larger for better matches. cap2im: [C]. positives: [C, N] bool, all images that are right for a
    caption; None: only its own image. protocol: "full", "5k" or "1k-5fold".
    """
    return metrics_of_folds(protocol_ranks(scores, cap2im, protocol, positives))


def pair_metrics(scores: np.ndarray, kinds: list[str]) -> dict:
    """Percent of minimal pairs (two images that differ in one thing) that are matched right. A tie counts as wrong.

    scores: [2P, 2P]; images 2i and 2i + 1 belong to captions 2i and 2i + 1. kinds: P names such as "colour".
    text: both images score higher with their own caption. image: both captions with their own image. group: all four.
    (Winoground, Thrush et al., CVPR 2022.) Returns {kind: {"n", "text", "image", "group"}, ...} and the rows "all"
    and "chance", the percentages of random scores.
    """
    count = len(kinds)
    if scores.shape != (2 * count, 2 * count) or not count:
        raise DataError(
            f"Expected scores [{2 * count}, {2 * count}] for {count} pairs of images with one "
            f"caption each, got {scores.shape}."
        )
    i = np.arange(count)
    blocks = np.asarray(scores).reshape(count, 2, count, 2)[i, :, i, :]  # [P, image, caption]
    if np.isnan(blocks).any():
        pair = np.flatnonzero(np.isnan(blocks).any((1, 2)))[0]
        raise BssanError(f"Scores are NaN for pair {pair}: image rows {2 * pair} and {2 * pair + 1}.")
    (a, b), (c, d) = blocks.transpose(1, 2, 0)
    right = {"text": (a > b) & (d > c), "image": (a > c) & (d > b)}
    right["group"] = right["text"] & right["image"]
    rows = {kind: np.array([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
    rows["all"] = np.ones(count, bool)
    table = {
        kind: {"n": int(row.sum()), **{name: 100.0 * float(hit[row].mean()) for name, hit in right.items()}}
        for kind, row in rows.items()
    }
    return {**table, "chance": dict(CHANCE)}
