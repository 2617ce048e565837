"""Checks a data folder in seconds, before a run: `bssan check-data`.

Text files are read in full. Every picture must exist; a sample of pictures and of rows of features is opened.

Letters: N images, C captions, K regions, D feature size.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bssan_lib.config import Config
from bssan_lib.data import RAW_SOURCES, detect_source, list_splits, open_prepared
from bssan_lib.data.flickr8k import IMAGE_FOLDERS, has_official_split, split_files
from bssan_lib.data.images import open_image
from bssan_lib.data.karpathy import by_split, find_entities, image_layout, karpathy_file, missing_pictures, read_entries
from bssan_lib.data.layouts import find_layout
from bssan_lib.data.precomp import FEATURES, check_cap2im, read_captions
from bssan_lib.data.table import table_members
from bssan_lib.data.vocabulary import words_of
from bssan_lib.errors import DataError
from bssan_lib.evaluation.retrieval import protocol_folds
from bssan_lib.reading import open_array, read_lines

OPENED = 8  # at most so many pictures or rows of features are opened: the first ones and some random ones
NAMED = 3  # missing files named in a message, which counts the others; also the first rows of a sample


@dataclass
class SplitFacts:
    """One split: N images; its C captions and the fewest and most an image, where the captions are readable."""

    images: int
    captions: list[str] = field(default_factory=list)
    fewest: int = 0
    most: int = 0


@dataclass
class Checked:
    """The result of a check. lines: (name, text) for a table. missing: reasons why a run cannot start.

    pictures: readable ones of the sample. regions, objects, dimension: K, M (0: none stored) and D of the features.
    """

    source: str
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    regions: int = 0
    objects: int = 0
    dimension: int = 0
    has_boxes: bool = False


def check_folder(folder: Path | str, config: Config) -> Checked:
    """Checks a folder with the settings of a run. Raises DataError only for a folder of no known format."""
    folder = Path(folder)
    found = Checked(detect_source(folder))
    checks = dict(flickr8k=_check_flickr8k, karpathy=_check_karpathy, table=_check_table)
    checks |= dict(precomp=_check_precomp, prepared=_check_prepared)
    checks[found.source](folder, found, config)
    for split in dict.fromkeys(["train", "dev", config.evaluation.split]):
        if split not in found.splits and not any(f"split {split}" in text for text in found.missing):
            there = ", ".join(found.splits) or "none"
            found.missing.append(
                f"split {split}: not found; a run trains on train, chooses the epoch on dev and reports "
                f"{config.evaluation.split} (evaluation.split); found: {there}"
            )
    if config.evaluation.split in found.splits:
        try:
            protocol_folds(found.splits[config.evaluation.split].images, config.evaluation.protocol)
        except DataError as error:
            found.missing.append(f"evaluation.protocol: {error}")
    if found.source in RAW_SOURCES and config.data.source not in (found.source, "scenes"):
        found.missing.append(
            f"data.source: the settings say {config.data.source}, the folder is {found.source}; change the setting"
        )
    return found


def word_facts(captions: list[str], min_count: int) -> tuple[int, int, float]:
    """The number of words that occur at least `min_count` times, of distinct words, and the mean words a caption."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    kept = sum(count >= min_count for count in counts.values())
    return kept, len(counts), sum(counts.values()) / max(1, len(captions))


def _facts(images: int, captions: list[str], cap2im: np.ndarray) -> SplitFacts:
    each = np.bincount(cap2im, minlength=images)
    return SplitFacts(images, captions, int(each.min()), int(each.max()))


# -- pictures


