"""Grounding: how well attention agrees with the true boxes of phrases. Notebooks 05 and 05a.

True boxes come from annotators or from the drawn scenes. For a phrase (some words of a caption) and its true boxes:

    W2R              a_k = mean over the phrase's words t of alpha_tk, a map of the image
      content words  the same without function words (FUNCTION_WORDS); with all words if there are no others
    O2W transposed   p_m = mean_t beta_mt, scaled to sum one over m: how much object m attends to the phrase's words;
                     as a map of regions: b_k = sum_m p_m (share of object m's area in region k)
    combined         a_k b_k / A_k, scaled to sum one; A_k is the region's area
    O2W              beta_mt of the object m with the largest intersection over union with a true box
      pointing game  m's heaviest word is one of the phrase's words
      mass on words  sum of beta_mt over the phrase's words
      ... of object  the same with all words that describe this object. In "a small red star" the object of the phrase
                     "star" may give most weight to "red", which is right too

`vision.maps` defines the measures of maps. For O2W transposed, pointing game and mass are measured on objects, window
and curve on regions. Baselines without a model: the image centre, and even attention over regions or words.
`grounding_checks` adds others.

Overall numbers leave out phrases of type "relation" and "count": they have boxes of several objects, and their words
("left of", "two") name none of them. These phrases appear only under their type. A phrase of a compound type such as
"vehicles/scene" counts for both types. If several regions or words are equally heavy, the pointing game counts the
share of hits among them, so even attention has the value of a random guess.

These numbers show where weights are high, not whether the score depends on them; see `faithfulness`.

Letters: N images, C captions, K regions, M objects, T words, P phrases, X true boxes, S bootstrap samples.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bssan_lib.data.raw import Phrase
from bssan_lib.errors import BssanError, DataError
from bssan_lib.evaluation.bootstrap import interval, resampled_counts
from bssan_lib.vision.maps import (
    AREAS,
    MAP_MEASURES,
    Layout,
    Target,
    layout,
    measure_map,
    overlap_ratio,
    share_of_heaviest,
    target,
)

ONLY_BY_TYPE = ("relation", "count")  # phrases that name no single object
FUNCTION_WORDS = frozenset(
    "a an the this that these those some any each every another other both all no one's 's "  # articles and determiners
    "of in on at to from with by for into onto near over under as up down out off through and or "  # prepositions
    "it its he his him himself she her hers herself they their them themselves we our us i my you your "  # pronouns
    "who whom whose which what there is are be being been was were has have had".split()  # pronouns, auxiliary verbs
)
MAPS = ("w2r", "w2r_content_words", "o2w_transposed", "combined")
O2W = ("pointing_game", "mass_on_words", "pointing_game_of_object", "mass_on_words_of_object")
BASELINES = (
    "center",
    "uniform_mass",
    "uniform_words",
    "uniform_words_of_object",
    "uniform_pointing_game",
    "uniform_pointing_game_window",
    "true_box_area_under_curve",
)
COMPARED = (("baselines", "center", "center"), ("prior", "pointing_game", "prior"))  # part, measure, name in "above"


@dataclass
class PhraseMeasures:
    """Measures of P phrases, each 0..1.

    values: {(part, measure): a list of P}. curves: {map: a list of P arrays [21], heights at AREAS}. images: P rows.
    """

    phrases: list[Phrase] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    curves: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, part: str, names: Sequence[str], numbers: Iterable[float]) -> None:
        """Appends the numbers of the next phrase."""
        for name, number in zip(names, numbers, strict=True):
            self.values.setdefault((part, name), []).append(float(number))

    def add_map(self, part: str, weights: np.ndarray, boxes: Layout, true: Target) -> None:
        """Appends the measures of the next phrase's map [K]."""
        measures, curve = measure_map(weights, boxes, true)
        self.add(part, MAP_MEASURES, measures)
        self.curves.setdefault(part, []).append(curve)


