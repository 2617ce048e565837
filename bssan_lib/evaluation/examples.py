"""What was found for single queries: a figure, or a table where the data has no pictures. Notebook extra/05b.

Letters: N images, C captions, Q queries, R results of each, K regions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bssan_lib import viz
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.evaluation.metrics import nearest


def found_images(split: PreparedSplit, scores: np.ndarray, captions: Sequence[int], k: int = 5, own=None, **settings):
    """The k best images of some captions; those that satisfy the caption, or else its own, are marked as right.

    scores: [N, C]. captions: Q rows. own: for each caption (image row, rank), drawn in a last column. settings:
    attention, grid, boxes and width of `viz.retrieved_images`. Returns a figure, or a table without pictures.
    """
    found = [nearest(scores, split.cap2im, c, "t2i", k=k, positives=split.satisfies) for c in captions]
    texts = [split.captions[c] for c in captions]
    if split.image(0) is None:
        return _table(texts, [[split.ids[i] for i in rows] for rows, _, _ in found], found)
    if own is not None:
        settings["own"] = [(split.image(image), int(rank)) for image, rank in own]
    pictures: list[Any] = [[split.image(i) for i in rows] for rows, _, _ in found]
    return viz.retrieved_images(texts, pictures, [row[1] for row in found], [row[2] for row in found], **settings)[0]


def found_captions(split: PreparedSplit, scores: np.ndarray, images: Sequence[int], k: int = 5, own=None):
    """The k best captions of some images. own: for each image (caption row, rank). Otherwise as `found_images`."""
    found = [nearest(scores, split.cap2im, i, "i2t", k=k, positives=split.satisfies) for i in images]
    texts = [[split.captions[c] for c in rows] for rows, _, _ in found]
    if split.image(0) is None:
        return _table([split.ids[i] for i in images], texts, found)
    last = None if own is None else [(split.captions[caption], int(rank)) for caption, rank in own]
    pictures: list[Any] = [split.image(i) for i in images]
    return viz.retrieved_captions(pictures, texts, [row[1] for row in found], [row[2] for row in found], own=last)[0]


def best_right(scores: np.ndarray, right: np.ndarray) -> int:
    """The row of the right answer with the highest score. scores: [any]. right: rows of the right answers."""
    return int(right[np.argmax(np.asarray(scores)[right])])


def _table(queries: list[str], results: list[list[str]], found) -> pd.DataFrame:
    """A row for each query; its cells are the results with their scores."""
    return pd.DataFrame(
        [
            [f"{score:.3f}{' (right)' * bool(right)} {text}" for text, score, right in zip(texts, scores, rights)]
            for texts, (_, scores, rights) in zip(results, found)
        ],
        index=queries,
    )
