"""What a search index is made of: the images of a prepared split with their captions, or any folder of pictures.

Letters: N images, C captions, K regions, M objects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bssan_lib.data.batches import image_batch
from bssan_lib.data.extraction import LARGEST_SIDE
from bssan_lib.data.images import ENDINGS, open_image
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import DataError
from bssan_lib.models.checkpoint import Checkpoint, check_features
from bssan_lib.models.codes import ImageCodes


@dataclass(frozen=True)
class Gallery:
    """What an index is made of.

    names: N, one for each image. captions: C texts. cap2im: [C]. vectors: how many codes an image has, (K, M), M = 0 where
    objects are the regions. encode: codes of the images from a row up to another, which is not included. folder: of
    the pictures, if there is one. key: changes when the data do.
    """

    names: list[str]
    captions: list[str]
    cap2im: np.ndarray
    vectors: tuple[int, int]
    encode: Callable[[int, int], ImageCodes]
    folder: Path | None
    key: str


def split_gallery(checkpoint: Checkpoint, split: PreparedSplit) -> Gallery:
    """A prepared split as a gallery. CheckpointError for features of another size than the model's."""
    check_features(checkpoint.model, split)
    model, device = checkpoint.model, checkpoint.model.device
    own_objects = split.object_boxes is not None or split.objects is not None or not model.config.tie_projections
    objects = split.sizes["objects"] if own_objects else 0
    stamp = (split.folder / f"{split.name}_ims.npy").stat()
    stored = split.meta["splits"].get(split.name, {}).get("image_folder")
    return Gallery(
        split.ids,
        split.captions,
        split.cap2im,
        (split.regions.shape[1], objects),
        lambda start, stop: model.encode_images(**image_batch(split, np.arange(start, stop), device)),
        (split.folder / stored).resolve() if stored else None,
        f"{split.folder.resolve()} {split.name} {stamp.st_size} {stamp.st_mtime_ns}",
    )


def picture_gallery(checkpoint: Checkpoint, folder: Path | str) -> Gallery:
    """The pictures of a folder and of those in it, in the order of their names, without captions.

    DataError where there is none; CheckpointError for a model of features of unknown making.
    """
    from bssan_lib.evaluation.photograph import Camera

    folder = Path(folder)
    names = picture_names(folder)
    if not names:
        raise DataError(f"{folder}: no picture there ({', '.join(ENDINGS)})")
    for name in names:
        if name != name.encode("utf-8", "replace").decode():
            raise DataError(f"{folder}: the name {name!r} is not UTF-8; rename this picture")
    model = checkpoint.model
    backbone = Camera(checkpoint).backbone

    def encode(start: int, stop: int) -> ImageCodes:
        pictures = [open_image(folder / name) for name in names[start:stop]]
        for picture in pictures:
            picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)  # as in preparing data
        regions = backbone.extract(pictures)
        return model.encode_arrays(regions, backbone.pool_objects(regions), backbone.boxes, backbone.object_boxes)

    return Gallery(
        names,
        [],
        np.zeros(0, np.int64),
        (len(backbone.boxes), len(backbone.object_boxes)),
        encode,
        folder.resolve(),
        str(folder.resolve()),
    )


def picture_names(folder: Path) -> list[str]:
    """Names, relative to the folder, of files in it that end like a picture; hidden ones are left out."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
