"""Ensembles: averaged scores of several models, measured like those of one model.

Members use the same features; each has its own vocabulary. metrics.json lists the members, because tables separate
ensembles from single models.

Letters: N images, C captions.
"""

import numpy as np

from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import ConfigError
from bssan_lib.evaluation.metrics import add_minimal_pairs, measure_retrieval, model_summary
from bssan_lib.evaluation.records import Metrics, describe_run
from bssan_lib.evaluation.retrieval import CHUNK, protocol_folds, retrieval_metrics
from bssan_lib.evaluation.scoring import Scores, score_split
from bssan_lib.models.checkpoint import check_backbone, check_features


def average_scores(
    checkpoints: list,
    split: PreparedSplit,
    memory: str | int = "1GiB",
    precision: str = "float32",
    progress: bool = True,
) -> Scores:
    """The mean of the scores [N, C] of several `Checkpoint`s. Only one of them at a time is on the device.

    memory: for each member, see `score_model`; larger scores are in temporary files, at most two at a time. w2r and o2w
    are None, because a member may lack them. Raises ConfigError without a member, CheckpointError if a member was
    trained on other features.
    """
    if not checkpoints:
        raise ConfigError("An ensemble needs at least one checkpoint, got none.")
    for checkpoint in checkpoints:
        check_features(checkpoint.model, split)
        check_backbone(checkpoint, split)
    mean: np.ndarray | None = None
    seconds = {"encode": 0.0, "score": 0.0}
    for number, checkpoint in enumerate(checkpoints, 1):
        scores = score_split(checkpoint, split, memory, precision=precision, progress=progress)
        checkpoint.model.cpu()  # frees the GPU for the next member
        seconds = {name: seconds[name] + scores.seconds[name] for name in seconds}
        if mean is None:
            mean = scores.joint
            continue
        step = max(1, CHUNK // mean.shape[1])
        for first in range(0, len(mean), step):
            rows = slice(first, first + step)
            so_far = mean[rows].astype(np.float64)  # float64, so that equal scores keep their value
            mean[rows] = so_far + (scores.joint[rows] - so_far) / number
    assert mean is not None
    return Scores(mean, None, None, seconds)


def evaluate_ensemble(
    checkpoints: list,
    split: PreparedSplit,
    protocol: str = "full",
    bootstrap: int = 1000,
    memory: str | int = "1GiB",
    progress: bool = True,
    seed: int = 0,
    scores: Scores | None = None,
    precision: str = "float32",
) -> Metrics:
    """`metrics.evaluate` for the mean score of several checkpoints: only retrieval, since members differ in attention.

    Parameters as in `metrics.evaluate`. Returns the same keys without "directions", "grounding" and "model"; "ensemble"
    lists the entries of "model" and "run" of each member.
    """
    protocol_folds(len(split.ids), protocol)  # raises errors before scoring starts
    if scores is None:
        scores = average_scores(checkpoints, split, memory, precision, progress)
    metrics = measure_retrieval(scores.joint, split, protocol, bootstrap, seed)
    if split.satisfies is not None:
        metrics["satisfying"] = retrieval_metrics(scores.joint, split.cap2im, split.satisfies, protocol)
    add_minimal_pairs(
        metrics,
        split,
        scores.joint,
        lambda pairs: average_scores(checkpoints, pairs, memory, precision, progress).joint,
    )
    metrics["ensemble"] = [{**model_summary(one), "run": describe_run(one)} for one in checkpoints]
    metrics["seconds"] = dict(scores.seconds)
    return metrics
