"""Deletion test: how the score falls when the regions with the highest attention are removed. Notebook extra/05a.

For an image and its own caption, the regions are sorted. A growing share of them is removed, from the start of the
order, and the model scores the image with the remaining regions. Orders:

    most       by attention, highest first: a_k = mean_t alpha_tk over all words of the caption (W2R)
    least      by attention, lowest first
    random     random
    another    by the attention of another image's caption, highest first: regions that any caption attends to

A removed region k is left out of W2R. An object is the mean of the regions in its box, weighted by area. It becomes the
mean of the remaining regions in its box, and is left out of O2W if there are none. So a removed region has no effect
any more, except through the backbone, which mixes neighbouring regions. If the objects are the regions, both are
removed.

A score has no unit. For comparison, `others` is the mean score of the captions of other images with the same remaining
regions. If "own" falls to "others", the remaining regions do not identify the image.

The test shows whether the score needs these regions. It does not show that attention is the reason for the score, or
that a person would give these regions as the reason. A model without them might use others, and weights other than the
trained ones may cause the same fall (Jain & Wallace, NAACL 2019; Wiegreffe & Pinter, EMNLP 2019). Deletion as a test of
saliency: Petsiuk et al., BMVC 2018.

Letters: P pairs, K regions, M objects, D feature size, T words, F shares removed, S bootstrap samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.progress import tqdm
from bssan_lib.errors import DataError
from bssan_lib.evaluation.bootstrap import interval, resampled_counts
from bssan_lib.models.checkpoint import Checkpoint, check_directions, check_features
from bssan_lib.models.codes import ImageCodes
from bssan_lib.vision.maps import common_area

ORDERS = ("most", "least", "random", "another")
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # shares of the regions that are removed
BATCH = 16  # pairs scored together; the captions of a batch are the "others" of its pairs


def sample_pairs(split: PreparedSplit, pairs: int, seed: int = 0) -> list[tuple[int, int]]:
    """A random sample of at most `pairs` (image row, caption row) of a split, all of different images."""
    rng = np.random.default_rng(seed)
    with_captions = np.unique(split.cap2im)
    images = np.sort(rng.choice(with_captions, min(pairs, len(with_captions)), replace=False))
    return [(int(image), int(rng.choice(split.captions_of(image)))) for image in images]


def remaining_objects(
    regions: np.ndarray, boxes: np.ndarray, object_boxes: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Objects as means of the kept regions, weighted by the shared area.

    regions: [K, D] of one image. boxes: [K, 4]. object_boxes: [M, 4]. kept: [K] bool.
    Returns features [M, D] float32, and which objects have a kept region, [M] bool; the rows of the others are zero.
    """
    shared = common_area(object_boxes, boxes) * kept
    total = shared.sum(1, keepdims=True)
    weights = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return (weights @ np.asarray(regions, np.float64)).astype(np.float32), total[:, 0] > 0


def kept_regions(order: np.ndarray, share: float) -> np.ndarray:
    """Which regions remain when the first `share` of an order are removed; at least one.

    order: [K]. Returns [K] bool.
    """
    kept = np.ones(len(order), bool)
    kept[order[: min(round(share * len(order)), len(order) - 1)]] = False
    return kept


class _Picture(NamedTuple):
    row: int  # of the split
    features: np.ndarray  # [K, D] of its regions, from `tuned_features`
    codes: ImageCodes  # with all regions
    orders: dict[str, np.ndarray]  # [K] each


def _kept_codes(model, split: PreparedSplit, jobs: list[tuple[_Picture, np.ndarray]]) -> ImageCodes:
    """Codes of J images with the kept regions only.

    jobs: J pairs (picture, kept [K] bool), all with the same numbers of
    kept regions and of objects that have one, see `_count_objects`.
    """
    regions = torch.cat([picture.codes.regions[:, kept] for picture, kept in jobs])
    first, some = jobs[0]
    if some.all():
        return ImageCodes(regions, torch.cat([picture.codes.objects for picture, _ in jobs]))
    if split.object_boxes is None or first.codes.objects is first.codes.regions:
        return ImageCodes(regions, torch.cat([picture.codes.objects[:, kept] for picture, kept in jobs]))
    assert split.boxes is not None
    objects, object_boxes = [], []
    for picture, kept in jobs:
        boxes = split.object_boxes[picture.row]
        means, left = remaining_objects(picture.features, split.boxes[picture.row], boxes, kept)
        objects.append(means[left])
        object_boxes.append(boxes[left])
    # Only the codes of the objects are used, so one region is enough.
    arrays = [
        torch.from_numpy(np.stack(rows).astype(np.float32)).to(regions.device)
        for rows in (
            [picture.features[:1] for picture, _ in jobs],
            objects,
            [split.boxes[picture.row][:1] for picture, _ in jobs],
            object_boxes,
        )
    ]
    return ImageCodes(regions, model.project_images(*arrays).objects)


