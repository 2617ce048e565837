"""W2R, words to regions: each word of a caption attends to the regions of an image. Notebook 02.

    affinity   s_tk    = u_t' v_k                  u_t = W' h_t, the word after the bilinear form W
    attention  alpha_t = softmax_k(lambda_w s_tk)
    attended   c_t     = sum_k alpha_tk v_k
    score      s_w2r   = mean_t cos(u_t, c_t)

The abstract of the paper (DOI 10.1109/TIP.2018.2882225) names an "LSTM with bilinear attention function to
infer the image regions which are more related to the particular words". We chose the equations above.

c_t is never computed: `attended.attended_cosine` needs only s_tk and the Gram matrix of the regions, so the largest
tensor is [B, K, C, T] and none is [B, C, T, d].

Letters: B images, C captions, K regions, T words, d joint size.
"""

import torch
from torch import Tensor

from bssan_lib.attention.attended import attended_cosine, gram, safe_norm


def length_mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """True where a caption has a word.

    lengths: [C] integers. width: T; None: the largest length. Returns [C, T] bool.
    """
    positions = torch.arange(width if width is not None else int(lengths.max()), device=lengths.device)
    return positions[None, :] < lengths[:, None]


def affinity(left: Tensor, right: Tensor) -> Tensor:
    """Dot products of all vectors on the left with all on the right, in one matrix product.

    left: [N, L, d]. right: [P, Q, d]. Returns s [N, L, P, Q], s[n, l, p, q] = left[n, l] . right[p, q].
    """
    flat = left.flatten(0, 1) @ right.flatten(0, 1).T
    return flat.view(*left.shape[:2], *right.shape[:2])


def w2r_weights(similarity: Tensor, temperature: Tensor | float) -> Tensor:
    """How strongly each word attends to each region: a softmax over the K regions of an image.

    similarity: [B, K, C, T], regions by words. temperature: lambda_w, the inverse temperature (larger is sharper).
    Returns alpha [B, K, C, T]; sums to one over K.
    """
    return torch.softmax(temperature * similarity, dim=1)


def w2r_scores(regions: Tensor, words: Tensor, lengths: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Score every image with every caption by the attention of the words to the regions.

    regions: v [B, K, d]. words: u [C, T, d]. lengths: [C], the real words. temperature: lambda_w, a scalar.
    Returns scores [B, C], cosines averaged over words, in [-1, 1]; and the weights [B, K, C, T], equal to
    those of `w2r_weights`, without a gradient.
    """
    similarity = affinity(regions, words)
    result, weights = attended_cosine(similarity.flatten(2), gram(regions), temperature)
    cosine = result.view(len(regions), *words.shape[:2]) / safe_norm(words)
    # Cosines at padding are replaced, not multiplied by zero, because 0 * inf is NaN.
    mask = length_mask(lengths, words.shape[1])
    return cosine.masked_fill(~mask, 0.0).sum(-1) / lengths, weights.view_as(similarity)
