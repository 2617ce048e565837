"""The six checks. The numbers are those of notebooks 02 and 03: lambda = 5 ln 2, so that e^(lambda s) = 2^(5 s).

Image 0 has the regions east, (0.6, 0.8) and north; image 1 has east three times. Caption 0 is "east north", caption 1
is "north" with padding, caption 2 is "east east".

Letters: B images, C captions, K regions, M objects, T words, d joint size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bssan_lib.exercises.compare import call, check_gradients, compare

LAMBDA = 5 * math.log(2)
EAST, NORTH, BETWEEN = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
REGIONS = torch.tensor([[EAST, BETWEEN, NORTH], [EAST, EAST, EAST]])  # [B, K, d]
PADDING = [-0.6, 0.8]  # not zero, because the result must not depend on padding
WORDS = torch.tensor([[EAST, NORTH], [NORTH, PADDING], [EAST, EAST]])  # [C, T, d]
LENGTHS = torch.tensor([2, 1, 2])
# The affinity of image 0 and 1 with caption 0 [B, K, T], by hand.
AFFINITY = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [[1.0, 0.0]] * 3])
# 2^5, 2^3, 2^0 of 41 and 2^0, 2^4, 2^5 of 49; all equal for image 1.
W2R_WEIGHTS = torch.tensor([[[32 / 41, 1 / 49], [8 / 41, 16 / 49], [1 / 41, 32 / 49]], [[1 / 3, 1 / 3]] * 3])
_EAST_SEEN, _NORTH_SEEN = 36.8 / math.hypot(36.8, 7.4), 44.8 / math.hypot(10.6, 44.8)
W2R = torch.tensor([[(_EAST_SEEN + _NORTH_SEEN) / 2, _NORTH_SEEN, _EAST_SEEN], [0.5, 0.0, 1.0]])
_OUTER, _MIDDLE = (
    32 / math.sqrt(1025),
    2.2 / math.sqrt(5),
)  # cosines of east or north, and of (0.6, 0.8), with their attended vectors
O2W = torch.tensor([[(2 * _OUTER + _MIDDLE) / 3, 1.8 / 3, 1.6 / 3], [_OUTER, 0.0, 1.0]])


def check_affinity(student: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The dot product of each region with each word. Raises ExerciseError for a wrong result."""
    words = WORDS * torch.tensor([1.0, 1.0, 2.0])[:, None, None]  # the last caption's words have length two
    product = torch.einsum("bkd,ctd->bkct", REGIONS, words)
    torch.testing.assert_close(product[:, :, 0], AFFINITY)
    compare(
        "affinity",
        call("affinity", student, REGIONS, words),
        product,
        "B, K, C, T",
        {
            "the axes are in the order captions, words, images, regions; they should be images, regions, captions, words.": (
                product.permute(2, 3, 0, 1)
            ),
            "the axes are in the order images, captions, regions, words; they should be images, regions, captions, words.": (
                product.transpose(1, 2)
            ),
            "you computed cosines; the affinity is the dot product, without a division by lengths.": (
                product / words.norm(dim=-1)
            ),
            "you divided by the root of d, as in transformers; here lambda takes this role, in the weights.": (
                product / math.sqrt(2)
            ),
        },
    )
    _right("affinity")


def check_w2r_weights(student: Callable[[Tensor, float], Tensor]) -> None:
    """A softmax over the regions, for each word. Raises ExerciseError for a wrong result."""
    similarity = torch.einsum("bkd,ctd->bkct", REGIONS, WORDS)
    scaled = LAMBDA * similarity
    right = scaled.exp() / scaled.exp().sum(1, keepdim=True)
    torch.testing.assert_close(right[:, :, 0], W2R_WEIGHTS)
    over = "your weights sum to one over {}; they should sum to one over regions (axis 1)."
    compare(
        "w2r_weights",
        call("w2r_weights", student, similarity, LAMBDA),
        right,
        "B, K, C, T",
        {
            over.format("words"): torch.softmax(scaled, 3),
            over.format("captions"): torch.softmax(scaled, 2),
            over.format("images"): torch.softmax(scaled, 0),
            "lambda is missing: multiply the similarities by it before the softmax.": torch.softmax(similarity, 1),
            "you divided by lambda; it is the inverse temperature, so multiply.": torch.softmax(similarity / LAMBDA, 1),
            "your weights do not sum to one: divide the exponentials by their sum over regions.": scaled.exp(),
            "you normalised the similarities without the exponential function.": (
                similarity / similarity.sum(1, keepdim=True)
            ),
        },
    )
    _right("w2r_weights")


