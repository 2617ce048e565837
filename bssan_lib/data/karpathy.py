"""Karpathy's splits beside raw pictures: dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json or another set's.

    {"dataset": "coco", "images": [{"filename": NAME, "filepath": "val2014", "split": "test", "cocoid": 391895,
      "sentences": [{"raw": "A man ...", "tokens": ["a", "man", ...], "sentid": 770337}, ...], "sentids": [...]}, ...]}

Only COCO's entries have filepath and cocoid. Splits: train and restval are our train, val (valid, dev) our dev, test ours
(Karpathy, Fei-Fei, CVPR 2015, DOI 10.1109/CVPR.2015.7298932). Captions are the raw sentences, split into words by our own
rules; images may have different numbers of captions. Flickr30K Entities, zip or folder, is used where it is there.

Letters: N images, C captions.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeGuard

import numpy as np

from bssan_lib.data.entities import entities_phrases
from bssan_lib.data.flickr8k import ENTITIES
from bssan_lib.data.raw import RawSplit, Reading
from bssan_lib.errors import DataError
from bssan_lib.reading import LARGEST_FILE, read_json

FILES = ("dataset_flickr8k.json", "dataset_flickr30k.json", "dataset_coco.json")
FILE_FOLDERS = ("", "karpathy", "annotations", "caption_datasets")
IMAGE_FOLDERS = (
    "",
    "images",
    "Images",
    "flickr30k-images",
    "flickr30k_images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
)
ENTITIES_FOLDERS = ("", "annotations", "flickr30k_entities", "Flickr30kEntities")
SPLIT_OF = {"train": "train", "restval": "train", "val": "dev", "valid": "dev", "dev": "dev", "test": "test"}
SAMPLES = 16  # pictures that are looked for in each place
LONGEST_NAME = 255  # characters of a file name on all common systems
OTHER_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")  # Hugging Face's, without captions


class Entry(NamedTuple):
    """One image of the file. number: its place in "images", from 0. ids: (cocoid, sentid) of each caption, or None."""

    number: int
    filepath: str
    filename: str
    split: str
    captions: list[str]
    ids: list[tuple[int, int]] | None

    def name(self, flat: bool) -> str:
        """The file's name under the folder of images: with its filepath, or without it where all lie in one folder."""
        return f"{self.filepath}/{self.filename}" if self.filepath and not flat else self.filename


def karpathy_source(
    folder: Path, splits: list[str] | None = None, entities: Path | None = None, options: Reading = Reading()
) -> dict[str, RawSplit]:
    """The splits of a folder by name; `splits` None: all that the file names.

    entities: Flickr30K Entities as a zip or a folder, searched for in the folder when None. DataError, naming the file,
    the image's entry and what to do: damaged JSON, a field missing or of another type, an unknown split, an empty
    sentence, an image or a COCO id named twice, a picture of a wanted split that is not there.
    """
    folder = Path(folder)
    path = karpathy_file(folder, options.images)
    members = by_split(read_entries(path, options.overlap))
    for name in splits or []:
        if name not in members:
            raise DataError(f"{path}: no split {name!r}; there are {', '.join(members)}")
    wanted = {name: members[name] for name in splits or members}
    images, flat = image_layout(options.images or folder, [entry for entries in wanted.values() for entry in entries])
    for name, entries in wanted.items():
        if options.absent:
            continue
        if missing := missing_pictures(images, flat, entries):
            first = missing[0]
            raise DataError(
                f"{path}, images[{first.number}]: there is no picture {images / first.name(flat)}; "
                f"{len(missing):,} of {len(entries):,} of split {name} are missing: add them, ask for other "
                "splits, or leave them out with --skip-bad (data.skip_bad)"
            )
    place = Path(entities) if entities else find_entities(folder)
    place = place if options.boxes else None
    return {name: _split(name, entries, path, images, flat, place) for name, entries in wanted.items()}


def karpathy_files(folder: Path) -> list[Path]:
    """Karpathy's files in a folder, or in the first of its usual subfolders that has any: the known names first."""
    for place in FILE_FOLDERS:
        others = sorted(path.name for path in (folder / place).glob("dataset_*.json"))
        names = dict.fromkeys([*FILES, *(name for name in others if name not in OTHER_FILES)])
        if found := [folder / place / name for name in names if (folder / place / name).is_file()]:
            return found
    return []