def _check_flickr8k(folder: Path, found: Checked, config: Config) -> None:
    files = split_files(folder)
    listed = {name: [line.strip() for line in read_lines(path) if line.strip()] for name, path in files.items()}
    places = [
        folder / name / inner for name in IMAGE_FOLDERS for inner in ("", name) if (folder / name / inner).is_dir()
    ]
    there = {path.name: path for place in places for path in place.iterdir()}
    if has_official_split(folder):
        known = {name for names in listed.values() for name in names}
        beside = sum(name.lower().endswith(".jpg") and name not in known for name in there)
        found.lines.append(
            ("read as", f"Flickr8k; split: official, by name; {beside:,} pictures in no split, left out")
        )
    absent = False
    for split, names in listed.items():
        absent |= _count_missing(found, split, [name for name in names if name not in there], len(names))
    try:
        if not absent:
            entities = Path(config.data.entities) if config.data.entities else None
            raws = RAW_SOURCES["flickr8k"](folder, None, entities)
            found.splits = {name: _facts(len(raw.ids), raw.captions, raw.cap2im) for name, raw in raws.items()}
            phrases = sum(len(raw.phrases or []) for raw in raws.values())
            boxes = f"{phrases:,} phrases of Flickr30K Entities" if phrases else "none: grounding is not measured"
            found.lines.append(("boxes", boxes))
    except DataError as error:
        found.missing.append(str(error))
    if not found.splits:
        found.splits = {name: SplitFacts(len(names)) for name, names in listed.items()}
    _open_some(found, [there[name] for names in listed.values() for name in names if name in there])


def _check_karpathy(folder: Path, found: Checked, config: Config) -> None:
    try:
        path = karpathy_file(folder)
        entries = read_entries(path)
    except DataError as error:
        found.missing.append(str(error))
        return
    members = by_split(entries)
    for name, some in members.items():
        each = [len(entry.captions) for entry in some]
        captions = [caption for entry in some for caption in entry.captions]
        found.splits[name] = SplitFacts(len(some), captions, min(each), max(each))
    found.lines.append(("file", f"{path}, {len(entries):,} images"))
    if restval := sum(entry.split == "restval" for entry in entries):
        found.lines.append(("restval", f"{restval:,} images, part of train"))
    try:
        images, flat = image_layout(folder, entries)
    except DataError as error:
        found.missing.append(str(error))
        return
    absent = set()
    for name, some in members.items():
        gone = missing_pictures(images, flat, some)
        absent |= {entry.number for entry in gone}
        _count_missing(found, name, [str(images / entry.name(flat)) for entry in gone], len(some))
    place = Path(config.data.entities) if config.data.entities else find_entities(folder)
    found.lines.append(("boxes", f"Flickr30K Entities in {place}" if place else "none: grounding is not measured"))
    if members and all(entry.ids for some in members.values() for entry in some):
        found.lines.append(("COCO's ids", "known: `bssan evaluate --eccv` is possible on the test split"))
    _open_some(found, [images / entry.name(flat) for entry in entries if entry.number not in absent])


def _check_table(folder: Path, found: Checked, config: Config) -> None:
    try:
        found_layout = find_layout(folder)
        members, said = table_members(folder)
        for name, rows in members.items():
            captions = [caption for row in rows for caption in row.captions]
            found.splits[name] = _facts(
                len(rows), captions, np.repeat(np.arange(len(rows)), [len(row.captions) for row in rows])
            )
        if found_layout:
            files = ", ".join(path.name for path in found_layout[1])
            found.lines.append(("read as", f"{found_layout[0].name} ({files}); split: {said}"))
        raws = RAW_SOURCES["table"](folder, None, None)
        _open_some(found, [raw.image_folder / name for raw in raws.values() for name in raw.ids])
    except DataError as error:
        found.missing.append(str(error))


def _count_missing(found: Checked, split: str, names: list[str], of: int) -> bool:
    if names:
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        found.missing.append(f"split {split}: {len(names):,} of {of:,} pictures: {', '.join(names[:NAMED])}{more}")
    return bool(names)


def _sample(count: int) -> list[int]:
    """The first rows and some random ones, the same in every call."""
    some = np.random.default_rng(1).integers(0, count, OPENED - NAMED).tolist() if count else []
    return sorted({*range(min(NAMED, count)), *some})


def _open_some(found: Checked, paths: list[Path]) -> None:
    sample = [paths[row] for row in _sample(len(paths))]
    for path in sample:
        try:
            open_image(path)
            found.pictures.append(path)
        except DataError as error:
            found.missing.append(str(error))
    found.lines.append(
        ("pictures", f"{len(found.pictures)} of {len(sample)} opened are readable; {len(paths):,} exist")
    )


