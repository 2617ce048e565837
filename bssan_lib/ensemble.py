"""Several models as one: the mean of their scores, measured as one model is.

The field's ensembles are this: two models' scores of an image and a caption, averaged. Each member reads captions with
a vocabulary of its own; all read the same features. A row of a table that holds an ensemble stands apart from single
models, so metrics.json names the members.

Letters: N images, C captions.
"""

import numpy as np

from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import ConfigError
from bssan_lib.evaluation import add_pairs, model_summary, retrieval_of
from bssan_lib.records import Metrics, describe_run
from bssan_lib.retrieval import CHUNK, evaluate_protocol, protocol_folds
from bssan_lib.scoring import Scores, check_backbone, check_features, score_split


def average_scores(
    checkpoints: list, split: PreparedSplit, memory: str | int = "1GiB", precision: str = "float32",
    progress: bool = True,
) -> Scores:
    """The mean of the scores [N, C] of several `Checkpoint`s; one after another is on the device.

    memory: the budget of each; beyond it scores lie in files, two members' at a time at most, and are averaged in
    blocks of rows. w2r and o2w are None: what the members have in common is the score. Raises ConfigError without a
    member, CheckpointError where features are not those that a member was trained on.
    """
    if not checkpoints:
        raise ConfigError("An ensemble needs at least one checkpoint, got none.")
    for checkpoint in checkpoints:
        check_features(checkpoint.model, split)
        check_backbone(checkpoint, split)
    mean, seconds = None, {"encode": 0.0, "score": 0.0}
    for number, checkpoint in enumerate(checkpoints, 1):
        scores = score_split(checkpoint, split, memory, precision=precision, progress=progress)
        checkpoint.model.cpu()  # makes room for the next
        seconds = {name: seconds[name] + scores.seconds[name] for name in seconds}
        if mean is None:
            mean = scores.joint
            continue
        step = max(1, CHUNK // mean.shape[1])
        for first in range(0, len(mean), step):
            rows = slice(first, first + step)
            so_far = mean[rows].astype(np.float64)  # float64, so that equal scores keep their value
            mean[rows] = so_far + (scores.joint[rows] - so_far) / number
    return Scores(mean, None, None, seconds)


def evaluate_ensemble(
    checkpoints: list, split: PreparedSplit, protocol: str = "full", bootstrap: int = 1000,
    memory: str | int = "1GiB", progress: bool = True, seed: int = 0, scores: Scores | None = None,
    precision: str = "float32",
) -> Metrics:
    """`evaluation.evaluate` of several checkpoints' mean score: retrieval alone, since attention is a member's own.

    Parameters as there. Returns the keys of metrics.json without "directions", "grounding" and "model"; instead
    "ensemble" has for each member what "model" and "run" say of a single one.
    """
    protocol_folds(len(split.ids), protocol)  # refused before anything is scored
    if scores is None:
        scores = average_scores(checkpoints, split, memory, precision, progress)
    metrics = retrieval_of(scores.joint, split, protocol, bootstrap, seed)
    if split.satisfies is not None:
        metrics["satisfying"] = evaluate_protocol(scores.joint, split.cap2im, protocol, split.satisfies)
    add_pairs(metrics, split, scores.joint,
              lambda pairs: average_scores(checkpoints, pairs, memory, precision, progress).joint)
    metrics["ensemble"] = [{**model_summary(one), "run": describe_run(one)} for one in checkpoints]
    metrics["seconds"] = dict(scores.seconds)
    return metrics
