"""Grounding measures against numbers worked by hand on grids, and against painting boxes pixel by pixel.

Letters: N images, C captions, K regions, M objects, T words.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from bssan_lib.data.raw import Phrase
from bssan_lib.errors import BssanError, DataError
from bssan_lib.evaluation.grounding import (
    MAPS,
    PhraseMeasures,
    combine,
    content_words,
    grounded_captions,
    grounding_metrics,
    grounding_summary,
    measure_phrases,
    phrase_maps,
    transposed_o2w,
)
from bssan_lib.vision.maps import (
    AREAS,
    area_under,
    coverage_curve,
    in_boxes,
    layout,
    mass_in_box,
    measure_map,
    overlap_ratio,
    pointing_game,
    share_inside,
    target,
)


@dataclass
class Weights:
    """What grounding needs of an attention: w2r [T, K], o2w [M, T], and its T words."""

    w2r: np.ndarray
    o2w: np.ndarray
    words: list | None = None

    def __post_init__(self):
        self.words = [f"word{t}" for t in range(len(self.w2r))] if self.words is None else self.words


def some(part, *names):
    return {name: part[name] for name in names}


def grid(rows, columns):
    """Boxes [rows * columns, 4] of a grid over the picture, row by row."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1).astype(np.float32)


QUARTERS = grid(2, 2)  # upper left, upper right, lower left, lower right


def test_points_in_boxes():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.7, 0.7, 0.9, 0.9]])
    points = np.array([[0.25, 0.25], [0.5, 0.5], [0.6, 0.6], [0.8, 0.8], [0.8, 0.2]])
    assert in_boxes(points, boxes).tolist() == [True, True, False, True, False]


def test_share_by_hand_on_quarters():
    # the upper right box covers its quarter whole; the second overlaps it and half the lower right
    boxes = np.array([[0.5, 0.0, 1.0, 0.5], [0.5, 0.25, 1.0, 0.75]])
    assert share_inside(QUARTERS, boxes) == pytest.approx([0, 1, 0, 0.5])
    # a box of half the width and height, in the middle: a quarter of each quarter
    assert share_inside(QUARTERS, np.array([[0.25, 0.25, 0.75, 0.75]])) == pytest.approx([0.25] * 4)
    # the same box twice counts once
    assert share_inside(QUARTERS, np.array([[0.25, 0.25, 0.75, 0.75]] * 2)) == pytest.approx([0.25] * 4)


def test_share_by_hand_on_seven_by_seven():
    # columns 1 and 2 whole and half of column 3; row 4 whole and a quarter of row 5
    share = share_inside(grid(7, 7), np.array([[1 / 7, 4 / 7, 3.5 / 7, 5.25 / 7]])).reshape(7, 7)
    expected = np.zeros((7, 7))
    expected[4, 1:4] = [1, 1, 0.5]
    expected[5, 1:4] = [0.25, 0.25, 0.125]
    assert share == pytest.approx(expected, abs=1e-6)


def test_a_region_without_area_shares_nothing():
    regions = np.array([[0.5, 0.5, 0.5, 0.8], [0.2, 0.2, 0.4, 0.4]])
    assert share_inside(regions, np.array([[0.0, 0.0, 1.0, 1.0]])) == pytest.approx([0, 1])
    assert share_inside(regions, np.array([[0.3, 0.0, 0.3, 1.0]])).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(7))
def test_share_agrees_with_painting(seed):
    rng = np.random.default_rng(seed)

    def draw(n):  # boxes on a lattice of 29 x 29, so that painting is exact
        edges = np.array([[rng.choice(30, 2, replace=False) for _ in "xy"] for _ in range(n)])
        return np.sort(edges, axis=-1).transpose(0, 2, 1).reshape(n, 4)

    regions, boxes = draw(11), draw(5)
    painted = np.zeros((29, 29))
    for x1, y1, x2, y2 in boxes:
        painted[y1:y2, x1:x2] = 1
    expected = [painted[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in regions]
    assert share_inside(regions / 29, boxes / 29) == pytest.approx(expected)


def test_overlap_ratio_by_hand():
    a = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.1, 0.1, 0.1, 0.1]])
    b = np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.2, 0.2, 0.2, 0.2]])
    assert overlap_ratio(a, b) == pytest.approx(np.array([[1, 1 / 3, 0], [0, 0, 0], [0, 0, 0]]))


