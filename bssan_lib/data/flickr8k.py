"""A Flickr8k folder (Hodosh, Young, Hockenmaier, JAIR 47, 2013), or your own pictures in the same layout.

    Flickr8k_text/Flickr8k.token.txt    NAME#0<TAB>caption; or captions.txt: CSV with the header image,caption
    Flickr8k_text/Flickr_8k.{train,dev,test}Images.txt      one file name a line; a split exists where its file does
    Flicker8k_Dataset/NAME.jpg          that spelling, or Flickr8k_Dataset, Images, images

The text files may also lie in the folder itself. Without split files, pictures named as in Flickr8k get its official split.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bssan_lib.data.entities import entities_phrases
from bssan_lib.data.raw import RawSplit, Reading
from bssan_lib.errors import DataError
from bssan_lib.reading import read_lines

SPLITS = ("train", "dev", "test")
IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
CAPTION_FILES = ("Flickr8k.token.txt", "captions.txt")
ENTITIES = ("flickr30k_entities_annotations.zip", "annotations.zip")
OFFICIAL = Path(__file__).with_name("official")  # the names of Flickr8k's splits; 91 of its pictures are in none
FEW = 10  # captions of up to so many unknown images are an error; of more, the folder is a part of the data set


def flickr8k_source(
    folder: Path, splits: list[str] | None = None, entities: Path | None = None, options: Reading = Reading()
) -> dict[str, RawSplit]:
    """The splits of a folder by name; `splits` None: all that have a split file.

    entities: Flickr30K Entities as a zip or a folder, searched for in the folder when None. Captions of images
    in no split are left out. DataError, naming file and row: anything missing or malformed, a caption without its
    picture, a picture without a caption.
    """
    folder = Path(folder)
    found = split_files(folder)
    for name in splits or []:
        if name not in found:
            raise DataError(f"{folder}: no split {name!r}; there are split files for {', '.join(found)}")
    image_folder = _image_folder(folder, options.images)
    captions_file = _captions_file(folder)
    rows = _read_captions(captions_file)
    members = {name: _read_split(path, image_folder, options.absent) for name, path in found.items()}
    _refuse_unknown(captions_file, rows, {image for ids in members.values() for image in ids}, image_folder)
    place = Path(entities) if entities else _find_entities(folder)
    place = place if options.boxes else None
    return {
        name: _split(name, members[name], found[name], image_folder, captions_file, rows, place)
        for name in splits or found
    }


def split_files(folder: Path) -> dict[str, Path]:
    """Split name -> its file, for the files that exist. DataError if the folder or all split files are missing."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected Flickr8k, or pictures in the same layout")
    names = {split: split_name(split) for split in SPLITS}
    found = {split: path for split, name in names.items() if (path := text_file(folder, name))}
    if not found and has_official_split(folder):
        return {split: OFFICIAL / name for split, name in names.items()}
    if not found:
        raise DataError(
            f"{folder}: no split file; expected at least one of {', '.join(names.values())} "
            "there or in Flickr8k_text/, each naming one picture a line"
        )
    return found


def has_official_split(folder: Path) -> bool:
    """Whether there are captions of Flickr8k's pictures without split files, as Kaggle distributes them."""
    path = next((path for name in CAPTION_FILES if (path := text_file(folder, name))), None)
    if path is None or any(text_file(folder, split_name(split)) for split in SPLITS):
        return False
    names = {name for split in SPLITS for name in read_lines(OFFICIAL / split_name(split))}
    return any(line.partition(",")[0].partition("#")[0].strip() in names for line in read_lines(path))


def flickr8k_files(folder: Path, entities: Path | None = None, options: Reading = Reading()) -> list[Path]:
    """The files besides pictures that the prepared data depend on: captions, splits, the zip of Entities.

    options: as other sources have them; nothing here depends on them.
    """
    place = Path(entities) if entities else _find_entities(folder)
    boxes = [place] if place and place.is_file() else []
    return [_captions_file(folder), *split_files(folder).values(), *boxes]


def split_name(split: str) -> str:
    """The file that names the pictures of a split."""
    return f"Flickr_8k.{split}Images.txt"


def text_file(folder: Path, name: str) -> Path | None:
    """A text file of Flickr8k in the folder or in Flickr8k_text/; None if it is not there."""
    places = (folder / name, folder / "Flickr8k_text" / name)
    return next((path for path in places if path.is_file()), None)


def _captions_file(folder: Path) -> Path:
    for name in CAPTION_FILES:
        if path := text_file(folder, name):
            return path
    raise DataError(f"{folder}: no captions; expected {' or '.join(CAPTION_FILES)} there or in Flickr8k_text/")


def _image_folder(folder: Path, images: Path | None) -> Path:
    place = images or folder
    for name in IMAGE_FOLDERS:
        if (place / name).is_dir():
            inner = place / name / name  # one archive in circulation unpacks to a folder within a folder
            return inner if inner.is_dir() else place / name
    if images:
        return images
    raise DataError(f"{folder}: no folder of pictures; expected one of {', '.join(IMAGE_FOLDERS)}")


