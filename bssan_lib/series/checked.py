"""What a check of a data folder finds: `check_data` and `check_raw` fill it in."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SAMPLED = 8  # at most so many rows of features, or pictures for timing: the first ones and some random ones
FIRST = 3  # of them so many first ones


@dataclass
class SplitFacts:
    """One split: N images; its C captions and the fewest and most an image, where the captions are readable."""

    images: int
    captions: list[str] = field(default_factory=list)
    fewest: int = 0
    most: int = 0


@dataclass
class FolderCheck:
    """The result of a check. lines: (name, text) for a table. missing: reasons why a run cannot start.

    pictures: a sample of readable ones. regions, objects, dimension: K, M (0: none stored) and D of the features.
    """

    source: str
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    regions: int = 0
    objects: int = 0
    dimension: int = 0
    has_boxes: bool = False


def facts_of(images: int, captions: list[str], cap2im: np.ndarray) -> SplitFacts:
    """The facts of a split of N images with captions [C] and cap2im [C]."""
    each = np.bincount(cap2im, minlength=images)
    return SplitFacts(images, captions, int(each.min()), int(each.max()))


def sample_rows(count: int) -> list[int]:
    """The first rows of `count` and some random ones, the same in every call."""
    some = np.random.default_rng(1).integers(0, count, SAMPLED - FIRST).tolist() if count else []
    return sorted({*range(min(FIRST, count)), *some})