def test_pointing_game_by_hand():
    right = np.array([[0.6, 0.1, 0.9, 0.4]])  # holds the centre of the upper right quarter alone
    assert pointing_game(np.array([0.1, 0.6, 0.2, 0.1]), QUARTERS, right) == 1
    assert pointing_game(np.array([0.6, 0.2, 0.1, 0.1]), QUARTERS, right) == 0
    two = np.array([[0.6, 0.1, 0.9, 0.4], [0.1, 0.1, 0.3, 0.3]])
    assert pointing_game(np.array([0.6, 0.2, 0.1, 0.1]), QUARTERS, two) == 1  # inside any of them
    assert pointing_game(np.full(4, 0.25), QUARTERS, right) == 0.25  # even attention: a random guess
    assert pointing_game(np.array([0.4, 0.4, 0.1, 0.1]), QUARTERS, right) == 0.5


def test_mass_by_hand():
    weights = np.array([0.1, 0.6, 0.2, 0.1])
    assert mass_in_box(weights, QUARTERS, np.array([[0.5, 0.0, 1.0, 0.75]])) == pytest.approx(0.6 + 0.05)
    assert mass_in_box(weights, QUARTERS, np.array([[0.0, 0.0, 1.0, 1.0]])) == pytest.approx(1)


UPPER_RIGHT, MIDDLE = (0.5, 0.0, 1.0, 0.5), (0.25, 0.25, 0.75, 0.75)


def small_case():
    """One image and one caption of five words: a (0) small (1) star (2) above (3) bars (4)."""
    phrases = [
        Phrase(0, (2,), "shape", (UPPER_RIGHT,)),
        Phrase(0, (1,), "size", (UPPER_RIGHT,)),
        Phrase(0, (4,), "shape", (MIDDLE, (0.0, 0.5, 0.5, 1.0))),
        Phrase(0, (3,), "relation", (UPPER_RIGHT, MIDDLE)),
        Phrase(0, (0,), "shape", ()),  # no box: not measured
    ]
    w2r = np.array(
        [
            [0.25, 0.25, 0.25, 0.25],
            [0.7, 0.1, 0.1, 0.1],  # small: highest upper left, wrong
            [0.1, 0.7, 0.1, 0.1],  # star: right
            [0.1, 0.2, 0.3, 0.4],  # above: highest lower right, whose centre is a corner of the middle box
            [0.0, 0.0, 0.8, 0.2],  # bars: right
        ]
    )
    o2w = np.array(
        [
            [0.2, 0.2, 0.2, 0.2, 0.2],
            [0.1, 0.5, 0.3, 0.0, 0.1],  # the upper right object reads "small" first, then "star"
            [0.1, 0.1, 0.1, 0.3, 0.4],  # the lower left object reads "bars"
            [0.2, 0.2, 0.2, 0.2, 0.2],
        ]
    )
    return Weights(w2r, o2w), phrases


