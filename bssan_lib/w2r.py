"""W2R, words to regions: every word of a caption looks at the regions of an image. Notebook 02.

    affinity   s_tk    = u_t' v_k                  u_t = W' h_t, the word seen through the bilinear form W
    attention  alpha_t = softmax_k(lambda_w s_tk)
    attended   c_t     = sum_k alpha_tk v_k
    score      s_w2r   = mean_t cos(u_t, c_t)

The abstract of the paper (DOI 10.1109/TIP.2018.2882225) names an "LSTM with bilinear attention function to
infer the image regions which are more related to the particular words"; the equations above are ours.

c_t is never built. With the Gram matrix of the regions, G_kl = v_k' v_l,

    u_t' c_t = sum_k alpha_tk s_tk      and      |c_t|^2 = alpha_t' G alpha_t

so the largest tensor is [B, K, C, T] and none is [B, C, T, d].

Letters: B images, C captions, K regions, T words, d joint size.
"""

import torch
from torch import Tensor

# Inside a root, so that a vector of zeros (a padded word) has a gradient of zero and not of NaN.
SMALLEST_SQUARE = 1e-12


def length_mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """True where a caption has a word.

    lengths: [C] integers. width: T, the longest by default. Returns [C, T] bool.
    """
    positions = torch.arange(width if width is not None else int(lengths.max()), device=lengths.device)
    return positions[None, :] < lengths[:, None]


def safe_norm(vectors: Tensor) -> Tensor:
    """Euclidean norm over the last axis with a finite gradient at zero. [..., d] -> [...]."""
    return vectors.square().sum(-1).clamp_min(SMALLEST_SQUARE).sqrt()


def affinity(words: Tensor, regions: Tensor) -> Tensor:
    """s[b, k, c, t] = words[c, t] . regions[b, k], in one matrix product.

    words: [C, T, d]. regions: [B, K, d]. Returns [B, K, C, T].
    """
    flat = regions.flatten(0, 1) @ words.flatten(0, 1).T
    return flat.view(*regions.shape[:2], *words.shape[:2])


def gram(vectors: Tensor) -> Tensor:
    """G[n, i, j] = vectors[n, i] . vectors[n, j]. [N, K, d] -> [N, K, K]."""
    return vectors @ vectors.transpose(1, 2)


def w2r_weights(similarity: Tensor, temperature: Tensor | float) -> Tensor:
    """How strongly each word looks at each region: a softmax over the K regions of an image.

    similarity: [B, K, C, T] from `affinity`. temperature: lambda_w, the inverse temperature (larger is sharper).
    Returns alpha [B, K, C, T]; sums to one over K.
    """
    return torch.softmax(temperature * similarity, dim=1)


def w2r_scores(
    similarity: Tensor, word_norms: Tensor, region_gram: Tensor, mask: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Score every image against every caption by what its words see.

    similarity: [B, K, C, T]. word_norms: |u_t| [C, T]. region_gram: [B, K, K]. mask: [C, T], True for real words.
    Returns scores [B, C], cosines averaged over words, in [-1, 1]; and the weights [B, K, C, T] they were made of.
    """
    weights = w2r_weights(similarity, temperature)
    dot = (weights * similarity).sum(1)
    mixed = torch.bmm(region_gram, weights.flatten(2)).view_as(weights)
    attended_square = (weights * mixed).sum(1)
    cosine = dot / (word_norms * attended_square.clamp_min(SMALLEST_SQUARE).sqrt())
    # A padded word's cosine is thrown away by value, not by product: 0 * inf would be NaN.
    cosine = cosine.masked_fill(~mask, 0.0)
    return cosine.sum(-1) / mask.sum(-1), weights
