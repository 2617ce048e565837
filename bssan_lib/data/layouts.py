"""The layouts of pictures beside lists of captions that others publish, and your own: one reader for each.

    results_20130124.token                          Flickr30K as distributed: NAME#0<TAB>caption
    results.csv                                     Kaggle's Flickr30K: image_name| comment_number| comment
    flickr_annotations_30k.csv                      Hugging Face's Flickr30K: raw (a JSON list), split, filename
    annotations/captions_{train,val}{2014,2017}.json    MSCOCO as distributed; Karpathy's split by image id
    *_{train,val,test}.json                         lists of BLIP and ALBEF: [{"image": NAME, "caption": text or list}]
    *_{train,val,test}_karpathy.txt                 lists of CLIP_benchmark: CSV with the header image,caption
    metadata.csv, metadata.jsonl                    Hugging Face's imagefolder, perhaps in train/, validation/, test/
    captions.csv, .tsv, .jsonl, .txt                your own: image, caption and perhaps split

A reader gets one file and the data folder, and returns its rows. DataErrors name the file and the row.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bssan_lib.data.flickr8k import OFFICIAL, csv_rows, token_rows
from bssan_lib.data.karpathy import LONGEST_NAME, is_number
from bssan_lib.errors import DataError
from bssan_lib.reading import LARGEST_FILE, parse_json, read_json, read_lines, read_start

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_name")
CAPTION_COLUMNS = ("caption", "text", "raw", "captions", "comment")
SPLIT_OF = {"train": "train", "val": "dev", "valid": "dev", "validation": "dev", "dev": "dev", "test": "test"}
COCO = re.compile(r"captions_(train|val)(2014|2017)\.json")
OWN = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.txt")
METADATA = ("metadata.csv", "metadata.jsonl")
TABLES = (".csv", ".tsv", ".jsonl")
NESTED = ("", "flickr30k_images", "flickr30k_images/flickr30k_images", "flickr30k-images")


class Row(NamedTuple):
    """One image of one row. split: ours, or None. where: file and row, for messages. ids: COCO's, of each caption."""

    image: str
    captions: list[str]
    split: str | None
    where: str
    ids: list[tuple[int, int]] | None = None


class Layout(NamedTuple):
    """name: as check-data shows it. find: folder -> its files, [] if it is not this layout. read: (file, folder) -> rows."""

    name: str
    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], list[Row]]
    split: str = "as the files give it"


def find_layout(folder: Path) -> tuple[Layout, list[Path]] | None:
    """The first of LAYOUTS whose files a folder holds, and these files; None if there is none."""
    return next(((layout, files) for layout in LAYOUTS if (files := layout.find(folder))), None)


def near_layout(folder: Path) -> str:
    """What a folder of no known layout comes nearest to, as the end of a message; "" for none."""
    names = sorted(path.name for path in folder.iterdir())
    tables = [name for name in names if name.endswith(TABLES)]
    if tables:
        first = read_start(folder / tables[0]).partition("\n")[0].strip()[:80]
        return (
            f". Nearest: {tables[0]}, which begins {first!r}; name one column of it {', '.join(IMAGE_COLUMNS[:2])} and "
            "one caption"
        )
    if pictures := [name for name in names if name.lower().endswith((".jpg", ".jpeg", ".png"))]:
        return f". Nearest: pictures such as {pictures[0]} without captions; add captions.csv"
    return ""


def _named(name: str) -> Callable[[Path], list[Path]]:
    """Finds a file in a folder, or in the folders of pictures into which its archive unpacks."""

    def find(folder: Path) -> list[Path]:
        places = (folder / inner / name for inner in NESTED)
        return [path for path in places if path.is_file()][:1]

    return find


def _lists(ending: str) -> Callable[[Path], list[Path]]:
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


def _find_coco(folder: Path) -> list[Path]:
    for place in (folder / "annotations", folder):
        found = [path for path in sorted(place.glob("captions_*.json")) if COCO.fullmatch(path.name)]
        if len({path.stem[-4:] for path in found}) > 1:
            raise DataError(f"{place}: captions of 2014 and of 2017, which are the same pictures; keep one year's")
        if found:
            return found
    return []


