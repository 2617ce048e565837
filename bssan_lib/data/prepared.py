"""The prepared dataset: the files that SCAN, VSRN and SGRAF read, and beside them what those lack.

Letters: N images, C captions, K regions, M objects, D feature size.

    {split}_ims.npy [N, K, D]    {split}_caps.txt     {split}_ids.txt    {split}_cap2im.npy [C]
    {split}_boxes.npy [N, K, 4]  {split}_objects.npy [N, M, D]           {split}_object_boxes.npy [N, M, 4]
    {split}_phrases.jsonl        {split}_satisfies.npy [C, N]            {split}_coco_ids.npy [C, 2]    meta.json

A split exists once meta.json names it; that file is written last. `writing` writes it all.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, StrictInt

from bssan_lib.config import DataConfig
from bssan_lib.data.images import open_image
from bssan_lib.data.precomp import (
    FEATURES,
    check_cap2im,
    open_boxes,
    open_features,
    precomp_splits,
    read_captions,
    read_ids,
)
from bssan_lib.data.raw import Phrase
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.errors import DataError
from bssan_lib.files import sha256_of
from bssan_lib.reading import one_line, open_array, parse_json, read_json, read_lines

FORMAT = "bssan-prepared-1"


class _File(BaseModel):
    bytes: StrictInt
    sha256: str


class _Split(BaseModel):
    files: dict[str, _File]
    images: StrictInt
    image_folder: str | None = None
    notes: dict[str, Any] = {}


class _Features(BaseModel):
    key: str
    files: dict[str, _File]
    pictures: dict[str, str | None] | None = None


class _Backbone(BaseModel):
    name: str
    grid: list[StrictInt] | None = None


class _Meta(BaseModel):
    """The keys of meta.json that are used. Other keys may have any value."""

    splits: dict[str, _Split]
    features: dict[str, _Features]
    backbone: _Backbone
    source: str | None = None
    made_from: dict[str, Any] | None = None


@dataclass(frozen=True)
class PreparedSplit:
    """One split. Arrays are read-only memory maps: index rows, never copy the whole."""

    folder: Path
    name: str
    regions: np.ndarray  # [N, K, D] float16 or float32
    objects: np.ndarray | None  # [N, M, D]; None: the objects are the regions, or windows over them (object_boxes)
    boxes: np.ndarray | None  # [N, K, 4] float32, x1 y1 x2 y2 as fractions of width and height
    object_boxes: np.ndarray | None  # [N, M, 4] float32
    captions: list[str]
    cap2im: np.ndarray  # [C] int64
    ids: list[str]  # N file names, or "row 0", "row 1" where none are known
    phrases: list[Phrase] | None
    satisfies: np.ndarray | None  # [C, N] bool
    meta: dict  # all of meta.json; meta["backbone"]["grid"] is [rows, columns], or None for bottom-up regions
    views: np.ndarray | None = None  # [N, V, K, D]: training pictures mirrored and in part

    def image(self, row: int) -> Image.Image | None:
        """The picture of an image row as RGB, or None where there are no pictures."""
        stored = self.meta["splits"][self.name].get("image_folder")
        path = self.folder / stored / self.ids[row] if stored else None  # an absolute path stays as it is
        return open_image(path) if path and path.is_file() else None

    def captions_of(self, row: int) -> np.ndarray:
        """The rows of an image's captions, int64, ascending."""
        return np.flatnonzero(self.cap2im == row)

    @property
    def sizes(self) -> dict[str, int]:
        """Keys images N, captions C, regions K, objects M (K where objects is None), dimension D."""
        own = self.objects if self.object_boxes is None else self.object_boxes
        return dict(
            images=len(self.regions),
            captions=len(self.captions),
            regions=self.regions.shape[1],
            objects=(self.regions if own is None else own).shape[1],
            dimension=self.regions.shape[2],
        )


def read_meta(folder: Path) -> dict | None:
    """meta.json of a prepared folder; None if there is none. DataError if it is damaged."""
    path = folder / "meta.json"
    try:
        meta = read_json(path)
        form = meta["format"]
        if form == FORMAT:
            _Meta.model_validate(meta)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged or not of a prepared dataset ({one_line(error)}); prepare the data again"
        ) from None
    if form != FORMAT:
        raise DataError(f"{path}: expected the format {FORMAT}, got {form!r}; prepare the data again")
    return meta


