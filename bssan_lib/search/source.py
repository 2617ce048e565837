"""The content of a search index: a prepared split with captions, or any folder of images.

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
    """The content of an index.

    names: N, of the images. captions: C texts. cap2im: [C]. vectors: (K, M), codes of an image; M = 0 if the objects
    are the regions. encode(start, stop): codes of these images. folder: of the image files, or None. key: changes if
    the data change.
    """

    names: list[str]
    captions: list[str]
    cap2im: np.ndarray
    vectors: tuple[int, int]
    encode: Callable[[int, int], ImageCodes]
    folder: Path | None
    key: str


def split_gallery(checkpoint: Checkpoint, split: PreparedSplit) -> Gallery:
    """A prepared split as a gallery. Raises CheckpointError if the features do not fit the model."""
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
    """The images of a folder and its subfolders, sorted by name, without captions.

    Raises DataError if there are none, CheckpointError as `FeatureExtractor`.
    """
    from bssan_lib.evaluation.photograph import FeatureExtractor

    folder = Path(folder)
    names = picture_names(folder)
    if not names:
        raise DataError(f"{folder}: no images found ({', '.join(ENDINGS)})")
    for name in names:
        if name != name.encode("utf-8", "replace").decode():
            raise DataError(f"{folder}: the name {name!r} is not UTF-8; rename this image")
    model = checkpoint.model
    backbone = FeatureExtractor(checkpoint).backbone

    def encode(start: int, stop: int) -> ImageCodes:
        pictures = [open_image(folder / name) for name in names[start:stop]]
        for picture in pictures:
            picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)  # as for prepared data
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
    """Names, relative to the folder, of files with the suffix of an image format; hidden files are left out."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
