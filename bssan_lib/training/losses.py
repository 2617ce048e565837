"""Ranking losses over a batch of matching pairs. Notebook 04.

A batch holds B pairs; pair i is image i with caption i, so the right answers are on the diagonal of the score
matrix. All other cells are negatives, except pairs of an image with another caption of the same photograph.

Letters: B pairs.
"""

import torch
from torch import Tensor

from bssan_lib.config import TrainingConfig
from bssan_lib.models.codes import PairScores


def negatives(image_rows: Tensor) -> Tensor:
    """Which cells of the score matrix are wrong pairs.

    image_rows: [B], the photograph of each pair. Returns [B, B] bool: False where image i and caption j come from
    the same photograph, the diagonal included.
    """
    return image_rows[:, None] != image_rows[None, :]


def hinge_loss(scores: Tensor, negative: Tensor, margin: float, hardest: bool) -> Tensor:
    """Bidirectional hinge ranking loss, a mean over the B pairs.

        sum over wrong captions c of [margin - S(i, i) + S(i, c)]_+   and the same over wrong images,

    or only the largest term of each sum when `hardest` (VSE++, Faghri et al., BMVC 2018, arXiv 1707.05612).
    If only the hardest negatives count from the first step, training collapses to a loss of 2 x margin. Therefore the
    first epochs use all negatives.

    scores: [B, B], images along rows. negative: [B, B] from `negatives`. Returns a scalar. With all negatives,
    each sum is divided by the number of negatives, so that both forms have the same scale.
    """
    right = scores.diagonal()
    over_captions = (margin - right[:, None] + scores).clamp_min(0).masked_fill(~negative, 0)
    over_images = (margin - right[None, :] + scores).clamp_min(0).masked_fill(~negative, 0)
    if hardest:
        return over_captions.amax(1).mean() + over_images.amax(0).mean()
    per_pair = negative.sum(1).clamp_min(1)
    return (over_captions.sum(1) / per_pair).mean() + (over_images.sum(0) / per_pair).mean()


def infonce_loss(scores: Tensor, negative: Tensor, inverse_temperature: float | Tensor) -> Tensor:
    """Symmetric contrastive loss: the cross-entropy of finding the right caption, and the right image, in the batch.

    scores: [B, B], images along rows. negative: [B, B] from `negatives`; other captions of the same photograph are
    left out of the sum. Returns a scalar, the mean of both directions, in nats
    (van den Oord et al., arXiv 1807.03748).
    """
    kept = negative | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    logits = (inverse_temperature * scores).masked_fill(~kept, float("-inf"))
    target = torch.arange(len(scores), device=scores.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def ranking_loss(scores: Tensor, negative: Tensor, epoch: int, training: TrainingConfig) -> Tensor:
    """The loss chosen by `training.loss`. scores: [B, B]; negative: [B, B] from `negatives`; epoch counts from 1."""
    if training.loss == "infonce":
        return infonce_loss(scores, negative, training.inverse_temperature)
    hardest = epoch > training.warmup_epochs_all_negatives
    return hinge_loss(scores, negative, training.margin, hardest)


def batch_loss(pairs: PairScores, image_rows: Tensor, epoch: int, training: TrainingConfig, direction: str) -> Tensor:
    """The ranking loss of the joint score and, with a weight, the losses of both directions.

    pairs: scores [B, B]. image_rows: [B]. direction: of the model. A model with one direction has a single loss. With
    its own loss, each direction learns to rank alone.
    """
    negative = negatives(image_rows)
    loss = ranking_loss(pairs.joint, negative, epoch, training)
    if direction != "joint" or training.direction_weight == 0 or pairs.w2r is None or pairs.o2w is None:
        return loss
    own = sum(ranking_loss(scores, negative, epoch, training) for scores in (pairs.w2r, pairs.o2w))
    return (loss + training.direction_weight * own) / (1 + 2 * training.direction_weight)
