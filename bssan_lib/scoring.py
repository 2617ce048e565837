"""Score every image of a split against every caption, within a memory budget, and show the attention behind a score.

Captions are sorted by length and taken in blocks, images likewise in blocks; a block's scores are written to their
place and forgotten, so memory does not grow with the gallery.

Letters: N and B images, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

import re
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from bssan_lib.progress import tqdm

from bssan_lib.batches import Words, image_batch
from bssan_lib.checkpoint import Checkpoint
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.errors import CheckpointError, ConfigError
from bssan_lib.model import BSSAN, CaptionCodes, ImageCodes

UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
TILE_CAPTIONS = 32  # captions scored at once; more pads more


@dataclass
class Scores:
    """Scores [N, C] float32 of every image with every caption; beyond the budget they lie in temporary files.

    seconds: {"encode": s, "score": s}.
    """

    joint: np.ndarray
    w2r: np.ndarray
    o2w: np.ndarray
    seconds: dict[str, float]


@dataclass
class Attention:
    """The attention of one image and one caption, from the function that scored them.

    w2r: [T, K], each row (a word) sums to one over regions. o2w: [M, T], each row (an object) sums to one over words.
    """

    w2r: np.ndarray
    o2w: np.ndarray
    words: list[str]
    score: float
    score_w2r: float
    score_o2w: float
    gate: float


def parse_memory(text: str | int) -> int:
    """Bytes of "1GiB", "500 MB" or a plain number. Raises ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not found or found[2].upper() not in UNITS or float(found[1]) == 0:
        raise ConfigError(f"memory: expected a size such as 1GiB or 500MB, got {text!r}.")
    return int(float(found[1]) * UNITS[found[2].upper()])


