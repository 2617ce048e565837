"""Encoded images and captions, and the scores of their pairs: the interface of every method.

Letters: B images, C captions, K regions, M objects, T words, d joint size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class ImageCodes:
    """Images in the joint space. regions: [B, K, d]. objects: [B, M, d], or the same tensor."""

    regions: Tensor
    objects: Tensor

    def __getitem__(self, rows) -> "ImageCodes":
        shared = self.objects is self.regions
        regions = self.regions[rows]
        return ImageCodes(regions, regions if shared else self.objects[rows])


@dataclass
class CaptionCodes:
    """Captions in the joint space. words: u [C, T, d], zero at padding; lengths: [C].

    tokens: word ids [C, T]; reading (b) runs its LSTM on them for every image.
    """

    words: Tensor
    lengths: Tensor
    tokens: Tensor

    def __getitem__(self, rows) -> "CaptionCodes":
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return CaptionCodes(self.words[rows][:, :width], lengths, self.tokens[rows][:, :width])


@dataclass
class PairScores:
    """Scores [B, C] of every image with every caption, and on request the attention weights.

    w2r, o2w: None if the method lacks that direction. w2r_weights: [B, K, C, T], sums to one over K. o2w_weights:
    [C, T, B, M], sums to one over T. gate: the share of W2R, [B, C] or a scalar.
    """

    joint: Tensor
    w2r: Tensor | None
    o2w: Tensor | None
    w2r_weights: Tensor | None = None
    o2w_weights: Tensor | None = None
    gate: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "PairScores":
        """Applies `change` to all scores that are not None; weights and gate are dropped."""
        w2r, o2w = (None if part is None else change(part) for part in (self.w2r, self.o2w))
        return PairScores(change(self.joint), w2r, o2w)
