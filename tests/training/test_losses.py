"""Ranking losses: numbers worked by hand, and naive loops over every cell.

Letters: B pairs.
"""

import math

import pytest
import torch

from bssan_lib.config import TrainingConfig
from bssan_lib.models.codes import PairScores
from bssan_lib.training.losses import batch_loss, hinge_loss, infonce_loss, negatives

BY_HAND = torch.tensor([[0.80, 0.70, 0.10], [0.30, 0.60, 0.50], [0.20, 0.75, 0.90]], dtype=torch.float64)
ALL_THREE = torch.tensor([0, 1, 2])
IMAGES = {
    "all different": [0, 1, 2, 3, 4, 5, 6],
    "an image twice": [3, 1, 3, 0, 2, 5, 4],
    "two images three times": [8, 2, 2, 8, 2, 8, 5],
    "one image": [4, 4, 4, 4, 4, 4, 4],
}


def some_scores(seed=0, size=7):
    return torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hinge_by_loops(scores, images, margin, hardest):
    total, size = 0.0, len(images)
    for i in range(size):
        wrong = [j for j in range(size) if images[j] != images[i]]
        captions = [max(0.0, margin - float(scores[i, i]) + float(scores[i, j])) for j in wrong]
        pictures = [max(0.0, margin - float(scores[i, i]) + float(scores[j, i])) for j in wrong]
        for terms in (captions, pictures):
            if terms:
                total += max(terms) if hardest else sum(terms) / len(terms)
    return total / size


def infonce_by_loops(scores, images, inverse_temperature):
    total, size = 0.0, len(images)
    for i in range(size):
        kept = [j for j in range(size) if j == i or images[j] != images[i]]
        right = math.exp(inverse_temperature * float(scores[i, i]))
        for cells in ([scores[i, j] for j in kept], [scores[j, i] for j in kept]):
            total -= math.log(right / sum(math.exp(inverse_temperature * float(cell)) for cell in cells))
    return total / size / 2


def test_hinge_by_hand():
    # over captions, by rows:   0.2 - 0.8 + 0.7 = 0.1   |  0.2 - 0.6 + 0.5 = 0.1  |  0.2 - 0.9 + 0.75 = 0.05
    # over images, by columns:  0                       |  0.3 and 0.35           |  0
    negative = negatives(ALL_THREE)
    everything = (0.1 + 0.1 + 0.05) / 2 / 3 + (0.3 + 0.35) / 2 / 3
    largest = (0.1 + 0.1 + 0.05) / 3 + 0.35 / 3
    assert hinge_loss(BY_HAND, negative, 0.2, hardest=False).item() == pytest.approx(everything) == pytest.approx(0.15)
    assert hinge_loss(BY_HAND, negative, 0.2, hardest=True).item() == pytest.approx(largest) == pytest.approx(0.2)