def check_features(model: BSSAN, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features have the size the model was trained on."""
    if split.regions.shape[2] != model.dimension:
        raise CheckpointError(
            f"{split.folder}: the features of split {split.name!r} have {split.regions.shape[2]} numbers a region, "
            f"the checkpoint was trained on {model.dimension}. Use features of the same backbone."
        )


def _blocks(total: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, total)) for start in range(0, total, size)]


def _caption_blocks(lengths: np.ndarray, numbers: int) -> list[np.ndarray]:
    """Rows sorted by length, cut where a block's padded words would pass `numbers` words."""
    order = np.argsort(lengths, kind="stable")
    blocks, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > numbers:
            blocks.append(order[start:end])
            start = end
    return blocks


@torch.inference_mode()
def score_model(
    model: BSSAN, split: PreparedSplit, words: Words, memory: str | int = "1GiB",
    images: np.ndarray | None = None, captions: np.ndarray | None = None, progress: bool = True,
) -> Scores:
    """Score images against captions with a model in evaluation mode, on the device the model is on.

    images, captions: rows of the split, all by default. Returns Scores [len(images), len(captions)]. Both codes are
    computed once where they fit half the budget; otherwise images are encoded again for each block of captions.
    """
    check_features(model, split)
    model.eval()
    device, d = model.bilinear.weight.device, model.config.joint_size
    images = np.arange(len(split.ids)) if images is None else np.asarray(images)
    captions = np.arange(len(words)) if captions is None else np.asarray(captions)
    budget, lengths = parse_memory(memory), words.lengths[captions]
    vectors = split.regions.shape[1] + (split.regions if split.objects is None else split.objects).shape[1]
    per_image = 4 * (split.regions.shape[1] * split.regions.shape[2] * 2 + vectors * d)
    image_blocks = _blocks(len(images), int(np.clip(budget // 16 // per_image, 1, 128)))
    caption_blocks = _caption_blocks(lengths, max(budget // 8 // (4 * d), int(lengths.max())))
    keep_images = len(images) * vectors * d * 4 < budget // 4
    out = {name: _matrix(len(images), len(captions), budget) for name in ("joint", "w2r", "o2w")}
    kept: dict[int, ImageCodes] = {}
    seconds = {"encode": 0.0, "score": 0.0}
    with tqdm(total=len(images) * len(captions), desc="score", unit="pair", unit_scale=True, disable=not progress) as bar:
        for caption_block in caption_blocks:
            start = time.perf_counter()
            tiles = [caption_block[s : s + TILE_CAPTIONS] for s in range(0, len(caption_block), TILE_CAPTIONS)]
            codes = [model.encode_captions(*words.batch(captions[tile], device)) for tile in tiles]
            seconds["encode"] += time.perf_counter() - start
            for number, block in enumerate(image_blocks):
                start = time.perf_counter()
                code = kept.get(number)
                if code is None:
                    code = model.encode_images(**image_batch(split, images[block], device))
                    if keep_images:
                        kept[number] = code
                seconds["encode"] += time.perf_counter() - start
                start = time.perf_counter()
                for tile, caption_code in zip(tiles, codes):
                    _score_tile(model, code, caption_code, budget, block, tile, out)
                seconds["score"] += time.perf_counter() - start
                bar.update(len(block) * len(caption_block))
    return Scores(out["joint"], out["w2r"], out["o2w"], seconds)


def _score_tile(model, images: ImageCodes, captions: CaptionCodes, budget: int, rows, columns, out) -> None:
    """Scores one tile, in strips of images where its [B, K, C, T] tensors (about five alive) would pass the budget."""
    vectors = max(images.regions.shape[1], images.objects.shape[1])
    strip = max(1, budget // 2 // (20 * vectors * captions.tokens.numel()))
    for start in range(0, len(rows), strip):
        part = slice(start, start + strip)
        pairs = model.score(images[part], captions)
        for name, matrix in out.items():
            matrix[np.ix_(rows[part], columns)] = getattr(pairs, name).float().cpu().numpy()


def _matrix(rows: int, columns: int, budget: int) -> np.ndarray:
    if rows * columns * 4 <= budget // 4:
        return np.empty((rows, columns), np.float32)
    with tempfile.TemporaryFile() as file:  # lives until the array does
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def score_split(
    checkpoint: Checkpoint, split: PreparedSplit, memory: str | int = "1GiB", device: str | None = None, progress: bool = True
) -> Scores:
    """Score every image of a split against every caption. Returns Scores [N, C]; on the GPU where there is one."""
    model = checkpoint.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return score_model(model, split, Words(split.captions, checkpoint.vocabulary), memory, progress=progress)


@torch.inference_mode()
def _attend_image(checkpoint: Checkpoint, arrays: list[np.ndarray | None], captions: list[str]) -> list[Attention]:
    """Attention of one image and several captions.

    arrays: regions [K, D], objects [M, D], boxes [K, 4], object_boxes [M, 4]; all but the first may be None.
    """
    model = checkpoint.model.eval()
    device = model.bilinear.weight.device
    # Copied, since torch has no tensors over a file that may only be read.
    tensors = [None if array is None else torch.from_numpy(np.array(array, np.float32))[None].to(device) for array in arrays]
    tokens, lengths = Words(captions, checkpoint.vocabulary).batch(np.arange(len(captions)), device)
    pairs = model.score(model.encode_images(*tensors), model.encode_captions(tokens, lengths), weights=True)
    w2r, o2w = pairs.w2r_weights[0].float().cpu().numpy(), pairs.o2w_weights[:, :, 0].float().cpu().numpy()
    found = []
    for c, caption in enumerate(captions):
        words = tokenize(caption)
        found.append(Attention(
            w2r=w2r[:, c, : len(words)].T, o2w=o2w[c, : len(words)].T, words=words, score=float(pairs.joint[0, c]),
            score_w2r=float(pairs.w2r[0, c]), score_o2w=float(pairs.o2w[0, c]), gate=float(model.gate),
        ))
    return found


def attend_arrays(
    checkpoint: Checkpoint, regions: np.ndarray, objects: np.ndarray | None, boxes: np.ndarray | None,
    object_boxes: np.ndarray | None, caption: str,
) -> Attention:
    """Attention of one image and one caption of any text.

    regions: [K, D]. objects: [M, D] or None (the regions). boxes: [K, 4], object_boxes: [M, 4], or None.
    """
    return _attend_image(checkpoint, [regions, objects, boxes, object_boxes], [caption])[0]


def attend(
    checkpoint: Checkpoint, split: PreparedSplit, pairs: Iterable[tuple[int, int]], device: str | None = None
) -> list[Attention]:
    """Attention of chosen (image row, caption row) pairs of a split, in their order; an image is encoded once."""
    check_features(checkpoint.model, split)
    if device is not None:
        checkpoint.model.to(device)
    pairs, places = list(pairs), {}
    for place, (image, _) in enumerate(pairs):
        places.setdefault(int(image), []).append(place)
    found: list[Attention | None] = [None] * len(pairs)
    parts = (split.regions, split.objects, split.boxes, split.object_boxes)
    for image, own in places.items():
        arrays = [None if part is None else part[image] for part in parts]
        captions = [split.captions[pairs[place][1]] for place in own]
        for place, attention in zip(own, _attend_image(checkpoint, arrays, captions)):
            found[place] = attention
    return found
