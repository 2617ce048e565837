"""Does the score hang on the regions that attention names? Take them away and see. Notebook 05.

For a picture and its own caption, regions are put in an order and left out from its front, a growing share of them;
the model then scores what is left. Orders:

    most       the heaviest for the caption first: a_k = mean_t alpha_tk over all its words (W2R)
    least      the lightest first
    random     any
    another    the heaviest for another picture's caption first: regions that words in general look at

What is removed: region k leaves the set that words look at. An object is the mean of the regions that its box
covers, by area; it becomes the mean of those that are left, and leaves the set when none is. So nothing of a
removed region remains, neither in W2R nor in O2W, except what the backbone had already spread into its neighbours.
Where the objects are the regions, an object leaves with its region.

A score has no unit. `others` is the scale: what the captions of other pictures score on the same remains. Where "own"
meets "others", nothing is left by which the picture could be found.

The test says whether the score needs these regions. It does not say that attention is the reason for the score, nor
that a person would call them the reason: a model without them might read its answer elsewhere, and weights that are
not the trained ones may fall as well (Jain & Wallace, NAACL 2019; Wiegreffe & Pinter, EMNLP 2019). Deletion as a
test of saliency: Petsiuk et al., BMVC 2018.

Letters: P pairs, K regions, M objects, D feature size, T words, F shares removed, S bootstrap samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bssan_lib.batches import Words, image_batch
from bssan_lib.checkpoint import Checkpoint
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import DataError
from bssan_lib.model import ImageCodes
from bssan_lib.progress import tqdm
from bssan_lib.region_maps import common_area
from bssan_lib.retrieval import interval, resampled_counts
from bssan_lib.scoring import check_directions, check_features

ORDERS = ("most", "least", "random", "another")
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of the regions that are left out
BATCH = 16  # pairs scored together; their captions are each other's "others"


def sample_pairs(split: PreparedSplit, pairs: int, seed: int = 0) -> list[tuple[int, int]]:
    """At most so many (image row, caption row), each of a picture of its own, drawn from a split of N images."""
    rng = np.random.default_rng(seed)
    owners = np.unique(split.cap2im)
    images = np.sort(rng.choice(owners, min(pairs, len(owners)), replace=False))
    return [(int(image), int(rng.choice(split.captions_of(image)))) for image in images]


def remaining_objects(
    regions: np.ndarray, boxes: np.ndarray, object_boxes: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Objects as the means of the regions that are left, weighted by the area that both share.

    regions: [K, D] of one picture. boxes: [K, 4]. object_boxes: [M, 4]. kept: [K] bool.
    Returns their features [M, D] float32, and which are left [M] bool; a row that is not left is zero.
    """
    shared = common_area(object_boxes, boxes) * kept
    total = shared.sum(1, keepdims=True)
    left = total[:, 0] > 0
    weights = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return (weights @ np.asarray(regions, np.float64)).astype(np.float32), left


def removed(order: np.ndarray, share: float) -> np.ndarray:
    """Which regions stay when the first of an order are left out. order: [K]. share: 0 to below 1. Returns [K] bool.

    At least one region stays.
    """
    kept = np.ones(len(order), bool)
    kept[order[:min(round(share * len(order)), len(order) - 1)]] = False
    return kept


def _codes(model, features: Tensor, split: PreparedSplit, image: int, whole: ImageCodes, kept: np.ndarray) -> ImageCodes:
    """Codes of one picture without the regions that are not kept [K] bool.

    features: [K, D] of its regions, as `see` returns them. whole: its codes with all regions.
    """
    if kept.all():
        return whole
    if split.object_boxes is None or whole.objects is whole.regions:
        return ImageCodes(whole.regions[:, kept], whole.objects[:, kept])
    boxes, object_boxes = split.boxes[image], split.object_boxes[image]
    objects, left = remaining_objects(features.float().cpu().numpy(), boxes, object_boxes, kept)
    # One region stands in for all: only the objects' codes are taken.
    few = [torch.from_numpy(np.array(array, np.float32))[None].to(features.device)
           for array in (objects[left], boxes[:1], object_boxes[left])]
    return ImageCodes(whole.regions[:, kept], model.project_images(features[None, :1], *few).objects)