def _find_imagefolder(folder: Path) -> list[Path]:
    inner = [folder / name / file for name in SPLIT_OF for file in METADATA if (folder / name / file).is_file()]
    return inner or _one(folder, [folder / file for file in METADATA if (folder / file).is_file()])


def _find_own(folder: Path) -> list[Path]:
    if found := [folder / name for name in OWN if (folder / name).is_file()]:
        return _one(folder, found)
    others = (path for path in sorted(folder.iterdir()) if path.suffix in TABLES and path.is_file())
    return _one(folder, [path for path in others if _has_columns(path)])


def _is_list(path: Path) -> bool:
    return path.suffix != ".json" or read_start(path).lstrip().startswith("[")


def _has_columns(path: Path) -> bool:
    """Whether the first line names a column of images and one of captions."""
    words = set(re.findall(r"\w+", read_start(path).partition("\n")[0].lower()))
    return bool(words & set(IMAGE_COLUMNS)) and bool(words & set(CAPTION_COLUMNS))


def _one(folder: Path, found: list[Path]) -> list[Path]:
    if len(found) > 1:
        raise DataError(
            f"{folder}: {', '.join(path.name for path in found[:9])} may each hold the captions; keep one of them, "
            "or call it captions.csv, captions.tsv or captions.jsonl"
        )
    return found


# -- readers


def _read_token(path: Path, folder: Path) -> list[Row]:
    return [
        Row(_name(image, folder, where), _captions(text, where), None, where)
        for line, image, text in token_rows(path)
        if (where := f"{path}, line {line}")
    ]


def _read_bars(path: Path, folder: Path) -> list[Row]:
    """Kaggle's Flickr30K. One of its rows has no last bar: `2199200615.jpg| 4   A dog runs ...`."""
    lines = read_lines(path)
    if not any("|" in text for text in lines[:1]):
        return _read_table(path, folder)
    rows = []
    for line, text in enumerate(lines, start=1):
        if line == 1 or not text.strip():
            continue
        where = f"{path}, line {line}"
        parts = re.match(r"([^|]+)\|\s*\d+\s*\|?(.*)$", text)
        if parts is None:
            raise DataError(f"{where}: expected NAME| NUMBER| caption, got {text[:60]!r}")
        rows.append(Row(_name(parts[1], folder, where), _captions(parts[2], where), None, where))
    return rows


def _read_clip(path: Path, folder: Path) -> list[Row]:
    split = SPLIT_OF[path.stem.removesuffix("_karpathy").rpartition("_")[2]]
    return [
        Row(_name(image, folder, where), _captions(text, where), split, where)
        for line, image, text in csv_rows(path)
        if (where := f"{path}, line {line}")
    ]


def _read_blip(path: Path, folder: Path) -> list[Row]:
    stored, split = _json(path), SPLIT_OF[path.stem.rpartition("_")[2]]
    if not isinstance(stored, list):
        raise DataError(f"{path}: expected a list of objects with image and caption, got {str(stored)[:60]!r}")
    rows = []
    for number, entry in enumerate(stored):
        where = f"{path}, [{number}]"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object with image and caption, got {str(entry)[:60]!r}")
        rows.append(Row(_name(entry.get("image"), folder, where), _captions(entry.get("caption"), where), split, where))
    return rows


def _read_coco(path: Path, folder: Path) -> list[Row]:
    """MSCOCO's captions. Karpathy's dev and test are images of val2014; the others of it, his restval, join train."""
    split_of = {
        int(line): split
        for split, name in (("dev", "val"), ("test", "test"))
        for line in read_lines(OFFICIAL / f"coco_karpathy_{name}.txt")
    }
    stored, place = _json(path), path.stem.removeprefix("captions_")
    try:
        names = {image["id"]: image["file_name"] for image in stored["images"]}
        captions = [(one["image_id"], one["id"], one["caption"]) for one in stored["annotations"]]
        if not all(map(is_number, [*names, *(id for one in captions for id in one[:2])])):
            raise TypeError("an id that is no whole number")
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
            name = _name(f"{place}/{names[image]}", folder, where)
            ids = [(image, caption_id) for caption_id, _ in given]
            texts = _captions([text for _, text in given], where)
            rows.append(Row(name, texts, split_of.get(image, "train"), where, ids))
    return rows