def karpathy_file(folder: Path, images: Path | None = None) -> Path:
    """The file of a folder. All three come in one archive: then the one whose pictures exist. DataError if none.

    images: where pictures lie, None: in the folder.
    """
    found = karpathy_files(folder)
    if not found:
        raise DataError(
            f"{folder}: no {' or '.join(FILES)}; expected one of them there or in "
            f"{', '.join(f'{place}/' for place in FILE_FOLDERS[1:])}"
        )
    if len(found) == 1:
        return found[0]
    fit = [path for path in found if _pictures_are_there(images or folder, path)]
    if len(fit) != 1:
        raise DataError(
            f"{folder}: {', '.join(path.name for path in found)}, and pictures of "
            f"{'none' if not fit else 'several'} of them; keep only the file that belongs to the pictures"
        )
    return fit[0]


def _pictures_are_there(folder: Path, path: Path) -> bool:
    try:
        image_layout(folder, read_entries(path, overlap=True))
    except DataError:
        return False
    return True


def find_entities(folder: Path) -> Path | None:
    """Flickr30K Entities in a folder: a zip of its usual names, or Sentences/ beside Annotations/; None if neither."""
    for name in ENTITIES:
        if (folder / name).is_file():
            return folder / name
    places = (folder / place for place in ENTITIES_FOLDERS)
    return next(
        (place for place in places if (place / "Sentences").is_dir() and (place / "Annotations").is_dir()), None
    )


def karpathy_data_files(folder: Path, entities: Path | None = None, options: Reading = Reading()) -> list[Path]:
    """The files besides pictures that the prepared data depend on."""
    place = Path(entities) if entities else find_entities(folder)
    return [karpathy_file(folder, options.images), *([place] if place and place.is_file() else [])]


def by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Our split names train, dev and test, those that exist -> their entries in the order of the file."""
    members: dict[str, list[Entry]] = {name: [] for name in ("train", "dev", "test")}
    for entry in entries:
        members[SPLIT_OF[entry.split]].append(entry)
    return {name: found for name, found in members.items() if found}


def read_entries(path: Path, overlap: bool = False) -> list[Entry]:
    """Every image of the file, checked; whether pictures exist is not. DataError: see `karpathy_source`.

    overlap: an image may be in several splits.
    """
    try:
        stored = read_json(path, LARGEST_FILE, _without_tokens)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: damaged JSON ({error.msg}); the file may be "
            "incomplete: download it again"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON that can be read ({error}); download the file again") from None
    images = stored.get("images") if isinstance(stored, dict) else None
    if not isinstance(images, list) or not images:
        raise DataError(f'{path}: expected an object with a list "images" that names at least one')
    entries = [_entry(path, number, image) for number, image in enumerate(images)]
    for group in by_split(entries).values() if overlap else [entries]:
        _refuse_twice(path, group, lambda entry: [(entry.filepath, entry.filename)], "the file")
        _refuse_twice(path, group, lambda entry: [entry.ids[0][0]] if entry.ids else [], "cocoid")
        _refuse_twice(path, group, lambda entry: [ids[1] for ids in entry.ids or []], "sentid")
    return entries


def _without_tokens(found: dict) -> dict:
    """A sentence without its words where its text is there: COCO's 7 million would take more than a gigabyte."""
    if isinstance(found.get("raw"), str) and found["raw"].strip():
        found.pop("tokens", None)
    return found


def _entry(path: Path, number: int, image) -> Entry:
    where = f"{path}, images[{number}]"
    if not isinstance(image, dict):
        raise DataError(f"{where}: expected an object with filename, split and sentences, got {str(image)[:60]!r}")
    filename, filepath = image.get("filename"), image.get("filepath") or ""
    if (
        not isinstance(filename, str)
        or not filename.strip()
        or PurePosixPath(filename.replace("\\", "/")).name != filename
        or len(filename) > LONGEST_NAME
    ):
        raise DataError(f'{where}: expected the name of a picture in "filename", got {str(filename)[:60]!r}')
    where += f" ({filename})"
    inside = PurePosixPath(str(filepath).replace("\\", "/"))
    if (
        not isinstance(filepath, str)
        or inside.is_absolute()
        or ".." in inside.parts
        or ":" in filepath
        or len(filepath) > LONGEST_NAME
    ):
        raise DataError(f'{where}: expected a folder such as val2014 in "filepath", got {str(filepath)[:60]!r}')
    split = image.get("split")
    if not isinstance(split, str) or split not in SPLIT_OF:
        raise DataError(f"{where}: expected a split of {', '.join(SPLIT_OF)}, got {str(split)[:60]!r}")
    sentences = image.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise DataError(f"{where}: no sentences; write at least one, or remove the image from the file")
    captions = [_caption(f"{where}, sentences[{row}]", sentence) for row, sentence in enumerate(sentences)]
    return Entry(number, str(inside) if filepath else "", filename, split, captions, _coco_ids(image, sentences))


