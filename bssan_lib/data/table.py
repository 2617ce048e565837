"""The source `table`: pictures beside lists of captions, in one of the layouts of `bssan_lib.data.layouts`.

Where the files give no split, images are split 80 / 10 / 10 by a seed. Such results are not comparable with published ones.
"""

import os
from pathlib import Path

import numpy as np

from bssan_lib.data.karpathy import IMAGE_FOLDERS, SAMPLES
from bssan_lib.data.layouts import find_layout
from bssan_lib.data.raw import RawSplit, Reading
from bssan_lib.data.rows import Row
from bssan_lib.errors import DataError

OWN_SPLIT = "own split by image, 80 / 10 / 10, seed 1; not comparable with published results"
FEWEST = 8  # images that a split of one's own is drawn from
NAMED = 10  # missing pictures that one message names


def table_files(folder: Path, entities: Path | None = None, options: Reading = Reading()) -> list[Path]:
    """The files besides pictures that the data depend on, [] if no layout fits. DataError if several fit."""
    found = find_layout(folder, options.layout)
    return found[1] if found else []


def table_source(
    folder: Path, splits: list[str] | None = None, entities: Path | None = None, options: Reading = Reading()
) -> dict[str, RawSplit]:
    """The splits of a folder by name; `splits` None: all. `entities` is not used.

    DataError, naming file and row: a malformed row, an empty caption, an image in two splits, an unknown split, a
    picture that is not there, fewer than eight images without a split.
    """
    folder = Path(folder)
    members, said = table_members(folder, options)
    for name in splits or []:
        if name not in members:
            raise DataError(f"{folder}: no split {name!r}; there are {', '.join(members)}")
    wanted = {name: members[name] for name in splits or members}
    images, flat = _image_layout(options.images or folder, [row for rows in wanted.values() for row in rows])
    if not options.absent:
        _refuse_absent(images, flat, [row for rows in wanted.values() for row in rows])
    return {name: _split(name, rows, images, flat, said) for name, rows in wanted.items()}


def table_members(folder: Path, options: Reading = Reading()) -> tuple[dict[str, list[Row]], str]:
    """Split name -> a row an image with all its captions; and how the split was made."""
    found = find_layout(folder, options.layout)
    if found is None:
        raise DataError(f"{folder}: no list of images and captions, such as captions.csv with the header image,caption")
    layout, files = found
    merged: dict[tuple, Row] = {}
    for row in (row for path in files for row in layout.read(path, folder)):
        key = (row.image, row.split) if options.overlap else (row.image,)
        first = merged.setdefault(key, row._replace(captions=[], ids=[] if row.ids else None))
        if first.split != row.split:
            raise DataError(
                f"{row.where}: {row.image} is in {row.split or 'no split'}, but in {first.split or 'no split'} in "
                f"{first.where}; an image belongs to one split, unless --allow-overlap (data.allow_overlap) is given"
            )
        first.captions.extend(row.captions)
        if first.ids is not None:
            first.ids.extend(row.ids or [])
    rows = list(merged.values())
    if not rows:
        raise DataError(f"{files[0]}: contains no row")
    if not any(row.split for row in rows):
        return _own_split(folder, rows), OWN_SPLIT
    if without := next((row for row in rows if not row.split), None):
        raise DataError(f"{without.where}: no split, though other rows have one; give one to every row, or to none")
    by_split = {name: [row for row in rows if row.split == name] for name in ("train", "dev", "test")}
    return {name: some for name, some in by_split.items() if some}, layout.split


def _own_split(folder: Path, rows: list[Row]) -> dict[str, list[Row]]:
    if len(rows) < FEWEST:
        raise DataError(f"{folder}: {len(rows)} images; a split into train, dev and test needs {FEWEST} or more")
    order = np.random.default_rng(1).permutation(len(rows)).tolist()
    few = max(2, round(len(rows) / 10))  # in a gallery of one image nothing can be confused
    parts = {"train": order[2 * few :], "dev": order[:few], "test": order[few : 2 * few]}
    return {name: [rows[i] for i in sorted(part)] for name, part in parts.items()}


def _split(name: str, rows: list[Row], images: Path, flat: bool, said: str) -> RawSplit:
    ids = [_file(row, flat) for row in rows]
    captions = [caption for row in rows for caption in row.captions]
    cap2im = np.repeat(np.arange(len(rows)), [len(row.captions) for row in rows])
    coco_ids = None
    if all(row.ids for row in rows):
        coco_ids = np.array([pair for row in rows for pair in row.ids or []], np.int64)
    where = [row.where for row in rows]
    return RawSplit(name, ids, images, captions, cap2im, notes={"split": said}, coco_ids=coco_ids, where=where)


def _refuse_absent(images: Path, flat: bool, rows: list[Row]) -> None:
    """DataError with the rows whose pictures are not there."""
    there: dict[str, set[str]] = {}  # each folder is listed once: to look up 100,000 files one by one takes minutes
    absent = []
    for row in rows:
        place, _, last = _file(row, flat).rpartition("/")
        if place not in there:
            there[place] = set(os.listdir(images / place)) if (images / place).is_dir() else set()
        if last not in there[place]:
            absent.append(f"{row.where}: no picture {images / _file(row, flat)}")
    if absent:
        more = f"\nand {len(absent) - NAMED:,} more" if len(absent) > NAMED else ""
        raise DataError(
            "\n".join(absent[:NAMED])
            + f"{more}\nAdd them, remove the rows, or leave them out with --skip-bad (data.skip_bad)"
        )


def _file(row: Row, flat: bool) -> str:
    return row.image.rpartition("/")[2] if flat else row.image


def _image_layout(folder: Path, rows: list[Row]) -> tuple[Path, bool]:
    """Where pictures lie, and whether without the folders that the list names. DataError if there is no such place."""
    samples = [*rows[:: max(1, len(rows) // SAMPLES)], rows[-1]]  # some, as single pictures may be missing
    inner = [folder / name / deeper for name in IMAGE_FOLDERS for deeper in dict.fromkeys(("", name))]
    unique = len({_file(row, True) for row in rows}) == len(rows)
    choices = [(place, flat) for place in inner if place.is_dir() for flat in ([False, True] if unique else [False])]
    hits = [sum((place / _file(row, flat)).is_file() for row in samples) for place, flat in choices]
    if not any(hits):
        raise DataError(
            f"{samples[0].where}: no picture {samples[0].image} in {folder} or in "
            f"{', '.join(f'{name}/' for name in IMAGE_FOLDERS if name)}; --images DIR (data.image_folder) names "
            "another folder"
        )
    return choices[hits.index(max(hits))]
