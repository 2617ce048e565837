"""Pictures to choose from, with their captions, and the nearest of them.

Letters: N pictures, K regions, M objects, D feature size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bssan_lib.config import load_config
from bssan_lib.data import RAW_SOURCES, detect_source, list_splits, open_prepared
from bssan_lib.data.prepared import PreparedSplit, prepared_folder
from bssan_lib.data.scenes.drawing import draw_scene
from bssan_lib.data.scenes.source import make_scenes
from bssan_lib.errors import DataError
from bssan_lib.evaluation.photograph import FeatureExtractor, Photograph, can_extract, load_pretrained
from bssan_lib.models.checkpoint import Checkpoint, check_backbone, check_directions, check_features, load_checkpoint
from bssan_lib.models.codes import CaptionCodes, ImageCodes

SEARCHED = 200  # pictures of a gallery that neighbours are looked for in; their codes are kept in memory
LISTED = 1000  # pictures of a split that can be chosen
FREE_CAPTIONS = {  # public domain or CC0, all of them inside the package scikit-image
    "astronaut": [
        "a smiling woman in an orange suit stands in front of a flag",
        "a woman in an orange suit",
        "an american flag behind a woman with brown hair",
    ],
    "camera": [
        "a man in a black coat stands on the grass with a camera",
        "a photographer looks through his camera",
        "a man takes a picture of buildings",
    ],
    "coffee": ["a cup of coffee on a wooden table", "a cup on a plate with a spoon", "a drink on a brown table"],
    "chelsea": [
        "a close up of a cat with green eyes",
        "a brown cat looks at the camera",
        "an orange cat is lying down",
    ],
    "rocket": [
        "a rocket on a launch pad under a dark sky",
        "bright lights at night",
        "a white tower in front of the sky",
    ],
}


@dataclass
class Gallery:
    """Named pictures of one source, seen by one model.

    labels: N names. captions: N lists. picture: row -> RGB picture or None. features: row -> regions [K, D],
    objects [M, D], boxes [K, 4], object_boxes [M, 4]; all but the first may be None.
    """

    title: str
    checkpoint: Checkpoint
    labels: list[str]
    captions: list[list[str]]
    picture: Callable[[int], Image.Image | None]
    features: Callable[[int], tuple]
    _images: ImageCodes | None = field(default=None, repr=False)
    _captions: CaptionCodes | None = field(default=None, repr=False)

    def photograph(self, row: int) -> Photograph:
        """The picture of a row as the model sees it."""
        return Photograph(self.checkpoint, self.picture(row), *self.features(row))

    @property
    def searched(self) -> int:
        """How many pictures, from the first, are compared when neighbours are asked for."""
        return min(len(self.labels), SEARCHED)

    @property
    def is_encoded(self) -> bool:
        """Whether asking for neighbours will be quick."""
        return self._images is not None

    def forget(self) -> None:
        """To be called when pictures or captions have changed: what was computed of them is computed again."""
        self._images = self._captions = None

    def known(self) -> list[tuple[int, str]]:
        """Every caption of a searched picture, with the picture's row."""
        return [(row, text) for row in range(self.searched) for text in dict.fromkeys(self.captions[row])]

    @torch.inference_mode()
    def image_codes(self) -> ImageCodes:
        """The searched pictures in the joint space: [N, K, d] and [N, M, d]; computed once."""
        if self._images is None:
            parts = [_encode(self.checkpoint, self.features(row)) for row in range(self.searched)]
            regions = torch.cat([part.regions for part in parts])
            shared = parts[0].objects is parts[0].regions
            self._images = ImageCodes(regions, regions if shared else torch.cat([part.objects for part in parts]))
        return self._images

    def caption_codes(self) -> CaptionCodes:
        """The known captions in the joint space, in the order of `known`; computed once."""
        if self._captions is None:
            self._captions = _encode_captions(self.checkpoint, [text for _, text in self.known()])
        return self._captions


def free_photographs(extractor: FeatureExtractor) -> Gallery:
    """Five photographs that anyone may use, with captions of ours."""
    from skimage import data

    names = list(FREE_CAPTIONS)
    return _taken(
        "photographs that come along",
        extractor,
        names,
        list(FREE_CAPTIONS.values()),
        lambda row: Image.fromarray(getattr(data, names[row])()).convert("RGB"),
    )


def drawn_scenes(extractor: FeatureExtractor, count: int = 12, seed: int = 1) -> Gallery:
    """Built-in scenes, drawn when they are looked at."""
    scenes, written = zip(*make_scenes("dev", count, seed))
    return _taken(
        "built-in scenes",
        extractor,
        [f"scene {row + 1}" for row in range(count)],
        [[caption.text for caption in captions] for captions in written],
        lambda row: draw_scene(scenes[row]),
    )