def test_infonce_by_hand():
    # rows and columns alike: the right one has 3 of 4, then 1 of 2
    scores = torch.tensor([[math.log(3) / 5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    loss = infonce_loss(scores, negatives(torch.tensor([0, 1])), 5.0)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("hardest", [False, True])
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
def test_hinge_agrees_with_loops(images, hardest, margin):
    scores = some_scores()
    loss = hinge_loss(scores, negatives(torch.tensor(images)), margin, hardest).item()
    counts = [sum(other != image for other in images) for image in images]
    assert loss == pytest.approx(hinge_by_loops(scores, images, margin, hardest), abs=1e-12)
    assert (loss > 0) == any(counts)


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("inverse_temperature", [1.0, 20.0])
def test_infonce_agrees_with_loops(images, inverse_temperature):
    scores = some_scores(3)
    loss = infonce_loss(scores, negatives(torch.tensor(images)), inverse_temperature).item()
    assert loss == pytest.approx(infonce_by_loops(scores, images, inverse_temperature), abs=1e-12)


def test_the_same_image_twice_is_no_negative_of_itself():
    negative = negatives(torch.tensor([5, 2, 5]))
    assert negative.tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    calm = torch.tensor([[0.9, 0.0, 0.9], [0.0, 0.9, 0.0], [0.9, 0.0, 0.9]])
    for hardest in (False, True):
        assert hinge_loss(calm, negative, 0.2, hardest) == 0
        assert hinge_loss(calm, negatives(ALL_THREE), 0.2, hardest) > 0.1  # as if they were strangers
    scores = calm.clone().requires_grad_()
    (hinge_loss(scores, negative, 2.0, True) + infonce_loss(scores, negative, 3.0)).backward()
    assert scores.grad[0, 2] == scores.grad[2, 0] == 0 and scores.grad[0, 1] != 0


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.7])
def test_constant_scores_cost_two_margins(value):
    for hardest in (False, True):
        loss = hinge_loss(torch.full((5, 5), value), negatives(torch.arange(5)), 0.2, hardest)
        assert loss.item() == pytest.approx(0.4)
    assert infonce_loss(torch.full((5, 5), value), negatives(torch.arange(5)), 20.0).item() == pytest.approx(
        math.log(5)
    )


def test_rows_and_columns_count_alike():
    scores, negative = some_scores(5), negatives(torch.tensor(IMAGES["an image twice"]))
    losses = [
        lambda s: hinge_loss(s, negative, 0.2, True),
        lambda s: hinge_loss(s, negative, 0.2, False),
        lambda s: infonce_loss(s, negative, 9.0),
    ]
    for loss in losses:
        assert loss(scores).item() == pytest.approx(loss(scores.T).item())
        assert loss(scores + 0.3).item() == pytest.approx(loss(scores).item())  # only differences matter


def test_the_hardest_costs_at_least_the_mean():
    negative = negatives(torch.arange(7))
    for seed in range(11):
        scores = some_scores(seed)
        assert hinge_loss(scores, negative, 0.2, True) >= hinge_loss(scores, negative, 0.2, False)


def test_gradients():
    negative = negatives(torch.tensor(IMAGES["two images three times"]))
    scores = some_scores(2).requires_grad_()
    for loss in (lambda s: hinge_loss(s, negative, 0.2, False), lambda s: infonce_loss(s, negative, 7.0)):
        assert torch.autograd.gradcheck(loss, scores)


@pytest.mark.parametrize("w2r, o2w", [(None, None), (BY_HAND, None), (None, BY_HAND)])
def test_a_method_without_both_directions_has_the_loss_of_its_score(w2r, o2w):
    """Whatever weight each direction's own loss would have."""
    training = TrainingConfig(direction_weight=0.7, warmup_epochs_all_negatives=0)
    loss = batch_loss(PairScores(BY_HAND, w2r, o2w), ALL_THREE, 1, training, "joint")
    assert loss == hinge_loss(BY_HAND, negatives(ALL_THREE), 0.2, hardest=True)
    both = batch_loss(PairScores(BY_HAND, BY_HAND.T, BY_HAND**2), ALL_THREE, 1, training, "joint")
    assert both != loss, "where both are there, they count"


def test_each_direction_has_its_share_by_hand():
    """(joint + w (W2R + O2W)) / (1 + 2 w), with hardest negatives only after the warm-up, and InfoNCE in all epochs."""
    negative, pairs = negatives(ALL_THREE), PairScores(BY_HAND, BY_HAND.T * 0.5, BY_HAND**2)
    for weight in (0.7, 1.0):
        for loss, epoch, one in (
            ("hinge", 2, lambda scores: hinge_loss(scores, negative, 0.2, hardest=False)),
            ("hinge", 3, lambda scores: hinge_loss(scores, negative, 0.2, hardest=True)),
            ("infonce", 3, lambda scores: infonce_loss(scores, negative, 20.0)),
        ):
            training = TrainingConfig(
                loss=loss, direction_weight=weight, warmup_epochs_all_negatives=2, margin=0.2, inverse_temperature=20.0
            )
            joint, w2r, o2w = (one(scores).item() for scores in (pairs.joint, pairs.w2r, pairs.o2w))
            found = batch_loss(pairs, ALL_THREE, epoch, training, "joint").item()
            assert found == pytest.approx((joint + weight * (w2r + o2w)) / (1 + 2 * weight))
            assert batch_loss(pairs, ALL_THREE, epoch, training, "w2r").item() == pytest.approx(joint)
            assert len({round(value, 6) for value in (joint, w2r, o2w)}) == 3


def test_one_negative_is_divided_by_one():
    scores = torch.tensor([[0.8, 0.7], [0.3, 0.6]])
    negative = negatives(torch.tensor([0, 1]))
    assert hinge_loss(scores, negative, 0.2, False).item() == pytest.approx(
        hinge_loss(scores, negative, 0.2, True).item()
    )
    assert hinge_loss(scores, negative, 0.2, False).item() > 0
