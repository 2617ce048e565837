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

import torch
from torch import Tensor

SMALLEST_SQUARE = 1e-12  # inside a root, so that a vector of zeros has a gradient of zero and not of NaN


class _AttendedCosine(torch.autograd.Function):
    @staticmethod
    def forward(context, similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None):
        logits = temperature * similarity
        if mask is not None:
            logits.masked_fill_(~mask[:, :, None], float("-inf"))
        weights = torch.softmax(logits, dim=1)
        mixed = torch.bmm(gram, weights)
        square = (weights * mixed).sum(1).clamp_min_(SMALLEST_SQUARE)
        result = (weights * similarity).sum(1) * square.rsqrt()
        context.save_for_backward(similarity, weights, mixed, square, result, temperature)
        context.mark_non_differentiable(weights)
        return result, weights

    @staticmethod
    def backward(context, gradient: Tensor, _):
        similarity, weights, mixed, square, result, temperature = context.saved_tensors
        over_dot = (gradient * square.rsqrt())[:, None]  # d loss / d (a . s)
        over_square = (-0.5 * gradient * result / square)[:, None]  # d loss / d (a' G a)
        over_weights = torch.addcmul(over_dot * similarity, over_square, mixed, value=2)
        # a logit moves by lambda ds: its gradient is a over_weights, the softmax's correction being zero
        over_temperature = (weights * over_weights * similarity).sum() if context.needs_input_grad[2] else None
        over_similarity = over_weights.mul_(temperature).add_(over_dot).mul_(weights)
        over_gram = torch.bmm(weights * over_square, weights.transpose(1, 2)) if context.needs_input_grad[1] else None
        return over_similarity, over_gram, over_temperature, None


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
        return _AttendedCosine.apply(similarity.to(wide), gram.to(wide), temperature.to(wide), mask)
