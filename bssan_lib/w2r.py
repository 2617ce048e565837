"""W2R, words to regions: every word of a caption looks at the regions of an image. Notebook 02.

    affinity   s_tk    = u_t' v_k                  u_t = W' h_t, the word seen through the bilinear form W
    attention  alpha_t = softmax_k(lambda_w s_tk)
    attended   c_t     = sum_k alpha_tk v_k
    score      s_w2r   = mean_t cos(u_t, c_t)

The abstract of the paper (DOI 10.1109/TIP.2018.2882225) names an "LSTM with bilinear attention function to
infer the image regions which are more related to the particular words"; the equations above are ours.

c_t is never built: `attended.attended_cosine` needs s_tk and the Gram matrix of the regions alone, so the largest
tensor is [B, K, C, T] and none is [B, C, T, d].

Letters: B images, C captions, K regions, T words, d joint size.
"""

import torch
from torch import Tensor

from bssan_lib.attended import SMALLEST_SQUARE, attended_cosine


def length_mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """True where a caption has a word.

    lengths: [C] integers. width: T, the longest by default. Returns [C, T] bool.
    """
    positions = torch.arange(width if width is not None else int(lengths.max()), device=lengths.device)
    return positions[None, :] < lengths[:, None]


def safe_norm(vectors: Tensor) -> Tensor:
    """Euclidean norm over the last axis with a finite gradient at zero. [..., d] -> [...]."""
    return vectors.square().sum(-1).clamp_min(SMALLEST_SQUARE).sqrt()


def affinity(left: Tensor, right: Tensor) -> Tensor:
    """Dot products of all vectors of one side with all of the other, in one matrix product.

    left: [N, L, d]. right: [P, Q, d]. Returns s [N, L, P, Q], s[n, l, p, q] = left[n, l] . right[p, q].
    """
    flat = left.flatten(0, 1) @ right.flatten(0, 1).T
    return flat.view(*left.shape[:2], *right.shape[:2])


def gram(vectors: Tensor) -> Tensor:
    """G[n, i, j] = vectors[n, i] . vectors[n, j]. [N, K, d] -> [N, K, K]."""
    return vectors @ vectors.transpose(1, 2)


def w2r_weights(similarity: Tensor, temperature: Tensor | float) -> Tensor:
    """How strongly each word looks at each region: a softmax over the K regions of an image.

    similarity: [B, K, C, T], regions by words. temperature: lambda_w, the inverse temperature (larger is sharper).
    Returns alpha [B, K, C, T]; sums to one over K.
    """
    return torch.softmax(temperature * similarity, dim=1)


def w2r_scores(regions: Tensor, words: Tensor, lengths: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Score every image against every caption by what its words see.

    regions: v [B, K, d]. words: u [C, T, d]. lengths: [C], the real words. temperature: lambda_w, a scalar.
    Returns scores [B, C], cosines averaged over words, in [-1, 1]; and the weights [B, K, C, T] they were made of,
    which are those of `w2r_weights` and carry no gradient.
    """
    similarity = affinity(regions, words)
    result, weights = attended_cosine(similarity.flatten(2), gram(regions), temperature)
    cosine = result.view(len(regions), *words.shape[:2]) / safe_norm(words)
    # A padded word's cosine is thrown away by value, not by product: 0 * inf would be NaN.
    mask = length_mask(lengths, words.shape[1])
    return cosine.masked_fill(~mask, 0.0).sum(-1) / lengths, weights.view_as(similarity)
