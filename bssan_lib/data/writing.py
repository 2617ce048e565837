"""Writes the prepared dataset: features that are kept or resumed, the other files of a split, and meta.json last.

Letters: N images, C captions, K regions, M objects, V further views.
"""

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from bssan_lib.data.extraction import extract_features, features_key
from bssan_lib.data.pictures import picture_state
from bssan_lib.data.precomp import read_ids
from bssan_lib.data.prepared import FORMAT, check_files, read_meta
from bssan_lib.data.raw import RawSplit
from bssan_lib.data.vocabulary import check_caption
from bssan_lib.errors import DataError
from bssan_lib.files import disk_errors, locked, sha256_of, write_array, write_json, write_text


def write_split(
    folder: Path | str, raw: RawSplit, backbone, progress: bool = True, meta: dict | None = None, views: int = 0
) -> None:
    """Prepares a split: features (resumed if begun, kept if images are the same), other files, meta.json.

    meta: further keys of meta.json; its key "split" holds further keys of this split's entry. views: V, how many further
    views of each picture are kept, see `extraction.further_view`. A second process waits for the first. DataError: a
    split that contradicts itself, another backbone than that of the folder's other splits, a folder that cannot be
    written, a full disk.
    """
    with locked(Path(folder) / ".lock"):
        write_locked(Path(folder), raw, backbone, progress, meta, views)


def write_locked(
    folder: Path, raw: RawSplit, backbone, progress: bool = True, extra: dict | None = None, views: int = 0
) -> None:
    """`write_split` for a caller that holds the folder's lock already."""
    _check_raw(raw)
    extra = dict(extra or {})
    entry = extra.pop("split", {})
    descriptor = json.loads(json.dumps(backbone.descriptor))
    meta = _meta_for(folder, descriptor)
    meta.update(extra, versions=_versions())
    # meta.json forgets the split before a file of it changes, so that a kill leaves no mixture that looks whole.
    meta["splits"].pop(raw.name, None)
    if not views:
        (folder / f"{raw.name}_views.npy").unlink(missing_ok=True)
    key, stored = features_key(raw, descriptor, views), meta["features"].get(raw.name)
    pictures = _picture_state(raw, stored)
    if stored is None or not _can_keep(folder, stored, key, pictures):
        meta["features"].pop(raw.name, None)
        _write(folder, write_json, {"meta.json": meta})
        # Half a file made from other pictures is not continued either.
        resume_key = hashlib.sha256(f"{key} {pictures['sha256']}".encode()).hexdigest()
        features = extract_features(folder, raw, backbone, resume_key, progress, views)
        stored = {"key": key, "files": _describe(features)}
    meta["features"][raw.name] = stored | {"pictures": pictures}
    _write(folder, write_json, {"meta.json": meta})
    files = stored["files"] | _describe(_write_others(folder, raw, backbone))
    place, inside = raw.image_folder.resolve(), folder.resolve()
    meta["splits"][raw.name] = {
        **entry,
        "images": len(raw.ids),
        "captions": len(raw.captions),
        "notes": raw.notes,
        "image_folder": str(place.relative_to(inside) if place.is_relative_to(inside) else place),
        "files": files,
    }
    _write(folder, write_json, {"meta.json": meta})


def same_pictures(folder: Path, meta: dict, split: str) -> bool:
    """Whether the pictures of a split have the sizes and times that they had when its features were made.

    True where that is not known: where a picture is missing, or a version before 0.2 made the features.
    """
    entry, stored = meta["splits"][split], meta["features"][split].get("pictures")
    if stored is None:
        return True
    left_out = entry["notes"].get("left_out") or {}
    if any(picture_state(folder / entry["image_folder"] / name) != state for name, state in left_out.items()):
        return False  # it may be whole now
    ids = read_ids(folder / f"{split}_ids.txt", entry["images"], 1)
    stamp = _stamp(folder / entry["image_folder"], ids or [])
    return stamp is None or stamp == stored["stamp"]