def _read_table(path: Path, folder: Path) -> list[Row]:
    inner = path.parent.name if path.parent != folder and path.parent.name in SPLIT_OF else None
    rows = []
    for number, found in _json_lines(path) if path.suffix == ".jsonl" else _fields(path):
        where = f"{path}, line {number}"
        image, caption = (
            next((name for name in some if name in found), "") for some in (IMAGE_COLUMNS, CAPTION_COLUMNS)
        )
        if not image or not caption:
            raise DataError(
                f"{where}: the columns are {', '.join(map(str, found))[:200]}; expected one of "
                f"{', '.join(IMAGE_COLUMNS)} and one of {', '.join(CAPTION_COLUMNS)}"
            )
        split = str(found.get("split") or inner or "").strip().lower()
        if split and split not in SPLIT_OF:
            raise DataError(f"{where}: unknown split {split[:60]!r}; expected one of {', '.join(SPLIT_OF)}")
        name, given = _name(found[image], folder, where), found[caption]
        captions = _captions(_listed(given, where) if caption == "raw" else given, where)
        rows.append(Row(f"{inner}/{name}" if inner else name, captions, SPLIT_OF[split] if split else None, where))
    return rows


def _fields(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number, {column: text}) of each row of a CSV or TSV."""
    # A quoted caption may contain line breaks, so the reader gets the whole text.
    text = io.StringIO("\n".join(read_lines(path)))
    reader = csv.reader(text, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise DataError(
                    f"{path}, line {line}: {len(fields)} fields, but {len(header)} columns; put a caption that "
                    "contains the separator in double quotes"
                )
            if fields:
                yield line, dict(zip(header, fields, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not a table ({error}); double the quotes in a field"
        ) from None


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    for line, text in enumerate(read_lines(path), start=1):
        if text.strip():
            try:
                found = parse_json(text)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: not JSON ({error})") from None
            if not isinstance(found, dict):
                raise DataError(f"{path}, line {line}: expected an object, got {text[:60]!r}")
            yield line, {str(name).strip().lower(): value for name, value in found.items()}


def _listed(given: object, where: str) -> object:
    """The captions of Hugging Face's Flickr30K: the text of a JSON list."""
    try:
        return parse_json(given) if isinstance(given, str) else given
    except ValueError:
        raise DataError(f"{where}: expected a JSON list of captions, got {str(given)[:60]!r}") from None


def _json(path: Path):
    try:
        return read_json(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not JSON that can be read ({error}); the file may be incomplete") from None


def _name(given: object, folder: Path, where: str) -> str:
    name = given.strip().replace("\\", "/") if isinstance(given, str) else ""
    inside = PurePosixPath(name)
    longest = max(map(len, inside.parts), default=0)
    if not name or inside.is_absolute() or ".." in inside.parts or longest > LONGEST_NAME:
        raise DataError(f"{where}: expected the name of a picture under {folder}, got {str(given)[:60]!r}")
    return str(inside)


def _captions(given: object, where: str) -> list[str]:
    """A string is one caption, a list has several. DataError if one is empty or no text."""
    listed = given if isinstance(given, list) else [given]
    captions = [one for one in listed if isinstance(one, str) and one.strip()]
    if not captions or len(captions) < len(listed):
        raise DataError(f"{where}: expected a caption or a list of captions, none empty, got {str(given)[:60]!r}")
    return [" ".join(one.split()) for one in captions]


LAYOUTS = (
    Layout("Flickr30K as distributed", _named("results_20130124.token"), _read_token),
    Layout("Kaggle Flickr30K", _named("results.csv"), _read_bars),
    Layout("Hugging Face Flickr30K", _named("flickr_annotations_30k.csv"), _read_table),
    Layout("MSCOCO as distributed", _find_coco, _read_coco, "Karpathy's, by image id; restval is part of train"),
    Layout("lists of BLIP or ALBEF", _lists(".json"), _read_blip),
    Layout("lists of CLIP_benchmark", _lists("_karpathy.txt"), _read_clip),
    Layout("Hugging Face imagefolder", _find_imagefolder, _read_table),
    Layout("your own table", _find_own, _read_table),
)
