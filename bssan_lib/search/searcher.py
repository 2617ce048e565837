"""Search in a large gallery: global vectors select a shortlist, and the model scores the shortlist.

    index       bssan index                                   one vector e_v [e] and the codes v_k, o_m of every image
    shortlist   the S images with the largest e_v . e_c       one product per image, by FAISS
    scoring     S(image, caption) of the shortlist, sorted    the exact score of the model

An image outside the shortlist cannot be found; `shortlist_curve` measures this loss. The query is a text, which finds
images, or a photograph, which finds captions.

Letters: N images, C captions, e global size, S shortlist, Q queries, G gallery.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import check_caption
from bssan_lib.errors import BssanError, CheckpointError, ConfigError, DataError
from bssan_lib.evaluation.retrieval import RECALLS, check_scores
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.models.checkpoint import Checkpoint, load_checkpoint
from bssan_lib.models.codes import CaptionCodes, ImageCodes
from bssan_lib.search.index import SearchIndex, checkpoint_sha256, encode_captions, global_model, open_index
from bssan_lib.search.shortlist import VectorSearch, import_faiss
from bssan_lib.search.source import split_gallery

STRIP = 64  # images or captions scored at once
TWENTIETH = 20  # "one_in_twenty" measures a shortlist of 1/20 of the gallery


@dataclass(frozen=True)
class SearchResult:
    """One result. row: of the image or caption in the index. text: the caption, or the path of the image."""

    row: int
    score: float
    text: str


class Searcher:
    """An opened index with its model, and a `VectorSearch` for images and one for captions.

    folder: of the index. checkpoint: a checkpoint or its folder; None: the path stored in the index. Raises
    CheckpointError if the checkpoint is missing or not the one that built the index; DataError as `open_index`.
    """

    def __init__(
        self, folder: Path | str, checkpoint: Checkpoint | Path | str | None = None, device: str | None = None
    ):
        import_faiss()
        self.index: SearchIndex = open_index(folder)
        if not isinstance(checkpoint, Checkpoint):
            try:
                checkpoint = load_checkpoint(checkpoint or self.index.meta["checkpoint"], device or "cpu")
            except CheckpointError as error:
                raise CheckpointError(
                    f"{folder}: the checkpoint of this index cannot be used. {error} If it was moved, "
                    "give its folder with --checkpoint."
                ) from None
        self.checkpoint, self.model = checkpoint, global_model(checkpoint)
        if checkpoint_sha256(checkpoint.folder) != self.index.meta["checkpoint_sha256"]:
            raise CheckpointError(
                f"{folder}: built with another checkpoint than {checkpoint.folder}, expected the hash "
                f"{self.index.meta['checkpoint_sha256'][:12]}. Give that checkpoint, or build the index again."
            )
        self.device = self.model.device
        self.vector_search = {
            kind: VectorSearch(vectors, self.index.lists.get(kind)) for kind, vectors in self.index.vectors.items()
        }

    # -- the steps

    @torch.inference_mode()
    def encode_text(self, text: str) -> tuple[CaptionCodes, np.ndarray]:
        """Codes and global vector [e] of a query. Raises DataError if it has no words or too many."""
        check_caption(text, "the query")
        codes = self.checkpoint.encode_captions([text])
        return codes, self.model.caption_vectors(codes)[0].float().cpu().numpy()

    @torch.inference_mode()
    def score_images(self, query: CaptionCodes, rows: np.ndarray) -> np.ndarray:
        """Joint scores [S] of images of the index with one caption."""
        scores = [
            self.model.score(self.index.image_codes(rows[start : start + STRIP], self.device), query).joint[:, 0]
            for start in range(0, len(rows), STRIP)
        ]
        return torch.cat(scores).float().cpu().numpy()

    @torch.inference_mode()
    def score_captions(self, query: ImageCodes, rows: np.ndarray) -> np.ndarray:
        """Joint scores [S] of captions of the index with one image."""
        scores = [
            self.model.score(
                query,
                self.checkpoint.encode_captions([self.index.captions[row] for row in rows[start : start + STRIP]]),
            ).joint[0]
            for start in range(0, len(rows), STRIP)
        ]
        return torch.cat(scores).float().cpu().numpy()

    # -- search

    def find_images(self, text: str, top: int = 10, shortlist: int = 200) -> list[SearchResult]:
        """The `top` images with the highest scores for a text, best first. shortlist: how many images are scored."""
        check_counts(top, shortlist)
        query, vector = self.encode_text(text)
        rows = np.sort(self.vector_search["image"].candidates(vector, shortlist))  # in the order of the file
        return self._best(rows, self.score_images(query, rows), top, self.index.path)

    def find_captions(self, query: ImageCodes, top: int = 10, shortlist: int = 200) -> list[SearchResult]:
        """The `top` captions with the highest scores for an image.

        query: its codes, B = 1. Raises DataError without captions.
        """
        check_counts(top, shortlist)
        if "caption" not in self.vector_search:
            raise DataError(
                f"{self.index.folder}: this index has no captions, so a photograph finds nothing; search with a text"
            )
        with torch.inference_mode():
            vector = self.model.image_vectors(query)[0].float().cpu().numpy()
        rows = self.vector_search["caption"].candidates(vector, shortlist)
        return self._best(rows, self.score_captions(query, rows), top, self.index.captions.__getitem__)

    def encode_photograph(self, photograph) -> ImageCodes:
        """Codes, B = 1, of a `Photograph`, as `FeatureExtractor.extract` returns it."""
        parts = (photograph.objects, photograph.boxes, photograph.object_boxes)
        with torch.inference_mode():
            one = [None if part is None else np.asarray(part)[None] for part in parts]
            return self.model.encode_arrays(np.asarray(photograph.regions)[None], *one)

    def _best(self, rows: np.ndarray, scores: np.ndarray, top: int, text) -> list[SearchResult]:
        if np.isnan(scores).any():
            raise BssanError(
                f"{self.index.folder}: the score of row {rows[np.isnan(scores)][0]} is NaN, so the codes are "
                "damaged. Build the index again."
            )
        order = np.lexsort((rows, -scores))[:top]
        return [SearchResult(int(rows[i]), float(scores[i]), text(int(rows[i]))) for i in order]


def check_counts(top: int, shortlist: int) -> None:
    """Raises ConfigError unless 1 <= top <= shortlist."""
    if not 1 <= top <= shortlist:
        raise ConfigError(
            f"expected 1 <= --top <= --shortlist, because results come from the shortlist; got {top} and {shortlist}"
        )


# -- the loss by a shortlist


def shortlist_sizes(gallery: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below the size of the gallery, a twentieth of it, and the size itself."""
    steps = {step * 10**power for power in range(10) for step in (1, 2, 5)}
    return sorted({size for size in steps if size < gallery} | {max(1, gallery // TWENTIETH), gallery})


def shortlist_ranks(joint: np.ndarray, products: np.ndarray, right: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Rank of the best right candidate for each query and size of the shortlist; 1 is best.

    joint, products: [Q, G] scores of the model and products of the global vectors. right: [Q, G] bool. Ties count
    against the model, in the shortlist too. A query without a right candidate in its shortlist has the rank G + 1.
    Returns [len(sizes), Q] integers.
    """
    order = np.lexsort((right, -products), axis=-1)
    joint, right = np.take_along_axis(joint, order, -1), np.take_along_axis(right, order, -1)
    ranks = np.empty((len(sizes), len(joint)), np.int64)
    for row, size in zip(ranks, sizes):
        scores, hits = joint[:, :size], right[:, :size]
        best = np.where(hits, scores, -np.inf).max(1)
        ahead = ((scores >= best[:, None]) & ~hits).sum(1)
        row[:] = np.where(np.isinf(best), joint.shape[1] + 1, 1 + ahead)
    return ranks


def shortlist_curve(joint: np.ndarray, products: np.ndarray, cap2im: np.ndarray) -> dict:
    """Recalls in both directions for growing shortlists.

    joint: scores [N, C] of the model. products: [N, C] of the global vectors. cap2im: [C].
    Returns {"t2i": {"gallery": N, "sizes": [...], "R@1": [...], "R@5": [...], "R@10": [...], "exact": {"R@1", ...},
    "one_in_twenty": {"shortlist", "R@1", "R@5", "R@10", "below_exact"}}, "i2t": the same over C captions}; percentages.
    below_exact: points of R@1 lost with a shortlist of 1/20; negative if the shortlist removes wrong answers.
    Raises DataError if shapes disagree, a score is NaN or infinite, or an image has no caption.
    """
    check_scores(joint, cap2im)
    if np.shape(products) != np.shape(joint):
        raise DataError(
            f"expected products of global vectors in the shape of the scores, {list(joint.shape)}, got "
            f"{list(np.shape(products))}"
        )
    if not (np.isfinite(joint).all() and np.isfinite(products).all()):
        raise DataError("expected finite scores and products of global vectors, got NaN or infinity")
    right = np.asarray(cap2im)[None, :] == np.arange(len(joint))[:, None]
    if not right.any(1).all():
        raise DataError(f"image row {np.flatnonzero(~right.any(1))[0]} has no caption, so it cannot be a query")
    ways = {"t2i": (joint.T, products.T, right.T), "i2t": (joint, products, right)}
    return {way: _one_way(*parts) for way, parts in ways.items()}


def _one_way(joint: np.ndarray, products: np.ndarray, right: np.ndarray) -> dict:
    gallery = joint.shape[1]
    sizes = shortlist_sizes(gallery)
    step = max(1, 2**22 // gallery)  # queries at a time, to limit memory
    ranks = np.concatenate(
        [
            shortlist_ranks(joint[s : s + step], products[s : s + step], right[s : s + step], sizes)
            for s in range(0, len(joint), step)
        ],
        axis=1,
    )
    recalls = {f"R@{k}": (100.0 * (ranks <= k).mean(1)).tolist() for k in RECALLS}
    exact = {name: values[-1] for name, values in recalls.items()}  # the last size is that of the gallery
    place = sizes.index(max(1, gallery // TWENTIETH))
    at = {name: values[place] for name, values in recalls.items()}
    return {
        "gallery": gallery,
        "sizes": sizes,
        **recalls,
        "exact": exact,
        "one_in_twenty": {"shortlist": sizes[place], **at, "below_exact": exact["R@1"] - at["R@1"]},
    }


def measure_curve(
    checkpoint: Checkpoint, split: PreparedSplit, memory: str | int = "1GiB", progress: bool = True
) -> dict:
    """`shortlist_curve` of a model on a split, and "dataset", "split" and "checkpoint_sha256"."""
    model = global_model(checkpoint)
    joint = score_split(checkpoint, split, memory, progress=progress).joint
    gallery = split_gallery(checkpoint, split)
    with torch.inference_mode():
        vectors = [
            model.image_vectors(gallery.encode(start, min(start + STRIP, len(split.ids)))).float().cpu().numpy()
            for start in range(0, len(split.ids), STRIP)
        ]
    products = np.concatenate(vectors) @ encode_captions(checkpoint, split.captions, progress).T
    named = {"dataset": split.meta.get("source"), "split": split.name}
    return {
        **named,
        "checkpoint_sha256": checkpoint_sha256(checkpoint.folder),
        **shortlist_curve(joint, products, split.cap2im),
    }
