"""Both directions of attention as this family's public codes compute them: the yardstick of the benchmarks.

For each caption: batched products of its words with the regions of all images, softmax, the attended vectors built, a
cosine, a mean. Written from the equations of `bssan_lib.attention.w2r` and `bssan_lib.attention.o2w`; the benchmark checks, before it times
anything, that this and the engine give the same scores.

Letters: B images, C captions, K regions, T words, d joint size.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def loop_scores(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    temperature_w: Tensor,
    temperature_o: Tensor,
    directions: tuple[str, ...] = ("w2r", "o2w"),
) -> tuple[Tensor, Tensor]:
    """regions: [B, K, d], objects too. words: [C, T, d]. lengths: [C]. Returns W2R and O2W scores [B, C]."""
    w2r, o2w = [], []
    for caption, length in zip(words, lengths.tolist()):
        own = caption[:length].expand(len(regions), -1, -1).contiguous()  # [B, T, d]
        if "w2r" in directions:
            weights = torch.softmax(temperature_w * (own @ regions.transpose(1, 2)), dim=2)  # [B, T, K]
            w2r.append(cosine_similarity(own, weights @ regions, dim=2).mean(1))
        if "o2w" in directions:
            weights = torch.softmax(temperature_o * (regions @ own.transpose(1, 2)), dim=2)  # [B, K, T]
            o2w.append(cosine_similarity(regions, weights @ own, dim=2).mean(1))
    return tuple(torch.stack(scores, 1) if scores else torch.zeros(len(regions), len(words)) for scores in (w2r, o2w))
