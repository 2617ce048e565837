"""From photographs and captions to the prepared dataset that the field reads. Notebook 01.

folder = prepare(config.data)                 # draws or reads, extracts what is missing, resumes
split = open_prepared(folder, "dev")          # memory-mapped arrays, captions, ids, phrases
"""

import dataclasses
from pathlib import Path

import numpy as np

from bssan_lib.config import DataConfig
from bssan_lib.data.detect import detect_source, fitting_layouts, has_features
from bssan_lib.data.flickr8k import flickr8k_files, flickr8k_source, split_files
from bssan_lib.data.karpathy import by_split, karpathy_data_files, karpathy_file, karpathy_source, read_entries
from bssan_lib.data.pictures import check_pictures, picture_state
from bssan_lib.data.prepared import (
    PreparedSplit,
    check_files,
    list_splits,
    open_prepared,
    prepared_folder,
    read_meta,
    reading_settings,
    verify_checksums,
)
from bssan_lib.data.raw import Phrase, RawSplit, Reading
from bssan_lib.data.table import OWN_SPLIT, table_files, table_members, table_source
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.data.writing import same_pictures, write_locked, write_split
from bssan_lib.errors import DataError
from bssan_lib.files import disk_errors, locked, sha256_of, write_json
from bssan_lib.reading import read_json, read_lines

__all__ = [
    "prepare",
    "detect_source",
    "fitting_layouts",
    "reading_of",
    "raw_splits",
    "open_prepared",
    "list_splits",
    "verify_checksums",
    "write_split",
    "PreparedSplit",
    "RawSplit",
    "Phrase",
    "tokenize",
    "Vocabulary",
]

SCENES = ["train", "dev", "test", "pairs"]
# Folders of pictures with captions, of which features are made: (folder, splits, entities, options) -> RawSplits.
RAW_SOURCES = {"flickr8k": flickr8k_source, "karpathy": karpathy_source, "table": table_source}
CHECKED = "pictures.json"  # the pictures that were opened, in the prepared folder


def reading_of(data: DataConfig, source: str) -> Reading:
    """How the settings say that a folder of this source is read. DataError for a folder of images that is not there."""
    images = Path(data.image_folder) if data.image_folder else None
    if images and not images.is_dir():
        raise DataError(f"{images}: no such folder; --images (data.image_folder) names the one with the pictures")
    return Reading(images, data.layout if source == "table" else None, data.allow_overlap, data.skip_bad)


def raw_splits(source: str, folder: Path | str, options: Reading = Reading()) -> list[str]:
    """The splits of a folder of pictures, by its source. DataError if the files that name them are missing or damaged."""
    folder = Path(folder)
    if source == "table":
        return list(table_members(folder, options)[0])
    if source == "karpathy":
        return list(by_split(read_entries(karpathy_file(folder, options.images), options.overlap)))
    return list(split_files(folder))


def prepare(data: DataConfig, splits: list[str] | None = None, progress: bool = True) -> Path:
    """The folder with the prepared features of a source; writes what is missing and continues where it stopped.

    splits: those that are needed, None for all that the source has. Returns at once if
    they are there. A folder of features, prepared or in the field's format, is used as it is. A second
    process waits. DataError: see the sources; a `data.prepared` with other data, cannot be written, or
    a full disk. All pictures are opened before features are made: `pictures.check_pictures`.
    """
    folder = Path(data.folder) if data.folder else None
    if folder is None:
        if data.source != "scenes":
            raise DataError(
                f"the source {data.source} needs its folder: give data.folder, or --data on the command line"
            )
        return _prepare_raw(data, folder, splits, progress)
    if data.source == "scenes":
        is_features = folder.is_dir() and has_features(folder)
    else:
        kind = detect_source(folder, data.layout, data.source)
        is_features = kind in ("prepared", "precomp")
        if data.source == "precomp" and not is_features:
            raise DataError(f"{folder}: the source is precomp, but this is a {kind} folder; set data.source to {kind}")
        if data.source == "karpathy" and kind == "flickr8k":
            karpathy_file(folder)  # a folder may contain the files of both; if not, the error names what is missing
        elif not is_features and data.source != kind:
            raise DataError(
                f"{folder}: the source is {data.source}, but this is a {kind} folder; set data.source to {kind}"
            )
    if is_features:
        for split in set(splits or []) - set(list_splits(folder)):
            raise DataError(f"{folder}: no split {split!r}; there are {', '.join(list_splits(folder)) or 'none'}")
        return folder
    return _prepare_raw(data, folder, splits, progress)


