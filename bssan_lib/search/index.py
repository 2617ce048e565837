"""The index folder of a large gallery: written once, complete or absent, checked when it is opened.

Letters: N images, C captions, K regions, M objects, d joint size, e global size, L lists.

    meta.json             format, checkpoint and its hash, sizes, every file with its bytes
    image_codes.npy       [N, K + M, d] float16: the regions, then the objects of each image
    image_vectors.npy     [N, e] float32            caption_vectors.npy   [C, e] float32
    texts.json            names of the images, captions of the gallery (none for a folder of images)
    cap2im.npy            [C] image row of each caption
    image_centres.npy     [L, e] and image_lists.npy [N], the same for captions: for many vectors, see `shortlist`

The index contains codes of the joint space, not features of the backbone, because d is smaller than the feature size
and attention needs the codes. It contains captions as text, because the LSTM encodes a shortlist in milliseconds. It
does not use files of FAISS, because FAISS does not check what it reads.
"""

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from bssan_lib.data.batches import Words
from bssan_lib.data.progress import tqdm
from bssan_lib.errors import CheckpointError, DataError
from bssan_lib.files import GrowingArray, GrowingArrays, disk_errors, locked, sha256_of, write_array, write_json
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import Checkpoint, checkpoint_files
from bssan_lib.models.codes import ImageCodes
from bssan_lib.reading import LARGEST_FILE, one_line, open_array, read_json
from bssan_lib.search.shortlist import FLAT_LIMIT, inverted_lists
from bssan_lib.search.source import Gallery

FORMAT = "bssan-index-1"
BLOCK = 32  # images encoded at once; a stopped build continues after a complete block, so its result is the same
CAPTIONS = 128  # captions encoded at once
SAVE_EVERY = 16  # blocks between two updates of the note


class _Meta(BaseModel):
    """The required content of meta.json."""

    model_config = ConfigDict(strict=True)
    checkpoint: str
    checkpoint_sha256: str
    images: int
    captions: int
    vectors: list[int]
    joint_size: int
    global_size: int
    image_folder: str | None
    files: dict[str, dict[str, int | str]]


@dataclass(frozen=True)
class SearchIndex:
    """An opened index folder. codes: [N, K + M, d] float16, memory-mapped; the other arrays are in memory.

    lists: {"image": (centres [L, e], lists [N]), "caption": ...} for many vectors.
    """

    folder: Path
    meta: dict
    codes: np.memmap
    vectors: dict[str, np.ndarray]
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    names: list[str]
    captions: list[str]
    cap2im: np.ndarray

    def image_codes(self, rows: np.ndarray, device: torch.device | str = "cpu") -> ImageCodes:
        """Codes of images, float32. rows: [B]. Returns regions [B, K, d] and objects [B, M, d]."""
        self._prefetch(rows)
        codes = torch.from_numpy(np.asarray(self.codes[rows], np.float32)).to(device)
        regions, objects = self.meta["vectors"]
        return ImageCodes(codes[:, :regions], codes[:, regions:]) if objects else ImageCodes(codes, codes)

    def _prefetch(self, rows: np.ndarray) -> None:
        """Asks the system to read all rows from the disk in parallel."""
        mapped: object = self.codes.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
            size = self.codes[0].nbytes
            for row in rows:
                first = self.codes.offset + int(row) * size
                start = first - first % mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, start, first + size - start)

    def path(self, row: int) -> str:
        """The path of an image if its folder is known, else its name."""
        folder = self.meta["image_folder"]
        return str(Path(folder) / self.names[row]) if folder else self.names[row]


def checkpoint_sha256(folder: Path | None) -> str:
    """One hash of a checkpoint's three files, which shows whether an index and a model belong together.

    Raises CheckpointError without a folder, as for a model that was never saved.
    """
    if folder is None:
        raise CheckpointError("an index needs the hash of a saved checkpoint: save the model first, then load it.")
    return hashlib.sha256("".join(sha256_of(path) for path in checkpoint_files(folder).values()).encode()).hexdigest()


def global_model(checkpoint: Checkpoint) -> BSSAN:
    """The checkpoint's model in evaluation mode. Raises CheckpointError if it has no global vectors for a shortlist."""
    model = checkpoint.model
    if not isinstance(model, BSSAN) or not model.has_global:
        raise CheckpointError(
            f"{checkpoint.folder}: this model has no global vectors (model.global_size: 0, or model.reading: inputs), "
            "but the shortlist of search needs them. Train a model with model.global_size, 128 by default, or add "
            "them with `bssan add-global`."
        )
    return model.eval()