@torch.inference_mode()
def deletion_curves(
    checkpoint: Checkpoint, split: PreparedSplit, pairs: Sequence[tuple[int, int]], seed: int = 0,
    progress: bool = True,
) -> dict[str, dict[str, np.ndarray]]:
    """The joint score of P pairs as regions are left out.

    pairs: (image row, caption row), no picture twice; two at least, for "another" and "others".
    Returns {order: {"own": [P, F], "others": [P, F]}} with F the SHARES removed; "others" is the mean score of up to
    15 other pictures' captions or a few more on the same remains. Raises DataError for fewer than two pairs, a
    picture twice, or objects without boxes.
    """
    images = [image for image, _ in pairs]
    if len(pairs) < 2 or len(set(images)) < len(images):
        raise DataError(f"deletion: expected two or more pairs of different pictures, got {len(pairs)} pairs of "
                        f"{len(set(images))} pictures.")
    if split.objects is not None and (split.boxes is None or split.object_boxes is None):
        raise DataError(f"{split.folder}: removing regions needs the boxes of regions and objects, to know which "
                        "objects lose what; this split has none.")
    check_features(checkpoint.model, split)
    check_directions(checkpoint)
    device = checkpoint.model.device
    model, rng = checkpoint.model.eval(), np.random.default_rng(seed)
    words = Words([split.captions[caption] for _, caption in pairs], checkpoint.vocabulary)
    groups = np.array_split(np.arange(len(pairs)), max(1, len(pairs) // BATCH))
    found = {order: {what: np.zeros((len(pairs), len(SHARES))) for what in ("own", "others")} for order in ORDERS}
    with tqdm(total=len(pairs), desc="deletion", unit="pair", disable=not progress) as bar:
        for group in groups:
            tokens, lengths = words.batch(group, device)
            captions = model.encode_captions(tokens, lengths)
            for place, row in enumerate(group):
                batch = image_batch(split, np.array([images[row]]), device)
                features, objects = model.see(**batch)
                codes = model.project_images(features, objects, batch["boxes"], batch["object_boxes"])
                whole = model.score(codes, captions, weights=True)
                maps = whole.w2r_weights[0].float().cpu().numpy()  # [K, C, T]
                looks = [maps[:, c, :length].mean(1) for c, length in enumerate(lengths.tolist())]
                orders = {
                    "most": np.argsort(-looks[place], kind="stable"), "least": np.argsort(looks[place], kind="stable"),
                    "random": rng.permutation(len(maps)),
                    "another": np.argsort(-looks[(place + 1) % len(group)], kind="stable"),
                }
                for name, order in orders.items():
                    for step, share in enumerate(SHARES):
                        rest = _codes(model, features[0], split, images[row], codes, removed(order, share))
                        joint = model.score(rest, captions).joint[0].float().cpu().numpy()
                        found[name]["own"][row, step] = joint[place]
                        found[name]["others"][row, step] = np.delete(joint, place).mean()
                bar.update()
    return found


def deletion_summary(curves: dict[str, dict[str, np.ndarray]], bootstrap: int = 1000, seed: int = 0) -> dict:
    """Means and intervals over pairs of what `deletion_curves` found.

    Returns {"removed": F percentages, "pairs": P, order: {"own": [F], "own_ci95": [F, 2], "others": [F],
    "lead": [F], "lead_ci95": [F, 2], "fall": mean fall of "own" over the shares, "fall_ci95"}, "most minus ...":
    {"fall", "fall_ci95"}, paired, positive where removing the most attended costs more}. "lead" is own minus others.
    """
    count = len(curves["most"]["own"])
    weights = resampled_counts(count, bootstrap, np.random.default_rng(seed)) / count if bootstrap else None

    def mean(rows: np.ndarray, name: str) -> dict:  # rows: [P] or [P, F]
        value = {name: rows.mean(0).tolist()}
        if weights is not None:
            drawn = weights @ rows  # [S] or [S, F]
            value[f"{name}_ci95"] = (interval(drawn) if drawn.ndim == 1 else [interval(one) for one in drawn.T])
        return value

    falls = {order: (rows["own"][:, :1] - rows["own"][:, 1:]).mean(1) for order, rows in curves.items()}
    result: dict = {"removed": [100 * share for share in SHARES], "pairs": count}
    for order, rows in curves.items():
        result[order] = {
            **mean(rows["own"], "own"), "others": rows["others"].mean(0).tolist(),
            **mean(rows["own"] - rows["others"], "lead"), **mean(falls[order], "fall"),
        }
    for order in ORDERS[1:]:
        result[f"most minus {order}"] = mean(falls["most"] - falls[order], "fall")
    return result