def _count_objects(split: PreparedSplit, row: int, kept: np.ndarray) -> int:
    """The number of objects of an image that have a kept region."""
    if split.object_boxes is None or split.boxes is None:
        return int(kept.sum())
    return int((common_area(split.object_boxes[row], split.boxes[row]) * kept).any(1).sum())


def _order_regions(attention: np.ndarray, another: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """ORDERS of one image. attention: [K] of its own caption. another: [K] of another image's caption."""
    return {
        "most": np.argsort(-attention, kind="stable"),
        "least": np.argsort(attention, kind="stable"),
        "random": rng.permutation(len(attention)),
        "another": np.argsort(-another, kind="stable"),
    }


def _score_share(model, split, pictures: list[_Picture], captions, share: float, found: dict, group, step: int) -> None:
    """Scores a group after removing one share in every order. Jobs of equal shape share a call of the model."""
    alike: dict[int, list] = {}
    for place, picture in enumerate(pictures):
        for name, order in picture.orders.items():
            kept = kept_regions(order, share)
            alike.setdefault(_count_objects(split, picture.row, kept), []).append((place, name, kept))
    for jobs in alike.values():
        codes = _kept_codes(model, split, [(pictures[place], kept) for place, _, kept in jobs])
        joint = model.score(codes, captions).joint.float().cpu().numpy()  # [J, C]
        for (place, name, _), scores in zip(jobs, joint, strict=True):
            found[name]["own"][group[place], step] = scores[place]
            found[name]["others"][group[place], step] = np.delete(scores, place).mean()


@torch.inference_mode()
def deletion_curves(
    checkpoint: Checkpoint, split: PreparedSplit, pairs: Sequence[tuple[int, int]], seed: int = 0, progress: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """The joint scores of P pairs while more and more regions are removed.

    pairs: (image row, caption row), at least two, all of different images.
    Returns {order: {"own": [P, F], "others": [P, F]}} for the F removed SHARES; "others" is the mean score of about 15
    captions of other images with the same remaining regions. Raises DataError for fewer than two pairs, an image that
    occurs twice, or objects without boxes.
    """
    images = [image for image, _ in pairs]
    if len(pairs) < 2 or len(set(images)) < len(images):
        raise DataError(
            f"deletion: expected two or more pairs of different images, got {len(pairs)} pairs of "
            f"{len(set(images))} images."
        )
    if split.objects is not None and (split.boxes is None or split.object_boxes is None):
        raise DataError(
            f"{split.folder}: the deletion test needs boxes of regions and objects, because objects are means of "
            "regions; this split has no boxes."
        )
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
            pictures = []
            for place, row in enumerate(group):
                batch = image_batch(split, np.array([images[row]]), device)
                features, objects = model.tuned_features(**batch)
                codes = model.project_images(features, objects, batch["boxes"], batch["object_boxes"])
                whole = model.score(codes, captions, weights=True)
                assert whole.w2r_weights is not None
                maps = whole.w2r_weights[0].float().cpu().numpy()  # [K, C, T]
                own, another = (maps[:, c, : lengths[c]].mean(1) for c in (place, (place + 1) % len(group)))
                orders = _order_regions(own, another, rng)
                pictures.append(_Picture(images[row], features[0].float().cpu().numpy(), codes, orders))
            for step, share in enumerate(SHARES):
                _score_share(model, split, pictures, captions, share, found, group, step)
            bar.update(len(group))
    return found


def deletion_summary(curves: dict[str, dict[str, np.ndarray]], bootstrap: int = 1000, seed: int = 0) -> dict:
    """Means and intervals over the P pairs of `deletion_curves`.

    Returns {"removed": F percentages, "pairs": P, order: {"own": [F], "own_ci95": [F, 2], "others": [F],
    "lead": [F], "lead_ci95": [F, 2], "fall": mean fall of "own" over the shares, "fall_ci95"}, "most minus ...":
    {"fall", "fall_ci95"}: paired differences, positive if the score falls more in the order "most"}. "lead" is
    "own" minus "others".
    """
    count = len(curves["most"]["own"])
    weights = resampled_counts(count, bootstrap, np.random.default_rng(seed)) / count if bootstrap else None

    def mean(rows: np.ndarray, name: str) -> dict:  # rows: [P] or [P, F]
        value = {name: rows.mean(0).tolist()}
        if weights is not None:
            drawn = weights @ rows  # [S] or [S, F]
            value[f"{name}_ci95"] = interval(drawn) if drawn.ndim == 1 else [interval(one) for one in drawn.T]
        return value

    falls = {order: (rows["own"][:, :1] - rows["own"][:, 1:]).mean(1) for order, rows in curves.items()}
    result: dict = {"removed": [100 * share for share in SHARES], "pairs": count}
    for order, rows in curves.items():
        result[order] = {
            **mean(rows["own"], "own"),
            "others": rows["others"].mean(0).tolist(),
            **mean(rows["own"] - rows["others"], "lead"),
            **mean(falls[order], "fall"),
        }
    for order in ORDERS[1:]:
        result[f"most minus {order}"] = mean(falls["most"] - falls[order], "fall")
    return result