def test_metrics_by_hand():
    attention, phrases = small_case()
    result = grounding_metrics([(0, attention)], phrases, QUARTERS[None], None, np.array([0]))
    assert result["n_phrases"] == 3  # star, small, bars; the relation stands under its type alone
    # star 0.7, small 0.1, bars: 0.8 whole + 0.2 * a quarter of the lower right
    assert some(result["w2r"], "pointing_game", "mass_in_box") == pytest.approx(
        {"pointing_game": 200 / 3, "mass_in_box": 165 / 3}
    )
    # the upper right object: "star" is second -> miss, "small" first -> hit; bars hit
    assert result["o2w"] == pytest.approx(
        {
            "pointing_game": 200 / 3,
            "mass_on_words": 100 * (0.3 + 0.5 + 0.4) / 3,
            "pointing_game_of_object": 100,
            "mass_on_words_of_object": 100 * (0.8 + 0.8 + 0.4) / 3,
        }
    )
    # the centre (0.5, 0.5) is a corner of the star's box and inside the bars' one; edges count
    # evenly: a quarter for star and small; bars: (0.25 * 3 + 1) / 4
    # a random region: one centre of four in the quarter; all four at the middle box's corners, edges count
    assert result["baselines"] == pytest.approx(
        {
            "center": 100,
            "uniform_mass": 100 * (0.25 + 0.25 + 0.4375) / 3,
            "uniform_words": 20,
            "uniform_words_of_object": 100 * (0.4 + 0.4 + 0.2) / 3,
            "uniform_pointing_game": 50,
            "uniform_pointing_game_window": 50,
            # a quarter is taken first, then nothing is left to find: 1 - 0.25 / 2. The bars: 1 of 1.75 in the first
            # quarter, the rest evenly: (1 / 1.75) * 0.125 + (1 / 1.75 + 1) / 2 * 0.75
            "true_box_area_under_curve": 100 * (2 * 0.875 + 0.125 / 1.75 + (1 / 1.75 + 1) * 0.375) / 3,
        }
    )
    by_type = result["by_type"]
    assert {kind: row["n"] for kind, row in by_type.items()} == {"shape": 2, "size": 1, "relation": 1}
    assert some(by_type["shape"]["w2r"], "pointing_game", "mass_in_box") == pytest.approx(
        {"pointing_game": 100, "mass_in_box": 77.5}
    )
    assert by_type["relation"]["w2r"]["pointing_game"] == 100
    assert by_type["relation"]["w2r"]["mass_in_box"] == pytest.approx(100 * (0.2 + 0.25 * 0.8))
    assert result["ci95"]["w2r"]["pointing_game"] == pytest.approx([200 / 3] * 2)  # one image: nothing varies


def test_a_phrase_of_several_words_uses_their_mean():
    attention = Weights(np.array([[0.6, 0.4, 0, 0], [0.0, 0.4, 0.6, 0]]), np.full((4, 2), 0.5))
    phrases = [Phrase(0, (0, 1), "people", (UPPER_RIGHT,))]
    result = grounding_metrics([(0, attention)], phrases, QUARTERS[None], None, np.array([0]))
    assert some(result["w2r"], "pointing_game", "mass_in_box") == pytest.approx(
        {"pointing_game": 100, "mass_in_box": 40}
    )
    assert result["o2w"]["mass_on_words"] == 100 and result["baselines"]["uniform_words"] == 100


def test_objects_that_are_not_the_regions():
    attention = Weights(np.full((2, 4), 0.25), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))
    objects = np.array([[[0, 0, 1, 1], [0.5, 0.0, 0.9, 0.5], [0, 0.5, 0.5, 1]]])
    phrases = [Phrase(0, (1,), "people", (UPPER_RIGHT,))]
    result = grounding_metrics([(0, attention)], phrases, QUARTERS[None], objects, np.array([0]))
    assert result["o2w"] == pytest.approx(
        {"pointing_game": 100, "mass_on_words": 80, "pointing_game_of_object": 100, "mass_on_words_of_object": 80}
    )


