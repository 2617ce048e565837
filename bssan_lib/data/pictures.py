"""Opens every picture of the splits before anything long starts; refuses pictures that are also in another split.

A picture is recognised by a digest of its size and pixels: a copy under another name is found, a file that was
compressed again is not. Letters: N images, C captions.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bssan_lib.data.images import open_image
from bssan_lib.data.progress import tqdm
from bssan_lib.data.raw import RawSplit
from bssan_lib.errors import DataError

NAMED = 10  # bad pictures, or pairs of equal ones, that one message names
THREADS = max(2, min(8, os.cpu_count() or 1))
AT_ONCE = 256  # pictures that are handed to the threads together


class Look(NamedTuple):
    """What opening a picture showed: its digest, or the problem. state: size and time of the file, None if missing."""

    digest: str | None
    problem: str | None
    state: list[int] | None


class Overlap(NamedTuple):
    """The same picture in train and in another split: row of train, the other split and its row."""

    train: int
    split: str
    row: int


def look_at(paths: list[Path], known: dict[str, list] | None = None, progress: bool = True) -> list[Look]:
    """Opens every picture. known: path -> [size, time, digest] of those opened before; new ones are added to it."""
    known = {} if known is None else known
    looks: list[Look] = []
    with (
        tqdm(total=len(paths), unit=" pictures", desc="checking pictures", disable=not progress) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for start in range(0, len(paths), AT_ONCE):
            some = paths[start : start + AT_ONCE]
            for path, look in zip(some, pool.map(lambda path: _look(path, known.get(str(path))), some), strict=True):
                looks.append(look)
                if look.digest and look.state:
                    known[str(path)] = [*look.state, look.digest]
                bar.update(1)
    return looks


def check_pictures(
    raws: dict[str, RawSplit],
    skip_bad: bool = False,
    allow_overlap: bool = False,
    known: dict[str, list] | None = None,
    progress: bool = True,
) -> dict[str, RawSplit]:
    """The splits once every picture was opened, without bad ones if `skip_bad`; their notes say what was left out.

    Notes: "left_out" {name: [size, time] or None}, "overlap" {other split: pictures in both}. known: see `look_at`.
    DataError: bad pictures, up to ten of them named; a picture of train that is in another split too; a split of which
    nothing is left.
    """
    paths = [raw.image_folder / name for raw in raws.values() for name in raw.ids]
    rest = iter(look_at(paths, known, progress))
    looks = {name: [next(rest) for _ in raw.ids] for name, raw in raws.items()}
    bad = bad_pictures(raws, looks)
    if bad and not skip_bad:
        raise DataError(
            f"{_listed(bad, 'pictures cannot be used')}\n"
            "Put whole pictures there, or leave these out with --skip-bad (data.skip_bad)"
        )
    kept = {name: without_bad(raw, looks[name]) for name, raw in raws.items()} if bad else raws
    looks = {name: [look for look in some if look.digest] for name, some in looks.items()}
    overlaps = find_overlaps(kept, looks)
    if overlaps and not allow_overlap:
        raise DataError(overlap_message(kept, overlaps))
    return {name: _with_overlap(raw, overlaps) for name, raw in kept.items()}


def bad_pictures(raws: dict[str, RawSplit], looks: dict[str, list[Look]]) -> list[str]:
    """What is wrong with each picture that cannot be opened, and the row that names it."""
    return [
        f"{raw.row(row)}: {look.problem}"
        for name, raw in raws.items()
        for row, look in enumerate(looks[name])
        if look.problem
    ]


def find_overlaps(raws: dict[str, RawSplit], looks: dict[str, list[Look]]) -> list[Overlap]:
    """The pictures of other splits that are in train too."""
    train = {look.digest: row for row, look in enumerate(looks.get("train", [])) if look.digest}
    return [
        Overlap(train[look.digest], name, row)
        for name in raws
        if name != "train"
        for row, look in enumerate(looks[name])
        if look.digest in train
    ]


def overlap_message(raws: dict[str, RawSplit], overlaps: list[Overlap]) -> str:
    """Names both rows of up to ten pairs, and what to do."""
    pairs = [
        f"{raws['train'].row(train)} (train, {raws['train'].ids[train]}) and "
        f"{raws[split].row(row)} ({split}, {raws[split].ids[row]})"
        for train, split, row in overlaps
    ]
    return (
        f"{_listed(pairs, 'pictures are in train and in another split')}\n"
        "Recall on pictures of train is too high. Remove one row of each pair, or continue with --allow-overlap "
        "(data.allow_overlap), which the records then say"
    )


def without_bad(raw: RawSplit, looks: list[Look]) -> RawSplit:
    """A split without the pictures that cannot be opened, their captions and phrases. DataError if nothing is left."""
    images = np.array([look.digest is not None for look in looks])
    if images.all():
        return raw
    if not images.any():
        raise DataError(f"split {raw.name}: none of its {len(raw.ids):,} pictures can be opened; {looks[0].problem}")
    captions = images[raw.cap2im]
    new_caption = np.cumsum(captions) - 1
    phrases = raw.phrases and [
        dataclasses.replace(one, caption=int(new_caption[one.caption])) for one in raw.phrases if captions[one.caption]
    ]
    left_out = {name: look.state for name, look in zip(raw.ids, looks, strict=True) if look.digest is None}
    return dataclasses.replace(
        raw,
        ids=_kept(raw.ids, images),
        captions=_kept(raw.captions, captions),
        cap2im=(np.cumsum(images) - 1)[raw.cap2im[captions]],
        phrases=phrases,
        satisfies=None if raw.satisfies is None else raw.satisfies[captions][:, images],
        notes=raw.notes | {"left_out": left_out},
        coco_ids=None if raw.coco_ids is None else raw.coco_ids[captions],
        where=raw.where and _kept(raw.where, images),
    )


def picture_state(path: Path) -> list[int] | None:
    """Size in bytes and time of change of a file; None if there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _look(path: Path, known: list | None) -> Look:
    state = picture_state(path)
    if known and state == known[:2]:
        return Look(known[2], None, state)
    try:
        picture = open_image(path)
    except DataError as problem:
        return Look(None, str(problem), state)
    digest = hashlib.sha256(repr(picture.size).encode())
    digest.update(picture.tobytes())
    return Look(digest.hexdigest(), None, state)


def _with_overlap(raw: RawSplit, overlaps: list[Overlap]) -> RawSplit:
    if raw.name == "train":
        counts = {
            split: sum(one.split == split for one in overlaps) for split in dict.fromkeys(o.split for o in overlaps)
        }
    else:
        number = sum(one.split == raw.name for one in overlaps)
        counts = {"train": number} if number else {}
    return dataclasses.replace(raw, notes=raw.notes | {"overlap": counts}) if counts else raw


def _kept(values: Iterable, keep: np.ndarray) -> list:
    return [value for value, kept in zip(values, keep, strict=True) if kept]


def _listed(lines: list[str], what: str) -> str:
    more = [f"and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else []
    return "\n".join([f"{len(lines):,} {what}:", *(f"  - {line}" for line in lines[:NAMED]), *(f"  {m}" for m in more)])
