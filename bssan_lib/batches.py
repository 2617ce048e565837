"""Rows of a prepared dataset as tensors: padded words, gathered features, and the order in which training sees them.

Letters: B images, C captions, K regions, M objects, T words, D feature size, V further views.
"""

import numpy as np
import torch
from torch import Tensor

from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.stage import pool_windows


class Words:
    """Captions as word ids of any lengths. tokens: one list of T >= 1 ids a caption; lengths: [C] int64."""

    def __init__(self, captions: list[str], vocabulary: Vocabulary):
        self.tokens = [vocabulary.encode(tokenize(caption)) for caption in captions]
        self.lengths = np.array([len(tokens) for tokens in self.tokens], np.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """rows: [C] caption rows. Returns ids [C, T] padded with zeros to the longest, and lengths [C]."""
        lengths = self.lengths[rows]
        padded = np.zeros((len(rows), lengths.max()), np.int64)
        for line, row in zip(padded, rows):
            line[: self.lengths[row]] = self.tokens[row]
        return torch.from_numpy(padded).to(device), torch.from_numpy(lengths).to(device)


def image_batch(
    split: PreparedSplit, rows: np.ndarray, device: torch.device | str = "cpu", views: np.ndarray | None = None
) -> dict[str, Tensor | None]:
    """Features and boxes of some images, as `BSSAN.encode_images` takes them.

    rows: [B] image rows. views: [B], which view of each: 0 the picture itself, 1 to V a further one; None: all 0.
    Returns regions [B, K, D], objects [B, M, D] or None, boxes [B, K, 4] or None, object_boxes [B, M, 4] or None, all
    float32. Only regions are kept of further views: objects that are windows are pooled from them.
    """
    def tensor(array: np.ndarray | None) -> Tensor | None:
        if array is None:
            return None
        return torch.from_numpy(np.asarray(array[rows], np.float32)).to(device)

    found = {
        "regions": tensor(split.regions),
        "objects": tensor(split.objects),
        "boxes": tensor(split.boxes),
        "object_boxes": tensor(split.object_boxes),
    }
    if views is not None and views.any():
        other = np.flatnonzero(views)
        seen = np.asarray(split.views[rows[other], views[other] - 1], np.float32)
        found["regions"][torch.from_numpy(other).to(device)] = torch.from_numpy(seen).to(device)
        if found["objects"] is not None:
            found["objects"] = pool_windows(found["regions"], found["boxes"], found["object_boxes"])
    return found


def epoch_order(captions: int, seed: int, epoch: int) -> np.ndarray:
    """The order of captions in one epoch, a function of seed and epoch alone, so that a stopped run goes on alike.

    Returns a permutation [C] int64.
    """
    return np.random.default_rng([seed, epoch]).permutation(captions)