def random_case(seed, n=13, t=5, k=4, m=3):
    rng = np.random.default_rng(seed)
    cap2im = rng.permutation(np.repeat(np.arange(n), 2))
    boxes = rng.random((n, k, 2, 2))
    regions = np.sort(boxes, axis=2).reshape(n, k, 4)
    objects = np.sort(rng.random((n, m, 2, 2)), axis=2).reshape(n, m, 4)

    def draw_box():
        return tuple(np.sort(rng.random((2, 2)), axis=0).ravel().tolist())

    phrases = [
        Phrase(
            int(caption),
            (int(rng.integers(t)),),
            str(rng.choice(["people", "animals", "count"])),
            tuple(draw_box() for _ in range(rng.integers(1, 3))),
        )
        for caption in rng.integers(0, 2 * n, 53)
    ]
    attentions = [
        (c, Weights(rng.dirichlet(np.ones(k), t), rng.dirichlet(np.ones(t), m))) for c in grounded_captions(phrases)
    ]
    return attentions, phrases, regions, objects, cap2im


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_a_loop_over_phrases(seed):
    attentions, phrases, regions, objects, cap2im = random_case(seed)
    result = grounding_metrics(iter(attentions), phrases, regions, objects, cap2im, bootstrap=0)
    known = dict(attentions)
    hits, masses, reads = [], [], []
    for phrase in phrases:
        if phrase.type == "count":
            continue
        image, boxes, (word,) = cap2im[phrase.caption], np.array(phrase.boxes), phrase.words
        attention = known[phrase.caption]
        x1, y1, x2, y2 = regions[image][attention.w2r[word].argmax()]
        hits.append(any(b[0] <= (x1 + x2) / 2 <= b[2] and b[1] <= (y1 + y2) / 2 <= b[3] for b in boxes))
        masses.append(
            sum(
                weight * share_inside(region[None], boxes)[0]
                for weight, region in zip(attention.w2r[word], regions[image])
            )
        )
        best = max(range(3), key=lambda m: overlap_ratio(objects[image][m : m + 1], boxes).max())
        reads.append(attention.o2w[best].argmax() == word)
    assert result["n_phrases"] == len(hits) and "ci95" not in result
    expected = {"pointing_game": 100 * np.mean(hits), "mass_in_box": 100 * np.mean(masses)}
    assert some(result["w2r"], *expected) == pytest.approx(expected)
    assert result["o2w"]["pointing_game"] == pytest.approx(100 * np.mean(reads))


def test_order_of_captions_changes_nothing_and_intervals_hold_the_point():
    attentions, phrases, *rest = random_case(7)
    result = grounding_metrics(attentions, phrases, *rest)
    reordered = grounding_metrics(attentions[::-1], phrases, *rest)
    for part in ("w2r", "o2w", "baselines"):
        assert reordered[part] == pytest.approx(result[part])
    for part in ("w2r", "o2w"):
        for name, (low, high) in result["ci95"][part].items():
            assert low < result[part][name] < high
    assert grounding_metrics(attentions, phrases, *rest)["ci95"] == result["ci95"]
    assert grounding_metrics(attentions, phrases, *rest, seed=1)["ci95"] != result["ci95"]


def test_even_attention_gets_the_baselines():
    attentions, phrases, *rest = random_case(11)
    even = [(c, Weights(np.full((5, 4), 0.25), np.full((3, 5), 0.2))) for c, _ in attentions]
    result = grounding_metrics(even, phrases, *rest)
    o2w, baselines = result["o2w"], result["baselines"]
    assert result["w2r"]["mass_in_box"] == pytest.approx(baselines["uniform_mass"])
    assert o2w["pointing_game"] == pytest.approx(baselines["uniform_words"])
    assert o2w["mass_on_words_of_object"] == pytest.approx(baselines["uniform_words_of_object"])


def test_words_cut_off_and_no_boxes():
    attention, phrases = small_case()
    short = Weights(attention.w2r[:4], attention.o2w[:, :4])  # "bars" was cut off
    assert grounding_metrics([(0, short)], phrases, QUARTERS[None], None, np.array([0]))["n_phrases"] == 2
    bare = [Phrase(0, (0,), "people", ())]
    assert grounded_captions(bare) == [] and grounded_captions(phrases) == [0]
    assert grounding_metrics([], bare, QUARTERS[None], None, np.array([0])) is None
    only = [phrase for phrase in phrases if phrase.type == "relation"]
    assert grounding_metrics([(0, attention)], only, QUARTERS[None], None, np.array([0]))["n_phrases"] == 1


def test_attention_that_does_not_fit_or_is_nan():
    attention, phrases = small_case()
    with pytest.raises(DataError, match="Caption row 0: attention has 4 regions and 4 objects.*49 and 49"):
        grounding_metrics([(0, attention)], phrases, grid(7, 7)[None], None, np.array([0]))
    attention.w2r[2, 1] = np.nan
    with pytest.raises(BssanError, match="caption row 0, image row 0"):
        grounding_metrics([(0, attention)], phrases, QUARTERS[None], None, np.array([0]))


