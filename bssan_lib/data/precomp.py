"""Features as SCAN, VSRN, SGRAF and their descendants distribute them: f30k_precomp, coco_precomp.

    {split}_ims.npy   [N, K, D] floats      {split}_caps.txt   C captions, one a line, in image order

Their dev and test files may hold each image five times, once for each caption: then every fifth row is used.
Where {split}_ids.txt, _cap2im.npy or _boxes.npy lie beside them, those are used; boxes are fractions, or pixels with
{split}_img_sizes.npy [N, 2] beside them.
"""

from pathlib import Path

import numpy as np

from bssan_lib.data.vocabulary import check_caption
from bssan_lib.errors import DataError
from bssan_lib.files import write_json
from bssan_lib.reading import open_array, read_json, read_lines

FEATURES = "[images, regions, dimension]"
_CHECKED = ".bssan_checked.json"  # remembers what the one long look at a features file found
_CHUNK = 16_000_000  # bytes read at once


def precomp_splits(folder: Path) -> list[str]:
    """The splits of a folder in the field's format: with features and captions; train, dev, test first."""
    names = [path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy")]
    order = ["train", "dev", "test"]
    found = [name for name in names if (folder / f"{name}_caps.txt").is_file()]
    return sorted(found, key=lambda name: (order.index(name) if name in order else 3, name))


def open_features(folder: Path, split: str, captions: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The features [N, K, D] as a memory map, cap2im [C], and how often the file repeats each image (1 or 5).

    Reads the whole file the first time, in pieces, and remembers the outcome beside it. DataError: an array
    of another rank or type, NaN or infinity (with the row), or a number of captions that does not fit.
    """
    path = folder / f"{split}_ims.npy"
    features: np.ndarray = open_array(path, 3, "f", FEATURES)
    own = folder / f"{split}_cap2im.npy"
    maybe_repeated = not own.is_file() and captions == len(features) and captions % 5 == 0
    repeats = _checked(path, features, maybe_repeated)
    features = features[::repeats]
    if own.is_file():
        return features, check_cap2im(own, captions, len(features)), repeats
    if captions < len(features) or captions % len(features):
        raise DataError(
            f"{path}: {len(features):,} images, but {split}_caps.txt has {captions:,} captions; "
            f"expected as many for each image, or {split}_cap2im.npy that tells which is whose"
        )
    return features, np.repeat(np.arange(len(features)), captions // len(features)), repeats


def check_cap2im(path: Path, captions: int, images: int) -> np.ndarray:
    """cap2im [C] int64 from a file. DataError: not a row of 0..N-1 for each caption, an image without one."""
    cap2im = np.array(open_array(path, 1, "iu", "[captions]"), dtype=np.int64)
    if len(cap2im) != captions:
        raise DataError(f"{path}: {len(cap2im):,} rows for {captions:,} captions")
    wrong = np.flatnonzero((cap2im < 0) | (cap2im >= images))
    if len(wrong):
        raise DataError(f"{path}, row {wrong[0]}: image {cap2im[wrong[0]]} of {images:,}")
    missing = np.flatnonzero(np.bincount(cap2im, minlength=images) == 0)
    if len(missing):
        raise DataError(f"{path}: image row {missing[0]} has no caption")
    return cap2im


def read_captions(path: Path) -> list[str]:
    """C captions, one a line. DataError naming the line of an empty one."""
    captions = [line.strip() for line in read_lines(path)]
    for row, caption in enumerate(captions, start=1):
        if not caption:
            raise DataError(f"{path}, line {row}: the caption is empty; expected one caption a line")
        check_caption(caption, f"{path}, line {row}", least=0)
    if not captions:
        raise DataError(f"{path}: holds no caption")
    return captions


def read_ids(path: Path, images: int, repeats: int) -> list[str] | None:
    """N names of images; None if there is no such file, or one of another count, as some of theirs are."""
    if not path.is_file():
        return None
    ids = [line.strip() for line in read_lines(path)]
    if len(ids) == images * repeats:
        ids = ids[::repeats]
    return ids if len(ids) == images and all(ids) else None


def open_boxes(path: Path, images: int, regions: int, repeats: int = 1) -> np.ndarray | None:
    """Boxes [N, K, 4] float32 as fractions of width and height; None if there is no such file.

    Boxes in pixels need {split}_img_sizes.npy [N, 2], width and height, beside them. DataError with the row: another
    shape, corners in another order, boxes that leave the picture.
    """
    if not path.is_file():
        return None
    boxes: np.ndarray = open_array(path, 3, "fiu", "[images, regions, 4]")
    boxes = boxes[::repeats] if len(boxes) == images * repeats else boxes
    if boxes.shape != (images, regions, 4):
        raise DataError(f"{path}: expected the shape {[images, regions, 4]}, got {list(boxes.shape)}")
    boxes = np.asarray(boxes, dtype=np.float32)
    sizes = path.with_name(path.name.removesuffix("_boxes.npy") + "_img_sizes.npy")
    pixels = boxes.max(initial=0) > 1.01
    if pixels and sizes.is_file():
        boxes = _from_pixels(path, boxes, sizes, repeats)
    wrong = np.flatnonzero(~_inside(boxes).all(axis=(1, 2)))
    if len(wrong):
        raise DataError(
            f"{path}, row {wrong[0]}: boxes outside the picture; expected x1 y1 x2 y2 as fractions of its width and "
            "height, from 0 to 1"
            + (f", or in pixels with {sizes.name} [images, 2], width and height" if pixels else "")
        )
    return boxes


def _inside(boxes: np.ndarray) -> np.ndarray:
    return (boxes >= -0.01) & (boxes <= 1.01)  # NaN fails both


def _from_pixels(path: Path, boxes: np.ndarray, sizes_path: Path, repeats: int) -> np.ndarray:
    """Boxes [N, K, 4] in pixels as fractions. DataError where corners or sizes are in another order."""
    sizes = np.asarray(open_array(sizes_path, 2, "fiu", "[images, 2]"), dtype=np.float32)
    sizes = sizes[::repeats] if len(sizes) == len(boxes) * repeats else sizes
    if sizes.shape != (len(boxes), 2) or not (sizes > 0).all():
        raise DataError(
            f"{sizes_path}: expected width and height in pixels of {len(boxes):,} images, got {list(sizes.shape)}"
            + ("" if sizes.shape != (len(boxes), 2) else f" with {sizes.min():g}")
        )
    crossed = np.flatnonzero((boxes[..., 2:] < boxes[..., :2]).any(axis=(1, 2)))
    if len(crossed):
        x1, y1, x2, y2 = boxes[crossed[0]][(boxes[crossed[0], :, 2:] < boxes[crossed[0], :, :2]).any(axis=1)][0]
        raise DataError(
            f"{path}, row {crossed[0]}: the box {x1:g} {y1:g} {x2:g} {y2:g}; expected the corners x1 y1 x2 y2 with "
            "x1 <= x2 and y1 <= y2. If it is x, y, width and height, add x and y to the last two"
        )
    corners = boxes / np.tile(sizes, 2)[:, None]
    turned = boxes / np.tile(sizes[:, ::-1], 2)[:, None]
    if not _inside(corners).all() and _inside(turned).all():
        row = int(np.flatnonzero(~_inside(corners).all(axis=(1, 2)))[0])
        width, height = sizes[row]
        raise DataError(
            f"{path}, row {row}: boxes outside a picture of width {width:g} and height {height:g}, but inside one of "
            f"width {height:g} and height {width:g}. Expected width before height in {sizes_path.name}, and x before y "
            "in the boxes"
        )
    return corners


def _checked(path: Path, features: np.ndarray, maybe_repeated: bool) -> int:
    """How often each image is repeated, after a look at every number, the outcome of which is kept."""
    if 0 in features.shape:
        raise DataError(f"{path}: an empty array {list(features.shape)}; expected {FEATURES}")
    status, beside = path.stat(), path.with_name(_CHECKED)
    stamp = [status.st_size, status.st_mtime_ns, maybe_repeated]
    try:
        known = read_json(beside)
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    entry = known.get(path.name)
    if isinstance(entry, dict) and entry.get("stamp") == stamp and entry.get("repeats") in (1, 5):
        return entry["repeats"]
    repeats = _look(path, features, maybe_repeated)
    try:
        write_json(beside, {**known, path.name: {"stamp": stamp, "repeats": repeats}})
    except OSError:
        pass  # a folder that cannot be written is looked through again next time
    return repeats


def _look(path: Path, features: np.ndarray, maybe_repeated: bool) -> int:
    step = max(1, _CHUNK // (features[0].nbytes * 5)) * 5
    repeats = 5 if maybe_repeated else 1
    for start in range(0, len(features), step):
        chunk = np.asarray(features[start : start + step])
        if not np.isfinite(chunk).all():
            row = start + int(np.flatnonzero(~np.isfinite(chunk).all(axis=(1, 2)))[0])
            raise DataError(f"{path}, row {row}: NaN or infinity; extract the features of this image again")
        if repeats == 5:
            groups = chunk.reshape(-1, 5, *chunk.shape[1:])
            same = (groups[:, 1:] == groups[:, :1]).all(axis=(1, 2, 3))
            if start == 0 and not same[0]:
                repeats = 1
            elif not same.all():
                row = start + 5 * int(np.flatnonzero(~same)[0])
                raise DataError(
                    f"{path}, rows {row} to {row + 4}: as many rows as captions, and the first "
                    "five are one image five times, but these are not; expected either "
                    "throughout"
                )
    return repeats
