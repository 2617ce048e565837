"""The folder that search in a large gallery reads: made once, written whole or not at all, opened without trust.

Letters: N images, C captions, K regions, M objects, d joint size, e global size, L lists.

    meta.json             format, checkpoint and its hash, sizes, every file with its bytes
    image_codes.npy       [N, K + M, d] float16, an image's regions and then its objects: one read an image
    image_vectors.npy     [N, e] float32            caption_vectors.npy   [C, e] float32
    texts.json            names of images, captions of the gallery (none for a plain folder of pictures)
    cap2im.npy            [C] image row of each caption
    image_centres.npy     [L, e] and image_lists.npy [N], captions alike: only where vectors are many, see `first_stage`

Codes of the joint space are kept and not features of the backbone: d is smaller than the feature size, and nothing is
left to compute from them before attention. Captions are kept as text, since an LSTM reads a shortlist of them in
milliseconds. FAISS's own files are not used: its reader trusts what it reads.
"""

import hashlib
import json
import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bssan_lib.batches import Words
from bssan_lib.checkpoint import FILES, Checkpoint
from bssan_lib.data.files import locked, open_array, replace_array, replace_json, sha256_of, writing
from bssan_lib.errors import CheckpointError, DataError
from bssan_lib.first_stage import FLAT_LIMIT, inverted_lists
from bssan_lib.model import BSSAN, ImageCodes
from bssan_lib.progress import tqdm
from bssan_lib.search_source import Gallery

FORMAT = "bssan-index-1"
BLOCK = 32  # images encoded at once; a build that was stopped goes on at a whole block, to the same bytes
CAPTIONS = 128  # captions encoded at once
SAVE_EVERY = 16  # blocks between two notes of how far it got


@dataclass(frozen=True)
class SearchIndex:
    """An opened index folder. codes: [N, K + M, d] float16, memory-mapped; the other arrays lie in memory.

    centres and lists: {"image": (centres [L, e], lists [N]), "caption": ...} where vectors are many.
    """

    folder: Path
    meta: dict
    codes: np.ndarray
    vectors: dict[str, np.ndarray]
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    names: list[str]
    captions: list[str]
    cap2im: np.ndarray

    def image_codes(self, rows: np.ndarray, device: torch.device | str = "cpu") -> ImageCodes:
        """Codes of some images, float32. rows: [B]. Returns regions [B, K, d], objects [B, M, d]."""
        self._announce(rows)
        codes = torch.from_numpy(np.asarray(self.codes[rows], np.float32)).to(device)
        regions, objects = self.meta["vectors"]
        return ImageCodes(codes[:, :regions], codes[:, regions:]) if objects else ImageCodes(codes, codes)

    def _announce(self, rows: np.ndarray) -> None:
        """Lets the system read all rows from the disk at once instead of each when its turn comes."""
        mapped = self.codes.base
        if hasattr(mapped, "madvise") and hasattr(mmap, "MADV_WILLNEED"):
            size = self.codes[0].nbytes
            for row in rows:
                first = self.codes.offset + int(row) * size
                start = first - first % mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, start, first + size - start)

    def path(self, row: int) -> str:
        """The file of an image where its folder is known, else its name."""
        folder = self.meta["image_folder"]
        return str(Path(folder) / self.names[row]) if folder else self.names[row]


def checkpoint_sha256(folder: Path) -> str:
    """One hash of a checkpoint's three files: codes of another model than the one that searches mean nothing."""
    return hashlib.sha256("".join(sha256_of(folder / name) for name in FILES).encode()).hexdigest()


def require_global(checkpoint: Checkpoint) -> None:
    """CheckpointError for a model without global vectors, which are the first stage."""
    if not checkpoint.model.has_global:
        raise CheckpointError(
            f"{checkpoint.folder}: this model has no global vectors (model.global_size 0, or model.reading: inputs), which "
            "the first stage of search needs. Train one with model.global_size, 128 by default."
        )