def test_the_map_of_objects_by_hand():
    # "star" and "bars" are read by two objects each; the left half object and the whole picture
    place = layout(QUARTERS, np.array([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]))
    assert place.region_shares == pytest.approx(np.array([[0.5, 0, 0.5, 0], [0.25] * 4]), abs=1e-6)
    o2w = np.array([[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]])
    read = transposed_o2w(o2w, [0])
    assert read == pytest.approx([0.75, 0.25]) and transposed_o2w(o2w, [0, 1]) == pytest.approx([0.5, 0.5])
    laid = read @ place.region_shares
    assert laid == pytest.approx([0.4375, 0.0625, 0.4375, 0.0625])
    w2r_map = np.array([0.4, 0.4, 0.1, 0.1])
    both = np.array([0.4 * 0.4375, 0.4 * 0.0625, 0.1 * 0.4375, 0.1 * 0.0625])
    assert combine(w2r_map, laid, place.areas) == pytest.approx(both / both.sum())
    assert combine(np.array([1.0, 0, 0, 0]), np.array([0, 1.0, 0, 0]), place.areas).tolist() == [1, 0, 0, 0]


def test_content_words():
    tokens = "a man in his red hat".split()
    assert content_words([0, 1], tokens) == [1] and content_words([3, 4, 5], tokens) == [4, 5]
    assert content_words([3], tokens) == [3]  # nothing else is left


def test_content_words_are_measured_beside_all_words():
    attention = Weights(np.array([[0.9, 0.1, 0, 0], [0.2, 0.7, 0.1, 0]]), np.full((4, 2), 0.5), ["the", "star"])
    phrases = [Phrase(0, (0, 1), "people", (UPPER_RIGHT,))]
    result = grounding_metrics([(0, attention)], phrases, QUARTERS[None], None, np.array([0]))
    assert result["w2r"]["pointing_game"] == 0 and result["w2r_content_words"]["pointing_game"] == 100
    assert result["w2r"]["mass_in_box"] == pytest.approx(40)
    assert result["w2r_content_words"]["mass_in_box"] == pytest.approx(70)
    assert result["above"]["center"]["w2r"]["pointing_game"]["difference"] == -100  # the centre is a corner of the box
    assert result["above"]["center"]["w2r_content_words"]["pointing_game"]["difference"] == 0


@pytest.mark.parametrize("columns, rows", [(7, 7), (10, 10), (3, 5)])
def test_the_true_box_as_attention_gets_everything(columns, rows):
    place = layout(grid(rows, columns), grid(1, 1))
    boxes = np.array([[1 / columns, 1 / rows, 3 / columns, 3 / rows]])  # two by two whole regions
    true = target(place, boxes)
    numbers, curve = measure_map(true.share / true.share.sum(), place, true)
    part = 4 / (rows * columns)
    assert numbers == pytest.approx([1, numbers[1], 1, 1 - part / 2])
    assert curve == pytest.approx(np.minimum(1, AREAS / part), abs=1e-4)


@pytest.mark.parametrize("columns, rows", [(7, 7), (10, 10), (2, 2)])
def test_even_attention_gets_chance(columns, rows):
    place = layout(grid(rows, columns), grid(1, 1))
    true = target(place, np.array([[0.13, 0.07, 0.61, 0.83]]))
    (point, window, mass, area), curve = measure_map(np.full(rows * columns, 1 / (rows * columns)), place, true)
    assert point == pytest.approx(true.hit.mean()) and window == pytest.approx(true.window_hit.mean())
    assert mass == pytest.approx(0.48 * 0.76, abs=1e-6) and area == pytest.approx(0.5)
    assert curve == pytest.approx(AREAS)


def test_the_curve_by_hand():
    # regions of area 2, 1, 1; densities 0.1, 0.6, 0.2; of the box 0.5, 1 and 0 of them
    x, y = coverage_curve(np.array([0.2, 0.6, 0.2]), np.array([2.0, 1, 1]), np.array([0.5, 1, 0]))
    assert x.tolist() == [0, 0.25, 0.5, 1] and y.tolist() == [0, 0.5, 0.5, 1]
    assert area_under(x, y) == pytest.approx(0.0625 + 0.125 + 0.375)
    x, y = coverage_curve(np.array([0.2, 0.1, 0.1]), np.array([2.0, 1, 1]), np.array([0.5, 1, 0]))
    assert x.tolist() == [0, 1] and y.tolist() == [0, 1]  # equally dense
    assert coverage_curve(np.ones(2), np.ones(2), np.zeros(2))[1].tolist() == [0, 0]


