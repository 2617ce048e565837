"""Pictures to region features on disk: resumes where it stopped, and is never half there as if whole.

Letters: N images, K regions, M objects, D feature size, V further views, B images of a batch.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from bssan_lib.progress import tqdm

from bssan_lib.data.files import replace_json, writing
from bssan_lib.data.images import open_image
from bssan_lib.data.raw import RawSplit
from bssan_lib.errors import DataError

BATCH = 32  # B; a resumed extraction goes on at a whole batch, so that its numbers are the same to the bit
SAVE_EVERY = 8  # batches between two notes of how far it got
THREADS = 2  # they decode the next batch while the backbone computes
LARGEST_SIDE = 2048  # pixels; larger photographs are shrunk first, or two batches would fill the memory


def features_key(raw: RawSplit, descriptor: dict, views: int = 0) -> str:
    """A hash of what the features of a split depend on: its images' names in order, the backbone, further views."""
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


def extract_features(folder: Path, raw: RawSplit, backbone, progress: bool = True, views: int = 0) -> list[Path]:
    """Writes {split}_ims.npy [N, K, D], {split}_objects.npy [N, M, D] and {split}_views.npy [N, V, K, D], float16.

    Objects only of a backbone that makes them, further views where `views` asks for some. Returns their paths.

    Until the last row they are called .partial, with a note of the rows done beside them; the same call goes
    on from there, also after a kill, to the same bytes. DataError: a picture that cannot be read, features
    that are no numbers in float16, a full disk (with the bytes needed).
    """
    outputs = _outputs(folder, raw, backbone, views)
    note = folder / f"{raw.name}_ims.npy.partial.json"
    key = features_key(raw, backbone.descriptor, views)
    done = _rows_done(note, key, outputs)
    needed = sum(output.size for output in outputs)
    _check_space(folder, needed - sum(output.size_at(done) for output in outputs))
    with writing(folder, needed):
        files = [output.open(done) for output in outputs]
    try:
        _extract_rows(folder, raw, backbone, done, files, note, key, needed, progress, views)
    finally:
        for file in files:
            with suppress(OSError):  # what counts was flushed above; on a full disk closing fails once more
                file.close()
    with writing(folder, needed):
        for output in outputs:
            os.replace(output.partial, output.path)
        note.unlink(missing_ok=True)
    return [output.path for output in outputs]


def _extract_rows(folder: Path, raw: RawSplit, backbone, done: int, files: list, note: Path, key: str,
                  needed: int, progress: bool, views: int) -> None:
    bar = tqdm(total=len(raw.ids), initial=done, unit=" images", desc=f"features of {raw.name}",
               disable=not progress)
    with bar:
        for number, (start, pictures) in enumerate(_batches(raw, done)):
            regions = np.asarray(backbone.extract(pictures), dtype=np.float32)
            blocks = [regions]
            if _makes_objects(backbone):
                blocks.append(backbone.pool_objects(regions))
            if views:
                seen = [backbone.extract([further_view(picture, view, start + i) for i, picture in enumerate(pictures)])
                        for view in range(1, views + 1)]
                blocks.append(np.stack(seen, axis=1).astype(np.float32))
            halves = [_to_half(block, raw, start) for block in blocks]
            rows = start + len(pictures)
            with writing(folder, needed):
                for file, half in zip(files, halves, strict=True):
                    file.write(half.tobytes())
                if number % SAVE_EVERY == SAVE_EVERY - 1 or rows == len(raw.ids):
                    for file in files:
                        file.flush()
                        os.fsync(file.fileno())
                    # Noted only after the rows are safely on disk: the note may lag behind, never lead.
                    replace_json(note, {"key": key, "done": rows})
            bar.update(len(pictures))


def _batches(raw: RawSplit, done: int) -> Iterator[tuple[int, list[Image.Image]]]:
    """(first row, B pictures) from row `done` on, the next batch being decoded meanwhile."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        def submit(start):
            return [pool.submit(_picture, raw.image_folder / name) for name in raw.ids[start:start + BATCH]]

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
    with np.errstate(over="ignore"):
        half = block.astype(np.float16)
    wrong = np.flatnonzero(~np.isfinite(half).reshape(len(half), -1).all(axis=1))
    if len(wrong):
        path = raw.image_folder / raw.ids[start + wrong[0]]
        raise DataError(f"{path} (row {start + wrong[0]} of {raw.name}): the backbone's features are not "
                        "numbers that float16 holds (NaN, infinity or beyond 65,504); use another precision "
                        "or backbone")
    return half


class _Output:
    """One features file in the making."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape = path, shape
        self.partial = path.with_name(f"{path.name}.partial")
        self.row = 2 * math.prod(shape[1:])  # bytes

    def open(self, done: int):
        """The partial file, cut to its header and `done` rows, ready for the next row."""
        file = open(self.partial, "r+b" if done else "w+b")
        header = {"descr": "<f2", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + done * self.row)
        file.seek(0, os.SEEK_END)
        return file

    @property
    def size(self) -> int:
        return self.size_at(self.shape[0])

    def size_at(self, rows: int) -> int:
        return 128 + rows * self.row  # numpy pads the header of such a short shape to 128 bytes


def _makes_objects(backbone) -> bool:
    has = backbone.object_boxes is not None and len(backbone.object_boxes) > 0
    return has and backbone.descriptor.get("features") != "stage"


def _outputs(folder: Path, raw: RawSplit, backbone, views: int) -> list[_Output]:
    n, k, d = len(raw.ids), len(backbone.boxes), backbone.descriptor["dimension"]
    outputs = [_Output(folder / f"{raw.name}_ims.npy", (n, k, d))]
    if _makes_objects(backbone):
        outputs.append(_Output(folder / f"{raw.name}_objects.npy", (n, len(backbone.object_boxes), d)))
    if views:
        outputs.append(_Output(folder / f"{raw.name}_views.npy", (n, views, k, d)))
    return outputs


def _rows_done(note: Path, key: str, outputs: list[_Output]) -> int:
    """How many rows of every partial file can be kept; 0 if they were made for other images or settings."""
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        done = int(stored["done"]) if stored["key"] == key else 0
        whole = all(output.partial.stat().st_size >= output.size_at(done) for output in outputs)
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return done if whole and 0 <= done <= outputs[0].shape[0] else 0


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{folder}: the features need {needed:,} more bytes, but the disk has {free:,} left; "
                        "make room or give another folder for the prepared features")