# -- features


def _check_precomp(folder: Path, found: Checked, config: Config) -> None:
    for path in sorted(folder.glob("*_caps.txt")):
        if not (folder / f"{path.name.removesuffix('_caps.txt')}_ims.npy").is_file():
            found.missing.append(f"{path.name.removesuffix('_caps.txt')}_ims.npy: no features beside {path.name}")
    for path in sorted(folder.glob("*_ims.npy")):
        if not (folder / f"{path.name.removesuffix('_ims.npy')}_caps.txt").is_file():
            found.missing.append(f"{path.name.removesuffix('_ims.npy')}_caps.txt: no captions beside {path.name}")
    for split in list_splits(folder):
        try:
            _check_features(folder, split, found)
        except DataError as error:
            found.missing.append(f"split {split}: {error}")
    lacking = [name for name in ("ids.txt", "boxes.npy") if not (folder / f"train_{name}").is_file()]
    if lacking:
        names = " and ".join(f"{{split}}_{name}" for name in lacking)
        found.lines.append(("not found", f"{names}: runs work without them, but attention is not drawn over pictures"))


def _check_features(folder: Path, split: str, found: Checked) -> None:
    path = folder / f"{split}_ims.npy"
    features, captions = open_array(path, 3, "fu", FEATURES), read_captions(folder / f"{split}_caps.txt")
    if 0 in features.shape:
        raise DataError(f"{path}: an empty array {list(features.shape)}; expected {FEATURES}")
    rows = _sample(len(features))
    for row in rows:
        if not np.isfinite(features[row]).all():
            raise DataError(f"{path}, row {row}: NaN or infinity; extract the features of this image again")
    own, repeats = folder / f"{split}_cap2im.npy", 1
    if own.is_file():
        cap2im = check_cap2im(own, len(captions), len(features))
    else:
        if len(captions) == len(features) and len(captions) % 5 == 0:
            groups = [np.asarray(features[5 * (row // 5) : 5 * (row // 5) + 5]) for row in rows]
            repeats = 5 if all((group == group[:1]).all() for group in groups) else 1
        images = len(features) // repeats
        if len(captions) % images:
            raise DataError(
                f"{path}: {images:,} images, but {split}_caps.txt has {len(captions):,} captions; expected as "
                f"many for each image, or {split}_cap2im.npy with the image of each caption"
            )
        cap2im = np.repeat(np.arange(images), len(captions) // images)
    found.splits[split] = _facts(len(features) // repeats, captions, cap2im)
    if found.dimension and features.shape[2] != found.dimension:
        raise DataError(f"{path}: {features.shape[2]} numbers a region, other splits have {found.dimension}")
    found.regions, found.dimension = max(found.regions, features.shape[1]), features.shape[2]
    found.has_boxes |= (folder / f"{split}_boxes.npy").is_file()
    repeated = ", each image five times" if repeats == 5 else ""
    found.lines.append(
        (
            path.name,
            f"{list(features.shape)} {features.dtype}{repeated}, {path.stat().st_size / 1e9:.2f} GB; "
            f"{len(rows)} rows checked",
        )
    )


def _check_prepared(folder: Path, found: Checked, config: Config) -> None:
    for name in list_splits(folder):
        try:
            split = open_prepared(folder, name)
        except DataError as error:
            found.missing.append(f"split {name}: {error}")
            continue
        found.splits[name] = _facts(len(split.ids), split.captions, split.cap2im)
        sizes = split.sizes
        found.regions, found.dimension, found.has_boxes = sizes["regions"], sizes["dimension"], split.boxes is not None
        found.objects = 0 if split.objects is None else sizes["objects"]
        made = f"of {split.meta['source']} by {split.meta['backbone']['name']}"
        found.lines.append((f"{name}_ims.npy", f"{list(split.regions.shape)} {split.regions.dtype}, {made}"))