def prepared_gallery(checkpoint: Checkpoint, split: PreparedSplit, title: str | None = None) -> Gallery:
    """The first pictures of a prepared split. Raises CheckpointError where its features are not the model's."""
    check_features(checkpoint.model, split)
    check_backbone(checkpoint, split)
    rows = range(min(len(split.ids), LISTED))
    parts = (split.regions, split.objects, split.boxes, split.object_boxes)
    return Gallery(
        title=title or f"{split.folder.name}, {split.name}",
        checkpoint=checkpoint,
        labels=split.ids[: len(rows)],
        captions=[[split.captions[c] for c in split.captions_of(row)] for row in rows],
        picture=split.image,
        features=lambda row: tuple(None if part is None else part[row] for part in parts),
    )


def open_galleries(checkpoint: Path | str | None, data: Path | str | None) -> tuple[list[Gallery], FeatureExtractor]:
    """Galleries of a checkpoint or run, or of the packaged model, and the extractor for photographs handed in.

    data: a folder of prepared features; by default the run's own. Where it has a dev split, train and test are left out.
    """
    given = load_checkpoint(checkpoint) if checkpoint else load_pretrained()
    check_directions(given)
    folder = features_folder(data) if data else _features_of_run(checkpoint)
    names = list_splits(folder) if folder else []
    if "dev" in names:  # which is there to be looked at, while test is not
        names = ["dev", *(name for name in names if name not in ("train", "dev", "test"))]
    splits = [open_prepared(folder, name) for name in names] if folder else []
    galleries = [prepared_gallery(given, split) for split in splits]
    knows_photographs = can_extract(given) and not any(split.meta.get("source") == "scenes" for split in splits)
    extractor = FeatureExtractor(given if knows_photographs else load_pretrained())
    galleries.append(free_photographs(extractor))
    if not folder:
        galleries.append(drawn_scenes(FeatureExtractor(given) if can_extract(given) else extractor))
    return galleries, extractor


def features_folder(data: Path | str) -> Path:
    """A folder of prepared features, or DataError that says how to get one."""
    kind = detect_source(data)
    if kind in RAW_SOURCES:
        raise DataError(
            f"{data}: pictures without features; prepare them first (bssan prepare --config "
            f"configs/{'flickr30k' if kind == 'karpathy' else kind}.yaml --data {data}), then give the prepared folder"
        )
    return Path(data)


def _features_of_run(checkpoint: Path | str | None) -> Path | None:
    """Where the features of a run folder lie, if they still do."""
    settings = Path(checkpoint) / "config.yaml" if checkpoint else None
    if settings is None or not settings.is_file():
        return None
    data = load_config(settings).data
    for folder in (data.folder, prepared_folder(data)):
        if folder and Path(folder).is_dir() and list_splits(folder):
            return Path(folder)
    return None


def nearest_captions(gallery: Gallery, photograph: Photograph, count: int = 5) -> list[tuple[int, str, float]]:
    """Captions of the gallery's searched pictures that score best with a picture: (row, caption, score), best first."""
    image, known = _encode(gallery.checkpoint, features_of(photograph)), gallery.known()
    scores = _scores(gallery.checkpoint, image, gallery.caption_codes())[0]
    return [(*known[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:count]]


def nearest_pictures(gallery: Gallery, caption: str, count: int = 5) -> list[tuple[int, float, np.ndarray]]:
    """Searched pictures that score best with a caption: (row, score, W2R attention [K], the mean over its words)."""
    images, codes = gallery.image_codes(), _encode_captions(gallery.checkpoint, [caption])
    scores = _scores(gallery.checkpoint, images, codes)[:, 0]
    order = np.argsort(-scores, kind="stable")[:count]
    with torch.inference_mode():
        pairs = gallery.checkpoint.model.score(images[torch.from_numpy(order)], codes, weights=True)
    assert pairs.w2r_weights is not None
    weights = pairs.w2r_weights[:, :, 0].mean(-1).float().cpu().numpy()
    return [(int(row), float(scores[row]), weights[i]) for i, row in enumerate(order)]


def _taken(title, extractor: FeatureExtractor, labels, captions, picture) -> Gallery:
    """A gallery of pictures whose features are computed when they are first asked for."""

    @lru_cache(maxsize=SEARCHED)
    def features(row: int) -> tuple:
        return features_of(extractor.extract(picture(row)))

    return Gallery(title, extractor.checkpoint, labels, captions, lru_cache(maxsize=SEARCHED)(picture), features)


def features_of(photograph: Photograph) -> tuple:
    """What a gallery's `features` returns of a row."""
    return photograph.regions, photograph.objects, photograph.boxes, photograph.object_boxes


@torch.inference_mode()
def _encode(checkpoint: Checkpoint, features: tuple) -> ImageCodes:
    """One image's codes: [1, K, d], [1, M, d]."""
    regions, others = features[0][None], (None if part is None else part[None] for part in features[1:])
    return checkpoint.model.eval().encode_arrays(regions, *others)


@torch.inference_mode()
def _encode_captions(checkpoint: Checkpoint, captions: list[str]) -> CaptionCodes:
    checkpoint.model.eval()
    return checkpoint.encode_captions(captions)


@torch.inference_mode()
def _scores(checkpoint: Checkpoint, images: ImageCodes, captions: CaptionCodes) -> np.ndarray:
    """Joint scores [B, C] of images and captions."""
    return checkpoint.model.score(images, captions).joint.float().cpu().numpy()