def build_index(
    out: Path | str, checkpoint: Checkpoint, gallery: Gallery, flat_limit: int = FLAT_LIMIT, progress: bool = True
) -> Path:
    """Writes an index folder and returns its path.

    Until it is complete, its name is OUT.partial; the same call continues.

    flat_limit: more vectors than this are stored in lists, see `shortlist`. Raises DataError if OUT exists already or
    cannot be written, if the disk is full, or if an image cannot be read; CheckpointError for a model that has no
    global vectors or was never saved.
    """
    out, model = Path(out), global_model(checkpoint)
    hashed = checkpoint_sha256(checkpoint.folder)
    if out.exists():
        raise DataError(f"{out}: exists already; delete it or give another folder for the index")
    partial = out.with_name(f"{out.name}.partial")
    lock = out.with_name(
        f".{out.name}.lock"
    )  # outside the folder, because Windows cannot rename a folder with an open file
    with locked(lock):
        if out.exists():  # another process may have finished it
            raise DataError(f"{out}: exists already; delete it or give another folder for the index")
        with disk_errors(partial):
            partial.mkdir(exist_ok=True)
        vectors = _encode_gallery(partial, model, gallery, hashed, progress)
        with disk_errors(partial):
            _write_rest(partial, checkpoint, gallery, hashed, vectors, flat_limit, progress)
            (partial / "note.json").unlink()
            (partial / ".lock").unlink(missing_ok=True)  # of version 0.1
            os.replace(partial, out)
    lock.unlink(missing_ok=True)
    return out


@torch.inference_mode()
def _encode_gallery(partial: Path, model: BSSAN, gallery: Gallery, hashed: str, progress: bool) -> np.ndarray:
    """Writes codes and vectors of all images and continues a stopped call. Returns the vectors [N, e]."""
    n, width = len(gallery.names), sum(gallery.vectors)
    arrays = [
        GrowingArray(partial / "image_codes.npy", (n, width, model.config.joint_size), np.float16),
        GrowingArray(partial / "image_vectors.npy", (n, model.config.global_size), np.float32),
    ]
    growing = GrowingArrays(partial / "note.json", arrays, lambda done: _note(gallery, hashed, done))
    if growing.done % BLOCK and growing.done < n:  # the earlier gallery was shorter and ended there
        growing.done = 0
    bar = tqdm(total=n, initial=growing.done, desc="index", unit=" images", disable=not progress)
    with growing, bar:
        for number, start in enumerate(range(growing.done, n, BLOCK)):
            stop = min(start + BLOCK, n)
            codes = gallery.encode(start, stop)
            both = codes.regions if codes.objects is codes.regions else torch.cat([codes.regions, codes.objects], 1)
            vectors = model.image_vectors(codes).float().cpu().numpy()
            if not (np.isfinite(vectors).all() and torch.isfinite(both).all()):
                raise DataError(
                    f"images {start} to {stop - 1}, {gallery.names[start]!r} first: their codes are NaN "
                    "or infinite; check their features or image files"
                )
            growing.append([both.to(torch.float16).cpu().numpy(), vectors])
            if number % SAVE_EVERY == SAVE_EVERY - 1 or stop == n:
                growing.save()
            bar.update(stop - start)
    return np.load(arrays[1].path, allow_pickle=False)


def _note(gallery: Gallery, hashed: str, done: int) -> dict:
    """What must be equal for written rows to be kept.

    Later images may change, for example if a damaged file is removed.
    """
    names = hashlib.sha256("\0".join(gallery.names[:done]).encode("utf-8", "surrogateescape")).hexdigest()
    return {"done": done, "checkpoint": hashed, "key": gallery.key, "names": names}


def _write_rest(
    partial: Path, checkpoint: Checkpoint, gallery: Gallery, hashed: str, vectors, flat_limit: int, progress: bool
) -> None:
    every = {"image": vectors}
    if gallery.captions:
        every["caption"] = encode_captions(checkpoint, gallery.captions, progress)
        write_array(partial / "caption_vectors.npy", every["caption"])
        write_array(partial / "cap2im.npy", np.asarray(gallery.cap2im, np.int64))
    for kind, some in every.items():
        if (found := inverted_lists(some, flat_limit)) is not None:
            write_array(partial / f"{kind}_centres.npy", found[0])
            write_array(partial / f"{kind}_lists.npy", found[1])
    write_json(partial / "texts.json", {"images": gallery.names, "captions": gallery.captions})
    files = sorted(
        path for path in partial.iterdir() if path.suffix in (".npy", ".json") and path.stem not in ("note", "meta")
    )
    write_json(
        partial / "meta.json",
        {
            "format": FORMAT,
            "checkpoint": str(Path(checkpoint.folder or "").resolve()),
            "checkpoint_sha256": hashed,
            "images": len(gallery.names),
            "captions": len(gallery.captions),
            "vectors": list(gallery.vectors),
            "joint_size": checkpoint.model.config.joint_size,
            "global_size": checkpoint.model.config.global_size,
            "image_folder": str(gallery.folder) if gallery.folder else None,
            "files": {path.name: _describe(path) for path in files},
        },
    )


