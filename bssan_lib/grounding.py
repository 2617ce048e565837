"""Does attention look where words point? Measured with boxes that people drew or scenes know. Notebook 05.

For a phrase (some words of a caption) and its true boxes:

    W2R              a_k = mean over the phrase's words t of alpha_tk, a map of the picture
      content words  the same without articles, prepositions, pronouns and the like (FUNCTION_WORDS); a phrase of
                     nothing else keeps its words
    O2W transposed   p_m = mean_t beta_mt, scaled to sum one over m: how strongly each object reads the phrase's words;
                     laid on the regions: b_k = sum_m p_m (share of object m's area that lies in region k)
    combined         a_k b_k / A_k, scaled to sum one; A_k is the region's area: where words look and objects read
    O2W              the object m whose box overlaps a true box most (intersection over union); beta_mt its weights
      pointing game  m's heaviest word is one of the phrase's words
      mass on words  sum of beta_mt over the phrase's words
      ... of object  the same with every word that names this object: in "a small red star" the object may
                     read "red" where "star" was asked, and is still right about itself

The measures of maps stand in `region_maps`. O2W transposed is measured on objects (pointing game, mass) and laid on
the regions (window, curve). Beside them what needs no model: the picture's centre, and attention spread evenly over
regions or words; `grounding_checks` has more to compare with.

Overall numbers leave out phrases of type "relation" and "count", whose boxes are of several objects and whose
words name none of them ("left of", "two"); these stand under their type alone. All else counts: "shape",
"colour" and "size" of the scenes, every type of Flickr30K Entities. A phrase of a compound type, "vehicles/scene",
counts under both. Where several regions or words are equally heaviest, the pointing game counts the share that hits:
even attention gets what a random guess gets.

These numbers say where weights lie, not that the model's answer hangs on them: for that see `faithfulness`.

Letters: N images, C captions, K regions, M objects, T words, P phrases, X true boxes, S bootstrap samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bssan_lib.data.raw import Phrase
from bssan_lib.errors import BssanError, DataError
from bssan_lib.region_maps import (
    AREAS, MAP_MEASURES, Layout, Target, layout, measure_map, overlap_ratio, share_of_heaviest, target,
)
from bssan_lib.retrieval import interval, resampled_counts

ONLY_BY_TYPE = ("relation", "count")  # phrases that name no single object
FUNCTION_WORDS = frozenset(
    "a an the this that these those some any each every another other both all no one's 's "  # articles and the like
    "of in on at to from with by for into onto near over under as up down out off through and or "  # prepositions
    "it its he his him himself she her hers herself they their them themselves we our us i my you your "  # pronouns
    "who whom whose which what there is are be being been was were has have had".split()  # and the verbs that help
)
MAPS = ("w2r", "w2r_content_words", "o2w_transposed", "combined")
O2W = ("pointing_game", "mass_on_words", "pointing_game_of_object", "mass_on_words_of_object")
BASELINES = ("center", "uniform_mass", "uniform_words", "uniform_words_of_object", "uniform_pointing_game",
             "uniform_pointing_game_window", "true_box_area_under_curve")
COMPARED = (("baselines", "center", "center"), ("prior", "pointing_game", "prior"))  # part, measure, name


@dataclass
class Measured:
    """Numbers of P phrases, each 0..1.

    values: {(part, measure): a list of P}. curves: {map: a list of P arrays [21], heights at AREAS}. images: P rows.
    """

    phrases: list[Phrase] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    curves: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, part: str, names: Sequence[str], numbers: Iterable[float]) -> None:
        """The numbers of one more phrase."""
        for name, number in zip(names, numbers, strict=True):
            self.values.setdefault((part, name), []).append(float(number))

    def add_map(self, part: str, weights: np.ndarray, place: Layout, true: Target) -> None:
        """One more phrase's map [K]."""
        measures, curve = measure_map(weights, place, true)
        self.add(part, MAP_MEASURES, measures)
        self.curves.setdefault(part, []).append(curve)


def grounded_captions(phrases: Sequence[Phrase]) -> list[int]:
    """Rows of the captions that have a phrase with a box, ascending: those whose attention is wanted."""
    return sorted({phrase.caption for phrase in phrases if phrase.boxes})


def content_words(words: Sequence[int], tokens: Sequence[str]) -> list[int]:
    """The indices among `words` whose token is no function word; all of them where none is left."""
    return [word for word in words if tokens[word] not in FUNCTION_WORDS] or list(words)


