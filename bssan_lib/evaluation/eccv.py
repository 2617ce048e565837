"""ECCV Caption: MSCOCO retrieval with matches that COCO does not list. Optional: `bssan[eccv]`.

COCO lists one image for a caption and five captions for an image, but many more match. ECCV Caption (Chun et al., ECCV
2022, arXiv:2204.03359) adds matches found by models and confirmed by annotators: 1,261 images and 1,332 captions of
Karpathy's test split have about 18 and 8 right answers each. CxC (Parekh et al., EACL 2021) rates further pairs. The
package `eccv-caption` contains both; nothing is downloaded.

    mAP@R         mean over ranks 1..R of the precision at that rank, or 0 if the answer at that rank is wrong
    R-Precision   share of right answers among the first R

Letters: N images, C captions, R right answers of a query.
"""

import contextlib
import io
import warnings

import numpy as np

from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.reading import open_array

BLOCK = 2**24  # scores sorted at a time
NAMES = {
    "eccv_r1": ("eccv", "R@1"),
    "eccv_map_at_r": ("eccv", "mAP@R"),
    "eccv_rprecision": ("eccv", "R-Precision"),
    "cxc_r1": ("cxc", "R@1"),
    "cxc_r5": ("cxc", "R@5"),
    "cxc_r10": ("cxc", "R@10"),
}


def import_eccv():
    """The package's Metrics class. Raises ConfigError with the installation command if the package is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends a faster JSON reader
            from eccv_caption import Metrics
    except ImportError as error:
        raise ConfigError(
            f"ECCV Caption needs the package eccv-caption ({error}); install it with: pip install 'bssan[eccv]' or, in "
            "a clone, pip install -c constraints.txt -e '.[eccv]'"
        ) from None
    return Metrics


def read_coco_ids(split: PreparedSplit) -> np.ndarray:
    """COCO's image id and caption id of each caption row: [C, 2] int64. Raises DataError if they are not stored."""
    path = split.folder / f"{split.name}_coco_ids.npy"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, so COCO's ids of these captions are unknown. Features prepared from "
            f"dataset_coco.json include this file. For other features, save an array [{len(split.captions)}, 2] there: "
            "the image id (cocoid) and caption id (sentid) of each caption, in order"
        )
    ids = np.array(open_array(path, 2, "iu", "[captions, 2]"), np.int64)
    if ids.shape != (len(split.captions), 2):
        raise DataError(f"{path}: expected the shape {[len(split.captions), 2]}, got {list(ids.shape)}")
    return ids


def eccv_metrics(scores: np.ndarray, cap2im: np.ndarray, coco_ids: np.ndarray) -> dict:
    """ECCV Caption and CxC of all pairs of Karpathy's COCO test split, in percent.

    scores: [N, C], may be memory-mapped. cap2im: [C]. coco_ids: [C, 2], see `read_coco_ids`. The order of equal scores
    is arbitrary. Returns {"eccv": {"i2t": {"R@1", "mAP@R", "R-Precision"}, "t2i": {...}}, "cxc": {"i2t": {"R@1", "R@5",
    "R@10"}, "t2i": {...}}}. Raises ConfigError without the package, DataError if ids contradict cap2im or the split
    lacks a query of the package.
    """
    metrics = import_eccv()()
    image_ids = _image_ids(cap2im, coco_ids, scores.shape[0])
    known = {"i2t": set(image_ids.tolist()), "t2i": set(coco_ids[:, 1].tolist())}
    truths = (metrics.eccv_gts, metrics.cxc_gts)
    for way, what in (("i2t", "images"), ("t2i", "captions")):
        asked = set().union(*(truth[way] for truth in truths))
        if absent := asked - known[way]:
            raise DataError(
                f"ECCV Caption has {len(asked):,} {what} of COCO's 5,000 test images as queries; {len(absent):,} of "
                f"them, such as id {min(absent)}, are not in this split. Use the complete test split of Karpathy."
            )
    # The package needs only as many answers as its longest list of right ones; all would take gigabytes.
    depth = max(10, *(len(right) for truth in truths for way in ("i2t", "t2i") for right in truth[way].values()))
    found = {
        "i2t": dict(zip(image_ids.tolist(), _best(scores, coco_ids[:, 1], depth))),
        "t2i": dict(zip(coco_ids[:, 1].tolist(), _best(scores.T, image_ids, depth))),
    }
    with contextlib.redirect_stderr(io.StringIO()):  # hides its progress bar
        values = metrics.compute_all_metrics(
            found["i2t"], found["t2i"], ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls"), (1, 5, 10)
        )
    result: dict = {name: {"i2t": {}, "t2i": {}} for name in ("eccv", "cxc")}
    for key, (name, metric) in NAMES.items():
        for way in ("i2t", "t2i"):
            result[name][way][metric] = 100.0 * float(values[key][way])
    return result


def eccv_rows(metrics: dict) -> list[tuple[str, str]]:
    """The result of `eccv_metrics` as rows (name, values) for printing."""
    ways = {"i2t": "image to text", "t2i": "text to image"}
    titles = {"eccv": "ECCV Caption", "cxc": "CxC"}
    return [
        (f"{titles[name]}, {ways[way]}", "   ".join(f"{key} {value:.1f}" for key, value in metrics[name][way].items()))
        for name in titles
        for way in ways
    ]


def _image_ids(cap2im: np.ndarray, coco_ids: np.ndarray, images: int) -> np.ndarray:
    """COCO's id of each image row [N]."""
    ids = np.full(images, -1, np.int64)
    ids[cap2im] = coco_ids[:, 0]
    wrong = np.flatnonzero(ids[cap2im] != coco_ids[:, 0])
    if len(wrong):
        raise DataError(
            f"COCO's ids, caption row {wrong[0]}: image {coco_ids[wrong[0], 0]}, but another caption of the same "
            f"image row {cap2im[wrong[0]]} has image {ids[cap2im[wrong[0]]]}"
        )
    for what, column in (("image", ids), ("caption", coco_ids[:, 1])):
        values, counts = np.unique(column, return_counts=True)
        if (counts > 1).any():
            raise DataError(f"COCO's ids: {what} {values[counts > 1][0]} is in {counts.max()} rows; expected each once")
    return ids


def _best(scores: np.ndarray, ids: np.ndarray, depth: int) -> list[list[int]]:
    """The ids of the best answers to each query, best first. scores: [queries, answers]; ids: [answers]."""
    found, step, depth = [], max(1, BLOCK // scores.shape[1]), min(depth, scores.shape[1])
    for start in range(0, len(scores), step):
        block = np.ascontiguousarray(scores[start : start + step])
        best = np.argpartition(-block, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(block, best, axis=1), axis=1, kind="stable")
        found += ids[np.take_along_axis(best, order, axis=1)].tolist()
    return found
