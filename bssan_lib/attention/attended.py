"""The cosine of a query with its attended vector, without computing the attended vector. W2R and O2W use it.

A query x attends to the L vectors y_l of its group with similarities s_l = x . y_l:

    weights          a     = softmax_l(lambda s)
    attended vector  z     = sum_l a_l y_l                     never computed
    result           x.z / |z| = (a . s) / sqrt(a' G a)        G = Y Y', the Gram matrix of the group

The largest tensor is then [G, L, Q]; z would need [G, Q, d]. A factor common to all weights of a query cancels in the
result. So the softmax does not have to divide by its sum, and the correction term of its backward pass,
sum_l a_l dr/da_l, is zero. With r the result, the gradients are

    dr/da = s / sqrt(q) - r G a / q        q = a' G a
    dr/ds = a (1 / sqrt(q) + lambda dr/da)

Some methods compute the weights from other logits p instead of s: a = softmax_l(lambda p). Then

    dr/dp = lambda a dr/da                 dr/ds = a / sqrt(q)

Letters: G groups, L attended vectors of a group, Q queries.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_SQUARE = 1e-12  # lower bound under a root, so that a zero vector has a zero gradient and not NaN


class Scratch:
    """Named buffers that are reused, because allocating new ones for each tile would take longer than computing."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous tensor of this shape with undefined content, on the device of `like`.

        dtype: by default that of `like`.
        """
        dtype, size = dtype or like.dtype, math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            buffer = self._buffers[name] = torch.empty(size, dtype=dtype, device=like.device)
        return buffer[:size].view(shape)


def attend(
    similarity: Tensor,
    gram: Tensor,
    temperature: Tensor,
    scratch: Scratch,
    mask: Tensor | None = None,
    logits: Tensor | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns r [G, Q], q [G, Q], the weights a [G, L, Q] and G a [G, L, Q], the last two in scratch memory.

    similarity: s [G, L, Q]. gram: [G, L, L]; with a lower precision than s, its products with the weights have that
    precision too. temperature: lambda, a scalar. mask: [G, L], True where a vector is real. logits: p [G, L, Q]; None:
    s. overwrite: the caller does not need s and G a afterwards, so they are overwritten by intermediate results.
    The weights are those of the softmax times a factor for each query; q contains the square of that factor.
    """
    weights = _weights(similarity if logits is None else logits, temperature, scratch, mask)
    product = similarity if overwrite else scratch("product", similarity.shape, similarity)
    result = torch.mul(weights, similarity, out=product).sum(1)
    gram_weights = product if overwrite else scratch("gram weights", weights.shape, weights)
    gram_weights = _gram_times_weights(gram, weights, scratch, gram_weights)
    square = torch.mul(weights, gram_weights, out=product).sum(1).clamp_min_(SMALLEST_SQUARE)
    return result.mul_(square.rsqrt()), square, weights, gram_weights


def _weights(logits: Tensor, temperature: Tensor, scratch: Scratch, mask: Tensor | None) -> Tensor:
    """softmax(lambda p) over L, times a factor for each query, in scratch memory [G, L, Q]."""
    weights = scratch("weights", logits.shape, logits)
    if logits.device.type != "cpu":
        scaled = torch.mul(logits, temperature, out=weights)
        scaled = scaled if mask is None else scaled.masked_fill_(~mask[:, :, None], float("-inf"))
        return torch.softmax(scaled, dim=1, out=weights)
    # On a CPU, powers of two without the division are faster than torch.softmax. The largest logit is subtracted first,
    # so nothing overflows; the largest weight is one.
    masked = logits if mask is None else weights.copy_(logits).masked_fill_(~mask[:, :, None], float("-inf"))
    shifted = torch.sub(masked, masked.amax(1, keepdim=True), out=weights)
    return shifted.mul_(temperature / math.log(2)).exp2_()


def _gram_times_weights(gram: Tensor, weights: Tensor, scratch: Scratch, out: Tensor) -> Tensor:
    """gram [G, L, L] times weights [G, L, Q], computed in the dtype of gram and written to `out`."""
    if gram.dtype == weights.dtype:
        return torch.bmm(gram, weights, out=out)
    rounded = scratch("rounded weights", weights.shape, gram).copy_(weights)
    return out.copy_(torch.bmm(gram, rounded, out=scratch("rounded product", weights.shape, gram)))


