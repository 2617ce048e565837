"""What a run will take, from a few steps measured on this machine and arithmetic. Nothing is trained or written.

    extraction   images x seconds an image, decoding and network one after the other
    training     epochs x floor(captions / batch) x seconds a step
    evaluation   images and captions encoded, then images x captions x seconds a pair
    memory       of a training step: 16 bytes a parameter (weight, gradient, two moments of AdamW); features, words and the
                 affinity of every word with every region, B x C x T x K numbers, with what its backward pass holds

Disk is not timed: features that do not fit into memory are read from it, which may take longer than computing.

Letters: B pairs, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bssan_lib.batches import image_batch
from bssan_lib.config import Config, DataConfig
from bssan_lib.data import PreparedSplit, Vocabulary
from bssan_lib.data.extraction import BATCH
from bssan_lib.data.images import open_image
from bssan_lib.model import BSSAN
from bssan_lib.runs import set_seed
from bssan_lib.scoring import WORD_BYTES, product_type
from bssan_lib.training import Trainer

PATIENCE = 0.5  # seconds that one thing is measured for, after it was done once for nothing
IMAGES, CAPTIONS = 64, 128  # scored to measure a pair
# A line through the peaks that benchmarks/results/engine.md measured, of 128 and 512 pairs of 36 regions:
STEP_BYTES = 148 * 2**20  # what does not grow
AFFINITY_COPIES = 2.65  # times the float32 affinity


@dataclass
class FeatureSizes:
    """Of one image: K regions and M objects (0: they are the regions) of D numbers; whether boxes are known."""

    regions: int
    objects: int
    dimension: int
    has_boxes: bool = True

    def bytes(self, images: int, views: int = 0) -> int:
        """Of so many images on disk, float16. views: kept of each besides the picture itself."""
        return 2 * images * self.dimension * (self.regions * (1 + views) + self.objects)


@dataclass
class Measured:
    """Seconds on this machine: a training step, an image and a caption encoded, a pair scored. parameters: of the model."""

    device: str
    step: float
    image: float
    caption: float
    pair: float
    parameters: int


def seconds_of(work: Callable[[], object]) -> float:
    """The median time of `work`, done once beforehand for nothing, then at least once and for PATIENCE seconds."""
    work()
    times: list[float] = []
    while not times or sum(times) < PATIENCE:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_extraction(data: DataConfig, pictures: list[Path]) -> tuple[FeatureSizes, float]:
    """The features that these settings make, and the seconds that a picture takes. pictures: some that can be read."""
    from bssan_lib.backbone import load_backbone

    backbone = load_backbone(
        data.backbone, data.image_size, precision=data.precision, windows=data.windows, features=data.features,
        grid=data.grid,
    )
    paths = (pictures * BATCH)[:min(BATCH, 2 * len(pictures))]
    each = seconds_of(lambda: backbone.extract([open_image(path) for path in paths])) / len(paths)
    objects = 0 if data.features == "stage" else len(backbone.object_boxes)
    return FeatureSizes(len(backbone.boxes), objects, backbone.descriptor["dimension"]), each


def made_up_split(sizes: FeatureSizes, captions: list[str], seed: int = 0) -> PreparedSplit:
    """Numbers of no meaning in the sizes of a real split, an image for each of the captions."""
    count, random = len(captions), np.random.default_rng(seed)

    def features(vectors: int):
        return random.random((count, vectors, sizes.dimension), np.float32).astype(np.float16) if vectors else None

    def boxes(vectors: int):
        return np.tile(np.float32([0, 0, 1, 1]), (count, vectors, 1)) if vectors and sizes.has_boxes else None

    return PreparedSplit(
        folder=Path("made-up"), name="made-up", regions=features(sizes.regions), objects=features(sizes.objects),
        boxes=boxes(sizes.regions), object_boxes=boxes(sizes.objects), captions=captions, cap2im=np.arange(count),
        ids=[f"row {row}" for row in range(count)], phrases=None, satisfies=None, meta={"splits": {}},
    )


def measure_model(config: Config, sizes: FeatureSizes, captions: list[str]) -> Measured:
    """Steps of training and scores of pairs at a run's own sizes and captions, on the device that a run would use."""
    vocabulary = Vocabulary.from_captions(captions, config.data.min_word_count)
    chosen = np.random.default_rng(config.seed).permutation(len(captions))
    some = [captions[row] for row in np.resize(chosen, max(config.training.batch_size, CAPTIONS))]
    split = made_up_split(sizes, some)
    set_seed(config.seed)
    model = BSSAN(config.model, len(vocabulary), sizes.dimension, sizes.has_boxes)
    trainer = Trainer(model, vocabulary, split, split, config.training, Path("made-up"), config.seed, progress=False)
    rows, epoch = np.arange(config.training.batch_size), 1 + config.training.warmup_epochs_all_negatives
    step = seconds_of(lambda: trainer.train_step(rows, epoch))
    device = trainer.accelerator.device
    images, columns = np.arange(IMAGES), np.arange(CAPTIONS)
    products = product_type(config.evaluation.precision)
    with torch.inference_mode():
        model.eval()
        encode = lambda: model.encode_images(**image_batch(split, images, device))  # noqa: E731
        read = lambda: model.encode_captions(*trainer.words.batch(columns, device))  # noqa: E731
        image, caption = seconds_of(encode) / IMAGES, seconds_of(read) / CAPTIONS
        codes, words = encode(), read()
        pair = seconds_of(lambda: model.score(codes, words, products=products)) / (IMAGES * CAPTIONS)
    name = f"{torch.get_num_threads()} threads of the processor"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    return Measured(name, step, image, caption, pair, sum(part.numel() for part in model.parameters()))


def training_memory(config: Config, sizes: FeatureSizes, parameters: int, words: float) -> int:
    """Bytes of one training step, by the formula at the head of this file. words: the mean T of a caption."""
    batch, d = config.training.batch_size, config.model.joint_size
    vectors = sizes.regions + sizes.objects
    features = 4 * batch * vectors * (sizes.dimension + 2 * d)  # as read, projected, and the projection's gradient
    text = batch * words * d * WORD_BYTES
    affinity = 4 * batch * batch * words * vectors / config.training.accumulation_steps
    return int(16 * parameters + features + text + STEP_BYTES + AFFINITY_COPIES * affinity)


def evaluation_seconds(measured: Measured, images: int, captions: int) -> float:
    """Seconds to score all images with all captions."""
    return images * measured.image + captions * measured.caption + images * captions * measured.pair


def duration(seconds: float) -> str:
    """Seconds as a person says them: "85 ms", "1.8 s", "40 s", "12 min", "3.4 h"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as a person says them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
