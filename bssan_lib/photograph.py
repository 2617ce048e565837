"""Anyone's photograph: from a file to regions, and to the attention of any caption on it. Notebook 06.

    checkpoint = load_pretrained()
    camera = Camera(checkpoint)
    photograph = camera.take("dog.jpg")
    attention = photograph.attend("a dog runs on the beach")

Nothing is downloaded: the weights of model and backbone come inside packages.

Letters: K regions, M objects, T words, D feature size.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bssan_lib.backbone import Backbone, load_backbone
from bssan_lib.batches import Words
from bssan_lib.checkpoint import Checkpoint, load_checkpoint
from bssan_lib.data.images import open_image
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.errors import CheckpointError, DataError
from bssan_lib.scoring import Attention, attend_arrays

PRETRAINED = Path(__file__).parent / "pretrained"


def load_pretrained(name: str = "flickr8k", device: str = "cpu") -> Checkpoint:
    """A model that comes with the library. Raises CheckpointError that lists them for another name."""
    known = sorted(folder.name for folder in PRETRAINED.iterdir() if folder.is_dir())
    if name not in known:
        raise CheckpointError(f"{name!r}: no such model comes with the library; there is {', '.join(known)}.")
    return load_checkpoint(PRETRAINED / name, device)


def unknown_words(caption: str, vocabulary: Vocabulary) -> list[str]:
    """The words of a caption that the model never learned, in order, once each: it reads all of them as <unk>."""
    return list(dict.fromkeys(vocabulary.unknown(tokenize(caption))))


@dataclass
class Photograph:
    """A picture as the model sees it. regions: [K, D], objects: [M, D], with boxes [K, 4] and object_boxes [M, 4].

    All but the regions may be None: objects that are the regions, and features that came without places or pictures.
    """

    checkpoint: Checkpoint
    picture: Image.Image | None
    regions: np.ndarray
    objects: np.ndarray | None
    boxes: np.ndarray | None
    object_boxes: np.ndarray | None

    def attend(self, caption: str) -> Attention:
        """Weights and score of a caption on this picture, from the function that scores."""
        return attend_arrays(self.checkpoint, self.regions, self.objects, self.boxes, self.object_boxes, caption)


@torch.inference_mode()
def score_photographs(photographs: list[Photograph], captions: list[str], chunk: int = 128) -> dict[str, np.ndarray]:
    """Scores of photographs from one camera with captions, by {"joint", "w2r", "o2w"}, each [B, C].

    chunk: captions scored at once, of similar length. Raises DataError without a photograph or a caption.
    """
    if not photographs or not captions:
        raise DataError(f"scores: expected photographs and captions, got {len(photographs)} and {len(captions)}")
    first = photographs[0]
    model, words = first.checkpoint.model.eval(), Words(captions, first.checkpoint.vocabulary)
    device = model.device
    objects = None if first.objects is None else np.stack([one.objects for one in photographs])
    arrays = np.stack([one.regions for one in photographs]), objects, first.boxes[None], first.object_boxes[None]
    tensors = [None if array is None else torch.from_numpy(np.array(array, np.float32)).to(device) for array in arrays]
    images = model.encode_images(*tensors)
    found = {name: np.empty((len(photographs), len(captions)), np.float32) for name in ("joint", "w2r", "o2w")}
    order = np.argsort(words.lengths, kind="stable")
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        pairs = model.score(images, model.encode_captions(*words.batch(rows, device)))
        for name, matrix in found.items():
            matrix[:, rows] = getattr(pairs, name).float().cpu().numpy()
    return found


def can_see(checkpoint: Checkpoint) -> bool:
    """Whether it is known how a picture becomes the features that a checkpoint was trained on."""
    return "image_size" in (checkpoint.backbone or {})


class Camera:
    """Turns pictures into what a checkpoint was trained on, by the backbone that its features were made with.

    Raises CheckpointError for a checkpoint of features of unknown making, such as bottom-up features.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | None = None):
        made = checkpoint.backbone
        if not can_see(checkpoint):
            raise CheckpointError(
                f"{checkpoint.folder}: trained on features of unknown making, so a photograph cannot be turned into "
                "such. Use a checkpoint trained on features that `bssan prepare` made."
            )
        self.checkpoint = checkpoint
        self.backbone: Backbone = load_backbone(
            made["name"], made["image_size"], device, made["precision"], made["windows"], made.get("features", "map"),
            made["grid"][0] if "pooled_from" in made else None,
        )

    def take(self, picture: Image.Image | Path | str) -> Photograph:
        """A picture or its file. Raises DataError, naming the file, where it is no picture."""
        image = picture if isinstance(picture, Image.Image) else open_image(picture)
        regions = self.backbone.extract([image])
        objects = self.backbone.pool_objects(regions)
        return Photograph(
            self.checkpoint, image, regions[0], None if objects is None else objects[0], self.backbone.boxes,
            self.backbone.object_boxes,
        )