def _stamp(image_folder: Path, ids: list[str]) -> str | None:
    """A hash of the names, sizes and times of pictures; None where one is missing."""
    try:
        states = [(name, (image_folder / name).stat()) for name in ids]
    except OSError:
        return None
    found = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _picture_state(raw: RawSplit, stored: dict | None) -> dict[str, str | None]:
    """{"stamp": of names, sizes and times, "sha256": of contents}; the contents are read only where the stamp is new."""
    stamp, known = _stamp(raw.image_folder, raw.ids), (stored or {}).get("pictures")
    if known and stamp == known["stamp"]:
        return known
    if stamp is None:  # the extraction names the picture that is missing
        return {"stamp": None, "sha256": None}
    contents = "".join(sha256_of(raw.image_folder / name) for name in raw.ids)
    return {"stamp": stamp, "sha256": hashlib.sha256(contents.encode()).hexdigest()}


def _can_keep(folder: Path, stored: dict, key: str, pictures: dict[str, str | None]) -> bool:
    """Whether features in the folder are of this key and these pictures; before 0.2 the pictures were not noted."""
    if stored["key"] != key or stored.get("pictures", pictures)["sha256"] != pictures["sha256"]:
        return False
    try:
        check_files(folder, stored["files"])
    except DataError:
        return False
    return True


def _meta_for(folder: Path, descriptor: dict) -> dict:
    """meta.json of a folder, or a new one. DataError where its features are of another backbone."""
    meta = read_meta(folder) or {"format": FORMAT, "splits": {}, "features": {}, "backbone": descriptor}
    before = meta["backbone"]
    if before != descriptor:
        differ = [key for key in {**before, **descriptor} if before.get(key) != descriptor.get(key)]
        raise DataError(
            f"{folder}: its features were made with another backbone (differs in "
            f"{', '.join(differ)}); give another folder for the prepared features"
        )
    return meta


def _write_others(folder: Path, raw: RawSplit, backbone) -> list[Path]:
    """Every file of a split but its features; returns their paths."""
    n, name = len(raw.ids), raw.name
    captions = [" ".join(caption.replace("\r", "\n").split("\n")) for caption in raw.captions]
    text = {f"{name}_caps.txt": captions, f"{name}_ids.txt": raw.ids}
    arrays = {
        f"{name}_cap2im.npy": raw.cap2im.astype(np.int64),
        f"{name}_boxes.npy": np.tile(np.asarray(backbone.boxes, np.float32), (n, 1, 1)),
    }
    if backbone.object_boxes is not None and len(backbone.object_boxes):
        arrays[f"{name}_object_boxes.npy"] = np.tile(np.asarray(backbone.object_boxes, np.float32), (n, 1, 1))
    if raw.satisfies is not None:
        arrays[f"{name}_satisfies.npy"] = raw.satisfies.astype(bool)
    if raw.coco_ids is not None:
        arrays[f"{name}_coco_ids.npy"] = raw.coco_ids.astype(np.int64)
    if raw.phrases is not None:
        text[f"{name}_phrases.jsonl"] = [json.dumps(vars(phrase)) for phrase in raw.phrases]
    _write(folder, write_text, {key: "".join(f"{line}\n" for line in lines) for key, lines in text.items()})
    _write(folder, write_array, arrays)
    for optional in ("object_boxes.npy", "satisfies.npy", "coco_ids.npy", "phrases.jsonl"):
        if f"{name}_{optional}" not in {**text, **arrays}:
            (folder / f"{name}_{optional}").unlink(missing_ok=True)
    return [folder / key for key in {**text, **arrays}]


def _write(folder: Path, how, contents: dict) -> None:
    with disk_errors(folder):
        for name, content in contents.items():
            how(folder / name, content)


def _describe(paths: Iterable[Path]) -> dict[str, dict]:
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("bssan", "numpy", "pillow", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    return versions


def _check_raw(raw: RawSplit) -> None:
    """DataError for a split of a source that contradicts itself."""
    n, c = len(raw.ids), len(raw.captions)
    cap2im = np.asarray(raw.cap2im)
    wrong = [f"caption {row} is empty" for row, caption in enumerate(raw.captions) if not caption.strip()]
    if not n or cap2im.shape != (c,) or sorted(set(cap2im.tolist())) != list(range(n)):
        wrong.append(f"cap2im of shape {list(cap2im.shape)} for {c} captions should name each of {n} images")
    if raw.satisfies is not None and raw.satisfies.shape != (c, n):
        wrong.append(f"satisfies has the shape {list(raw.satisfies.shape)} instead of {[c, n]}")
    if wrong:
        raise DataError(f"split {raw.name}: {wrong[0]}; this is an error of the source")
    for caption, image in zip(raw.captions, cap2im):
        check_caption(caption, f"{raw.image_folder / raw.ids[image]}, one of its captions", least=0)
