"""Estimates the time and memory of a run from a few steps on this machine, without writing files.

    extraction   images x seconds per image, for decoding and the network together
    training     epochs x floor(captions / batch) x seconds per step
    evaluation   encoding images and captions, then images x captions x seconds per pair
    memory       of a training step: 16 bytes per parameter (weight, gradient, two moments of AdamW), features, words,
                 and the affinity of every word with every region, B x C x T x K numbers, with its backward pass

Reading from disk is not measured. Features that do not fit into memory are read from disk, which can take longer than
the computation.

Letters: B pairs, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bssan_lib.config import Config, DataConfig
from bssan_lib.data import PreparedSplit, Vocabulary
from bssan_lib.data.batches import image_batch
from bssan_lib.data.extraction import BATCH
from bssan_lib.data.images import open_image
from bssan_lib.evaluation.scoring import WORD_BYTES, product_type
from bssan_lib.models.bssan import BSSAN
from bssan_lib.runs import set_seed
from bssan_lib.training.trainer import Trainer

MEASURE_SECONDS = 0.5  # for each measurement, after one call to warm up
IMAGES, CAPTIONS = 64, 128  # scored to measure the time of a pair
# Fitted to the peak memory in benchmarks/results/engine.md, for 128 and 512 pairs of 36 regions:
STEP_BYTES = 148 * 2**20  # independent of the batch size
AFFINITY_COPIES = 2.65  # peak memory over the size of the float32 affinity


@dataclass
class FeatureSizes:
    """The features of one image: K regions and M objects (0: none stored) of D numbers; whether boxes are known."""

    regions: int
    objects: int
    dimension: int
    has_boxes: bool = True

    def bytes(self, images: int, views: int = 0) -> int:
        """Bytes of the features of `images` images on disk, as float16. views: further views stored for each image."""
        return 2 * images * self.dimension * (self.regions * (1 + views) + self.objects)


@dataclass
class Measured:
    """Seconds on this machine for a training step, for encoding an image or a caption, and for scoring a pair.

    parameters: number of parameters of the model.
    """

    device: str
    step: float
    image: float
    caption: float
    pair: float
    parameters: int


def median_seconds(work: Callable[[], object]) -> float:
    """The median seconds of `work`, after one call to warm up. Calls it at least once and for MEASURE_SECONDS."""
    work()
    times: list[float] = []
    while not times or sum(times) < MEASURE_SECONDS:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_extraction(data: DataConfig, pictures: list[Path]) -> tuple[FeatureSizes, float]:
    """The sizes of the features with these settings, and the seconds per image. pictures: some readable files."""
    from bssan_lib.vision.backbone import load_backbone

    backbone = load_backbone(
        data.backbone,
        data.image_size,
        precision=data.precision,
        windows=data.windows,
        features=data.features,
        grid=data.grid,
    )
    paths = (pictures * BATCH)[: min(BATCH, 2 * len(pictures))]
    each = median_seconds(lambda: backbone.extract([open_image(path) for path in paths])) / len(paths)
    objects = 0 if data.features != "map" else len(backbone.object_boxes)
    return FeatureSizes(len(backbone.boxes), objects, backbone.descriptor["dimension"]), each


def random_split(sizes: FeatureSizes, captions: list[str], seed: int = 0) -> PreparedSplit:
    """Random features with the sizes of a real split, one image for each caption."""
    count, random = len(captions), np.random.default_rng(seed)

    def features(vectors: int):
        return random.random((count, vectors, sizes.dimension), np.float32).astype(np.float16) if vectors else None

    def boxes(vectors: int):
        return np.tile(np.array([0, 0, 1, 1], np.float32), (count, vectors, 1)) if vectors and sizes.has_boxes else None

    return PreparedSplit(
        folder=Path("made-up"),
        name="made-up",
        regions=features(sizes.regions),
        objects=features(sizes.objects),
        boxes=boxes(sizes.regions),
        object_boxes=boxes(sizes.objects),
        captions=captions,
        cap2im=np.arange(count),
        ids=[f"row {row}" for row in range(count)],
        phrases=None,
        satisfies=None,
        meta={"splits": {}},
    )


def measure_model(config: Config, sizes: FeatureSizes, captions: list[str]) -> Measured:
    """Measures training steps and scores of pairs with the sizes and captions of a run, on the device of a run."""
    vocabulary = Vocabulary.from_captions(captions, config.data.min_word_count)
    chosen = np.random.default_rng(config.seed).permutation(len(captions))
    some = [captions[row] for row in np.resize(chosen, max(config.training.batch_size, CAPTIONS))]
    split = random_split(sizes, some)
    set_seed(config.seed)
    model = BSSAN(config.model, len(vocabulary), sizes.dimension, sizes.has_boxes)
    trainer = Trainer(model, vocabulary, split, split, config.training, Path("made-up"), config.seed, progress=False)
    rows, epoch = np.arange(config.training.batch_size), 1 + config.training.warmup_epochs_all_negatives
    step = median_seconds(lambda: trainer.train_step(rows, epoch))
    device = trainer.accelerator.device
    images, columns = np.arange(IMAGES), np.arange(CAPTIONS)
    products = product_type(config.evaluation.precision)
    with torch.inference_mode():
        model.eval()
        encode_images = lambda: model.encode_images(**image_batch(split, images, device))  # noqa: E731
        encode_words = lambda: model.encode_captions(*trainer.words.batch(columns, device))  # noqa: E731
        image, caption = median_seconds(encode_images) / IMAGES, median_seconds(encode_words) / CAPTIONS
        codes, words = encode_images(), encode_words()
        pair = median_seconds(lambda: model.score(codes, words, products=products)) / (IMAGES * CAPTIONS)
    name = f"{torch.get_num_threads()} CPU threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    return Measured(name, step, image, caption, pair, sum(part.numel() for part in model.parameters()))


def training_memory(config: Config, sizes: FeatureSizes, parameters: int, words: float) -> int:
    """Bytes of one training step, by the formula at the head of this file. words: the mean T of a caption."""
    batch, d = config.training.batch_size, config.model.joint_size
    vectors = sizes.regions + sizes.objects
    features = 4 * batch * vectors * (sizes.dimension + 2 * d)  # input, projection, its gradient
    text = batch * words * d * WORD_BYTES
    affinity = 4 * batch * batch * words * vectors / config.training.accumulation_steps
    return int(16 * parameters + features + text + STEP_BYTES + AFFINITY_COPIES * affinity)


def evaluation_seconds(measured: Measured, images: int, captions: int) -> float:
    """Seconds to score all images with all captions."""
    return images * measured.image + captions * measured.caption + images * captions * measured.pair


def duration(seconds: float) -> str:
    """Seconds as text: "85 ms", "1.8 s", "40 s", "12 min", "3.4 h"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def size(count: float) -> str:
    """Bytes as text: "38 kB", "12 MB", "2.2 GB"."""
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )
