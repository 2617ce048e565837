"""All metrics of a checkpoint on a split, the content of metrics.json. Notebook 05.

`scoring` computes the scores, `retrieval` the ranks, `grounding` the agreement of attention with true boxes.
Percentages are 0 to 100.

Letters: N images, C captions, K regions, M objects, T words.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object

from bssan_lib.data.prepared import PreparedSplit, list_splits, open_prepared
from bssan_lib.data.progress import tqdm
from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.evaluation.bootstrap import bootstrap_intervals
from bssan_lib.evaluation.grounding import grounded_captions, grounding_summary, join, measure_phrases
from bssan_lib.evaluation.grounding_checks import add_checks
from bssan_lib.evaluation.records import Metrics, describe_gallery, describe_run, write_ranks
from bssan_lib.evaluation.retrieval import (
    DIRECTIONS,
    fold_ranks,
    metrics_of_folds,
    pair_metrics,
    protocol_folds,
    protocol_ranks,
    retrieval_metrics,
)
from bssan_lib.evaluation.scoring import Scores, attend, score_split
from bssan_lib.files import write_text
from bssan_lib.parallel import process_share

ATTENTIONS = 256  # captions whose attention is in memory at a time


def evaluate(
    checkpoint,
    split: PreparedSplit,
    protocol: str = "full",
    bootstrap: int = 1000,
    memory: str | int = "1GiB",
    progress: bool = True,
    seed: int = 0,
    scores: Scores | None = None,
    precision: str = "float32",
    checks: bool = False,
) -> Metrics:
    """All metrics of a checkpoint on a split.

    checkpoint: a `Checkpoint`. split: N images with captions. protocol: "full", "5k" or "1k-5fold".
    bootstrap: samples of the 95% intervals, 0 for none; seed: of the bootstrap. memory, precision: see `score_model`.
    scores: the result of `score_split` for this checkpoint and split; None: computed here.
    checks: also compare grounding with a prior of boxes, other words and an untrained model. This computes attention
    two more times.

    Returns {"dataset", "split", "protocol", "n_images", "n_captions", "i2t", "t2i", "rsum", "ci95",
    "pictures_left_out", "pictures_in_train", "directions": {"w2r", "o2w"}, "satisfying", "grounding", "pairs", "model",
    "run", "seconds"}. Some keys are optional. "pictures_...": see `data_remarks`. "ci95" needs bootstrap. "satisfying" (R@K if every image that satisfies a caption is right) needs
    `split.satisfies`. "grounding" (see `evaluate_grounding`) needs phrases with boxes, regions with boxes and attention
    in both directions; it uses the whole split. "directions" contains those of the method. "pairs" needs a split of
    minimal pairs; the split "test" also has it if its folder contains the split "pairs".
    Raises ConfigError for an unknown protocol, DataError if the split is too small for it.
    """
    protocol_folds(len(split.ids), protocol)  # raises errors before scoring starts
    if scores is None:
        scores = score_split(checkpoint, split, memory, precision=precision, progress=progress)
    metrics = measure_retrieval(scores.joint, split, protocol, bootstrap, seed)
    directions = {name: part for name, part in (("w2r", scores.w2r), ("o2w", scores.o2w)) if part is not None}
    if directions:
        metrics["directions"] = {
            name: retrieval_metrics(part, split.cap2im, protocol=protocol) for name, part in directions.items()
        }
    if split.satisfies is not None:
        metrics["satisfying"] = retrieval_metrics(scores.joint, split.cap2im, split.satisfies, protocol)
    seconds = dict(scores.seconds)
    if split.phrases and split.boxes is not None and len(directions) == 2:
        start = time.perf_counter()
        grounding = evaluate_grounding(checkpoint, split, bootstrap, seed, progress, checks)
        if grounding:
            metrics["grounding"] = grounding
            seconds["attend"] = time.perf_counter() - start
    add_minimal_pairs(
        metrics,
        split,
        scores.joint,
        lambda pairs: score_split(checkpoint, pairs, memory, precision=precision, progress=progress).joint,
    )
    metrics["model"] = model_summary(checkpoint)
    if scores.gate is not None:
        metrics["model"]["learned"]["gate"] = scores.gate  # the mean, if each pair has its own gate
    if run := describe_run(checkpoint):
        metrics["run"] = run
    metrics["seconds"] = seconds
    return metrics


def measure_retrieval(joint: np.ndarray, split: PreparedSplit, protocol: str, bootstrap: int, seed: int) -> Metrics:
    """Recalls, intervals and gallery sizes from scores [N, C], with the ranks and the gallery's digest."""
    last = protocol_folds(len(split.ids), protocol)[-1][1]
    ranks = protocol_ranks(joint, split.cap2im, protocol)
    metrics = Metrics(
        {
            "dataset": split.meta.get("source") or split.folder.name,
            "split": split.name,
            "protocol": protocol,
            "n_images": last,
            "n_captions": int(np.sum(split.cap2im < last)),
            **metrics_of_folds(ranks),
            **data_remarks(split),
        }
    )
    metrics.ranks, metrics.gallery = ranks, describe_gallery(split, last)
    if bootstrap:
        metrics["ci95"] = bootstrap_intervals(ranks, bootstrap, seed)
    return metrics


