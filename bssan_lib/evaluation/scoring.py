"""Scores of all images of a split with all captions within a memory budget, and the attention of single pairs.

As many images are encoded at once as the budget allows. Captions are sorted by length and scored in blocks. Each block
of scores is written into the result at once, so memory use does not depend on the size of the gallery.

Letters: N and B images, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import gather_object

from bssan_lib.config import parse_memory
from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.progress import tqdm
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.errors import ConfigError
from bssan_lib.models.checkpoint import Checkpoint, check_features
from bssan_lib.models.encoders import Matcher
from bssan_lib.parallel import process_share, process_state
from bssan_lib.vision.backbone import fast_bfloat16

NAMES = ("joint", "w2r", "o2w")
IMAGES = 128  # encoded and scored at once, at most
WORD_BYTES = 128  # for each word and each of the d numbers, while captions are encoded


@dataclass
class Scores:
    """Scores [N, C] float32 of every image with every caption; in temporary files if memory is too small.

    w2r, o2w: None for methods without that direction. seconds: {"encode": s, "score": s}. gate: share of W2R, mean over
    all pairs; None for methods without a gate.
    """

    joint: np.ndarray
    w2r: np.ndarray | None
    o2w: np.ndarray | None
    seconds: dict[str, float]
    gate: float | None = None


@dataclass
class Attention:
    """The attention of one image and one caption, computed by the function that scores them.

    w2r: [T, K], each row (a word) sums to one over regions. o2w: [M, T], each row (an object) sums to one over words.
    gate: the share of W2R for this pair. For a direction that the method lacks, the weights, score and gate are None.
    """

    w2r: np.ndarray | None
    o2w: np.ndarray | None
    words: list[str]
    score: float
    score_w2r: float | None
    score_o2w: float | None
    gate: float | None


def _blocks(total: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, total)) for start in range(0, total, size)]


def _caption_blocks(lengths: np.ndarray, words: int) -> list[np.ndarray]:
    """Caption rows, sorted by length, in blocks of at most `words` words including padding, or of one caption."""
    order = np.argsort(lengths, kind="stable")
    blocks, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > words:
            blocks.append(order[start:end])
            start = end
    return blocks


def product_type(precision: str) -> torch.dtype:
    """The dtype of the large matrix products.

    precision: "float32", "bfloat16" or "auto" (bfloat16 if it is fast here).
    """
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16() else "float32"
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision: expected float32, bfloat16 or auto, got {precision!r}.")
    return getattr(torch, precision)


@torch.inference_mode()
def score_model(
    model: Matcher,
    split: PreparedSplit,
    words: Words,
    memory: str | int = "1GiB",
    images: np.ndarray | None = None,
    captions: np.ndarray | None = None,
    precision: str = "float32",
    progress: bool = True,
) -> Scores:
    """Scores images with captions in evaluation mode, on the model's device.

    images, captions: rows of the split; None: all. precision: of the large products, see `product_type`; softmax
    and sums are float32. memory: the budget, beside about 20 MiB that any scoring needs. Half of it is for encoded
    images; if they need more, they are split into parts, and captions are encoded again for each part. Several
    processes share the images, and all of them return the complete result.
    Returns Scores [len(images), len(captions)].
    """
    check_features(model, split)
    model.eval()
    state, products = process_state(), product_type(precision)
    device, d = model.device, model.config.joint_size
    images = np.arange(len(split.ids)) if images is None else np.asarray(images)
    captions = np.arange(len(words)) if captions is None else np.asarray(captions)
    own = np.arange(len(images))[process_share(len(images))]
    budget, (K, D) = parse_memory(memory), split.regions.shape[1:]
    vectors = K + split.sizes["objects"]
    # Features take 8 bytes per number: stored and as float32.
    batch = int(np.clip(budget // 16 // (8 * vectors * max(D, model.feature_size)), 1, IMAGES))
    parts = [own[part] for part in _blocks(len(own), max(batch, budget // 2 // (4 * vectors * d)))]
    caption_blocks = _caption_blocks(words.lengths[captions], max(budget // (WORD_BYTES * d), 1))
    out = {name: _matrix(len(own), len(captions), budget) for name in ("joint", *model.parts)}
    seconds, gates = {"encode": 0.0, "score": 0.0}, list[tuple[float, int]]()
    with tqdm(total=len(own) * len(captions), desc="score", unit="pair", unit_scale=True, disable=not progress) as bar:
        for part in parts:
            with _timed(seconds, "encode", device):
                blocks = [part[block] for block in _blocks(len(part), batch)]
                codes = [model.encode_images(**image_batch(split, images[block], device)) for block in blocks]
            for columns in caption_blocks:
                with _timed(seconds, "encode", device):
                    caption_code = model.encode_captions(*words.batch(captions[columns], device))
                for block, code in zip(blocks, codes):
                    with _timed(seconds, "score", device):
                        pairs = model.score(code, caption_code, products=products)
                        for name, matrix in out.items():
                            matrix[np.ix_(block - own[0], columns)] = getattr(pairs, name).float().cpu().numpy()
                        if pairs.gate is not None:
                            gates.append((float(pairs.gate.mean()), len(block) * len(columns)))
                    bar.update(len(block) * len(columns))
    if state.num_processes > 1:
        out, gates = {name: _whole(matrix, len(images), budget) for name, matrix in out.items()}, gather_object(gates)
    gate = sum(mean * pairs for mean, pairs in gates) / sum(pairs for _, pairs in gates) if gates else None
    return Scores(out["joint"], out.get("w2r"), out.get("o2w"), seconds, gate)


@contextmanager
def _timed(seconds: dict[str, float], name: str, device: torch.device):
    """Adds the time of the enclosed block, including the GPU's work."""
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[name] += time.perf_counter() - start