class _Rows:
    """A .npy file that grows by whole rows, and can be taken up at a row after a kill."""

    def __init__(self, path: Path, shape: tuple[int, ...], kind: str):
        self.path, self.shape, self.kind = path, shape, np.dtype(kind)
        self.row = self.kind.itemsize * int(np.prod(shape[1:]))

    def size(self, rows: int) -> int:
        return 128 + rows * self.row  # numpy pads the header of such a short shape to 128 bytes

    def open(self, done: int):
        file = open(self.path, "r+b" if done else "w+b")
        header = {"descr": self.kind.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(self.size(done))
        file.seek(0, os.SEEK_END)
        return file


def build_index(
    out: Path | str, checkpoint: Checkpoint, gallery: Gallery, flat_limit: int = FLAT_LIMIT, progress: bool = True
) -> Path:
    """Writes an index folder; until it is whole it is called OUT.partial, and the same call goes on there.

    flat_limit: vectors beyond which they are put in lists, see `first_stage`. Returns the folder. DataError: OUT exists already, cannot be written, or the disk is full; a picture that cannot be
    read. CheckpointError: a model without global vectors, or one that was never saved.
    """
    out = Path(out)
    require_global(checkpoint)
    if checkpoint.folder is None:
        raise CheckpointError("an index needs the hash of its checkpoint: save the model first, then load it.")
    if out.exists():
        raise DataError(f"{out}: exists already; delete it or give another folder for the index")
    partial = out.with_name(f"{out.name}.partial")
    with locked(partial):
        if out.exists():  # another process may just have ended
            raise DataError(f"{out}: exists already; delete it or give another folder for the index")
        model, hashed = checkpoint.model.eval(), checkpoint_sha256(checkpoint.folder)
        vectors = _encode_gallery(partial, model, gallery, hashed, progress)
        with writing(partial):
            _write_rest(partial, checkpoint, gallery, hashed, vectors, flat_limit, progress)
            (partial / ".lock").unlink()
            (partial / "note.json").unlink()
            os.replace(partial, out)
    return out


@torch.inference_mode()
def _encode_gallery(partial: Path, model: BSSAN, gallery: Gallery, hashed: str, progress: bool) -> np.ndarray:
    """Writes codes and vectors of all images, from where an earlier call stopped. Returns the vectors [N, e]."""
    n, width = len(gallery.names), sum(gallery.vectors)
    rows = [
        _Rows(partial / "image_codes.npy", (n, width, model.config.joint_size), "<f2"),
        _Rows(partial / "image_vectors.npy", (n, model.config.global_size), "<f4"),
    ]
    done = _rows_done(partial, gallery, hashed, rows)
    needed = sum(one.size(n) for one in rows)
    free = shutil.disk_usage(partial).free
    if needed - sum(one.size(done) for one in rows) > free:
        raise DataError(f"{partial}: the index needs {needed:,} bytes, but the disk has {free:,} left; make room or give "
                        "another folder")
    with writing(partial, needed):
        files = [one.open(done) for one in rows]
    try:
        with tqdm(total=n, initial=done, desc="index", unit=" images", disable=not progress) as bar:
            for number, start in enumerate(range(done, n, BLOCK)):
                stop = min(start + BLOCK, n)
                codes = gallery.encode(start, stop)
                both = codes.regions if codes.objects is codes.regions else torch.cat([codes.regions, codes.objects], 1)
                vectors = model.image_vectors(codes).float().cpu().numpy()
                if not (np.isfinite(vectors).all() and torch.isfinite(both).all()):
                    raise DataError(f"images {start} to {stop - 1}, {gallery.names[start]!r} first: their codes are not "
                                    "numbers (NaN or infinity); look at their features or pictures")
                with writing(partial, needed):
                    files[0].write(both.to(torch.float16).cpu().numpy().tobytes())
                    files[1].write(vectors.astype(np.float32).tobytes())
                    if number % SAVE_EVERY == SAVE_EVERY - 1 or stop == n:
                        for file in files:
                            file.flush()
                            os.fsync(file.fileno())
                        # Noted only after the rows are safely on disk: the note may lag behind, never lead.
                        replace_json(partial / "note.json", _note(gallery, hashed, stop))
                bar.update(stop - start)
    finally:
        for file in files:
            file.close()
    return np.load(rows[1].path, allow_pickle=False)


def _note(gallery: Gallery, hashed: str, done: int) -> dict:
    """What must agree for rows written so far to be kept; later pictures may come and go, such as a broken one."""
    names = hashlib.sha256("\0".join(gallery.names[:done]).encode("utf-8", "surrogateescape")).hexdigest()
    return {"done": done, "checkpoint": hashed, "key": gallery.key, "names": names}


def _rows_done(partial: Path, gallery: Gallery, hashed: str, rows: list[_Rows]) -> int:
    try:
        stored = json.loads((partial / "note.json").read_text(encoding="utf-8"))
        done = int(stored["done"])
        whole = 0 <= done <= len(gallery.names) and stored == _note(gallery, hashed, done)
        whole = whole and (done % BLOCK == 0 or done == len(gallery.names))
        return done if whole and all(one.path.stat().st_size >= one.size(done) for one in rows) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_rest(
    partial: Path, checkpoint: Checkpoint, gallery: Gallery, hashed: str, vectors, flat_limit: int, progress: bool
) -> None:
    every = {"image": vectors}
    if gallery.captions:
        every["caption"] = encode_captions(checkpoint, gallery.captions, progress)
        replace_array(partial / "caption_vectors.npy", every["caption"])
        replace_array(partial / "cap2im.npy", np.asarray(gallery.cap2im, np.int64))
    for kind, some in every.items():
        if (found := inverted_lists(some, flat_limit)) is not None:
            replace_array(partial / f"{kind}_centres.npy", found[0])
            replace_array(partial / f"{kind}_lists.npy", found[1])
    replace_json(partial / "texts.json", {"images": gallery.names, "captions": gallery.captions})
    files = sorted(path for path in partial.iterdir() if path.suffix in (".npy", ".json") and path.stem not in ("note", "meta"))
    replace_json(partial / "meta.json", {
        "format": FORMAT, "checkpoint": str(checkpoint.folder.resolve()), "checkpoint_sha256": hashed,
        "images": len(gallery.names), "captions": len(gallery.captions), "vectors": list(gallery.vectors),
        "joint_size": checkpoint.model.config.joint_size, "global_size": checkpoint.model.config.global_size,
        "image_folder": str(gallery.folder) if gallery.folder else None,
        "files": {path.name: _describe(path) for path in files},
    })


def _describe(path: Path) -> dict:
    """Bytes and, but for the codes, which are many, a checksum that is compared when the index is opened."""
    size = {"bytes": path.stat().st_size}
    return size if path.name == "image_codes.npy" else {**size, "sha256": sha256_of(path)}


@torch.inference_mode()
def encode_captions(checkpoint: Checkpoint, captions: list[str], progress: bool = False) -> np.ndarray:
    """Global vectors of captions, [C, e] float32."""
    model, words = checkpoint.model.eval(), Words(captions, checkpoint.vocabulary)
    vectors = np.empty((len(captions), model.config.global_size), np.float32)
    order = np.argsort(words.lengths, kind="stable")  # captions of one length together: little padding
    for start in tqdm(range(0, len(order), CAPTIONS), desc="captions", unit=" chunks", disable=not progress):
        rows = order[start : start + CAPTIONS]
        codes = model.encode_captions(*words.batch(rows, model.device))
        vectors[rows] = model.caption_vectors(codes).float().cpu().numpy()
    return vectors


def open_index(folder: Path | str) -> SearchIndex:
    """Opens an index folder; nothing in it is unpickled. DataError: no index, one that is damaged or of another version."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        form = meta["format"]
    except (OSError, ValueError, KeyError, TypeError):
        stopped = folder.with_name(f"{folder.name}.partial").is_dir()
        raise DataError(
            f"{folder}: no index there; " + ("its making was stopped: give the same `bssan index` again" if stopped else
                                             "expected a folder that `bssan index` made")
        ) from None
    if form != FORMAT:
        raise DataError(f"{folder}: expected an index of the format {FORMAT}, got {form!r}; make the index again")
    try:
        return _open_parts(folder, meta)
    except (KeyError, TypeError, ValueError, IndexError, OSError, AttributeError) as error:
        raise DataError(f"{folder}: a damaged index ({error!r}); make the index again") from None


def _open_parts(folder: Path, meta: dict) -> SearchIndex:
    for name, stored in meta["files"].items():
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise DataError(f"{path}: missing, so the index is not whole; make it again")
        if path.stat().st_size != stored["bytes"] or "sha256" in stored and sha256_of(path) != stored["sha256"]:
            raise DataError(f"{path}: changed or cut short since the index was made; make the index again")
    n, c, e, (regions, objects) = meta["images"], meta["captions"], meta["global_size"], meta["vectors"]
    codes = _array(folder / "image_codes.npy", (n, regions + objects, meta["joint_size"]), "f", "[images, codes, joint size]")
    vectors = {"image": _array(folder / "image_vectors.npy", (n, e), "f", "[images, global size]")}
    if c:
        vectors["caption"] = _array(folder / "caption_vectors.npy", (c, e), "f", "[captions, global size]")
    for kind, some in vectors.items():
        if not np.isfinite(some).all():
            raise DataError(f"{folder}: the vectors of its {kind}s are not all numbers; make the index again")
    lists = {}
    for kind, some in vectors.items():
        if f"{kind}_centres.npy" in meta["files"]:
            centres = open_array(folder / f"{kind}_centres.npy", 2, "f", "[lists, global size]")
            of = _array(folder / f"{kind}_lists.npy", (len(some),), "i", f"[{kind}s]")
            if centres.shape[1] != e or not np.isfinite(centres).all() or of.min() < 0 or of.max() >= len(centres):
                raise ValueError(f"lists of {kind}s that do not go with their centres")
            lists[kind] = (np.array(centres, np.float32), np.array(of, np.int64))
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    names, captions = texts["images"], texts["captions"]
    if (len(names), len(captions)) != (n, c) or not all(isinstance(text, str) for text in [*names, *captions]):
        raise ValueError("texts that do not go with the sizes")
    cap2im = np.array(_array(folder / "cap2im.npy", (c,), "i", "[captions]")) if c else np.zeros(0, np.int64)
    if c and (cap2im.min() < 0 or cap2im.max() >= n):
        raise ValueError("captions of images that are not there")
    return SearchIndex(
        folder, meta, codes, {kind: np.array(some, np.float32) for kind, some in vectors.items()}, lists, names, captions,
        cap2im,
    )


def _array(path: Path, shape: tuple[int, ...], kinds: str, what: str) -> np.ndarray:
    array = open_array(path, len(shape), kinds, what)
    if array.shape != tuple(shape):
        raise DataError(f"{path}: expected the shape {list(shape)} {what}, got {list(array.shape)}; make the index again")
    return array