def combine(looks: np.ndarray, read: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Where words look and objects read: densities multiplied. looks, read, areas: [K]. Returns [K], sum one."""
    both = np.divide(looks * read, areas, out=np.zeros(len(areas)), where=areas > 0)
    return both / both.sum() if both.sum() > 0 else looks


def objects_reading(o2w: np.ndarray, words: Sequence[int]) -> np.ndarray:
    """O2W transposed: how strongly each object reads some words. o2w: [M, T]. Returns [M], sum one."""
    read = np.asarray(o2w, np.float64)[:, list(words)].mean(1)
    return read / read.sum() if read.sum() > 0 else np.full(len(read), 1 / len(read))


def phrase_maps(attention, words: Sequence[int], place: Layout) -> dict[str, np.ndarray]:
    """The maps of a phrase by the names in MAPS, each [K] with sum one. attention: w2r [T, K], o2w [M, T], words."""
    looks = attention.w2r[list(words)].mean(0, dtype=np.float64)
    read = objects_reading(attention.o2w, words) @ place.laid
    content = attention.w2r[content_words(words, attention.words)].mean(0, dtype=np.float64)
    return dict(zip(MAPS, (looks, content, read, combine(looks, read, place.areas))))


def _words_of_object(box, others: Sequence[Phrase]) -> set[int]:
    """Words of every phrase of a caption that has this very box and names an object."""
    naming = [phrase for phrase in others if phrase.type not in ONLY_BY_TYPE and box in phrase.boxes]
    return {word for phrase in naming for word in phrase.words}


def _measure(
    measured: Measured, phrase: Phrase, words: list[int], siblings: Sequence[Phrase], attention, place: Layout
) -> None:
    boxes = np.asarray(phrase.boxes, np.float64)
    true = target(place, boxes)
    for part, weights in phrase_maps(attention, words, place).items():
        measured.add_map(part, weights, place, true)
    read = objects_reading(attention.o2w, words)
    measured.values["o2w_transposed", "pointing_game"][-1] = share_of_heaviest(read, true.object_hit)
    measured.values["o2w_transposed", "mass_in_box"][-1] = float(read @ true.object_share)

    ratio = overlap_ratio(place.objects, boxes)
    best, box = np.unravel_index(ratio.argmax(), ratio.shape)
    reads = attention.o2w[best]
    own, known = np.zeros(len(reads), bool), np.zeros(len(reads), bool)
    own[words] = known[words] = True
    known[[word for word in _words_of_object(phrase.boxes[box], siblings) if word < len(reads)]] = True
    measured.add("o2w", O2W, (share_of_heaviest(reads, own), reads[own].sum(),
                              share_of_heaviest(reads, known), reads[known].sum()))
    perfect, curve = measure_map(true.share * place.areas, place, true)
    measured.curves.setdefault("true_box", []).append(curve)
    in_centre = ((boxes[:, :2] <= 0.5) & (boxes[:, 2:] >= 0.5)).all(1).any()
    measured.add("baselines", BASELINES, (in_centre, true.share.mean(), own.mean(), known.mean(), true.hit.mean(),
                                          true.window_hit.mean(), perfect[-1]))


def pictures_of(
    attentions: Iterable[tuple[int, object]], boxes: np.ndarray, object_boxes: np.ndarray | None, cap2im: np.ndarray
) -> Iterator[tuple[int, object, int, Layout]]:
    """(caption row, attention, image row, layout) of each attention, once it is known to fit its boxes.

    boxes: [N, K, 4]. object_boxes: [N, M, 4], or None where the objects are the regions. cap2im: [C].
    Raises DataError for an attention of another size than its boxes, BssanError for one with NaN.
    """
    object_boxes = boxes if object_boxes is None else object_boxes
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
        yield caption, attention, image, layout(regions, objects)


def measure_phrases(
    attentions: Iterable[tuple[int, object]], phrases: Sequence[Phrase], boxes: np.ndarray,
    object_boxes: np.ndarray | None, cap2im: np.ndarray,
) -> Measured:
    """Every number of every phrase, as `grounding_metrics` takes them."""
    by_caption: dict[int, list[Phrase]] = {}
    for phrase in phrases:
        by_caption.setdefault(phrase.caption, []).append(phrase)
    measured = Measured()
    for caption, attention, image, place in pictures_of(attentions, boxes, object_boxes, cap2im):
        siblings = by_caption.get(caption, ())
        for phrase in siblings:
            words = [word for word in phrase.words if word < len(attention.w2r)]
            if phrase.boxes and words:
                _measure(measured, phrase, words, siblings, attention, place)
                measured.phrases.append(phrase)
                measured.images.append(image)
    return measured


def _differences(values: dict) -> dict[tuple[str, str, str], np.ndarray]:
    """Paired differences of pointing games, {(compared with, part, measure): [P]}."""
    found = {}
    for base_part, base_measure, name in COMPARED:
        base = values.get((base_part, base_measure))
        for part, measure in values if base is not None else ():
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


def summary(measured: Measured, bootstrap: int = 1000, seed: int = 0) -> dict | None:
    """The means of what was measured, over all phrases that name an object and by type; see `grounding_metrics`."""
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
    attentions: Iterable[tuple[int, object]], phrases: Sequence[Phrase], boxes: np.ndarray,
    object_boxes: np.ndarray | None, cap2im: np.ndarray, bootstrap: int = 1000, seed: int = 0,
) -> dict | None:
    """Attention of captions with their own images against true boxes.

    attentions: (caption row, attention) for each of `grounded_captions(phrases)`, in any order and one at a
    time, so that they need never be held together; an attention has w2r [T, K], o2w [M, T] and its T words.
    boxes: [N, K, 4]. object_boxes: [N, M, 4], or None where the objects are the regions. cap2im: [C].
    bootstrap: samples, 0 for no intervals. Phrases without boxes are left out, and those whose words were cut
    off with the end of a long caption.

    Returns percentages, or None where no phrase has a box:

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

    "above" are paired differences, phrase by phrase, of either rule to the centre (which is one under both). The area under the curve of even attention is 50.
    Where every phrase is of a type that overall numbers leave out, all of them are taken. Raises DataError for
    an attention that does not fit its boxes, BssanError for one with NaN.
    """
    return summary(measure_phrases(attentions, phrases, boxes, object_boxes, cap2im), bootstrap, seed)