def _matrix(rows: int, columns: int, budget: int) -> np.ndarray:
    """An array for scores: in memory, or in a temporary file if all arrays need more than a quarter of the budget."""
    if rows * columns * 4 * len(NAMES) <= budget // 4:
        return np.empty((rows, columns), np.float32)
    with tempfile.TemporaryFile() as file:  # deleted with the array
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def _whole(own: np.ndarray, rows: int, budget: int) -> np.ndarray:
    """Gathers the rows of all processes, in the order of ranks, a few at a time. own: [n, C], of this process."""
    whole, starts = _matrix(rows, own.shape[1], budget), np.cumsum([0, *gather_object([len(own)])])
    step = max(budget // 8 // (4 * own.shape[1] * (len(starts) - 1)), 1)
    for first in range(0, int(np.diff(starts).max()), step):
        for start, part in zip(starts, gather_object([np.array(own[first : first + step])])):
            whole[start + first : start + first + len(part)] = part
    return whole


def score_split(
    checkpoint: Checkpoint,
    split: PreparedSplit,
    memory: str | int = "1GiB",
    device: str | None = None,
    precision: str = "float32",
    progress: bool = True,
) -> Scores:
    """Scores [N, C] of all images of a split with all captions, on the GPU if there is one."""
    model = checkpoint.model.to(device or process_state().device)
    words = Words(split.captions, checkpoint.vocabulary)
    return score_model(model, split, words, memory, precision=precision, progress=progress)


@torch.inference_mode()
def _attend_image(checkpoint: Checkpoint, arrays: list, captions: list[str]) -> list[Attention]:
    """Attention of one image and several captions.

    arrays: regions [K, D], objects [M, D], boxes [K, 4], object_boxes [M, 4]; all but the first may be None.
    Raises BssanError for a method without attention.
    """
    model = checkpoint.model.eval()
    regions, others = arrays[0][None], (None if array is None else array[None] for array in arrays[1:])
    images = model.encode_arrays(regions, *others)
    pairs = model.score(images, checkpoint.encode_captions(captions), weights=True)
    w2r = None if pairs.w2r_weights is None else pairs.w2r_weights[0].float().cpu().numpy()  # [K, C, T]
    o2w = None if pairs.o2w_weights is None else pairs.o2w_weights[:, :, 0].float().cpu().numpy()  # [C, T, M]
    parts = [
        part if part is None else part.expand(1, len(captions))[0].tolist()
        for part in (pairs.w2r, pairs.o2w, pairs.gate)
    ]
    found = []
    for c, caption in enumerate(captions):
        words = tokenize(caption)
        found.append(
            Attention(
                None if w2r is None else w2r[:, c, : len(words)].T,
                None if o2w is None else o2w[c, : len(words)].T,
                words,
                float(pairs.joint[0, c]),
                *(part if part is None else part[c] for part in parts),
            )
        )
    return found


def attend_arrays(
    checkpoint: Checkpoint,
    regions: np.ndarray,
    objects: np.ndarray | None,
    boxes: np.ndarray | None,
    object_boxes: np.ndarray | None,
    caption: str,
) -> Attention:
    """The attention of one image and one caption.

    regions: [K, D]. objects: [M, D], or None if the objects are the regions. boxes: [K, 4], object_boxes: [M, 4], or
    None.
    """
    return _attend_image(checkpoint, [regions, objects, boxes, object_boxes], [caption])[0]


def attend(
    checkpoint: Checkpoint, split: PreparedSplit, pairs: Iterable[tuple[int, int]], device: str | None = None
) -> list[Attention]:
    """The attention of pairs (image row, caption row) of a split, in the same order. Each image is encoded once.

    Raises BssanError for a method without attention.
    """
    check_features(checkpoint.model, split)
    if device is not None:
        checkpoint.model.to(device)
    pairs, places = list(pairs), defaultdict[int, list[int]](list)
    for place, (image, _) in enumerate(pairs):
        places[int(image)].append(place)
    found: dict[int, Attention] = {}
    parts = (split.regions, split.objects, split.boxes, split.object_boxes)
    for image, image_places in places.items():
        arrays = [None if part is None else part[image] for part in parts]
        captions = [split.captions[pairs[place][1]] for place in image_places]
        found.update(zip(image_places, _attend_image(checkpoint, arrays, captions), strict=True))
    return [found[place] for place in range(len(pairs))]