def attend_backward(
    grad_result: Tensor,
    similarity: Tensor,
    gram: Tensor,
    temperature: Tensor,
    scratch: Scratch,
    mask: Tensor | None = None,
    logits: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of similarity [G, L, Q], gram [G, L, L] and temperature; the result r [G, Q]; the gradient of logits.

    grad_result: [G, Q]. logits: as in `attend`; without them the last value is None. Gradients [G, L, Q] are in
    scratch memory. The weights are computed again, which is cheaper than storing them.
    """
    result, square, weights, gram_weights = attend(similarity, gram, temperature, scratch, mask, logits)
    grad_dot = (grad_result * square.rsqrt())[:, None]  # d loss / d (a . s)
    grad_square = (grad_result * result / square)[:, None]  # -2 d loss / d q
    # lambda d loss / d a; lambda multiplies the small factors, because each pass over [G, L, Q] takes time
    grad = torch.mul(similarity, grad_dot * temperature, out=scratch("gradient", similarity.shape, similarity))
    grad.addcmul_(gram_weights, grad_square * temperature, value=-1)
    grad_logits = grad.mul_(weights)  # the correction term of the softmax is zero
    source = similarity if logits is None else logits
    grad_temperature = torch.dot(grad_logits.flatten(), source.flatten()) / temperature
    left, right = torch.mul(weights, grad_square, out=gram_weights), weights
    if gram.dtype != weights.dtype:
        left = scratch("rounded weights", weights.shape, gram).copy_(left)
        right = scratch("rounded product", weights.shape, gram).copy_(right)
    grad_gram = torch.bmm(left, right.transpose(1, 2)).mul_(-0.5)
    if logits is None:
        return grad_logits.addcmul_(weights, grad_dot), grad_gram, grad_temperature, result, None
    return weights.mul_(grad_dot), grad_gram, grad_temperature, result, grad_logits


class _AttendedCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        context, similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None, logits: Tensor | None
    ):
        result, _, weights, _ = attend(similarity, gram, temperature, Scratch(), mask, logits)
        weights = weights / weights.sum(1, keepdim=True)
        context.save_for_backward(similarity, gram, temperature, mask, logits)
        context.mark_non_differentiable(weights)
        return result, weights

    @staticmethod
    def backward(context, grad_result: Tensor, _):
        similarity, gram, temperature, mask, logits = context.saved_tensors
        *grads, _, grad_logits = attend_backward(grad_result, similarity, gram, temperature, Scratch(), mask, logits)
        return *grads, None, grad_logits


def attended_cosine(
    similarity: Tensor, gram: Tensor, temperature: Tensor, mask: Tensor | None = None, logits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x . z / |z| for every query, and the weights. Divided by |x| it is the cosine.

    similarity: s [G, L, Q]; lower precisions are converted to float32. gram: [G, L, L]. temperature: lambda, a scalar
    tensor. mask: [G, L], True where a vector is real; None: all are. logits: p [G, L, Q]; None: s itself.
    Returns the result [G, Q], which is differentiable, and the weights [G, L, Q] for display, which sum to one over L
    and have no gradient.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        dtype = torch.promote_types(similarity.dtype, torch.float32)
        logits = None if logits is None else logits.to(dtype).contiguous()
        return _AttendedCosine.apply(
            similarity.to(dtype).contiguous(), gram.to(dtype), temperature.to(dtype), mask, logits
        )


def safe_norm(vectors: Tensor) -> Tensor:
    """The Euclidean norm over the last axis, with a finite gradient at zero. [..., d] -> [...]."""
    return vectors.square().sum(-1).clamp_min(SMALLEST_SQUARE).sqrt()


def gram(vectors: Tensor) -> Tensor:
    """The Gram matrices G[n, i, j] = vectors[n, i] . vectors[n, j]. [N, K, d] -> [N, K, K]."""
    return vectors @ vectors.transpose(1, 2)
