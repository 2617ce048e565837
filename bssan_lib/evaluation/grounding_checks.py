"""Comparisons for grounding: a prior of boxes, the words of other phrases, an untrained model. Notebook extra/05a.

    prior       the mean of the true boxes of the training split, for each type of phrase, as a map of regions with sum
                one: where people, clothing, ... usually are. It depends on the type of phrase, not on the image
    shuffled    the attention, on this image, of a phrase of the same type from the caption of another image: the part
                of a map that depends on the image and not on the words
    untrained   the same model with random weights: the part that depends on the architecture alone

All use the same phrases as `grounding`, so differences are paired. Attention has to be computed two more times, so the
comparisons are optional: `evaluate(..., checks=True)`.

Letters: N images, C captions, K regions, M objects, P phrases.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import gather_object

from bssan_lib.data.prepared import PreparedSplit, list_splits, open_prepared
from bssan_lib.data.progress import tqdm
from bssan_lib.data.raw import Phrase
from bssan_lib.evaluation.grounding import PhraseMeasures, phrase_maps
from bssan_lib.evaluation.scoring import attend
from bssan_lib.models.build import build_model
from bssan_lib.models.checkpoint import Checkpoint
from bssan_lib.parallel import process_state
from bssan_lib.vision.maps import box_areas, layout, share_inside, target

CHECKED = ("w2r", "combined")  # the maps measured for "shuffled" and "untrained"
CHUNK = 512  # phrases whose attention is in memory at a time


def prior_maps(phrases: Sequence[Phrase], regions: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of true boxes for each type of phrase, and under "" for all types.

    phrases: of the training split; a compound type counts for each of its types. regions: [K, 4].
    Returns {type: map [K] with sum one}; {} if no phrase has a box.
    """
    covered: dict[str, np.ndarray] = {}
    for phrase in phrases:
        if phrase.boxes:
            share = share_inside(regions, np.asarray(phrase.boxes, np.float64))
            for kind in ("", *phrase.type.split("/")):
                covered[kind] = covered.get(kind, 0) + share
    areas = box_areas(regions)
    return {kind: share * areas / (share @ areas) for kind, share in covered.items() if share @ areas > 0}


def prior_of(maps: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """The prior [K] of a type: for a compound type, the mean of its types; for an unknown type, that of all types."""
    known = [maps[part] for part in kind.split("/") if part in maps]
    return np.mean(known, axis=0) if known else maps[""]


def training_phrases(split: PreparedSplit) -> list[Phrase]:
    """The phrases of the training split in the same folder; [] without such a split or phrases."""
    if "train" not in list_splits(split.folder):
        return []
    return open_prepared(split.folder, "train").phrases or []


def shuffled_phrases(phrases: Sequence[Phrase], images: Sequence[int], seed: int = 0) -> list[Phrase] | None:
    """For each phrase, one of another image: of the same type, or of any type if there is none.

    phrases: P. images: P rows. Returns P phrases, or None if all belong to one image.
    """
    rng, rows = np.random.default_rng(seed), np.asarray(images)
    if len(np.unique(rows)) < 2:
        return None
    types, chosen = np.array([phrase.type for phrase in phrases]), []
    groups = {kind: np.flatnonzero(types == kind) for kind in np.unique(types)}
    for kind, image in zip(types, rows):
        others = groups[kind][rows[groups[kind]] != image]
        others = others if len(others) else np.flatnonzero(rows != image)
        chosen.append(phrases[rng.choice(others)])
    return chosen


def untrained_copy(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """The same architecture and vocabulary with random weights, on the same device."""
    model = checkpoint.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_model(model.config, model.vocabulary_size, model.dimension, model.has_place)
    return replace(checkpoint, model=fresh.to(model.device).eval(), folder=None)


def add_attention(
    measured: PhraseMeasures,
    name: str,
    checkpoint: Checkpoint,
    split: PreparedSplit,
    phrases: Sequence[Phrase],
    progress: bool = True,
) -> None:
    """Measures the attention of other phrases on the images and boxes of measured.phrases, as `{name}_{map}`.

    phrases: P of the split, one for each of measured.phrases.
    """
    assert split.boxes is not None
    objects = split.boxes if split.object_boxes is None else split.object_boxes
    with tqdm(total=len(phrases), desc=f"attend, {name}", unit="phrase", disable=not progress) as bar:
        for first in range(0, len(phrases), CHUNK):
            rows = range(first, min(first + CHUNK, len(phrases)))
            pairs = list(dict.fromkeys((measured.images[row], phrases[row].caption) for row in rows))
            found = dict(zip(pairs, attend(checkpoint, split, pairs)))
            for row in rows:
                image, boxes = measured.images[row], measured.phrases[row].boxes
                attention = found[image, phrases[row].caption]
                assert attention.w2r is not None
                words = [word for word in phrases[row].words if word < len(attention.w2r)]
                picture = layout(split.boxes[image], objects[image])
                true, maps = target(picture, np.asarray(boxes, np.float64)), phrase_maps(attention, words, picture)
                for part in CHECKED:
                    measured.add_map(f"{name}_{part}", maps[part], picture, true)
            bar.update(len(rows))


def add_checks(
    measured: PhraseMeasures, checkpoint: Checkpoint, split: PreparedSplit, seed: int = 0, progress: bool = True
) -> None:
    """Adds "prior", "shuffled_*" and "untrained_*" to the result of `grounding.measure_phrases` for a split.

    The prior needs a training split in the same folder and the same regions in all images; "shuffled" needs phrases of
    two images. Otherwise they are left out. measured: with several processes, the phrases of this one.
    """
    assert split.boxes is not None
    regions = split.boxes[0]
    objects = split.boxes if split.object_boxes is None else split.object_boxes
    maps = prior_maps(training_phrases(split), regions) if (split.boxes == regions).all() else {}
    if maps:
        for phrase, image in zip(measured.phrases, measured.images):
            picture = layout(split.boxes[image], objects[image])
            true = target(picture, np.asarray(phrase.boxes, np.float64))
            measured.add_map("prior", prior_of(maps, phrase.type), picture, true)
    first = sum(gather_object([len(measured.phrases)])[: process_state().process_index])
    others = shuffled_phrases(gather_object(measured.phrases), gather_object(measured.images), seed)
    if others is not None:
        own = others[first : first + len(measured.phrases)]
        add_attention(measured, "shuffled", checkpoint, split, own, progress)
    add_attention(measured, "untrained", untrained_copy(checkpoint, seed), split, measured.phrases, progress)