def test_windows_by_hand():
    place = layout(grid(5, 5), grid(1, 1))
    assert place.windows.shape == (9, 25)  # three by three of them lie in the picture
    assert place.windows.sum(1) == pytest.approx([9] * 9, abs=1e-4)
    assert place.window_centres[0] == pytest.approx([0.3, 0.3])
    # one heavy region on the rim, and a heap further right that weighs more together
    weights = np.zeros((5, 5))
    weights[0, 0], weights[1:4, 2:5] = 0.37, 0.07
    heap, rim = np.array([[0.6, 0.4, 0.8, 0.6]]), np.array([[0.0, 0.0, 0.2, 0.2]])
    assert measure_map(weights.ravel(), place, target(place, heap))[0][:2] == [0, 1]
    assert measure_map(weights.ravel(), place, target(place, rim))[0][:2] == [1, 0]
    assert layout(QUARTERS, QUARTERS).windows == pytest.approx(np.eye(4))  # no window of three fits


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_regions_and_objects_changes_nothing(seed):
    attentions, phrases, regions, objects, cap2im = random_case(seed)
    rng = np.random.default_rng(seed)
    k, m = rng.permutation(regions.shape[1]), rng.permutation(objects.shape[1])
    permuted = [(c, Weights(one.w2r[:, k], one.o2w[m], one.words)) for c, one in attentions]
    found = grounding_metrics(attentions, phrases, regions, objects, cap2im, bootstrap=0)
    again = grounding_metrics(permuted, phrases, regions[:, k], objects[:, m], cap2im, bootstrap=0)
    for part in (*MAPS, "baselines"):  # "o2w" takes the first of objects that fit a box equally well
        assert again[part] == pytest.approx(found[part])
    for name, curve in found["curve"].items():
        assert again["curve"][name] == pytest.approx(curve)


def test_a_phrase_of_two_types_counts_under_both():
    attention = Weights(np.array([[0.1, 0.7, 0.1, 0.1]] * 2), np.full((4, 2), 0.5))
    phrases = [Phrase(0, (0,), "vehicles/scene", (UPPER_RIGHT,)), Phrase(0, (1,), "scene", ((0.0, 0.5, 0.5, 1.0),))]
    result = grounding_metrics([(0, attention)], phrases, QUARTERS[None], None, np.array([0]))
    assert {kind: row["n"] for kind, row in result["by_type"].items()} == {"vehicles": 1, "scene": 2}
    assert result["n_phrases"] == 2 and result["by_type"]["scene"]["w2r"]["pointing_game"] == 50


def test_differences_are_paired():
    attentions, phrases, *rest = random_case(5)
    result = grounding_metrics(attentions, phrases, *rest)
    for name in MAPS:
        apart = result["above"]["center"][name]["pointing_game"]
        assert apart["difference"] == pytest.approx(result[name]["pointing_game"] - result["baselines"]["center"])
        assert apart["ci95"][0] < apart["difference"] < apart["ci95"][1]
    # the centre itself, phrase by phrase, would differ by nothing: a map that always points there
    centre = np.array([[[0.4, 0.4, 0.6, 0.6], [0.0, 0.0, 0.1, 0.1], [0.0, 0.0, 0.2, 0.1], [0.0, 0.0, 0.1, 0.2]]] * 13)
    there = [(c, Weights(np.tile([0.97, 0.01, 0.01, 0.01], (5, 1)), one.o2w)) for c, one in attentions]
    apart = grounding_metrics(there, phrases, centre, rest[1], rest[2])["above"]["center"]["w2r"]["pointing_game"]
    assert apart["difference"] == 0 and apart["ci95"] == [0, 0]


