"""O2W, objects to words: every visual object of an image looks at the words of a caption. Notebook 03.

    affinity   s_mt   = o_m' u_t                  the same bilinear form as W2R, read along the other axis
    attention  beta_m = softmax_t(lambda_o s_mt)
    attended   q_m    = sum_t beta_mt u_t
    score      s_o2w  = mean_m cos(o_m, q_m)

The abstract of the paper (DOI 10.1109/TIP.2018.2882225) says that this direction finds "the semantically close
words for each visual object in the image"; the equations above are ours.

As in W2R the attended vector is never built: with H_ts = u_t' u_s, |q_m|^2 = beta_m' H beta_m.

Letters: B images, C captions, M objects, T words, d joint size.
"""

import torch
from torch import Tensor

from bssan_lib.w2r import SMALLEST_SQUARE


def o2w_weights(similarity: Tensor, mask: Tensor, temperature: Tensor | float) -> Tensor:
    """How strongly each object looks at each word: a softmax over the real words of a caption.

    similarity: [B, M, C, T] from `w2r.affinity` of words and objects. mask: [C, T], True for real words.
    temperature: lambda_o, the inverse temperature. Returns beta [B, M, C, T]; sums to one over T, zero at padding.
    """
    return torch.softmax((temperature * similarity).masked_fill(~mask, float("-inf")), dim=-1)


def o2w_scores(
    similarity: Tensor, object_norms: Tensor, word_gram: Tensor, mask: Tensor, temperature: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Score every image against every caption by what its objects read.

    similarity: [B, M, C, T]. object_norms: |o_m| [B, M]. word_gram: [C, T, T]. mask: [C, T], True for real words.
    Returns scores [B, C], cosines averaged over objects, in [-1, 1]; and the weights [B, M, C, T] they were made of.
    """
    weights = o2w_weights(similarity, mask, temperature)
    dot = (weights * similarity).sum(-1)
    by_caption = weights.flatten(0, 1).transpose(0, 1)  # [C, B*M, T]: one product per caption
    mixed = torch.bmm(by_caption, word_gram)
    attended_square = (by_caption * mixed).sum(-1).T.view_as(dot)
    cosine = dot / (object_norms[:, :, None] * attended_square.clamp_min(SMALLEST_SQUARE).sqrt())
    return cosine.mean(1), weights
