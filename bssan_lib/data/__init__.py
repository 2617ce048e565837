"""From photographs and captions to the prepared dataset that the field reads. Notebook 01.

folder = prepare(config.data)                 # draws or reads, extracts what is missing, resumes
split = open_prepared(folder, "dev")          # memory-mapped arrays, captions, ids, phrases
"""

from pathlib import Path

from bssan_lib.config import DataConfig
from bssan_lib.data.flickr8k import CAPTION_FILES, flickr8k_files, flickr8k_source, has_official_split, split_files
from bssan_lib.data.karpathy import (
    FILES,
    by_split,
    karpathy_data_files,
    karpathy_file,
    karpathy_files,
    karpathy_source,
    read_entries,
)
from bssan_lib.data.layouts import near_layout
from bssan_lib.data.precomp import precomp_splits
from bssan_lib.data.prepared import (
    PreparedSplit,
    check_files,
    list_splits,
    open_prepared,
    prepared_folder,
    read_meta,
    verify_checksums,
)
from bssan_lib.data.raw import Phrase, RawSplit
from bssan_lib.data.table import OWN_SPLIT, table_files, table_members, table_source
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.data.writing import same_pictures, write_locked, write_split
from bssan_lib.errors import DataError
from bssan_lib.files import locked, sha256_of

__all__ = [
    "prepare",
    "detect_source",
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
# Folders of pictures with captions, of which features are made; each function: (folder, splits, entities) -> RawSplits.
RAW_SOURCES = {"flickr8k": flickr8k_source, "karpathy": karpathy_source, "table": table_source}


def detect_source(folder: Path | str) -> str:
    """What a folder holds: "prepared", "precomp", "flickr8k", "karpathy" or "table". DataError if missing or none of them."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected pictures with captions, or prepared features")
    if _has_features(folder):
        return "prepared" if (folder / "meta.json").is_file() else "precomp"
    places, lists = (folder, folder / "Flickr8k_text"), [f"Flickr_8k.{split}Images.txt" for split in SCENES[:3]]
    if any((place / name).is_file() for place in places for name in lists) or has_official_split(folder):
        return "flickr8k"
    if karpathy_files(folder):
        return "karpathy"
    if table_files(folder):
        return "table"
    if any((place / name).is_file() for place in places for name in CAPTION_FILES):
        return "flickr8k"
    if any(folder.glob("*_ims.npy*")):
        raise DataError(
            f"{folder}: features without captions ({{split}}_caps.txt), or a preparation that "
            "was stopped; give its command again"
        )
    raise DataError(
        f"{folder}: neither prepared features ({{split}}_ims.npy, {{split}}_caps.txt) nor a "
        f"Flickr8k folder ({' or '.join(CAPTION_FILES)}, Flickr_8k.{{train,dev,test}}Images.txt) nor "
        f"Karpathy's file beside pictures ({' or '.join(FILES)}) nor a list of images and captions "
        "(captions.csv with the header image,caption; docs/datasets.md has them all)" + near_layout(folder)
    )


def raw_splits(source: str, folder: Path | str) -> list[str]:
    """The splits of a folder of pictures, by its source. DataError if the files that name them are missing or damaged."""
    folder = Path(folder)
    if source == "table":
        return list(table_members(folder)[0])
    return list(by_split(read_entries(karpathy_file(folder))) if source == "karpathy" else split_files(folder))


def _has_features(folder: Path) -> bool:
    return bool(precomp_splits(folder)) or (folder / "meta.json").is_file() and any(folder.glob("*_ims.npy*"))


def prepare(data: DataConfig, splits: list[str] | None = None, progress: bool = True) -> Path:
    """The folder with the prepared features of a source; writes what is missing and continues where it stopped.

    splits: those that are needed, None for all that the source has. Returns at once if
    they are there. A folder of features, prepared or in the field's format, is used as it is. A second
    process waits. DataError: see the sources; a `data.prepared` with other data, cannot be written, or
    a full disk.
    """
    folder = Path(data.folder) if data.folder else None
    if folder is None:
        if data.source != "scenes":
            raise DataError(
                f"the source {data.source} needs its folder: give data.folder, or --data on the command line"
            )
        return _prepare_raw(data, folder, splits, progress)
    if data.source == "scenes":
        is_features = folder.is_dir() and _has_features(folder)
    else:
        kind = detect_source(folder)
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
    if folder is None or data.source == "scenes":
        from bssan_lib.data.scenes.source import RECIPE

        made_from |= {"images": data.images, "seed": data.seed, "recipe": RECIPE}
        available, source_state = SCENES, {}
    else:
        entities = Path(data.entities) if data.entities else None
        available = raw_splits(data.source, folder)
        list_files = {"karpathy": karpathy_data_files, "table": table_files, "flickr8k": flickr8k_files}
        files = list_files[data.source](folder, entities)
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
            raws = _read_source(data, folder or place, missing, progress)
            from bssan_lib.vision.backbone import load_backbone  # torch is slow to import and not needed before

            backbone = load_backbone(
                data.backbone,
                image_size=data.image_size,
                precision=data.precision,
                windows=tuple(data.windows),
                features=data.features,
                grid=data.grid,
            )
            karpathy = folder if data.source == "karpathy" else None
            name = karpathy_file(karpathy).stem.removeprefix("dataset_") if karpathy else data.source
            if data.source == "table" and folder and table_members(folder)[1] == OWN_SPLIT:
                name = f"table, {OWN_SPLIT}"  # the data set's name in every record of results
            meta = {"source": name, "made_from": made_from, "split": {"source_state": source_state}}
            for split in missing:
                write_locked(place, raws[split], backbone, progress, meta, data.views if split == "train" else 0)
    return place


def _read_source(data: DataConfig, folder: Path, splits: list[str], progress: bool) -> dict[str, RawSplit]:
    if data.source == "scenes":
        from bssan_lib.data.scenes.source import scenes_source

        return scenes_source(folder, data.images, data.seed, progress)
    return RAW_SOURCES[data.source](folder, splits, Path(data.entities) if data.entities else None)


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
