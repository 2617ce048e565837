"""Checks pictures with captions for `check_data`: text files are read, every picture is opened."""

import dataclasses
from pathlib import Path

from bssan_lib.config import Config
from bssan_lib.data import RAW_SOURCES, RawSplit, reading_of
from bssan_lib.data.flickr8k import IMAGE_FOLDERS, has_official_split, split_files
from bssan_lib.data.karpathy import by_split, find_entities, karpathy_file, read_entries
from bssan_lib.data.layouts import find_layout
from bssan_lib.data.pictures import NAMED, Look, bad_pictures, find_overlaps, look_at, overlap_message, without_bad
from bssan_lib.data.table import table_members
from bssan_lib.errors import DataError
from bssan_lib.reading import read_lines
from bssan_lib.series.checked import FolderCheck, SplitFacts, facts_of, sample_rows

FEW = 3  # missing files named in a message, which counts the others


def check_flickr8k(folder: Path, found: FolderCheck, config: Config, progress: bool) -> None:
    """Fills in what a Flickr8k folder holds."""
    listed = {name: read_lines(path) for name, path in split_files(folder).items()}
    names = {split: {line.strip() for line in lines if line.strip()} for split, lines in listed.items()}
    found.splits = {split: SplitFacts(len(some)) for split, some in names.items()}
    if has_official_split(folder):
        beside = _pictures_beside(folder, found, config, set().union(*names.values()))
        found.lines.append(("read as", f"Flickr8k; split: official, by name; {beside:,} images in no split, left out"))
    raws = _read(folder, found, config)
    phrases = sum(len(raw.phrases or []) for raw in raws.values())
    boxes = f"{phrases:,} phrases of Flickr30K Entities" if phrases else "none, so grounding is not measured"
    if raws:
        found.lines.append(("boxes", boxes))
    _open_all(found, raws, config, progress)


def _pictures_beside(folder: Path, found: FolderCheck, config: Config, known: set[str]) -> int:
    place = reading_of(config.data, found.source).images or folder
    inner = [place, *(place / name / deeper for name in IMAGE_FOLDERS for deeper in ("", name))]
    there = {path.name for one in inner if one.is_dir() for path in one.iterdir()}
    return sum(name.lower().endswith(".jpg") and name not in known for name in there)


def check_karpathy(folder: Path, found: FolderCheck, config: Config, progress: bool) -> None:
    """Fills in what a folder with Karpathy's JSON holds. Boxes are looked for and not read."""
    try:
        options = reading_of(config.data, found.source)
        path = karpathy_file(folder, options.images)
        entries = read_entries(path, options.overlap)
    except DataError as error:
        found.missing.append(str(error))
        return
    for name, some in by_split(entries).items():
        each = [len(entry.captions) for entry in some]
        captions = [caption for entry in some for caption in entry.captions]
        found.splits[name] = SplitFacts(len(some), captions, min(each), max(each))
    found.lines.append(("file", f"{path}, {len(entries):,} images"))
    if restval := sum(entry.split == "restval" for entry in entries):
        found.lines.append(("restval", f"{restval:,} images, part of train"))
    place = Path(config.data.entities) if config.data.entities else find_entities(folder)
    found.lines.append(("boxes", f"Flickr30K Entities in {place}" if place else "none, so grounding is not measured"))
    if all(entry.ids for entry in entries):
        found.lines.append(("COCO's ids", "known, so `bssan evaluate --eccv` works on the test split"))
    _open_all(found, _read(folder, found, config), config, progress)


def check_table(folder: Path, found: FolderCheck, config: Config, progress: bool) -> None:
    """Fills in what a folder with a list of images and captions holds."""
    try:
        options = reading_of(config.data, found.source)
        layout = find_layout(folder, options.layout)
        said = table_members(folder, options)[1]
    except DataError as error:
        found.missing.append(str(error))
        return
    if layout:
        files = ", ".join(path.name for path in layout[1])
        found.lines.append(("read as", f"{layout[0].name} ({files}); split: {said}"))
    _open_all(found, _read(folder, found, config), config, progress)


def _read(folder: Path, found: FolderCheck, config: Config) -> dict[str, RawSplit]:
    """The splits, with pictures that are missing; {} where they cannot be read, which `found` then says."""
    try:
        entities = Path(config.data.entities) if config.data.entities else None
        options = reading_of(config.data, found.source)
        options = dataclasses.replace(options, absent=True, boxes=found.source != "karpathy")
        return RAW_SOURCES[found.source](folder, None, entities, options)
    except DataError as error:
        found.missing.append(str(error))
        return {}


def _open_all(found: FolderCheck, raws: dict[str, RawSplit], config: Config, progress: bool) -> None:
    """Opens every picture; bad ones and those in two splits are missing, or counted where the settings allow them."""
    rest = iter(look_at([raw.image_folder / name for raw in raws.values() for name in raw.ids], progress=progress))
    looks = {split: [next(rest) for _ in raw.ids] for split, raw in raws.items()}
    good = [
        raw.image_folder / name
        for split, raw in raws.items()
        for name, look in zip(raw.ids, looks[split], strict=True)
        if look.digest
    ]
    total = sum(len(raw.ids) for raw in raws.values())
    if raws:
        found.lines.append(("images", f"{len(good):,} of {total:,} can be opened"))
    found.pictures = [good[row] for row in sample_rows(len(good))]
    if config.data.skip_bad and len(good) < total:
        found.lines.append(("left out", f"{total - len(good):,} images that cannot be opened (data.skip_bad)"))
        try:
            raws = {split: without_bad(raw, looks[split]) for split, raw in raws.items()}
            looks = {split: [look for look in some if look.digest] for split, some in looks.items()}
        except DataError as error:
            found.missing.append(str(error))
    elif len(good) < total:
        _name_bad(found, raws, looks)
    found.splits |= {split: facts_of(len(raw.ids), raw.captions, raw.cap2im) for split, raw in raws.items()}
    if overlaps := find_overlaps(raws, looks):
        if config.data.allow_overlap:
            found.lines.append(("overlap", f"{len(overlaps):,} images of other splits are in train too"))
        else:
            found.missing.append(overlap_message(raws, overlaps))


def _name_bad(found: FolderCheck, raws: dict[str, RawSplit], looks: dict[str, list[Look]]) -> None:
    for split, raw in raws.items():
        absent = [str(raw.image_folder / n) for n, look in zip(raw.ids, looks[split], strict=True) if not look.state]
        if absent:
            more = f" and {len(absent) - FEW:,} more" if len(absent) > FEW else ""
            shown = ", ".join(absent[:FEW])
            found.missing.append(f"split {split}: {len(absent):,} of {len(raw.ids):,} image files: {shown}{more}")
    there = {split: [look if look.state else Look("", None, None) for look in some] for split, some in looks.items()}
    bad = bad_pictures(raws, there)
    found.missing += bad[:NAMED] + ([f"and {len(bad) - NAMED:,} more images"] if len(bad) > NAMED else [])
