"""Bootstrap over images: intervals of one evaluation, and paired samples of several. Notebook 05.

Whole images are drawn with replacement, because the queries of one image are not independent of each other.

Letters: N images, Q queries, S bootstrap samples, E evaluations.
"""

import numpy as np

from bssan_lib.errors import DataError
from bssan_lib.evaluation.retrieval import CHUNK, DIRECTIONS, MEASURES, RECALLS, Ranks, mean_of_folds


def interval(values: np.ndarray) -> list[float]:
    """The 95% interval [2.5%, 97.5%] of a metric. values: [S], over bootstrap samples."""
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]


def resampled_counts(n: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n items is drawn, for samples of n items with replacement. Returns [S, n] integers."""
    drawn = rng.integers(0, n, (samples, n)) + n * np.arange(samples)[:, None]
    return np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n)


def _resampled_metrics(ranks: np.ndarray, owners: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """ranks: [Q]. owners: [Q], the column of counts [S, images] of each query. Returns metrics, each [S]."""
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

    Images are drawn with replacement, each with its captions as queries. The gallery does not change: an image drawn
    twice counts as two queries but as one candidate. The intervals show how the metrics vary with the queries, not with
    the training. folds: the ranks of each fold; folds are resampled separately. Memory: a few times CHUNK numbers.
    Returns {"i2t": {"R@1": [low, high], ...}, "t2i": {...}, "rsum": [low, high]}.
    """
    rng = np.random.default_rng(seed)
    folds = [folds] if isinstance(folds, Ranks) else folds
    drawn = []
    for fold in folds:
        images = np.union1d(fold.images, fold.caption_images)
        owners = {"i2t": fold.images, "t2i": fold.caption_images}
        parts: dict[str, list[dict[str, np.ndarray]]] = {way: [] for way in owners}
        step = max(1, CHUNK // max(len(images), len(fold.t2i)))
        for first in range(0, samples, step):
            counts = resampled_counts(len(images), min(step, samples - first), rng)
            for way, part in parts.items():
                columns = np.searchsorted(images, owners[way])
                part.append(_resampled_metrics(getattr(fold, way), columns, counts))
        drawn.append(
            {
                way: {name: np.concatenate([one[name] for one in part]) for name in part[0]}
                for way, part in parts.items()
            }
        )
    mean = mean_of_folds(drawn)
    return {
        **{way: {name: interval(values) for name, values in mean[way].items()} for way in DIRECTIONS},
        "rsum": interval(mean["rsum"]),
    }


def _image_hits(fold: Ranks, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of hits [n, 6] and of queries [n, 6] of each of the n images, in the order of MEASURES."""
    hits, queries = [], []
    for ranks, owners in ((fold.i2t, fold.images), (fold.t2i, fold.caption_images)):
        columns = np.searchsorted(images, owners)
        hits += [np.bincount(columns[ranks <= k], minlength=len(images)) for k in RECALLS]
        queries += [np.bincount(columns, minlength=len(images))] * len(RECALLS)
    return np.stack(hits, 1).astype(float), np.stack(queries, 1).astype(float)


def resampled_recalls(evaluations: list[list[Ranks]], samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Recalls of several evaluations of one gallery on the same resampled images: a paired bootstrap.

    evaluations: E lists of folds. Images are drawn as in `bootstrap_intervals`, and in each sample all evaluations have
    the same queries. So a difference within a sample is a difference between models, not between easy and hard images.
    Returns [E, S, 6] percent, in the order of MEASURES; rsum is their sum.
    Raises DataError if the evaluations have different queries. Memory: a few times CHUNK numbers.
    """
    for number, evaluation in enumerate(evaluations):
        if len(evaluation) != len(evaluations[0]):
            raise DataError(f"Evaluation {number} has {len(evaluation)} folds, evaluation 0 has {len(evaluations[0])}.")
        for fold, reference in zip(evaluation, evaluations[0]):
            for part in ("images", "captions", "caption_images"):
                if not np.array_equal(getattr(fold, part), getattr(reference, part)):
                    raise DataError(
                        f"Evaluations {number} and 0 differ in the {part.replace('_', ' ')} of their queries. "
                        "A paired comparison needs evaluations of the same gallery."
                    )
    rng = np.random.default_rng(seed)
    recalls = np.zeros((len(evaluations), samples, len(MEASURES)))
    for folds in zip(*evaluations):
        images = np.union1d(folds[0].images, folds[0].caption_images)
        hits, queries = (np.stack(part) for part in zip(*(_image_hits(fold, images) for fold in folds)))  # [E, n, 6]
        step = max(1, CHUNK // len(images))
        for first in range(0, samples, step):
            counts = resampled_counts(len(images), min(step, samples - first), rng).astype(float)  # [s, n]
            recalls[:, first : first + step] += 100.0 * (counts @ hits) / (counts @ queries[0])
    return recalls / len(evaluations[0])
