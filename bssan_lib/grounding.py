"""Does attention look where words point? Measured with boxes that people drew or scenes know. Notebook 05.

For a phrase (some words of a caption) and its true boxes:

    W2R  a_k = mean over the phrase's words t of alpha_tk
         pointing game   the centre of the heaviest region lies in a true box (Zhang et al., IJCV 2018)
         mass in box     sum_k a_k (share of region k's area that the true boxes, taken together, cover)
    O2W  the object m whose box overlaps a true box most (intersection over union); beta_mt its weights
         pointing game   m's heaviest word is one of the phrase's words
         mass on words   sum of beta_mt over the phrase's words
         ... of object   the same with every word that names this object: in "a small red star" the object may
                         read "red" where "star" was asked, and is still right about itself

and beside it what needs no model: the picture's centre, and attention spread evenly over regions or words.

Overall numbers leave out phrases of type "relation" and "count", whose boxes are of several objects and whose
words name none of them ("left of", "two"); these stand under their type alone. All else counts: "shape",
"colour" and "size" of the scenes, every type of Flickr30K Entities. Where several regions or words are
equally heaviest, the pointing game counts the share that hits: even attention gets what a random guess gets.

These numbers say where weights lie, not that the model's answer hangs on them.

Letters: N images, C captions, K regions, M objects, T words, P phrases, X true boxes.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from bssan_lib.data.raw import Phrase
from bssan_lib.errors import BssanError, DataError
from bssan_lib.retrieval import interval, resampled_counts

ONLY_BY_TYPE = ("relation", "count")  # phrases that name no single object
MEASURES = {  # the result's keys and the measures under each, in the order in which `_measure` gives them
    "w2r": ("pointing_game", "mass_in_box"),
    "o2w": ("pointing_game", "mass_on_words", "pointing_game_of_object", "mass_on_words_of_object"),
    "baselines": ("center", "uniform_mass", "uniform_words", "uniform_words_of_object"),
}


def in_boxes(x: np.ndarray, y: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points lie in any of the boxes, edges included. x, y: [K]. boxes: [X, 4]. Returns bool [K]."""
    x, y, boxes = np.asarray(x)[:, None], np.asarray(y)[:, None], np.asarray(boxes)
    return ((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])).any(1)


