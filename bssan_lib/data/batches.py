"""Rows of a prepared dataset as tensors: padded words, gathered features, and the order of captions in training.

Letters: B images, C captions, K regions, M objects, T words, D feature size, V further views.
"""

from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from bssan_lib.data.pooling import pool_windows
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import Vocabulary, tokenize


class ImageInputs(TypedDict):
    """What `encode_images` takes: regions [B, K, D], objects [B, M, D], boxes [B, K, 4], object_boxes [B, M, 4]."""

    regions: Tensor
    objects: Tensor | None
    boxes: Tensor | None
    object_boxes: Tensor | None


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

    def by_length(self, size: int) -> list[np.ndarray]:
        """All rows, sorted by length and cut into chunks of `size`, so that batches have little padding."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start : start + size] for start in range(0, len(order), size)]


def image_batch(
    split: PreparedSplit, rows: np.ndarray, device: torch.device | str = "cpu", views: np.ndarray | None = None
) -> ImageInputs:
    """Features and boxes of some images, as `BSSAN.encode_images` takes them.

    rows: [B] image rows. views: [B], which view of each: 0 the picture itself, 1 to V a further one; None: all 0.
    Returns regions [B, K, D], objects [B, M, D] or None, boxes [B, K, 4] or None, object_boxes [B, M, 4] or None, all
    float32; regions that are pixels are uint8. A further view has regions only, so its objects are pooled from them.
    """

    def tensor(array: np.ndarray | Tensor) -> Tensor:
        if isinstance(array, Tensor):
            there = array[torch.from_numpy(np.asarray(rows)).to(array.device)]
            return there if there.dtype == torch.uint8 else there.float()
        here = np.asarray(array[rows], None if array.dtype == np.uint8 else np.float32)
        return torch.from_numpy(np.ascontiguousarray(here)).to(device)

    others = (split.objects, split.boxes, split.object_boxes)
    regions, (objects, boxes, windows) = tensor(split.regions), (None if a is None else tensor(a) for a in others)
    if views is not None and views.any() and split.views is not None:
        changed = np.flatnonzero(views)
        further = np.asarray(split.views[rows[changed], views[changed] - 1], np.float32)
        regions[torch.from_numpy(changed).to(device)] = torch.from_numpy(further).to(device)
        if objects is not None and boxes is not None and windows is not None:
            objects = pool_windows(regions, boxes, windows)
    return {"regions": regions, "objects": objects, "boxes": boxes, "object_boxes": windows}


def to_device(split: PreparedSplit, device: torch.device, share: float = 0.25) -> PreparedSplit:
    """Copies the features of a split to the GPU if they need at most `share` of its free memory.

    Batches are then gathered on the GPU, and only row numbers are copied to it. Returns the split unchanged where the
    device is a CPU, the split has further views, or the features are too large.
    """
    arrays: dict[str, Any] = {name: getattr(split, name) for name in ImageInputs.__annotations__}
    if device.type != "cuda" or split.views is not None:
        return split
    if sum(array.nbytes for array in arrays.values() if array is not None) > share * torch.cuda.mem_get_info(device)[0]:
        return split
    for name, array in arrays.items():
        arrays[name] = None if array is None else torch.from_numpy(np.array(array)).to(device)
    return replace(split, **arrays)


def epoch_order(captions: int, seed: int, epoch: int) -> np.ndarray:
    """The order of captions in one epoch, a function of seed and epoch alone, so that a resumed run has the same order.

    Returns a permutation [C] int64.
    """
    return np.random.default_rng([seed, epoch]).permutation(captions)
