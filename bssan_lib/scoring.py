"""Score every image of a split against every caption, within a memory budget, and show the attention behind a score.

Images are encoded once, as many as the budget holds; captions are sorted by length and taken in blocks; a block's scores
are written to their place and forgotten, so memory does not grow with the gallery. `engine` does the work.

Letters: N and B images, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import gather_object
from bssan_lib.progress import tqdm

from bssan_lib.backbone import fast_bfloat16
from bssan_lib.batches import Words, image_batch
from bssan_lib.checkpoint import Checkpoint
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.encoders import Matcher
from bssan_lib.errors import CheckpointError, ConfigError
from bssan_lib.parallel import process_state

UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
NAMES = ("joint", "w2r", "o2w")
IMAGES = 128  # encoded and scored at once, at most
WORD_BYTES = 128  # a word takes so many bytes for each of the d numbers while its caption is encoded, the LSTM's included


@dataclass
class Scores:
    """Scores [N, C] float32 of every image with every caption; beyond the budget they lie in temporary files.

    w2r, o2w: None in methods without such a part. seconds: {"encode": s, "score": s}. gate: the mean share of W2R over
    what was scored, None where there is none.
    """

    joint: np.ndarray
    w2r: np.ndarray | None
    o2w: np.ndarray | None
    seconds: dict[str, float]
    gate: float | None = None


@dataclass
class Attention:
    """The attention of one image and one caption, from the function that scored them.

    w2r: [T, K], each row (a word) sums to one over regions. o2w: [M, T], each row (an object) sums to one over words.
    A direction that a method lacks is None, and so are its score and the gate. gate: the share of W2R, of this pair.
    """

    w2r: np.ndarray | None
    o2w: np.ndarray | None
    words: list[str]
    score: float
    score_w2r: float | None
    score_o2w: float | None
    gate: float | None


def parse_memory(text: str | int) -> int:
    """Bytes of "1GiB", "500 MB" or a plain number. Raises ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if not found or found[2].upper() not in UNITS or float(found[1]) == 0:
        raise ConfigError(f"memory: expected a size such as 1GiB or 500MB, got {text!r}.")
    return int(float(found[1]) * UNITS[found[2].upper()])


def check_features(model: Matcher, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features have the size the model was trained on."""
    if split.regions.shape[2] != model.dimension:
        raise CheckpointError(
            f"{split.folder}: the features of split {split.name!r} have {split.regions.shape[2]} numbers a region, "
            f"the checkpoint was trained on {model.dimension}. Use features of the same backbone."
        )


def check_backbone(checkpoint: Checkpoint, split: PreparedSplit) -> None:
    """Raises CheckpointError unless the split's features were made as those that the checkpoint was trained on.

    Features of the same size can still be of another making; scores on them would mean nothing.
    """
    trained, given = checkpoint.backbone, split.meta.get("backbone")
    if not trained or not given:
        return
    differ = [
        f"{key} {given.get(key)!r}, trained on {trained.get(key)!r}"
        for key in ("name", "features", "image_size", "preprocessing", "weights_sha256")
        if given.get(key) != trained.get(key)
    ]
    if differ:
        raise CheckpointError(
            f"{split.folder}: features of another backbone than the checkpoint's: "
            f"{'; '.join(differ)}; prepare the data with the checkpoint's"
        )


def check_directions(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless words look at regions and objects at words: what draws a pair draws both."""
    if len(checkpoint.model.parts) < 2:
        raise CheckpointError(
            f"{checkpoint.folder}: a model of method {checkpoint.model.config.method} does not attend in both directions, which "
            "is what is shown here. `bssan evaluate` measures it; for looking, take a checkpoint of method bssan."
        )


def _blocks(total: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, total)) for start in range(0, total, size)]


def _caption_blocks(lengths: np.ndarray, words: int) -> list[np.ndarray]:
    """Rows sorted by length, cut where a block's padded words would pass `words`."""
    order = np.argsort(lengths, kind="stable")
    blocks, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > words:
            blocks.append(order[start:end])
            start = end
    return blocks


def product_type(precision: str) -> torch.dtype:
    """The dtype of the large matrix products: "float32", "bfloat16", or "auto", bfloat16 where it is fast."""
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16() else "float32"
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision: expected float32, bfloat16 or auto, got {precision!r}.")
    return getattr(torch, precision)


