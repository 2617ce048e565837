"""What every source gives before features exist: picture files, captions, and which caption belongs to which picture.

Letters: N images, C captions, P phrases.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Reading:
    """How a source reads a folder.

    images: where the pictures lie, None: in the folder. layout: of `layouts`, None: the only one that fits. overlap: an
    image may be in several splits. absent: images without a file stay in the list, to be counted or left out later.
    boxes: Flickr30K Entities is read.
    """

    images: Path | None = None
    layout: str | None = None
    overlap: bool = False
    absent: bool = False
    boxes: bool = True


@dataclass(frozen=True)
class Phrase:
    """Some words of one caption and the boxes of what they name.

    words: indices into tokenize(caption), ascending.
    type: "people", "clothing", ... (Flickr30K Entities) or "shape", "colour", "size", "relation", "count" (scenes).
    boxes: x1 y1 x2 y2 as fractions of the image's width and height; one or more.
    """

    caption: int
    words: tuple[int, ...]
    type: str
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class RawSplit:
    """One split of a source. `cap2im` [C] gives each caption's row in `ids`; captions need not be five an image."""

    name: str  # "train", "dev", "test", or a further one such as "pairs"
    ids: list[str]  # N file names
    image_folder: Path
    captions: list[str]
    cap2im: np.ndarray  # [C] int64
    phrases: list[Phrase] | None = None  # None: this source has no boxes
    satisfies: np.ndarray | None = None  # [C, N] bool: every image a caption is true of; None: not known
    notes: dict = field(default_factory=dict)  # JSON-able; kept in meta.json under splits.<name>.notes
    coco_ids: np.ndarray | None = None  # [C, 2] int64: COCO's image id and caption id of each caption; None: not COCO
    where: list[str] | None = None  # N: file and row that name each image, for messages

    def row(self, image: int) -> str:
        """Where an image is named: file and row, or the split and its number."""
        return self.where[image] if self.where else f"split {self.name}, image {image}"
