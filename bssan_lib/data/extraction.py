"""Pictures to region features on disk; after a stop the same call continues where it stopped.

Letters: N images, K regions, M objects, D feature size, V further views, B images of a batch.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bssan_lib.data.images import open_image
from bssan_lib.data.progress import tqdm
from bssan_lib.data.raw import RawSplit
from bssan_lib.errors import DataError
from bssan_lib.files import GrowingArray, GrowingArrays, disk_errors

BATCH = 32  # B; a resumed extraction continues at a whole batch, so that its numbers are the same to the bit
SAVE_EVERY = 8  # batches between two notes of how far it got
THREADS = max(2, min(8, os.cpu_count() or 1))  # they decode the next batch while the backbone computes
LARGEST_SIDE = 2048  # pixels; larger photographs are shrunk first, or two batches would fill the memory


def features_key(raw: RawSplit, descriptor: dict, views: int = 0) -> str:
    """A hash of what the features of a split depend on besides the pictures: their names in order, backbone, views."""
    parts = [raw.name, raw.ids, descriptor] + ([views] if views else [])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def further_view(picture: Image.Image, number: int, row: int) -> Image.Image:
    """Another view of a training picture, a function of its row alone. number: 1 mirrored; from 2 on a random part of
    55 to 100% of its area, about as wide as high as the picture, every other one mirrored as well."""
    if number > 1:
        random = np.random.default_rng([number, row])
        side = np.sqrt(random.uniform(0.55, 1))
        width = max(1, round(picture.width * side))
        height = max(1, round(picture.height * min(1, side * random.uniform(0.9, 1.1))))
        left, top = (int(random.integers(0, room + 1)) for room in (picture.width - width, picture.height - height))
        picture = picture.crop((left, top, left + width, top + height))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else picture


def extract_features(
    folder: Path, raw: RawSplit, backbone, key: str, progress: bool = True, views: int = 0
) -> list[Path]:
    """Writes {split}_ims.npy [N, K, D], {split}_objects.npy [N, M, D] and {split}_views.npy [N, V, K, D], float16.

    Objects only of a backbone that makes them, further views where `views` asks for some; uint8 where a backbone keeps
    pixels. key: what the features depend on; those of another key are not continued. Returns their paths.

    Until the last row they are called .partial, with a note of the rows done beside them; the same call continues
    there, also after a kill, to the same bytes. DataError: a picture that cannot be read, features that are no
    numbers in float16, a full disk (with the bytes needed).
    """
    shapes = _shapes(raw, backbone, views)
    paths = [folder / f"{raw.name}_{name}.npy" for name in shapes]
    partials = [path.with_name(f"{path.name}.partial") for path in paths]
    dtype = np.uint8 if _keeps_pixels(backbone) else np.float16
    arrays = [GrowingArray(path, shape, dtype) for path, shape in zip(partials, shapes.values(), strict=True)]
    note = folder / f"{raw.name}_ims.npy.partial.json"
    with GrowingArrays(note, arrays, lambda done: {"key": key, "done": done}) as growing:
        _extract_rows(growing, raw, backbone, progress, views)
    with disk_errors(folder):
        for partial, path in zip(partials, paths, strict=True):
            os.replace(partial, path)
        note.unlink(missing_ok=True)
    return paths


def _extract_rows(growing: GrowingArrays, raw: RawSplit, backbone, progress: bool, views: int) -> None:
    total = len(raw.ids)
    bar = tqdm(total=total, initial=growing.done, unit=" images", desc=f"features of {raw.name}", disable=not progress)
    with bar:
        for number, (start, pictures) in enumerate(_batches(raw, growing.done)):
            regions = np.asarray(backbone.extract(pictures), dtype=None if _keeps_pixels(backbone) else np.float32)
            blocks = [regions]
            if _makes_objects(backbone):
                blocks.append(backbone.pool_objects(regions))
            if views:
                further = [
                    backbone.extract([further_view(picture, view, start + i) for i, picture in enumerate(pictures)])
                    for view in range(1, views + 1)
                ]
                blocks.append(np.stack(further, axis=1).astype(regions.dtype))
            growing.append([_to_half(block, raw, start) for block in blocks])
            if number % SAVE_EVERY == SAVE_EVERY - 1 or growing.done == total:
                growing.save()
            bar.update(len(pictures))


def _batches(raw: RawSplit, done: int) -> Iterator[tuple[int, list[Image.Image]]]:
    """(first row, B pictures) from row `done` on, the next batch being decoded meanwhile."""
    pool = ThreadPoolExecutor(THREADS)
    try:

        def submit(start):
            return [pool.submit(_picture, raw.image_folder / name) for name in raw.ids[start : start + BATCH]]

        ahead = submit(done)
        for start in range(done, len(raw.ids), BATCH):
            current, ahead = ahead, submit(start + BATCH)
            yield start, [future.result() for future in current]
    finally:
        pool.shutdown(cancel_futures=True)


def _picture(path: Path) -> Image.Image:
    picture = open_image(path)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)  # leaves a smaller one as it is
    return picture


def _to_half(block: np.ndarray, raw: RawSplit, start: int) -> np.ndarray:
    if block.dtype == np.uint8:
        return block
    with np.errstate(over="ignore"):
        half = block.astype(np.float16)
    wrong = np.flatnonzero(~np.isfinite(half).reshape(len(half), -1).all(axis=1))
    if len(wrong):
        path = raw.image_folder / raw.ids[start + wrong[0]]
        raise DataError(
            f"{path} (row {start + wrong[0]} of {raw.name}): the backbone's features are not "
            "numbers that float16 holds (NaN, infinity or beyond 65,504); use another precision "
            "or backbone"
        )
    return half


def _makes_objects(backbone) -> bool:
    has = backbone.object_boxes is not None and len(backbone.object_boxes) > 0
    return has and backbone.descriptor.get("features", "map") == "map"


def _keeps_pixels(backbone) -> bool:
    return backbone.descriptor.get("features") == "pixels"


def _shapes(raw: RawSplit, backbone, views: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the features files of a split."""
    n, k, d = len(raw.ids), len(backbone.boxes), backbone.descriptor["dimension"]
    shapes: dict[str, tuple[int, ...]] = {"ims": (n, k, d)}
    if _makes_objects(backbone):
        shapes["objects"] = (n, len(backbone.object_boxes), d)
    if views:
        shapes["views"] = (n, views, k, d)
    return shapes