@torch.inference_mode()
def score_model(
    model: Matcher, split: PreparedSplit, words: Words, memory: str | int = "1GiB", images: np.ndarray | None = None,
    captions: np.ndarray | None = None, precision: str = "float32", progress: bool = True,
) -> Scores:
    """Score images against captions with a model in evaluation mode, on the device the model is on.

    images, captions: rows of the split, all by default. precision: of the large products, see `product_type`; softmax
    and sums are float32. memory: a budget, beyond some 20 MiB that any scoring takes: half of it is for images in the
    joint space, and where they are more, captions are encoded again for each part of them. With several processes
    (accelerate) each scores its share of the images and all return the whole.
    Returns Scores [len(images), len(captions)].
    """
    check_features(model, split)
    model.eval()
    state, products = process_state(), product_type(precision)
    device, d = model.device, model.config.joint_size
    images = np.arange(len(split.ids)) if images is None else np.asarray(images)
    captions = np.arange(len(words)) if captions is None else np.asarray(captions)
    own = np.array_split(np.arange(len(images)), state.num_processes)[state.process_index]
    budget, (K, D) = parse_memory(memory), split.regions.shape[1:]
    vectors = K + split.sizes["objects"]
    batch = int(np.clip(budget // 16 // (8 * vectors * max(D, model.feature_size)), 1, IMAGES))  # raw features, as they lie and as float32
    parts = [own[part] for part in _blocks(len(own), max(batch, budget // 2 // (4 * vectors * d)))]
    caption_blocks = _caption_blocks(words.lengths[captions], max(budget // (WORD_BYTES * d), 1))
    out = {name: _matrix(len(own), len(captions), budget) for name in ("joint", *model.parts)}
    seconds, gates = {"encode": 0.0, "score": 0.0}, []
    with tqdm(
        total=len(own) * len(captions), desc="score", unit="pair", unit_scale=True, disable=not progress
    ) as bar:
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
        out, gates = {name: np.concatenate(gather_object([matrix])) for name, matrix in out.items()}, gather_object(gates)
    gate = sum(mean * pairs for mean, pairs in gates) / sum(pairs for _, pairs in gates) if gates else None
    return Scores(out["joint"], out.get("w2r"), out.get("o2w"), seconds, gate)


@contextmanager
def _timed(seconds: dict[str, float], name: str, device: torch.device):
    """Adds the time of what it encloses; a GPU is waited for, or its time would be somebody else's."""
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[name] += time.perf_counter() - start


def _matrix(rows: int, columns: int, budget: int) -> np.ndarray:
    if rows * columns * 4 * len(NAMES) <= budget // 4:
        return np.empty((rows, columns), np.float32)
    with tempfile.TemporaryFile() as file:  # lives until the array does
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def score_split(
    checkpoint: Checkpoint, split: PreparedSplit, memory: str | int = "1GiB", device: str | None = None,
    precision: str = "float32", progress: bool = True,
) -> Scores:
    """Score every image of a split against every caption. Returns Scores [N, C]; on the GPU where there is one."""
    model = checkpoint.model.to(device or process_state().device)
    words = Words(split.captions, checkpoint.vocabulary)
    return score_model(model, split, words, memory, precision=precision, progress=progress)


@torch.inference_mode()
def _attend_image(checkpoint: Checkpoint, arrays: list[np.ndarray | None], captions: list[str]) -> list[Attention]:
    """Attention of one image and several captions.

    arrays: regions [K, D], objects [M, D], boxes [K, 4], object_boxes [M, 4]; all but the first may be None.
    Raises BssanError for a method without attention.
    """
    model = checkpoint.model.eval()
    device = model.device
    # Copied, since torch has no tensors over a file that may only be read.
    tensors = [None if array is None else torch.from_numpy(np.array(array, np.float32))[None].to(device) for array in arrays]
    tokens, lengths = Words(captions, checkpoint.vocabulary).batch(np.arange(len(captions)), device)
    pairs = model.score(model.encode_images(*tensors), model.encode_captions(tokens, lengths), weights=True)
    w2r = None if pairs.w2r_weights is None else pairs.w2r_weights[0].float().cpu().numpy()  # [K, C, T]
    o2w = None if pairs.o2w_weights is None else pairs.o2w_weights[:, :, 0].float().cpu().numpy()  # [C, T, M]
    own = (pairs.w2r, pairs.o2w, pairs.gate)
    parts = [part if part is None else part.expand(1, len(captions))[0].tolist() for part in own]
    found = []
    for c, caption in enumerate(captions):
        words = tokenize(caption)
        found.append(Attention(
            None if w2r is None else w2r[:, c, : len(words)].T, None if o2w is None else o2w[c, : len(words)].T, words,
            float(pairs.joint[0, c]), *(part if part is None else part[c] for part in parts),
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
    """Attention of chosen (image row, caption row) pairs of a split, in their order; an image is encoded once.

    Raises BssanError for a method without attention.
    """
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