def _caption(where: str, sentence) -> str:
    raw = sentence.get("raw") if isinstance(sentence, dict) else None
    if not (isinstance(raw, str) and raw.strip()):
        tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
        raw = " ".join(tokens) if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens) else ""
    if not raw.strip():
        raise DataError(f'{where}: empty, neither "raw" nor "tokens" contains a word; write it or remove it')
    return raw.replace("\r", " ").replace("\n", " ").strip()


def _coco_ids(image: dict, sentences: list[dict]) -> list[tuple[int, int]] | None:
    listed = image.get("sentids")
    listed = listed if isinstance(listed, list) and len(listed) == len(sentences) else [None] * len(sentences)
    pairs = [(image.get("cocoid"), sentence.get("sentid", other)) for sentence, other in zip(sentences, listed)]
    ids = [(coco, sentence) for coco, sentence in pairs if is_number(coco) and is_number(sentence)]
    return ids if len(ids) == len(pairs) else None


def is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63  # as int64 holds it


def _refuse_twice(path: Path, entries: list[Entry], keys, what: str) -> None:
    first: dict = {}
    for entry in entries:
        for key in keys(entry):
            if key in first:
                shown = entry.filename if what == "the file" else f"{what} {key}"
                raise DataError(
                    f"{path}, images[{entry.number}]: {shown} was already named by images[{first[key]}]; "
                    "an image in two places may be in two splits: leave one, or continue with --allow-overlap "
                    "(data.allow_overlap)"
                )
            first[key] = entry.number


def image_layout(folder: Path, entries: list[Entry]) -> tuple[Path, bool]:
    """Where pictures lie: their folder, and whether all lie in it flat, without COCO's train2014/ and val2014/.

    Of all usual places, the one with most of a sample: the first pictures of each subfolder and some others. DataError
    if none has any.
    """
    few = entries[:: max(1, len(entries) // SAMPLES)]  # some, as single pictures may be missing
    samples = [*{entry.filepath: entry for entry in reversed(entries)}.values(), *few]
    ways = [False, True] if any(entry.filepath for entry in samples) else [False]
    if len({entry.filename for entry in entries}) < len(entries):
        ways = [False]  # the same name in two subfolders: not flat
    # One archive in circulation unpacks to a folder within a folder.
    places = [folder / place / inner for place in IMAGE_FOLDERS for inner in dict.fromkeys(("", place))]
    choices = [(place, flat) for place in places if place.is_dir() for flat in ways]
    hits = [sum((place / entry.name(flat)).is_file() for entry in samples) for place, flat in choices]
    if not any(hits):
        raise DataError(
            f"{folder}: no pictures; expected {entries[0].name(False)} there or in one of "
            f"{', '.join(f'{place}/' for place in IMAGE_FOLDERS[1:])}"
        )
    return choices[hits.index(max(hits))]


def missing_pictures(images: Path, flat: bool, entries: list[Entry]) -> list[Entry]:
    """The entries without a picture. Each folder is listed once: looking up 113,000 files one by one takes minutes."""
    there: dict[str, set[str]] = {}
    for filepath in {"" if flat else entry.filepath for entry in entries}:
        place = images / filepath
        there[filepath] = set(os.listdir(place)) if place.is_dir() else set()
    return [entry for entry in entries if entry.filename not in there["" if flat else entry.filepath]]


def _split(name: str, entries: list[Entry], path: Path, images: Path, flat: bool, place: Path | None) -> RawSplit:
    ids = [entry.name(flat) for entry in entries]
    captions = [caption for entry in entries for caption in entry.captions]
    cap2im = np.repeat(np.arange(len(entries)), [len(entry.captions) for entry in entries])
    notes: dict[str, object] = {"file": path.name, "restval_images": sum(entry.split == "restval" for entry in entries)}
    coco_ids = None
    if all(entry.ids for entry in entries):
        coco_ids = np.array([pair for entry in entries for pair in entry.ids or []], np.int64)
    phrases = None
    if place:
        phrases, notes["entities"] = entities_phrases(place, ids, captions, cap2im)
    where = [f"{path}, images[{entry.number}]" for entry in entries]
    return RawSplit(name, ids, images, captions, cap2im, phrases, notes=notes, coco_ids=coco_ids, where=where)