def list_splits(folder: Path | str) -> list[str]:
    """The splits of a prepared folder or one in the field's format. DataError if the folder is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected prepared features")
    meta = read_meta(folder)
    return list(meta["splits"]) if meta else precomp_splits(folder)


def open_prepared(folder: Path | str, split: str) -> PreparedSplit:
    """Opens a split of a prepared folder, or of one in the field's format (f30k_precomp, coco_precomp).

    Sizes and shapes are checked, checksums are not: see `verify_checksums`. DataError names the file and the
    row.
    """
    folder = Path(folder)
    known = list_splits(folder)
    if split not in known:
        have = f"there are {', '.join(known)}" if known else "it holds none; was its preparation stopped?"
        raise DataError(f"{folder}: no split {split!r} ({split}_ims.npy and {split}_caps.txt); {have}")
    meta, repeats = read_meta(folder), 1
    captions = read_captions(folder / f"{split}_caps.txt")
    if meta:
        check_files(folder, meta["splits"][split]["files"])
        regions: np.ndarray = open_array(folder / f"{split}_ims.npy", 3, "fu", FEATURES)
        cap2im = check_cap2im(folder / f"{split}_cap2im.npy", len(captions), len(regions))
    else:
        regions, cap2im, repeats = open_features(folder, split, len(captions))
        meta = {
            "source": "precomp",
            "backbone": {"name": "precomputed", "grid": None},
            "splits": {split: {"notes": {"rows_per_image": repeats}}},
        }
    n, k, _ = regions.shape
    objects = _open_objects(folder / f"{split}_objects.npy", regions)
    windows = folder / f"{split}_object_boxes.npy"
    m = objects.shape[1] if objects is not None else _windows(windows, meta)
    object_boxes = open_boxes(windows, n, m) if m else None
    return PreparedSplit(
        folder=folder,
        name=split,
        regions=regions,
        objects=objects,
        captions=captions,
        cap2im=cap2im,
        meta=meta,
        object_boxes=object_boxes,
        boxes=open_boxes(folder / f"{split}_boxes.npy", n, k, repeats),
        ids=read_ids(folder / f"{split}_ids.txt", n, repeats) or [f"row {row}" for row in range(n)],
        phrases=_read_phrases(folder / f"{split}_phrases.jsonl", captions),
        satisfies=_open_satisfies(folder / f"{split}_satisfies.npy", len(captions), n),
        views=_open_views(folder / f"{split}_views.npy", regions),
    )


def check_files(folder: Path, files: dict[str, dict]) -> None:
    """DataError if a file that meta.json names is missing or of another size."""
    for name, stored in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != stored["bytes"]:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise DataError(
                f"{path} {found}, but meta.json says {stored['bytes']:,} bytes; delete {folder} "
                "and prepare the data again"
            )


def verify_checksums(folder: Path | str) -> int:
    """Reads every file of a prepared folder. Returns how many; DataError names the first that was changed."""
    meta = read_meta(Path(folder))
    if meta is None:
        raise DataError(f"{folder}: no meta.json, so no checksums; only a prepared folder has them")
    files = {name: stored for split in meta["splits"].values() for name, stored in split["files"].items()}
    check_files(Path(folder), files)
    for name, stored in files.items():
        if sha256_of(Path(folder) / name) != stored["sha256"]:
            raise DataError(
                f"{Path(folder) / name}: its checksum is not the one in meta.json: the file was "
                "changed or damaged after it was written; delete the folder and prepare the "
                "data again"
            )
    return len(files)


def _open_objects(path: Path, regions: np.ndarray) -> np.ndarray | None:
    if not path.is_file():
        return None
    objects = open_array(path, 3, "f", "[images, objects, dimension]")
    if (len(objects), objects.shape[2]) != (len(regions), regions.shape[2]):
        raise DataError(f"{path}: the shape {list(objects.shape)} does not fit the regions' {list(regions.shape)}")
    return objects


def _windows(path: Path, meta: dict) -> int | None:
    """How many windows the model is to pool, for features that its last stage reads; else None."""
    if meta["backbone"].get("features", "map") == "map" or not path.is_file():
        return None
    return open_array(path, 3, "f", "[images, objects, 4]").shape[1]


def _open_views(path: Path, regions: np.ndarray) -> np.ndarray | None:
    if not path.is_file():
        return None
    views = open_array(path, 4, "fu", "[images, views, regions, dimension]")
    if (len(views), *views.shape[2:]) != regions.shape:
        raise DataError(f"{path}: the shape {list(views.shape)} does not fit the regions' {list(regions.shape)}")
    return views


def _open_satisfies(path: Path, captions: int, images: int) -> np.ndarray | None:
    if not path.is_file():
        return None
    satisfies = open_array(path, 2, "b", "[captions, images]")
    if satisfies.shape != (captions, images):
        raise DataError(f"{path}: expected the shape {[captions, images]}, got {list(satisfies.shape)}")
    return satisfies


def _read_phrases(path: Path, captions: list[str]) -> list[Phrase] | None:
    if not path.is_file():
        return None
    phrases, lengths = [], {}
    for line, text in enumerate(read_lines(path), start=1):
        try:
            row = parse_json(text)
            caption, words = int(row["caption"]), tuple(int(word) for word in row["words"])
            boxes = tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in row["boxes"])
            if caption not in lengths:
                lengths[caption] = len(tokenize(captions[caption]))
            if caption < 0 or not words or not all(0 <= word < lengths[caption] for word in words):
                raise ValueError(f"caption {caption} has no words {list(words)}")
            if not boxes:
                raise ValueError("a phrase without a box")
            phrases.append(Phrase(caption, words, str(row["type"]), boxes))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}, line {line}: not a phrase of this split ({error})") from None
    return phrases


def reading_settings(data: DataConfig) -> dict[str, object]:
    """How pictures and captions are read, as far as the features depend on it; what is None or False says nothing."""
    images = str(Path(data.image_folder).resolve()) if data.image_folder else None
    return {
        "layout": data.layout,
        "image_folder": images,
        "skip_bad": data.skip_bad,
        "allow_overlap": data.allow_overlap,
    }


def prepared_folder(data: DataConfig) -> Path:
    """Where the features of these settings are kept: `data.prepared`, or a name with a hash of what they depend on.

    min_word_count is left out: features do not depend on it.
    """
    if data.prepared is not None:
        return Path(data.prepared)
    if data.source == "precomp":
        return Path(data.folder or ".")
    kept = {key: getattr(data, key) for key in ("source", "backbone", "image_size", "precision", "windows", "entities")}
    later = (
        ("features", data.features),
        ("views", data.views),
        ("grid", data.grid),
    )  # at their defaults: as before they were there
    kept |= {key: value for key, value in later if value not in ("map", 0, None)}
    kept |= {key: value for key, value in reading_settings(data).items() if value}
    kept["folder"] = str(Path(data.folder).resolve()) if data.folder else None
    if data.source == "scenes":
        kept |= {"images": data.images, "seed": data.seed}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return Path("prepared") / f"{data.source}-{digest[:8]}"
