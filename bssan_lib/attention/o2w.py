"""O2W, objects to words: each visual object of an image attends to the words of a caption. Notebook 03.

    affinity   s_mt   = o_m' u_t                  the same bilinear form as in W2R, used along the other axis
    attention  beta_m = softmax_t(lambda_o s_mt)
    attended   q_m    = sum_t beta_mt u_t
    score      s_o2w  = mean_m cos(o_m, q_m)

The abstract of the paper (DOI 10.1109/TIP.2018.2882225) says that this direction finds "the semantically close
words for each visual object in the image". We chose the equations above.

As in W2R the attended vector is never computed; here a group is a caption and its words are the attended vectors.

Letters: B images, C captions, M objects, T words, d joint size.
"""

import torch
from torch import Tensor

from bssan_lib.attention.attended import attended_cosine, gram, safe_norm
from bssan_lib.attention.w2r import affinity, length_mask


def o2w_weights(similarity: Tensor, mask: Tensor, temperature: Tensor | float) -> Tensor:
    """How strongly each object attends to each word: a softmax over the real words of a caption.

    similarity: [C, T, B, M], words by objects. mask: [C, T], True for real words. temperature: lambda_o, the inverse
    temperature. Returns beta [C, T, B, M]; sums to one over T, zero at padding.
    """
    return torch.softmax((temperature * similarity).masked_fill(~mask[:, :, None, None], float("-inf")), dim=1)


def o2w_scores(objects: Tensor, words: Tensor, lengths: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Score every image with every caption by the attention of the objects to the words.

    objects: o [B, M, d]. words: u [C, T, d]. lengths: [C], the real words. temperature: lambda_o, a scalar.
    Returns scores [B, C], cosines averaged over objects, in [-1, 1]; and the weights [C, T, B, M], equal to
    those of `o2w_weights`, without a gradient.
    """
    similarity = affinity(words, objects)
    mask = length_mask(lengths, words.shape[1])
    result, weights = attended_cosine(similarity.flatten(2), gram(words), temperature, mask)
    cosine = result.view(len(words), *objects.shape[:2]) / safe_norm(objects)
    return cosine.mean(-1).T, weights.view_as(similarity)