def _describe(path: Path) -> dict:
    """Size in bytes and, except for the large file of codes, a checksum; both are compared when the index is opened."""
    size = {"bytes": path.stat().st_size}
    return size if path.name == "image_codes.npy" else {**size, "sha256": sha256_of(path)}


@torch.inference_mode()
def encode_captions(checkpoint: Checkpoint, captions: list[str], progress: bool = False) -> np.ndarray:
    """Global vectors of captions, [C, e] float32."""
    model, words = global_model(checkpoint), Words(captions, checkpoint.vocabulary)
    vectors = np.empty((len(captions), model.config.global_size), np.float32)
    for rows in tqdm(words.by_length(CAPTIONS), desc="captions", unit=" chunks", disable=not progress):
        codes = model.encode_captions(*words.batch(rows, model.device))
        vectors[rows] = model.caption_vectors(codes).float().cpu().numpy()
    return vectors


def open_index(folder: Path | str) -> SearchIndex:
    """Opens an index folder without unpickling. Raises DataError if it is missing, damaged or of another version."""
    folder = Path(folder)
    try:
        meta = read_json(folder / "meta.json")
        form = meta["format"]
    except (OSError, ValueError, KeyError, TypeError):
        stopped = folder.with_name(f"{folder.name}.partial").is_dir()
        raise DataError(
            f"{folder}: not an index; "
            + (
                "it is incomplete: run the same `bssan index` command again"
                if stopped
                else "expected a folder written by `bssan index`"
            )
        ) from None
    if form != FORMAT:
        raise DataError(f"{folder}: expected an index of the format {FORMAT}, got {form!r}; build the index again")
    try:
        return _open_parts(folder, meta)
    except (KeyError, TypeError, ValueError, IndexError, OSError, AttributeError, OverflowError) as error:
        raise DataError(f"{folder}: a damaged index ({one_line(error)}); build the index again") from None


def _open_parts(folder: Path, meta: dict) -> SearchIndex:
    _Meta.model_validate(meta)
    for name in ("image_codes.npy", "image_vectors.npy", "texts.json"):
        meta["files"][name]
    for name, stored in meta["files"].items():
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise DataError(f"{path}: missing, so the index is incomplete; build it again")
        if path.stat().st_size != stored["bytes"] or "sha256" in stored and sha256_of(path) != stored["sha256"]:
            raise DataError(f"{path}: changed or truncated since the index was built; build the index again")
    n, c, e, (regions, objects) = meta["images"], meta["captions"], meta["global_size"], meta["vectors"]
    codes = _array(
        folder / "image_codes.npy", (n, regions + objects, meta["joint_size"]), "f", "[images, codes, joint size]"
    )
    vectors = {"image": _array(folder / "image_vectors.npy", (n, e), "f", "[images, global size]")}
    if c:
        vectors["caption"] = _array(folder / "caption_vectors.npy", (c, e), "f", "[captions, global size]")
    for kind, some in vectors.items():
        if not np.isfinite(some).all():
            raise DataError(f"{folder}: some vectors of its {kind}s are NaN or infinite; build the index again")
    lists = {}
    for kind, some in vectors.items():
        if f"{kind}_centres.npy" in meta["files"]:
            centres = open_array(folder / f"{kind}_centres.npy", 2, "f", "[lists, global size]")
            of = _array(folder / f"{kind}_lists.npy", (len(some),), "i", f"[{kind}s]")
            if centres.shape[1] != e or not np.isfinite(centres).all() or of.min() < 0 or of.max() >= len(centres):
                raise ValueError(f"lists of {kind}s that do not fit their centres")
            lists[kind] = (np.array(centres, np.float32), np.array(of, np.int64))
    texts = read_json(folder / "texts.json", LARGEST_FILE)
    names, captions = texts["images"], texts["captions"]
    if (len(names), len(captions)) != (n, c) or not all(isinstance(text, str) for text in [*names, *captions]):
        raise ValueError("texts that do not fit the sizes")
    cap2im = np.array(_array(folder / "cap2im.npy", (c,), "i", "[captions]")) if c else np.zeros(0, np.int64)
    if c and (cap2im.min() < 0 or cap2im.max() >= n):
        raise ValueError("captions with an image row outside the gallery")
    return SearchIndex(
        folder,
        meta,
        codes,
        {kind: np.array(some, np.float32) for kind, some in vectors.items()},
        lists,
        names,
        captions,
        cap2im,
    )


def _array(path: Path, shape: tuple[int, ...], kinds: str, what: str) -> np.memmap:
    array = open_array(path, len(shape), kinds, what)
    if array.shape != tuple(shape):
        raise DataError(
            f"{path}: expected the shape {list(shape)} {what}, got {list(array.shape)}; build the index again"
        )
    return array
