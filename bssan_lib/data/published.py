"""Lists of images and captions as others publish them: Flickr30K, MSCOCO, BLIP, CLIP_benchmark.

Each finder gets a folder and returns its files, [] if there are none. A reader gets one file and the data folder.
"""

import re
from collections.abc import Callable
from pathlib import Path

from bssan_lib.data.flickr8k import OFFICIAL, csv_rows, token_rows
from bssan_lib.data.karpathy import is_number
from bssan_lib.data.rows import SPLIT_OF, Row, caption_list, picture_name, read_json, read_table
from bssan_lib.errors import DataError
from bssan_lib.reading import read_lines, read_start

COCO = re.compile(r"captions_(train|val)(2014|2017)\.json")
NESTED = ("", "flickr30k_images", "flickr30k_images/flickr30k_images", "flickr30k-images")


def named(name: str) -> Callable[[Path], list[Path]]:
    """Finds a file in a folder, or in the folders of pictures into which its archive unpacks."""

    def find(folder: Path) -> list[Path]:
        places = (folder / inner / name for inner in NESTED)
        return [path for path in places if path.is_file()][:1]

    return find


def lists(ending: str) -> Callable[[Path], list[Path]]:
    """Finds the lists of all splits: *_train.json and so on, in a folder or in annotations/ or annotation/ in it."""

    def find(folder: Path) -> list[Path]:
        for place in (folder, folder / "annotations", folder / "annotation"):
            found = {split: [p for p in sorted(place.glob(f"*_{split}{ending}")) if _is_list(p)] for split in SPLIT_OF}
            files = [path for paths in found.values() for path in paths]
            if twice := next((paths for paths in found.values() if len(paths) > 1), None):
                raise DataError(
                    f"{folder}: {', '.join(path.name for path in twice)} may each be the list; keep one of them"
                )
            if files:
                return files
        return []

    return find


def find_coco(folder: Path) -> list[Path]:
    """captions_train2014.json and captions_val2014.json, or 2017's. DataError where both years are there."""
    for place in (folder / "annotations", folder):
        found = [path for path in sorted(place.glob("captions_*.json")) if COCO.fullmatch(path.name)]
        if len({path.stem[-4:] for path in found}) > 1:
            raise DataError(f"{place}: captions of 2014 and of 2017, which are the same pictures; keep one year's")
        if found:
            return found
    return []


def _is_list(path: Path) -> bool:
    return path.suffix != ".json" or read_start(path).lstrip().startswith("[")


def read_token(path: Path, folder: Path) -> list[Row]:
    """Flickr30K as distributed: NAME#NUMBER, a tab, a caption."""
    return [
        Row(picture_name(image, folder, where), caption_list(text, where), None, where)
        for line, image, text in token_rows(path)
        if (where := f"{path}, line {line}")
    ]


def read_bars(path: Path, folder: Path) -> list[Row]:
    """Kaggle's Flickr30K. One of its rows has no last bar: `2199200615.jpg| 4   A dog runs ...`."""
    lines = read_lines(path)
    if not any("|" in text for text in lines[:1]):
        return read_table(path, folder)
    rows = []
    for line, text in enumerate(lines, start=1):
        if line == 1 or not text.strip():
            continue
        where = f"{path}, line {line}"
        parts = re.match(r"([^|]+)\|\s*\d+\s*\|?(.*)$", text)
        if parts is None:
            raise DataError(f"{where}: expected NAME| NUMBER| caption, got {text[:60]!r}")
        rows.append(Row(picture_name(parts[1], folder, where), caption_list(parts[2], where), None, where))
    return rows


def read_clip(path: Path, folder: Path) -> list[Row]:
    """A list of CLIP_benchmark: a CSV; captions may contain commas without quotes. The file's name has the split."""
    split = SPLIT_OF[path.stem.removesuffix("_karpathy").rpartition("_")[2]]
    return [
        Row(picture_name(image, folder, where), caption_list(text, where), split, where)
        for line, image, text in csv_rows(path)
        if (where := f"{path}, line {line}")
    ]


def read_blip(path: Path, folder: Path) -> list[Row]:
    """A list of BLIP or ALBEF: objects with image and caption. The file's name has the split."""
    stored, split = read_json(path), SPLIT_OF[path.stem.rpartition("_")[2]]
    if not isinstance(stored, list):
        raise DataError(f"{path}: expected a list of objects with image and caption, got {str(stored)[:60]!r}")
    rows = []
    for number, entry in enumerate(stored):
        where = f"{path}, [{number}]"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object with image and caption, got {str(entry)[:60]!r}")
        rows.append(
            Row(
                picture_name(entry.get("image"), folder, where), caption_list(entry.get("caption"), where), split, where
            )
        )
    return rows


def read_coco(path: Path, folder: Path) -> list[Row]:
    """MSCOCO's captions. Karpathy's dev and test are images of val2014; the others of it, his restval, join train."""
    split_of = {
        int(line): split
        for split, name in (("dev", "val"), ("test", "test"))
        for line in read_lines(OFFICIAL / f"coco_karpathy_{name}.txt")
    }
    stored, place = read_json(path), path.stem.removeprefix("captions_")
    try:
        names = {image["id"]: image["file_name"] for image in stored["images"]}
        captions = [(one["image_id"], one["id"], one["caption"]) for one in stored["annotations"]]
        if not all(map(is_number, [*names, *(one[0] for one in captions), *(one[1] for one in captions)])):
            raise TypeError("an id is not a whole number")
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: expected COCO's images (id, file_name) and annotations ({error})") from None
    found: dict[int, list[tuple[int, str]]] = {image: [] for image in names}
    for number, (image, caption_id, text) in enumerate(captions):
        if image not in found:
            raise DataError(f"{path}, annotations[{number}]: image {str(image)[:60]} is not in images")
        found[image].append((caption_id, text))
    rows = []
    for number, (image, given) in enumerate(found.items()):
        if given:  # images without captions are left out
            where = f"{path}, images[{number}]"
            name = picture_name(f"{place}/{names[image]}", folder, where)
            ids = [(image, caption_id) for caption_id, _ in given]
            texts = caption_list([text for _, text in given], where)
            rows.append(Row(name, texts, split_of.get(image, "train"), where, ids))
    return rows