def _prepare_raw(data: DataConfig, folder: Path | None, splits: list[str] | None, progress: bool) -> Path:
    made_from = {key: getattr(data, key) for key in ("source", "backbone", "image_size", "precision")}
    made_from |= {"windows": list(data.windows), "folder": str(folder.resolve()) if folder else None}
    made_from |= {"features": data.features} if data.features != "map" else {}
    made_from |= {"views": data.views} if data.views else {}
    made_from |= {"grid": data.grid} if data.grid is not None else {}
    made_from |= {key: value for key, value in reading_settings(data).items() if value}
    if folder is None or data.source == "scenes":
        from bssan_lib.data.scenes.source import RECIPE

        made_from |= {"images": data.images, "seed": data.seed, "recipe": RECIPE}
        available, source_state = SCENES, {}
    else:
        entities = Path(data.entities) if data.entities else None
        options = reading_of(data, data.source)
        available = raw_splits(data.source, folder, options)
        list_files = {"karpathy": karpathy_data_files, "table": table_files, "flickr8k": flickr8k_files}
        files = list_files[data.source](folder, entities, options)
        source_state = {str(path.resolve()): sha256_of(path) for path in files}
        source_state |= {"entities": str(entities)} if entities else {}
    for split in set(splits or []) - set(available):
        raise DataError(f"{folder or 'scenes'}: no split {split!r}; there are {', '.join(available)}")
    wanted = list(splits or available)
    place = prepared_folder(data)

    if not _missing(place, wanted, made_from, source_state):
        return place
    with locked(place / ".lock"):
        missing = _missing(place, wanted, made_from, source_state)  # another process may just have ended
        if missing:
            raws = _read_source(data, folder or place, place, missing, progress)
            from bssan_lib.vision.backbone import load_backbone  # torch is slow to import and not needed before

            backbone = load_backbone(
                data.backbone,
                image_size=data.image_size,
                precision=data.precision,
                windows=tuple(data.windows),
                features=data.features,
                grid=data.grid,
            )
            meta = {
                "source": _source_name(data, folder),
                "made_from": made_from,
                "split": {"source_state": source_state},
            }
            for split in missing:
                write_locked(place, raws[split], backbone, progress, meta, data.views if split == "train" else 0)
    return place


def _source_name(data: DataConfig, folder: Path | None) -> str:
    """The data set's name in every record of results."""
    if data.source not in ("karpathy", "table") or folder is None:
        return data.source
    options = reading_of(data, data.source)
    if data.source == "karpathy":
        return karpathy_file(folder, options.images).stem.removeprefix("dataset_")
    return f"table, {OWN_SPLIT}" if table_members(folder, options)[1] == OWN_SPLIT else data.source


def _read_source(data: DataConfig, folder: Path, place: Path, splits: list[str], progress: bool) -> dict[str, RawSplit]:
    if data.source == "scenes":
        from bssan_lib.data.scenes.source import scenes_source

        return scenes_source(folder, data.images, data.seed, progress)
    entities = Path(data.entities) if data.entities else None
    # Missing pictures are named together with damaged ones.
    options = dataclasses.replace(reading_of(data, data.source), absent=True)
    raws = RAW_SOURCES[data.source](folder, splits, entities, options)
    known = _opened_before(place)
    before = len(known)
    try:
        checked = check_pictures(
            raws | _prepared_before(place, splits, known), data.skip_bad, data.allow_overlap, known, progress
        )
    finally:  # the next call does not open the same pictures again
        if len(known) > before:
            with disk_errors(place):
                write_json(place / CHECKED, known)
    return {name: checked[name] for name in raws}


def _opened_before(place: Path) -> dict[str, list]:
    """Path -> [size, time, digest] of the pictures that were opened for this prepared folder."""
    try:
        known = read_json(place / CHECKED)
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    whole = (
        one for one in known.items() if isinstance(one[1], list) and len(one[1]) == 3 and isinstance(one[1][2], str)
    )
    return dict(whole)


def _prepared_before(place: Path, splits: list[str], known: dict[str, list]) -> dict[str, RawSplit]:
    """The splits that are there already, with the pictures that are as they were: new ones must not repeat them."""
    found = {}
    for name, entry in ((read_meta(place) or {}).get("splits") or {}).items():
        ids = place / f"{name}_ids.txt"
        if name in splits or not ids.is_file():
            continue
        images = place / entry["image_folder"]
        names = [line for line in read_lines(ids) if _is_known(images / line, known)]
        found[name] = RawSplit(name, names, images, [], np.zeros(0, np.int64))
    return found


def _is_known(path: Path, known: dict[str, list]) -> bool:
    return str(path) in known and known[str(path)][:2] == picture_state(path)


def _missing(place: Path, wanted: list[str], made_from: dict, source_state: dict) -> list[str]:
    """The splits still to be written, or again because captions, annotations or pictures changed since."""
    meta = read_meta(place) if place.is_dir() else None
    if meta is None:
        return wanted
    stored = meta.get("made_from") or {}
    differ = [key for key in {**stored, **made_from} if stored.get(key) != made_from.get(key)]
    if differ:
        what = "; ".join(f"{key} {stored.get(key)!r}, now {made_from.get(key)!r}" for key in differ)
        raise DataError(f"{place}: prepared from other data ({what}); give another data.prepared")
    return [name for name in wanted if not _is_current(place, meta, name, source_state)]


def _is_current(place: Path, meta: dict, split: str, source_state: dict) -> bool:
    entry = meta["splits"].get(split)
    if entry is None or entry.get("source_state") != source_state:
        return False
    try:
        check_files(place, entry["files"])
    except DataError:
        return False
    return same_pictures(place, meta, split)
