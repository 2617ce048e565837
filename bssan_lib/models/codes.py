"""What a model makes of images and captions, and the scores of their pairs: the interface of every method.

Letters: B images, C captions, K regions, M objects, T words, d joint size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class ImageCodes:
    """Images in the joint space. regions: [B, K, d]; objects: [B, M, d], the same tensor where objects are regions."""

    regions: Tensor
    objects: Tensor

    def __getitem__(self, rows) -> "ImageCodes":
        shared = self.objects is self.regions
        regions = self.regions[rows]
        return ImageCodes(regions, regions if shared else self.objects[rows])


@dataclass
class CaptionCodes:
    """Captions in the joint space. words: u [C, T, d], zero at padding; lengths: [C].

    tokens: word ids [C, T], which reading (b) needs to run its LSTM again for every image.
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
    """Scores [B, C] of every image with every caption, and the weights behind them when they were asked for.

    w2r, o2w: None in methods without such a part. w2r_weights: [B, K, C, T], sums to one over K. o2w_weights:
    [C, T, B, M], sums to one over T. gate: the share of W2R, [B, C] or one for all pairs.
    """

    joint: Tensor
    w2r: Tensor | None
    o2w: Tensor | None
    w2r_weights: Tensor | None = None
    o2w_weights: Tensor | None = None
    gate: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "PairScores":
        """Changed scores, those that are there; without weights and gate."""
        w2r, o2w = (None if part is None else change(part) for part in (self.w2r, self.o2w))
        return PairScores(change(self.joint), w2r, o2w)