def _find_entities(folder: Path) -> Path | None:
    for name in ENTITIES:
        if (folder / name).is_file():
            return folder / name
    return folder if (folder / "Sentences").is_dir() and (folder / "Annotations").is_dir() else None


def _read_captions(path: Path) -> list[tuple[int, str, str]]:
    """(line number, image name, caption) of each caption. DataError with the line if malformed or empty."""
    rows = list(csv_rows(path) if path.name == "captions.txt" else token_rows(path))
    for line, image, caption in rows:
        if not caption.strip():
            raise DataError(f"{path}, line {line}: the caption of {image} is empty; write one or remove the line")
    if not rows:
        raise DataError(f"{path}: contains no caption")
    return rows


def token_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, image name, caption) of each row NAME#NUMBER<TAB>caption. DataError with the line of another."""
    for line, text in enumerate(read_lines(path), start=1):
        if not text.strip():
            continue
        key, tab, caption = text.partition("\t")
        image, _, number = key.rpartition("#")
        if not tab or not image or not number.isdigit():
            raise DataError(f"{path}, line {line}: expected NAME#NUMBER, a tab and a caption, got {text[:60]!r}")
        yield line, image, _one_line(caption)


def csv_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, image name, caption) of each row of a CSV with the header image,caption. DataError with the line."""
    # A quoted caption may contain line breaks, so the reader gets the whole text.
    reader = csv.reader(io.StringIO("\n".join(read_lines(path))), strict=True)
    line = 1
    try:
        header = [field.strip().lower() for field in next(reader, [])]
        if header != ["image", "caption"]:
            raise DataError(f"{path}, line 1: expected the header image,caption, got {','.join(header)[:60]!r}")
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                if len(fields) < 2 or not fields[0].strip():
                    raise DataError(f"{path}, line {line}: expected NAME,caption, got {','.join(fields)[:60]!r}")
                # More fields: a caption with commas and without quotes.
                yield line, fields[0].strip(), _one_line(",".join(fields[1:]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not CSV ({error}); a caption with quotes must be quoted") from None


def _one_line(caption: str) -> str:
    return caption.replace("\r", " ").replace("\n", " ").strip()


def _read_split(path: Path, image_folder: Path, absent: bool) -> dict[str, int]:
    """The file names of a split, in order, with their lines. DataError with the line of one that comes twice, or is
    absent, unless `absent` allows it."""
    first: dict[str, int] = {}
    for line, text in enumerate(read_lines(path), start=1):
        name = text.strip()
        if not name:
            continue
        if name in first:
            raise DataError(f"{path}, line {line}: {name} was already named in line {first[name]}")
        if Path(name).name != name:
            raise DataError(f"{path}, line {line}: expected the name of a picture, got {name[:60]!r}")
        if not absent and not (image_folder / name).is_file():
            raise DataError(f"{path}, line {line}: no picture {image_folder / name}")
        first[name] = line
    if not first:
        raise DataError(f"{path}: contains no name of a picture")
    return first


def _refuse_unknown(path: Path, rows: list[tuple[int, str, str]], listed: set[str], image_folder: Path) -> None:
    unknown: dict[str, int] = {}
    for line, image, _ in rows:
        if image not in listed and image not in unknown and not (image_folder / image).is_file():
            unknown[image] = line
    # The official captions name a few files such as 2258277193_586949ec62.jpg.1, which never existed.
    unknown = {image: line for image, line in unknown.items() if not image.endswith(".jpg.1")}
    if 0 < len(unknown) <= FEW:
        image, line = next(iter(unknown.items()))
        raise DataError(
            f"{path}, line {line}: a caption for {image}, which is in no split and not in "
            f"{image_folder}; add the picture or remove the line"
        )


def _split(
    name: str,
    lines: dict[str, int],
    split_file: Path,
    image_folder: Path,
    captions_file: Path,
    rows: list[tuple[int, str, str]],
    entities: Path | None,
) -> RawSplit:
    ids = list(lines)
    captions_of: dict[str, list[str]] = {image: [] for image in ids}
    for _, image, caption in rows:
        if image in captions_of:
            captions_of[image].append(caption)
    for image, found in captions_of.items():
        if not found:
            raise DataError(f"{captions_file}: no caption for {image}, which {split_file} names")
    captions = [caption for image in ids for caption in captions_of[image]]
    cap2im = np.repeat(np.arange(len(ids)), [len(captions_of[image]) for image in ids])
    notes: dict[str, object] = {"captions_of_images_in_no_split_or_another": len(rows) - len(captions)}
    phrases = None
    if entities:
        phrases, notes["entities"] = entities_phrases(entities, ids, captions, cap2im)
    where = [f"{split_file}, line {line}" for line in lines.values()]
    return RawSplit(name, ids, image_folder, captions, cap2im, phrases, notes=notes, where=where)