def data_remarks(split: PreparedSplit) -> dict[str, int]:
    """What a reader of the numbers has to know of the pictures: {"pictures_left_out", "pictures_in_train"}, if above 0.

    Pictures of this split that could not be opened, and pictures that are in train as well (`data.allow_overlap`).
    """
    notes = {name: entry.get("notes") or {} for name, entry in split.meta.get("splits", {}).items()}
    own = notes.get(split.name, {})
    shared = [own.get("overlap", {}).get("train"), notes.get("train", {}).get("overlap", {}).get(split.name)]
    found = {
        "pictures_left_out": len(own.get("left_out") or {}),
        "pictures_in_train": next((number for number in shared if number), 0),
    }
    return {key: number for key, number in found.items() if number}


def model_summary(checkpoint) -> dict:
    """The entry "model" of metrics.json."""
    return {
        **checkpoint.model.summary(),
        "vocabulary_sha256": checkpoint.vocabulary.sha256,
        "backbone": (checkpoint.backbone or {}).get("name"),
    }


def evaluate_grounding(
    checkpoint, split: PreparedSplit, bootstrap: int = 1000, seed: int = 0, progress: bool = True, checks: bool = False
) -> dict | None:
    """`grounding_metrics` of a split with phrases and boxes [N, K, 4], for each caption with its own image.

    checks: adds the maps "prior", "shuffled_w2r", "shuffled_combined", "untrained_w2r" and "untrained_combined" of
    `grounding_checks`, with the same keys, and under "above" the differences to the pointing game of the prior.
    Several processes share the captions, and all of them return the complete result.
    """
    assert split.phrases is not None and split.boxes is not None
    captions = grounded_captions(split.phrases)
    captions = captions[process_share(len(captions))]

    def attentions():
        with tqdm(total=len(captions), desc="attend", unit="caption", disable=not progress) as bar:
            for first in range(0, len(captions), ATTENTIONS):
                chunk = captions[first : first + ATTENTIONS]
                yield from zip(chunk, attend(checkpoint, split, [(int(split.cap2im[c]), c) for c in chunk]))
                bar.update(len(chunk))

    measured = measure_phrases(attentions(), split.phrases, split.boxes, split.object_boxes, split.cap2im)
    if checks:
        add_checks(measured, checkpoint, split, seed, progress)
    return grounding_summary(join(gather_object([measured])), bootstrap, seed)


def pair_kinds(split: PreparedSplit) -> list[str] | None:
    """What differs in each pair of a split of minimal pairs, such as "colour"; None for any other split."""
    return split.meta.get("splits", {}).get(split.name, {}).get("notes", {}).get("kinds")


def add_minimal_pairs(metrics: dict, split: PreparedSplit, joint: np.ndarray, score: Callable) -> None:
    """Adds "pairs" to the metrics: for a split of minimal pairs, or for test if its folder contains such a split.

    joint: scores [N, C] of the split. score: a function that computes the scores of that other split.
    """
    if not pair_kinds(split):
        if split.name != "test" or "pairs" not in list_splits(split.folder):
            return
        split = open_prepared(split.folder, "pairs")
        joint = score(split)
    if not np.array_equal(split.cap2im, np.arange(len(split.ids))):
        raise DataError(
            f"{split.folder}: split {split.name!r} has minimal pairs, so expected one caption for each image, in the "
            "order of images; cap2im has another order. Prepare the data again."
        )
    metrics["pairs"] = pair_metrics(joint, pair_kinds(split) or [])


def nearest(
    scores: np.ndarray, cap2im: np.ndarray, query: int, direction: str, k: int = 5, positives: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k captions or images with the highest scores for one query.

    scores: [N, C]. cap2im: [C]. query: an image row for direction "i2t", a caption row for "t2i". positives:
    [C, N] bool or None. Returns rows [k] (captions for i2t, images for t2i), their scores [k], and whether
    each is right [k].
    """
    _check_direction(direction)
    row = np.asarray(scores[query] if direction == "i2t" else scores[:, query])
    best = np.argsort(-row, kind="stable")[:k]
    if positives is not None:
        right = positives[best, query] if direction == "i2t" else positives[query, best]
    else:
        right = cap2im[best] == query if direction == "i2t" else best == cap2im[query]
    return best, row[best], np.asarray(right, bool)


def failures(
    scores: np.ndarray, cap2im: np.ndarray, direction: str, k: int = 5, positives: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k queries with the worst ranks: their rows [k] and ranks [k], worst first.

    scores: [N, C]. cap2im: [C]. direction: "i2t" (queries are images) or "t2i" (captions). positives: [C, N].
    """
    _check_direction(direction)
    ranks = fold_ranks(scores, cap2im, positives)
    values, queries = (ranks.i2t, ranks.images) if direction == "i2t" else (ranks.t2i, ranks.captions)
    worst = np.argsort(-values, kind="stable")[:k]
    return queries[worst], values[worst]


def _check_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        raise ConfigError(f"Unknown direction {direction!r}. Expected i2t (the query is an image) or t2i (a caption).")


def json_values(value):
    """Converts a value for JSON: numpy to Python, floats to four decimals (small ones to four digits), NaN to null."""
    if isinstance(value, dict):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_values(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        value = float(value)
        if not math.isfinite(value):
            return None
        return round(value, 4) if value == 0 or abs(value) >= 0.1 else float(f"{value:.4g}")
    return int(value) if isinstance(value, np.integer) else value


def write_metrics(metrics: dict, path: Path | str) -> None:
    """Writes metrics as JSON, atomically, and the ranks beside it if `evaluate` returned the metrics.

    Raises RunError.
    """
    path = Path(path)
    text = json.dumps(json_values(metrics), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ranks(metrics, path)
        write_text(path, text)
    except OSError as error:
        raise RunError(
            f"{path}: metrics cannot be written ({error.strerror or error}). Free some space or choose another folder."
        ) from error
