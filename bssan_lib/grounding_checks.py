"""What attention must beat before it can be said to point: a prior, other words, an untrained model. Notebook 05.

    prior       the mean of true boxes of the training split by type of phrase, laid on the regions and scaled to sum
                one: where people, clothing, ... usually are. It sees no picture, but knows the phrase's type
    shuffled    the attention, on this picture, of a phrase of the same type from another picture's caption: what of
                the map comes from the picture and not from the words
    untrained   the same model with random weights: what comes from its form alone

Each is measured on the very phrases of `grounding`, so differences are paired. The attention passes over the split
twice more, hence they are asked for (`evaluate(..., checks=True)`).

Letters: N images, C captions, K regions, M objects, P phrases.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from bssan_lib.checkpoint import Checkpoint
from bssan_lib.data.prepared import PreparedSplit, list_splits, open_prepared
from bssan_lib.data.raw import Phrase
from bssan_lib.grounding import Measured, phrase_maps
from bssan_lib.peers import build_model
from bssan_lib.progress import tqdm
from bssan_lib.region_maps import box_areas, layout, share_inside, target
from bssan_lib.scoring import attend

CHECKED = ("w2r", "combined")  # the maps that other words and an untrained model are asked for
CHUNK = 512  # phrases whose attention is held at a time


def prior_maps(phrases: Sequence[Phrase], regions: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of true boxes by type of phrase, and under "" over all types.

    phrases: of the training split; one of a compound type counts for each of its types. regions: [K, 4].
    Returns maps [K] with sum one; {} where no phrase has a box.
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
    """The prior [K] of a type, the mean over the parts of a compound one; of all types where it is unknown."""
    known = [maps[part] for part in kind.split("/") if part in maps]
    return np.mean(known, axis=0) if known else maps[""]


def training_phrases(split: PreparedSplit) -> list[Phrase]:
    """The phrases of the training split that lies beside a split, if one does and has any."""
    if "train" not in list_splits(split.folder):
        return []
    return open_prepared(split.folder, "train").phrases or []


def donors(phrases: Sequence[Phrase], images: Sequence[int], seed: int = 0) -> list[Phrase] | None:
    """For each phrase another one of its type from another picture; of any type where its own has none.

    phrases: P. images: P rows. Returns P phrases, or None where all are of one picture.
    """
    rng, images = np.random.default_rng(seed), np.asarray(images)
    if len(np.unique(images)) < 2:
        return None
    types, chosen = np.array([phrase.type for phrase in phrases]), []
    groups = {kind: np.flatnonzero(types == kind) for kind in np.unique(types)}
    for kind, image in zip(types, images):
        elsewhere = groups[kind][images[groups[kind]] != image]
        elsewhere = elsewhere if len(elsewhere) else np.flatnonzero(images != image)
        chosen.append(phrases[rng.choice(elsewhere)])
    return chosen


def untrained(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """The same architecture and vocabulary with random weights, on the same device."""
    model = checkpoint.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_model(model.config, model.vocabulary_size, model.dimension, model.has_place)
    return replace(checkpoint, model=fresh.to(model.device).eval(), folder=None)


def add_attention(
    measured: Measured, name: str, checkpoint: Checkpoint, split: PreparedSplit, said: Sequence[Phrase],
    progress: bool = True,
) -> None:
    """Measures, under `{name}_{map}`, the words of another phrase on each phrase's picture and boxes.

    said: P phrases of the split, one for each of measured.phrases.
    """
    objects = split.boxes if split.object_boxes is None else split.object_boxes
    with tqdm(total=len(said), desc=f"attend, {name}", unit="phrase", disable=not progress) as bar:
        for first in range(0, len(said), CHUNK):
            rows = range(first, min(first + CHUNK, len(said)))
            pairs = list(dict.fromkeys((measured.images[row], said[row].caption) for row in rows))
            found = dict(zip(pairs, attend(checkpoint, split, pairs)))
            for row in rows:
                image, phrase = measured.images[row], measured.phrases[row]
                attention = found[image, said[row].caption]
                words = [word for word in said[row].words if word < len(attention.w2r)]
                place = layout(split.boxes[image], objects[image])
                true, maps = target(place, np.asarray(phrase.boxes, np.float64)), phrase_maps(attention, words, place)
                for part in CHECKED:
                    measured.add_map(f"{name}_{part}", maps[part], place, true)
            bar.update(len(rows))


def add_checks(
    measured: Measured, checkpoint: Checkpoint, split: PreparedSplit, seed: int = 0, progress: bool = True
) -> None:
    """Adds "prior", "shuffled_*" and "untrained_*" to what `grounding.measure_phrases` measured on a split.

    The prior is left out where no training split lies beside, or where regions differ from picture to picture;
    shuffled, where all phrases are of one picture.
    """
    if not measured.phrases:
        return
    regions = split.boxes[0]
    objects = split.boxes if split.object_boxes is None else split.object_boxes
    maps = prior_maps(training_phrases(split), regions) if (split.boxes == regions).all() else {}
    for phrase, image in zip(measured.phrases, measured.images) if maps else ():
        place = layout(split.boxes[image], objects[image])
        true = target(place, np.asarray(phrase.boxes, np.float64))
        measured.add_map("prior", prior_of(maps, phrase.type), place, true)
    said = donors(measured.phrases, measured.images, seed)
    if said is not None:
        add_attention(measured, "shuffled", checkpoint, split, said, progress)
    add_attention(measured, "untrained", untrained(checkpoint, seed), split, measured.phrases, progress)