def join(parts: Sequence[PhraseMeasures]) -> PhraseMeasures:
    """Joins the measures of several processes, in the order of parts."""
    whole = PhraseMeasures()
    for part in parts:
        whole.phrases += part.phrases
        whole.images += part.images
        for key, numbers in part.values.items():
            whole.values.setdefault(key, []).extend(numbers)
        for name, curves in part.curves.items():
            whole.curves.setdefault(name, []).extend(curves)
    return whole


def phrases_by_caption(phrases: Iterable[Phrase]) -> defaultdict[int, list[Phrase]]:
    """{caption row: its phrases}."""
    found = defaultdict[int, list[Phrase]](list)
    for phrase in phrases:
        found[phrase.caption].append(phrase)
    return found


def grounded_captions(phrases: Sequence[Phrase]) -> list[int]:
    """Rows of the captions that have a phrase with a box, ascending."""
    return sorted({phrase.caption for phrase in phrases if phrase.boxes})


def content_words(words: Sequence[int], tokens: Sequence[str]) -> list[int]:
    """The indices in `words` of tokens that are not function words; all indices if there are none."""
    return [word for word in words if tokens[word] not in FUNCTION_WORDS] or list(words)


def combine(w2r_map: np.ndarray, o2w_map: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The product of two maps as densities: a_k b_k / A_k, scaled. All arguments [K]. Returns [K], sum one."""
    both = np.divide(w2r_map * o2w_map, areas, out=np.zeros(len(areas)), where=areas > 0)
    return both / both.sum() if both.sum() > 0 else w2r_map


def transposed_o2w(o2w: np.ndarray, words: Sequence[int]) -> np.ndarray:
    """How much each object attends to some words. o2w: [M, T]. words: columns. Returns [M], sum one."""
    weights = np.asarray(o2w, np.float64)[:, list(words)].mean(1)
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))


def phrase_maps(attention, words: Sequence[int], boxes: Layout) -> dict[str, np.ndarray]:
    """The MAPS of a phrase, each [K] with sum one. attention: has w2r [T, K], o2w [M, T], words [T]."""
    w2r = attention.w2r[list(words)].mean(0, dtype=np.float64)
    o2w = transposed_o2w(attention.o2w, words) @ boxes.region_shares
    content = attention.w2r[content_words(words, attention.words)].mean(0, dtype=np.float64)
    return dict(zip(MAPS, (w2r, content, o2w, combine(w2r, o2w, boxes.areas))))


def _words_of_object(box, caption_phrases: Sequence[Phrase]) -> set[int]:
    """The words of all phrases of a caption that name an object and have this box."""
    naming = [phrase for phrase in caption_phrases if phrase.type not in ONLY_BY_TYPE and box in phrase.boxes]
    return {word for phrase in naming for word in phrase.words}


def _measure_phrase(
    measured: PhraseMeasures,
    phrase: Phrase,
    words: list[int],
    caption_phrases: Sequence[Phrase],
    attention,
    picture: Layout,
) -> None:
    boxes = np.asarray(phrase.boxes, np.float64)
    true = target(picture, boxes)
    for part, weights in phrase_maps(attention, words, picture).items():
        measured.add_map(part, weights, picture, true)
    by_object = transposed_o2w(attention.o2w, words)
    measured.values["o2w_transposed", "pointing_game"][-1] = share_of_heaviest(by_object, true.object_hit)
    measured.values["o2w_transposed", "mass_in_box"][-1] = float(by_object @ true.object_share)

    ratio = overlap_ratio(picture.objects, boxes)
    best, box = np.unravel_index(ratio.argmax(), ratio.shape)
    weights = attention.o2w[best]  # [T]
    in_phrase, of_object = np.zeros(len(weights), bool), np.zeros(len(weights), bool)
    in_phrase[words] = of_object[words] = True
    of_object[[word for word in _words_of_object(phrase.boxes[box], caption_phrases) if word < len(weights)]] = True
    o2w = [
        number
        for right in (in_phrase, of_object)
        for number in (share_of_heaviest(weights, right), weights[right].sum())
    ]
    measured.add("o2w", O2W, o2w)
    perfect, curve = measure_map(true.share * picture.areas, picture, true)
    measured.curves.setdefault("true_box", []).append(curve)
    center = float(((boxes[:, :2] <= 0.5) & (boxes[:, 2:] >= 0.5)).all(1).any())
    uniform = (true.share, in_phrase, of_object, true.hit, true.window_hit)
    measured.add("baselines", BASELINES, (center, *(right.mean() for right in uniform), perfect[-1]))


def with_layout(
    attentions: Iterable[tuple[int, Any]], boxes: np.ndarray, object_boxes: np.ndarray | None, cap2im: np.ndarray
) -> Iterator[tuple[int, Any, int, Layout]]:
    """Yields (caption row, attention, image row, layout) for each (caption row, attention).

    boxes: [N, K, 4]. object_boxes: [N, M, 4], or None if the objects are the regions. cap2im: [C].
    Raises DataError if the sizes of an attention and its boxes differ, BssanError for NaN.
    """
    object_boxes = boxes if object_boxes is None else object_boxes
    for caption, attention in attentions:
        image = int(cap2im[caption])
        regions, objects = boxes[image], object_boxes[image]
        expected = (len(regions), len(objects))
        if (attention.w2r.shape[1], attention.o2w.shape[0]) != expected:
            raise DataError(
                f"Caption row {caption}: attention has {attention.w2r.shape[1]} regions and {attention.o2w.shape[0]} "
                f"objects, but image row {image} has boxes for {expected[0]} and {expected[1]}. Prepare features and "
                "boxes together."
            )
        if np.isnan(attention.w2r).any() or np.isnan(attention.o2w).any():
            raise BssanError(
                f"Attention is NaN for caption row {caption}, image row {image}. Look for NaN in that "
                "image's features or in the checkpoint."
            )
        yield caption, attention, image, layout(regions, objects)


def measure_phrases(
    attentions: Iterable[tuple[int, Any]],
    phrases: Sequence[Phrase],
    boxes: np.ndarray,
    object_boxes: np.ndarray | None,
    cap2im: np.ndarray,
) -> PhraseMeasures:
    """All measures of all phrases. Parameters as for `grounding_metrics`."""
    by_caption = phrases_by_caption(phrases)
    measured = PhraseMeasures()
    for caption, attention, image, picture in with_layout(attentions, boxes, object_boxes, cap2im):
        for phrase in by_caption[caption]:
            words = [word for word in phrase.words if word < len(attention.w2r)]
            if phrase.boxes and words:
                _measure_phrase(measured, phrase, words, by_caption[caption], attention, picture)
                measured.phrases.append(phrase)
                measured.images.append(image)
    return measured


def _differences(values: dict) -> dict[tuple[str, str, str], np.ndarray]:
    """Paired differences of pointing games: {(baseline, part, measure): [P]}."""
    found = {}
    for base_part, base_measure, name in COMPARED:
        base = values.get((base_part, base_measure))
        if base is None:
            continue
        for part, measure in values:
            if part not in ("o2w", "baselines", base_part) and measure.startswith("pointing_game"):
                found[name, part, measure] = values[part, measure] - base
    return found


def _table(values: dict, images: np.ndarray, bootstrap: int, seed: int) -> dict:
    """Means in percent, with 95% percentile intervals over images. values: {(part, measure): [P]}. images: [P]."""
    numbers = {**values, **_differences(values)}
    rows = 100 * np.stack(list(numbers.values()), axis=1)  # [P, numbers]
    table: dict = {}
    for key, mean in zip(numbers, rows.mean(0)):
        _put(table, key if len(key) == 2 else ("above", *key, "difference"), float(mean))
    if bootstrap:
        owners, column = np.unique(images, return_inverse=True)
        sums = np.zeros((len(owners), rows.shape[1]))
        np.add.at(sums, column, rows)
        counts = resampled_counts(len(owners), bootstrap, np.random.default_rng(seed))
        means = counts @ sums / (counts @ np.bincount(column))[:, None]  # [S, numbers]
        for key, drawn in zip(numbers, means.T):
            _put(table, ("ci95", *key) if len(key) == 2 else ("above", *key, "ci95"), interval(drawn))
    return table


def _put(table: dict, path: tuple[str, ...], value) -> None:
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value


def grounding_summary(measured: PhraseMeasures, bootstrap: int = 1000, seed: int = 0) -> dict | None:
    """Means over all phrases that name one object, and by type of phrase. Keys as in `grounding_metrics`."""
    if not measured.phrases:
        return None
    images = np.array(measured.images)
    values = {key: np.array(numbers) for key, numbers in measured.values.items()}
    types = [set(phrase.type.split("/")) for phrase in measured.phrases]
    overall = np.array([not kinds & set(ONLY_BY_TYPE) for kinds in types])
    overall = overall if overall.any() else np.ones(len(types), bool)

    def table(rows: np.ndarray) -> dict:
        return _table({key: numbers[rows] for key, numbers in values.items()}, images[rows], bootstrap, seed)

    result = {"n_phrases": int(overall.sum()), **table(overall), "by_type": {}}
    for kind in sorted(set().union(*types)):
        rows = np.array([kind in kinds for kinds in types])
        result["by_type"][kind] = {"n": int(rows.sum()), **table(rows)}
    curves = {name: 100 * np.mean(np.array(rows)[overall], axis=0) for name, rows in measured.curves.items()}
    result["curve"] = {"area": (100 * AREAS).tolist(), **{name: curve.tolist() for name, curve in curves.items()}}
    return result


def grounding_metrics(
    attentions: Iterable[tuple[int, Any]],
    phrases: Sequence[Phrase],
    boxes: np.ndarray,
    object_boxes: np.ndarray | None,
    cap2im: np.ndarray,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict | None:
    """Compares the attention of captions with their own images to true boxes.

    attentions: (caption row, attention) for each of `grounded_captions(phrases)`, in any order; an iterator, so that
    not all have to be in memory. An attention has w2r [T, K], o2w [M, T] and its T words.
    boxes: [N, K, 4]. object_boxes: [N, M, 4], or None if the objects are the regions. cap2im: [C].
    bootstrap: samples, 0 for no intervals. Phrases without boxes are left out, and also phrases whose words were cut
    off at the end of a long caption.

    Returns percentages, or None if no phrase has a box:

        {"n_phrases",
         "w2r", "w2r_content_words", "o2w_transposed", "combined": {"pointing_game", "pointing_game_window",
                    "mass_in_box", "area_under_curve"},
         "o2w": {"pointing_game", "mass_on_words", "pointing_game_of_object", "mass_on_words_of_object"},
         "baselines": {"center", "uniform_mass", "uniform_words", "uniform_words_of_object",
                    "uniform_pointing_game", "uniform_pointing_game_window", "true_box_area_under_curve"},
         "above": {"center": {map: {"pointing_game", "pointing_game_window": {"difference", "ci95"}}}},
         "ci95": intervals under the same keys,
         "by_type": {type: {"n", ...all the same}},
         "curve": {"area", "true_box", and each map: 21 numbers}}

    "above": paired differences of each map to the centre, which is the same baseline for both pointing games. Even
    attention has an area under the curve of 50. If overall numbers would leave out all phrases, they use all. Raises
    DataError if the sizes of an attention and its boxes differ, BssanError for NaN.
    """
    return grounding_summary(measure_phrases(attentions, phrases, boxes, object_boxes, cap2im), bootstrap, seed)
