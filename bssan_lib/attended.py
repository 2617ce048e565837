"""The cosine of a query with what it attends to, without building what it attends to. Shared by W2R and O2W.

A query x looks at L vectors y_l of its group with similarities s_l = x . y_l:

    weights  a     = softmax_l(lambda s)
    attended z     = sum_l a_l y_l                     never built
    result   x.z / |z| = (a . s) / sqrt(a' G a)        G = Y Y', the Gram matrix of the group

so [G, L, Q] is the largest tensor, where building z needs [G, Q, d]. The backward pass is written out because it is
short: numerator and root are both homogeneous of degree one in a, so the softmax's correction term, sum_l a_l dr/da_l,
is zero, and with r the result

    dr/da = s / sqrt(q) - r G a / q        q = a' G a
    dr/ds = a (1 / sqrt(q) + lambda dr/da)

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
    similarity: Tensor, gram: Tensor, temperature: Tensor, scratch: Scratch, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Result r [G, Q], square q [G, Q], and in scratch memory weights a [G, L, Q] and G a [G, L, Q].

    similarity: s [G, L, Q]. gram: [G, L, L], perhaps narrower than s: then its products with the weights are too.
    temperature: lambda, a scalar. mask: [G, L], True where a vector is real.
    """
    product = torch.mul(similarity, temperature, out=scratch("product", similarity.shape, similarity))
    if mask is not None:
        product.masked_fill_(~mask[:, :, None], float("-inf"))
    weights = torch.softmax(product, dim=1, out=scratch("weights", similarity.shape, similarity))
    result = torch.mul(weights, similarity, out=product).sum(1)
    mixed = _product(gram, weights, scratch, "mixed")
    square = torch.mul(weights, mixed, out=product).sum(1).clamp_min_(SMALLEST_SQUARE)
    return result.mul_(square.rsqrt()), square, weights, mixed


def _product(gram: Tensor, weights: Tensor, scratch: Scratch, name: str) -> Tensor:
    """gram [G, L, L] times weights [G, L, Q] in the dtype of gram, as a scratch tensor in that of weights."""
    wide = scratch(name, weights.shape, weights)
    if gram.dtype == weights.dtype:
        return torch.bmm(gram, weights, out=wide)
    narrow = scratch("narrow weights", weights.shape, gram).copy_(weights)
    return wide.copy_(torch.bmm(gram, narrow, out=scratch("narrow product", weights.shape, gram)))


def attend_backward(
    gradient: Tensor, similarity: Tensor, gram: Tensor, temperature: Tensor, scratch: Scratch, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in similarity [G, L, Q] (in scratch memory), gram [G, L, L] and temperature; and the result r [G, Q].

    gradient: of the result, [G, Q]. The weights are made again: that costs less than keeping them.
    """
    result, square, weights, mixed = attend(similarity, gram, temperature, scratch, mask)
    over_dot = (gradient * square.rsqrt())[:, None]  # d loss / d (a . s)
    pull = (gradient * result / square)[:, None]
    over_weights = torch.mul(similarity, over_dot, out=scratch("slope", similarity.shape, similarity))
    over_weights.sub_(mixed.mul_(pull))
    # a logit moves by lambda ds: its gradient is a over_weights, the softmax's correction being zero
    over_logits = over_weights.mul_(weights)
    over_temperature = torch.dot(over_logits.flatten(), similarity.flatten())
    pulled, other = torch.mul(weights, pull, out=mixed), weights
    if gram.dtype != weights.dtype:
        pulled, other = (scratch(name, weights.shape, gram).copy_(part) for name, part in (
            ("narrow weights", pulled), ("narrow product", weights)))
    over_gram = torch.bmm(pulled, other.transpose(1, 2)).mul_(-0.5)
    over_similarity = over_logits.mul_(temperature).add_(weights.mul_(over_dot))
    return over_similarity, over_gram, over_temperature, result


class _AttendedCosine(torch.autograd.Function):
    @staticmethod
    def forward(context, similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None):
        result, _, weights, _ = attend(similarity, gram, temperature, Scratch(), mask)
        context.save_for_backward(similarity, gram, temperature, mask)
        context.mark_non_differentiable(weights)
        return result, weights

    @staticmethod
    def backward(context, gradient: Tensor, _):
        similarity, gram, temperature, mask = context.saved_tensors
        return *attend_backward(gradient, similarity, gram, temperature, Scratch(), mask)[:3], None


def attended_cosine(
    similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x . z / |z| for every query, and the weights; divide by |x| for the cosine.

    similarity: s [G, L, Q], in float32 whatever the precision of its product. gram: [G, L, L]. temperature: lambda, a
    scalar tensor. mask: [G, L], True where a vector is real; None: all are.
    Returns the result [G, Q], differentiable, and the weights [G, L, Q], which sum to one over L and carry no
    gradient: they are for looking at.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        wide = torch.promote_types(similarity.dtype, torch.float32)
        return _AttendedCosine.apply(similarity.to(wide).contiguous(), gram.to(wide), temperature.to(wide), mask)