def share_inside(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The share of each region's area that the boxes, taken together, cover: exact, overlaps counted once.

    The boxes' edges cut the plane into cells; each is covered or not, and a region meets it in a rectangle.
    regions: [K, 4] x1 y1 x2 y2. boxes: [X, 4]. Returns [K] in 0..1; 0 for a region without area.
    """
    regions, boxes = np.asarray(regions, np.float64), np.asarray(boxes, np.float64)
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    columns = (boxes[:, 0, None] <= xs[:-1]) & (xs[1:] <= boxes[:, 2, None])  # [X, cells of x]
    rows = (boxes[:, 1, None] <= ys[:-1]) & (ys[1:] <= boxes[:, 3, None])
    covered = (columns[:, :, None] & rows[:, None, :]).any(0)  # [cells of x, cells of y]

    def common(low, high, edges):  # [K, cells]: the length a region and a cell share
        return np.clip(np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1]), 0, None)

    wide = common(regions[:, 0], regions[:, 2], xs)
    high = common(regions[:, 1], regions[:, 3], ys)
    inside = np.einsum("kx,xy,ky->k", wide, covered, high)
    area = np.clip(regions[:, 2] - regions[:, 0], 0, None) * np.clip(regions[:, 3] - regions[:, 1], 0, None)
    return np.divide(inside, area, out=np.zeros_like(inside), where=area > 0)


def overlap_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes. a: [M, 4]. b: [X, 4]. Returns [M, X]."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = size.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def pointing_game(weights: np.ndarray, regions: np.ndarray, boxes: np.ndarray) -> float:
    """1 where the centre of the heaviest region lies in a box, else 0; their mean where several are heaviest.

    weights: [K]. regions: [K, 4]. boxes: [X, 4].
    """
    regions = np.asarray(regions)
    centres = (regions[:, :2] + regions[:, 2:]) / 2
    return _share_of_heaviest(weights, in_boxes(centres[:, 0], centres[:, 1], boxes))


def _share_of_heaviest(weights: np.ndarray, right: np.ndarray) -> float:
    return float(right[weights == weights.max()].mean())


def mass_in_box(weights: np.ndarray, regions: np.ndarray, boxes: np.ndarray) -> float:
    """How much attention lies in the boxes, 0..1. weights: [K], sum one. regions: [K, 4]. boxes: [X, 4]."""
    return float(weights @ share_inside(regions, boxes))


def grounded_captions(phrases: Sequence[Phrase]) -> list[int]:
    """Rows of the captions that have a phrase with a box, ascending: those whose attention is wanted."""
    return sorted({phrase.caption for phrase in phrases if phrase.boxes})


def _words_of_object(box, others: Sequence[Phrase]) -> set[int]:
    """Words of every phrase of a caption that has this very box and names an object."""
    naming = [phrase for phrase in others if phrase.type not in ONLY_BY_TYPE and box in phrase.boxes]
    return {word for phrase in naming for word in phrase.words}


def _measure(phrase: Phrase, words: list[int], others: Sequence[Phrase], attention, regions, objects) -> list:
    """One phrase's row of numbers, in the order of MEASURES, each 0..1. regions: [K, 4]. objects: [M, 4]."""
    boxes = np.asarray(phrase.boxes, np.float64)
    share = share_inside(regions, boxes)
    looks = attention.w2r[words].mean(0)
    ratio = overlap_ratio(objects, boxes)
    best, box = np.unravel_index(ratio.argmax(), ratio.shape)
    reads = attention.o2w[best]
    count = len(reads)
    own, known = np.zeros(count, bool), np.zeros(count, bool)
    own[words] = known[words] = True
    known[[word for word in _words_of_object(phrase.boxes[box], others) if word < count]] = True
    return [
        pointing_game(looks, regions, boxes), float(looks @ share),
        _share_of_heaviest(reads, own), float(reads[own].sum()),
        _share_of_heaviest(reads, known), float(reads[known].sum()),
        float(in_boxes([0.5], [0.5], boxes)[0]), float(share.mean()), own.mean(), known.mean(),
    ]


def _tables(rows: np.ndarray) -> dict:
    """rows: [P, measures] -> {"w2r": {...}, "o2w": {...}, "baselines": {...}} in percent."""
    means = iter(100.0 * rows.mean(0))
    return {part: {name: float(next(means)) for name in names} for part, names in MEASURES.items()}


def _intervals(rows: np.ndarray, images: np.ndarray, samples: int, seed: int) -> dict:
    """95% percentile intervals over images of the two directions. rows: [P, measures]. images: [P]."""
    owners, column = np.unique(images, return_inverse=True)
    sums = np.zeros((len(owners), rows.shape[1]))
    np.add.at(sums, column, rows)
    counts = resampled_counts(len(owners), samples, np.random.default_rng(seed))
    means = 100.0 * (counts @ sums) / (counts @ np.bincount(column))[:, None]  # [S, measures]
    columns = iter(means.T)
    return {part: {name: interval(next(columns)) for name in MEASURES[part]} for part in ("w2r", "o2w")}


def grounding_metrics(
    attentions: Iterable[tuple[int, object]], phrases: Sequence[Phrase], boxes: np.ndarray,
    object_boxes: np.ndarray | None, cap2im: np.ndarray, bootstrap: int = 1000, seed: int = 0,
) -> dict | None:
    """Attention of captions with their own images against true boxes.

    attentions: (caption row, attention) for each of `grounded_captions(phrases)`, in any order and one at a
    time, so that they need never be held together; an attention has w2r [T, K] and o2w [M, T].
    boxes: [N, K, 4]. object_boxes: [N, M, 4], or None where the objects are the regions. cap2im: [C].
    bootstrap: samples, 0 for no intervals. Phrases without boxes are left out, and those whose words were cut
    off with the end of a long caption.

    Returns percentages {"n_phrases", "w2r": {"pointing_game", "mass_in_box"}, "o2w": {"pointing_game",
    "mass_on_words", "pointing_game_of_object", "mass_on_words_of_object"}, "baselines": {"center",
    "uniform_mass", "uniform_words", "uniform_words_of_object"}, "by_type": {type: {"n", ...the same}},
    "ci95": {"w2r", "o2w"}}, or None where no phrase has a box. Where every phrase is of a type that overall
    numbers leave out, all of them are taken. Raises DataError for an attention that does not fit its boxes,
    BssanError for one with NaN.
    """
    object_boxes = boxes if object_boxes is None else object_boxes
    by_caption: dict[int, list[Phrase]] = {}
    for phrase in phrases:
        by_caption.setdefault(phrase.caption, []).append(phrase)
    rows, types, images = [], [], []
    for caption, attention in attentions:
        image = int(cap2im[caption])
        regions, objects = boxes[image], object_boxes[image]
        expected = (len(regions), len(objects))
        if (attention.w2r.shape[1], attention.o2w.shape[0]) != expected:
            raise DataError(f"Caption row {caption}: attention over {attention.w2r.shape[1]} regions and "
                            f"{attention.o2w.shape[0]} objects, but boxes of image row {image} are for "
                            f"{expected}. Were its features and boxes made together?")
        if np.isnan(attention.w2r).any() or np.isnan(attention.o2w).any():
            raise BssanError(f"Attention is not a number (NaN) for caption row {caption}, image row {image}.")
        siblings = by_caption.get(caption, ())
        for phrase in siblings:
            words = [word for word in phrase.words if word < len(attention.w2r)]
            if phrase.boxes and words:
                rows.append(_measure(phrase, words, siblings, attention, regions, objects))
                types.append(phrase.type)
                images.append(image)
    if not rows:
        return None
    rows, types, images = np.array(rows), np.array(types), np.array(images)
    overall = ~np.isin(types, ONLY_BY_TYPE)
    overall = overall if overall.any() else np.ones(len(rows), bool)
    result = {"n_phrases": int(overall.sum()), **_tables(rows[overall])}
    result["by_type"] = {str(kind): {"n": int((types == kind).sum()), **_tables(rows[types == kind])}
                         for kind in np.unique(types)}
    if bootstrap:
        result["ci95"] = _intervals(rows[overall], images[overall], bootstrap, seed)
    return result
