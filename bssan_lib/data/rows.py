"""The rows of a list of images and captions, and the reader of plain tables: CSV, TSV, JSON lines.

A reader gets one file and the data folder, and returns its rows. DataErrors name the file and the row.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bssan_lib import reading
from bssan_lib.data.karpathy import LONGEST_NAME
from bssan_lib.errors import DataError
from bssan_lib.reading import LARGEST_FILE, parse_json, read_lines

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_name")
CAPTION_COLUMNS = ("caption", "text", "raw", "captions", "comment")
SPLIT_OF = {"train": "train", "val": "dev", "valid": "dev", "validation": "dev", "dev": "dev", "test": "test"}


class Row(NamedTuple):
    """One image of one row. split: ours, or None. where: file and row, for messages. ids: COCO's, of each caption."""

    image: str
    captions: list[str]
    split: str | None
    where: str
    ids: list[tuple[int, int]] | None = None


def read_table(path: Path, folder: Path) -> list[Row]:
    """A table with a column of images and one of captions, perhaps one of splits; or in a folder named as a split."""
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
        name, given = picture_name(found[image], folder, where), found[caption]
        captions = caption_list(_listed(given, where) if caption == "raw" else given, where)
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


def read_json(path: Path):
    """The content of a JSON file. DataError if it is damaged."""
    try:
        return reading.read_json(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not JSON that can be read ({error}); the file may be incomplete") from None


def picture_name(given: object, folder: Path, where: str) -> str:
    """The name of a picture as it is written in a list. DataError if it leads out of the folder."""
    name = given.strip().replace("\\", "/") if isinstance(given, str) else ""
    inside = PurePosixPath(name)
    if (
        not name
        or inside.is_absolute()
        or ".." in inside.parts
        or max(map(len, inside.parts), default=0) > LONGEST_NAME
    ):
        raise DataError(f"{where}: expected the name of a picture under {folder}, got {str(given)[:60]!r}")
    return str(inside)


def caption_list(given: object, where: str) -> list[str]:
    """A string is one caption, a list has several. DataError if one is empty or no text."""
    listed = given if isinstance(given, list) else [given]
    captions = [one for one in listed if isinstance(one, str) and one.strip()]
    if not captions or len(captions) < len(listed):
        raise DataError(f"{where}: expected a caption or a list of captions, none empty, got {str(given)[:60]!r}")
    return [" ".join(one.split()) for one in captions]