def test_a_region_without_area_has_no_combined_weight():
    areas, w2r, o2w = np.array([0.5, 0.0, 0.25]), np.array([0.2, 0.3, 0.5]), np.array([0.4, 0.5, 0.1])
    # densities 0.2 * 0.4 / 0.5 = 0.16 and 0.5 * 0.1 / 0.25 = 0.2
    with np.errstate(all="raise"):
        assert combine(w2r, o2w, areas) == pytest.approx([0.16 / 0.36, 0.0, 0.2 / 0.36])


def test_words_that_no_object_attends_to_are_spread_evenly():
    o2w = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    with np.errstate(all="raise"):
        found = transposed_o2w(o2w, [1])
    assert found.tolist() == [0.25] * 4 and transposed_o2w(o2w, [0]).dtype == np.float64


def test_maps_are_float64_and_sum_to_one():
    rng = np.random.default_rng(3)
    attention = Weights(
        rng.dirichlet(np.ones(4), 5).astype(np.float32), rng.dirichlet(np.ones(5), 4).astype(np.float32)
    )
    for weights in phrase_maps(attention, [1, 3], layout(QUARTERS, QUARTERS)).values():
        assert weights.dtype == np.float64 and weights.sum() == pytest.approx(1, abs=1e-6)


def test_curves_of_all_maps_and_of_the_true_boxes():
    # A picture in a left strip of a quarter and a right part of three quarters; the true box is the strip and a third of
    # the rest. The strip is wholly true, so it is taken first: after it, half of the true area is found.
    regions = np.array([[0.0, 0.0, 0.25, 1.0], [0.25, 0.0, 1.0, 1.0]])
    attention = Weights(np.array([[0.9, 0.1]]), np.ones((2, 1)))
    phrases = [Phrase(0, (0,), "people", ((0.0, 0.0, 0.5, 1.0),)), Phrase(0, (0,), "count", ((0.0, 0.0, 1.0, 1.0),))]
    result = grounding_metrics([(0, attention)], phrases, regions[None], None, np.array([0]))
    curve = result["curve"]
    assert set(curve) == {"area", "true_box", *MAPS}
    assert curve["area"] == pytest.approx(list(range(0, 101, 5)))
    expected = [2 * x if x <= 25 else 50 + (x - 25) * 2 / 3 for x in range(0, 101, 5)]  # of the person alone
    assert curve["true_box"] == pytest.approx(expected) and curve["w2r"] == pytest.approx(expected)
    assert result["baselines"]["true_box_area_under_curve"] == pytest.approx(25 * 0.25 + 75 * 0.75)


def test_captions_without_phrases_are_skipped_and_cut_words_do_not_count():
    attention, phrases = small_case()
    cut = Weights(attention.w2r[:4], attention.o2w[:, :4])
    same_box = [*phrases[:1], Phrase(0, (4,), "colour", (UPPER_RIGHT,))]  # its word 4 was cut off
    expected = grounding_metrics([(0, cut)], phrases[:1], QUARTERS[None], None, np.array([0, 0]))
    found = grounding_metrics([(1, attention), (0, cut)], same_box, QUARTERS[None], None, np.array([0, 0]))
    assert found == expected


def test_differences_are_of_maps_and_pointing_games_alone():
    attention, phrases = small_case()
    result = grounding_metrics([(0, attention)], phrases, QUARTERS[None], None, np.array([0]), bootstrap=0)
    assert set(result["above"]) == {"center"} and set(result["above"]["center"]) == set(MAPS)
    for row in result["above"]["center"].values():
        assert set(row) == {"pointing_game", "pointing_game_window"}


def test_samples_and_seed_by_default():
    attentions, phrases, *rest = random_case(3)
    expected = grounding_metrics(attentions, phrases, *rest, 1000, 0)
    assert grounding_metrics(attentions, phrases, *rest) == expected
    assert grounding_summary(measure_phrases(attentions, phrases, *rest)) == expected


def test_a_measure_for_each_number():
    with pytest.raises(ValueError, match="shorter"):
        PhraseMeasures().add("w2r", ("pointing_game", "mass_in_box"), (0.5,))