def check_w2r_score(student: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """The mean cosine of the words with their attended vectors. Raises ExerciseError for a wrong result."""
    real = torch.arange(2) < LENGTHS[:, None]  # [C, T]
    similarity = torch.einsum("bkd,ctd->bkct", REGIONS, WORDS)
    attended = torch.einsum("bkct,bkd->bctd", torch.softmax(LAMBDA * similarity, 1), REGIONS)
    product = (attended * WORDS).sum(-1)  # [B, C, T]
    cosine = product / attended.norm(dim=-1)
    compare(
        "w2r_score",
        call("w2r_score", student, REGIONS, WORDS, LENGTHS, LAMBDA),
        W2R,
        "B, C",
        {
            "the axes are in the order captions, images; they should be images, captions.": W2R.T,
            "your mean includes padding: use the lengths to leave it out.": cosine.mean(-1),
            "you divide by the padded length T; divide by the number of real words.": (cosine * real).sum(-1) / 2,
            "you added the cosines up; the score is their mean over the real words.": (cosine * real).sum(-1),
            "you took dot products; divide by the length of the attended vector.": (product * real).sum(-1) / LENGTHS,
            "you took each word's best region; use the attended vector, the weighted sum of all regions.": (
                (similarity.amax(1) * real).sum(-1) / LENGTHS
            ),
        },
    )
    _scaled("w2r_score", student, REGIONS, 3 * WORDS, LENGTHS, LAMBDA / 3, W2R)
    check_gradients("w2r_score", student, REGIONS, WORDS, LENGTHS, LAMBDA)
    _right("w2r_score")


def check_o2w_score(student: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """The mean cosine of the objects with their attended vectors. Raises ExerciseError for a wrong result."""
    padded = ~(torch.arange(2) < LENGTHS[:, None])[:, :, None, None]  # [C, T, 1, 1]
    scaled = LAMBDA * torch.einsum("ctd,bmd->ctbm", WORDS, REGIONS)
    masked = scaled.masked_fill(padded, -torch.inf)

    def scores(weights: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and dot products [B, C, M] of the objects with their attended vectors."""
        attended = torch.einsum("ctbm,ctd->bcmd", weights, WORDS)
        product = (attended * REGIONS[:, None]).sum(-1)
        return product / attended.norm(dim=-1).clamp_min(1e-6), product

    cosine, product = scores(torch.softmax(masked, 1))
    over_objects = torch.softmax(scaled, 3).masked_fill(padded, 0)
    compare(
        "o2w_score",
        call("o2w_score", student, REGIONS, WORDS, LENGTHS, LAMBDA),
        O2W,
        "B, C",
        {
            "the axes are in the order captions, images; they should be images, captions.": O2W.T,
            "your softmax includes padding: set its similarities to minus infinity before.": (
                scores(torch.softmax(scaled, 1))[0].mean(-1)
            ),
            "your weights sum to one over objects; each object's should sum to one over words.": (
                scores(over_objects)[0].mean(-1)
            ),
            "your weights sum to one over objects, padding included; each object's should sum to one over words.": (
                scores(torch.softmax(scaled, 3))[0].mean(-1)
            ),
            "you added the cosines up; the score is their mean over the objects.": cosine.sum(-1),
            "you took dot products; divide by the length of the attended vector.": product.mean(-1),
            "this is the W2R score: here the objects attend, and the mean runs over objects.": W2R,
        },
    )
    _scaled("o2w_score", student, 3 * REGIONS, WORDS, LENGTHS, LAMBDA / 3, O2W)
    check_gradients("o2w_score", student, REGIONS, WORDS, LENGTHS, LAMBDA)
    _right("o2w_score")


def check_joint_score(student: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """g w2r + (1 - g) o2w. Raises ExerciseError for a wrong result."""
    w2r, o2w, gate = torch.tensor([[0.8, 0.4, 0.0]]), torch.tensor([[0.4, 0.0, 1.0]]), 0.75
    right = torch.tensor([[0.7, 0.3, 0.25]])  # 0.6 + 0.1, 0.3 + 0, 0 + 0.25
    compare(
        "joint_score",
        call("joint_score", student, w2r, o2w, gate),
        right,
        "B, C",
        {
            "the gate is the share of W2R; you used it for O2W.": (1 - gate) * w2r + gate * o2w,
            "the two scores are added without the gate.": w2r + o2w,
            "this is the plain mean; the gate weighs the two directions.": (w2r + o2w) / 2,
            "O2W has no weight; it is 1 - gate.": gate * w2r + o2w,
            "you applied a sigmoid to the gate; it is already a share from 0 to 1.": torch.lerp(
                o2w, w2r, torch.tensor(gate).sigmoid()
            ),
        },
    )
    _right("joint_score")


def check_contrastive_loss(student: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """The mean cross-entropy of finding the caption of each image and the image of each caption.

    Pairs 0 and 2 have the same image, so (0, 2) and (2, 0) are neither right nor wrong. lambda is ln 2, so
    e^(lambda s) = 2^s. Images: 4 of 4 + 1, 8 of 2 + 8 + 1, 2 of 2 + 2. Captions: 4 of 4 + 2, 8 of 1 + 8 + 2, 2 of 1 +
    2. Raises ExerciseError for a wrong result.
    """
    scores = torch.tensor([[2.0, 0.0, 5.0], [1.0, 3.0, 0.0], [4.0, 1.0, 1.0]])
    rows, lam = torch.tensor([0, 1, 0]), math.log(2)
    images = torch.tensor([5 / 4, 11 / 8, 2.0]).log()
    captions = torch.tensor([3 / 2, 11 / 8, 3 / 2]).log()
    same = (rows[:, None] == rows) & ~torch.eye(3, dtype=torch.bool)

    def loss(logits: Tensor) -> Tensor:
        return -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2

    right = (images.mean() + captions.mean()) / 2
    compare(
        "contrastive_loss",
        call("contrastive_loss", student, scores, rows, lam),
        right,
        "",
        {
            "only one direction: you find the caption of each image. Add the image of each caption.": images.mean(),
            "only one direction: you find the image of each caption. Add the caption of each image.": captions.mean(),
            "another caption of the same image counts as wrong; leave these pairs out.": loss(lam * scores),
            "both directions are added; take their mean.": 2 * right,
            "you added the pairs up; take their mean.": 3 * right,
            "the sign is wrong: the loss is the negative logarithm.": -right,
            "lambda is missing: multiply the scores by it.": loss(scores.masked_fill(same, -torch.inf)),
            "you divided by lambda; it is the inverse temperature, so multiply.": (
                loss((scores / lam).masked_fill(same, -torch.inf))
            ),
        },
    )
    _right("contrastive_loss")


def _scaled(name: str, student: Callable, *inputs) -> None:
    """Checks that queries three times as long, with lambda / 3, have the same score: it is a cosine."""
    *arguments, right = inputs
    longer = call(name, student, *arguments)
    mistakes = {"divide by the length of the query too: a cosine does not depend on it.": 3 * right}
    compare(name, longer, right, "B, C", mistakes)


def _right(name: str) -> None:
    print(f"{name}: right.")
