"""The cosine of a query with what it attends to, without building what it attends to. Shared by W2R and O2W.

A query x looks at L vectors y_l of its group with similarities s_l = x . y_l:

    weights  a     = softmax_l(lambda s)
    attended z     = sum_l a_l y_l                     never built
    result   x.z / |z| = (a . s) / sqrt(a' G a)        G = Y Y', the Gram matrix of the group

so [G, L, Q] is the largest tensor, where building z needs [G, Q, d]. Numerator and root are both homogeneous of degree
one in a: a factor common to a query's weights changes nothing, so the softmax need not divide by its sum, and its
correction term in the backward pass, sum_l a_l dr/da_l, is zero. That makes the latter short enough to write out; with
r the result

    dr/da = s / sqrt(q) - r G a / q        q = a' G a
    dr/ds = a (1 / sqrt(q) + lambda dr/da)

Other methods make their weights of something else than s, a = softmax_l(lambda p) with logits p of their own; then

    dr/dp = lambda a dr/da                 dr/ds = a / sqrt(q)

Letters: G groups, L attended vectors of a group, Q queries.
"""

import math

import torch
from torch import Tensor

SMALLEST_SQUARE = 1e-12  # inside a root, so that a vector of zeros has a gradient of zero and not of NaN


class Scratch:
    """Named tensors that are used again and again: a fresh one for every tile would cost more than what is computed."""

    def __init__(self):
        self.kept: dict[str, Tensor] = {}

    def __call__(self, name: str, shape, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous tensor of this shape with anything in it, on the device of `like` and of its dtype or `dtype`."""
        dtype, numbers = dtype or like.dtype, math.prod(shape)
        kept = self.kept.get(name)
        if kept is None or kept.numel() < numbers or kept.dtype != dtype:
            kept = self.kept[name] = torch.empty(numbers, dtype=dtype, device=like.device)
        return kept[:numbers].view(shape)


def attend(
    similarity: Tensor, gram: Tensor, temperature: Tensor, scratch: Scratch, mask: Tensor | None = None,
    logits: Tensor | None = None, spent: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Result r [G, Q], square q [G, Q], and in scratch memory weights a [G, L, Q] and G a [G, L, Q].

    similarity: s [G, L, Q]. gram: [G, L, L], perhaps narrower than s: then its products with the weights are too.
    temperature: lambda, a scalar. mask: [G, L], True where a vector is real. logits: p [G, L, Q]; None: s. spent: s and
    G a are not needed any more, so that their memory may be used for what comes between.
    The weights are those of the softmax times some factor for each query, as square is then times its square.
    """
    weights = _weights(similarity if logits is None else logits, temperature, scratch, mask)
    between = similarity if spent else scratch("between", similarity.shape, similarity)
    result = torch.mul(weights, similarity, out=between).sum(1)
    mixed = _product(gram, weights, scratch, between if spent else scratch("mixed", weights.shape, weights))
    square = torch.mul(weights, mixed, out=between).sum(1).clamp_min_(SMALLEST_SQUARE)
    return result.mul_(square.rsqrt()), square, weights, mixed


def _weights(logits: Tensor, temperature: Tensor, scratch: Scratch, mask: Tensor | None) -> Tensor:
    """softmax(lambda p) over L times some factor for each query, as a scratch tensor [G, L, Q]."""
    weights = scratch("weights", logits.shape, logits)
    if logits.device.type != "cpu":
        heated = torch.mul(logits, temperature, out=weights)
        heated = heated if mask is None else heated.masked_fill_(~mask[:, :, None], float("-inf"))
        return torch.softmax(heated, dim=1, out=weights)
    # Without the division, and in powers of two of a whole tensor, a processor makes them faster than its softmax does.
    # Less the greatest logit nothing overflows, and the greatest weight is one.
    real = logits if mask is None else weights.copy_(logits).masked_fill_(~mask[:, :, None], float("-inf"))
    below = torch.sub(real, real.amax(1, keepdim=True), out=weights)
    return below.mul_(temperature / math.log(2)).exp2_()


def _product(gram: Tensor, weights: Tensor, scratch: Scratch, wide: Tensor) -> Tensor:
    """gram [G, L, L] times weights [G, L, Q] in the dtype of gram, written to `wide` in that of weights."""
    if gram.dtype == weights.dtype:
        return torch.bmm(gram, weights, out=wide)
    narrow = scratch("narrow weights", weights.shape, gram).copy_(weights)
    return wide.copy_(torch.bmm(gram, narrow, out=scratch("narrow product", weights.shape, gram)))


def attend_backward(
    gradient: Tensor, similarity: Tensor, gram: Tensor, temperature: Tensor, scratch: Scratch, mask: Tensor | None = None,
    logits: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients in similarity [G, L, Q], gram [G, L, L] and temperature; the result r [G, Q]; the gradient in logits.

    gradient: of the result, [G, Q]. logits: as in `attend`; without them the last is None. Gradients [G, L, Q] lie in
    scratch memory. The weights are made again: that costs less than keeping them.
    """
    result, square, weights, mixed = attend(similarity, gram, temperature, scratch, mask, logits)
    over_dot = (gradient * square.rsqrt())[:, None]  # d loss / d (a . s)
    pull = (gradient * result / square)[:, None]
    # lambda d loss / d a, by the small factors first: each pass over [G, L, Q] that is saved counts
    slope = torch.mul(similarity, over_dot * temperature, out=scratch("slope", similarity.shape, similarity))
    slope.addcmul_(mixed, pull * temperature, value=-1)
    over_logits = slope.mul_(weights)  # the softmax's correction being zero
    source = similarity if logits is None else logits
    over_temperature = torch.dot(over_logits.flatten(), source.flatten()) / temperature
    pulled, other = torch.mul(weights, pull, out=mixed), weights
    if gram.dtype != weights.dtype:
        pulled, other = (scratch(name, weights.shape, gram).copy_(part) for name, part in (
            ("narrow weights", pulled), ("narrow product", weights)))
    over_gram = torch.bmm(pulled, other.transpose(1, 2)).mul_(-0.5)
    if logits is None:
        return over_logits.addcmul_(weights, over_dot), over_gram, over_temperature, result, None
    return weights.mul_(over_dot), over_gram, over_temperature, result, over_logits


class _AttendedCosine(torch.autograd.Function):
    @staticmethod
    def forward(context, similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None, logits: Tensor | None):
        result, _, weights, _ = attend(similarity, gram, temperature, Scratch(), mask, logits)
        weights = weights / weights.sum(1, keepdim=True)
        context.save_for_backward(similarity, gram, temperature, mask, logits)
        context.mark_non_differentiable(weights)
        return result, weights

    @staticmethod
    def backward(context, gradient: Tensor, _):
        similarity, gram, temperature, mask, logits = context.saved_tensors
        *over, _, over_logits = attend_backward(gradient, similarity, gram, temperature, Scratch(), mask, logits)
        return *over, None, over_logits


def attended_cosine(
    similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None = None, logits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x . z / |z| for every query, and the weights; divide by |x| for the cosine.

    similarity: s [G, L, Q], in float32 whatever the precision of its product. gram: [G, L, L]. temperature: lambda, a
    scalar tensor. mask: [G, L], True where a vector is real; None: all are. logits: p [G, L, Q] that the weights are
    made of; None: s itself.
    Returns the result [G, Q], differentiable, and the weights [G, L, Q], which sum to one over L and carry no
    gradient: they are for looking at.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        wide = torch.promote_types(similarity.dtype, torch.float32)
        logits = None if logits is None else logits.to(wide).contiguous()
        return _AttendedCosine.apply(similarity.to(wide).contiguous(), gram.to(wide), temperature.to(wide), mask, logits)
