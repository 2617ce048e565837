"""Photographs from files: features, attention with any caption, scores with many captions. Notebook 06.

    checkpoint = load_pretrained()
    extractor = FeatureExtractor(checkpoint)
    photograph = extractor.extract("dog.jpg")
    attention = photograph.attend("a dog runs on the beach")

Nothing is downloaded: the weights of model and backbone are in installed packages.

Letters: K regions, M objects, T words, D feature size.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bssan_lib.data.batches import Words
from bssan_lib.data.images import open_image
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.errors import CheckpointError, DataError
from bssan_lib.evaluation.scoring import Attention, attend_arrays
from bssan_lib.models.checkpoint import Checkpoint, features_settings, load_checkpoint
from bssan_lib.vision.backbone import Backbone, load_backbone

PRETRAINED = Path(__file__).parent.parent / "pretrained"


def load_pretrained(name: str = "flickr8k", device: str = "cpu") -> Checkpoint:
    """Loads a packaged model: "flickr8k" or "flickr8k-pixels".

    Raises CheckpointError, with the list, for another name.
    """
    known = sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))
    if name not in known:
        raise CheckpointError(f"{name!r}: not a packaged model. Expected one of {', '.join(known)}.")
    return load_checkpoint(PRETRAINED / name, device)


def unknown_words(caption: str, vocabulary: Vocabulary) -> list[str]:
    """The words of a caption that are not in the vocabulary, in order, each once. They are treated as <unk>."""
    return list(dict.fromkeys(vocabulary.unknown(tokenize(caption))))


@dataclass
class Photograph:
    """An image with the features that a checkpoint needs.

    picture: None if unknown. regions: [K, D]. objects: [M, D], or None if they are the regions. boxes: [K, 4] and
    object_boxes: [M, 4], x1 y1 x2 y2 as fractions of width and height, or None if unknown.
    """

    checkpoint: Checkpoint
    picture: Image.Image | None
    regions: np.ndarray
    objects: np.ndarray | None
    boxes: np.ndarray | None
    object_boxes: np.ndarray | None

    def attend(self, caption: str) -> Attention:
        """The attention and the score of this image with a caption."""
        return attend_arrays(self.checkpoint, self.regions, self.objects, self.boxes, self.object_boxes, caption)


@torch.inference_mode()
def score_photographs(photographs: list[Photograph], captions: list[str], chunk: int = 128) -> dict[str, np.ndarray]:
    """Scores of photographs of one checkpoint with captions: {"joint", "w2r", "o2w"}, each [B, C].

    chunk: captions scored at once. Raises DataError without a photograph or a caption.
    """
    if not photographs or not captions:
        raise DataError(f"scores: expected photographs and captions, got {len(photographs)} and {len(captions)}")
    first = photographs[0]
    model, words = first.checkpoint.model.eval(), Words(captions, first.checkpoint.vocabulary)
    objects = (
        None if first.objects is None else np.stack([one.objects for one in photographs if one.objects is not None])
    )
    boxes = [None if part is None else part[None] for part in (first.boxes, first.object_boxes)]
    images = model.encode_arrays(np.stack([one.regions for one in photographs]), objects, *boxes)
    found = {name: np.empty((len(photographs), len(captions)), np.float32) for name in ("joint", "w2r", "o2w")}
    for rows in words.by_length(chunk):
        pairs = model.score(images, model.encode_captions(*words.batch(rows, model.device)))
        for name, matrix in found.items():
            matrix[:, rows] = getattr(pairs, name).float().cpu().numpy()
    if not all(np.isfinite(matrix).all() for matrix in found.values()):
        raise CheckpointError(
            f"{first.checkpoint.folder}: its scores are NaN or infinite; use another checkpoint, or train again"
        )
    return found


def can_extract(checkpoint: Checkpoint) -> bool:
    """Whether the features of a checkpoint can be extracted from images, see `FeatureExtractor`."""
    return "image_size" in (checkpoint.backbone or {})


class FeatureExtractor:
    """Extracts the features that a checkpoint needs from images, with the backbone used for its training.

    checkpoint.backbone describes that backbone. Raises CheckpointError if it is unknown, as for bottom-up features.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | None = None):
        made = features_settings(checkpoint)
        self.checkpoint = checkpoint
        self.backbone: Backbone = load_backbone(
            made.backbone, made.image_size, device, made.precision, made.windows, made.features, made.grid
        )

    def extract(self, picture: Image.Image | Path | str) -> Photograph:
        """Extracts the features of an image or an image file. Raises DataError, with the file, if it cannot be read."""
        image = picture if isinstance(picture, Image.Image) else open_image(picture)
        regions = self.backbone.extract([image])
        objects = self.backbone.pool_objects(regions)
        return Photograph(
            self.checkpoint,
            image,
            regions[0],
            None if objects is None else objects[0],
            self.backbone.boxes,
            self.backbone.object_boxes,
        )
