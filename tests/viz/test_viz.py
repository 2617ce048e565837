"""What is drawn is what was given: artists, scales, sizes, fonts and pages are read back, not pixels."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyBboxPatch
from PIL import Image

matplotlib.use("Agg")

from bssan_lib import viz
from bssan_lib.errors import ConfigError, DataError, RunError
from bssan_lib.runs import repository_root
from bssan_lib.viz import pictures, spotlight, style
from bssan_lib.viz.boxes import spread_objects

NASTY = '$x_1^2$ _under_ "quotes" <b>&amp; 50% \\frac 日本語 🐕 שלום \t\x07 -- \ud800'
WORDS = ["a", "$red_", "ball^2", "日本語", "🐕", '"left"', "of", "boxes"]
WINDOWS = np.array([[j / 7, i / 7, (j + 3) / 7, (i + 3) / 7] for i in range(5) for j in range(5)])
CELLS = np.array([[j / 7, i / 7, (j + 1) / 7, (i + 1) / 7] for i in range(7) for j in range(7)])


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def picture(width=130, height=70):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def softmax(rows, columns, seed=0):
    z = np.exp(np.random.default_rng(seed).normal(size=(rows, columns)))
    return z / z.sum(axis=1, keepdims=True)


def attention(words=WORDS, regions=49, objects=25):
    return SimpleNamespace(w2r=softmax(len(words), regions), o2w=softmax(objects, len(words), 1), words=list(words))


def history(epochs=5, shift=0.0):
    return [
        {
            "epoch": e,
            "step": 7 * e,
            "loss": 3 / e + shift,
            "temperature_w": 9 + e,
            "temperature_o": 9 - e,
            "gate": 0.6,
            "dev": {
                "rsum": 20.0 * e + shift,
                "i2t": {"R@1": 3.0 * e, "R@5": 5.0 * e, "R@10": 7.0 * e},
                "t2i": {"R@1": 2.0 * e, "R@5": 4.0 * e, "R@10": 6.0 * e},
            },
        }
        for e in range(1, epochs + 1)
    ]


def metrics(shift=0.0):
    way = {"R@1": 11.0 + shift, "R@5": 23.0 + shift, "R@10": 31.0 + shift}
    spans = {k: [v - 3, v + 2] for k, v in way.items()}
    return {"i2t": way, "t2i": {k: v - 5 for k, v in way.items()}, "ci95": {"i2t": spans, "t2i": spans}}


def table(shift=0.0):
    return {
        "w2r": {"pointing_game": 61.0 - shift, "mass_in_box": 44.0 - shift},
        "o2w": {"pointing_game": 41.0, "mass_on_words": 29.0},
        "baselines": {"center": 53.0 - shift, "uniform_mass": 29.0 - shift, "uniform_words": 13.0},
    }


GROUNDING = {
    **table(),
    "n_phrases": 97,
    "ci95": {"w2r": {"pointing_game": [59, 63], "mass_in_box": [43, 46]}},
    "by_type": {
        "people": {"n": 53, **table(2)},
        "body parts": {"n": 11, **table(5)},
        "animals": {"n": 19, **table(7)},
        "vehicles": {"n": 7, **table(11)},
        "instruments": {"n": 5, **table(13)},
        "scene": {"n": 2, **table(17)},
    },
}
PAIRS = {
    "colour": {"n": 13, "text": 61.0, "image": 47.0, "group": 31.0},
    "relation": {"n": 17, "text": 29.0, "image": 23.0, "group": 11.0},
    "all": {"n": 30, "text": 43.0, "image": 33.0, "group": 19.0},
    "chance": {"text": 25.0, "image": 25.0, "group": 100 / 6},
}


SHARES = pd.DataFrame(
    {"count": [13, 7], "share": [100.0, 41.0], "low": [77.0, 19.0], "high": [100.0, 67.0]}, index=["3", "4–11"]
)


def pointing(shift=0.0):
    maps = {
        name: {"pointing_game": 60.0 + n - shift, "mass_in_box": 40.0 + n, "area_under_curve": 70.0 + n}
        for n, name in enumerate(("w2r", "combined", "prior"))
    }
    spans = {name: {key: [value - 2, value + 3] for key, value in row.items()} for name, row in maps.items()}
    return {
        **maps,
        "baselines": {"center": 53.0 - shift, "true_box_area_under_curve": 84.0},
        "ci95": {**spans, "baselines": {"center": [50.0 - shift, 56.0 - shift]}},
    }


MAPPED = {
    **pointing(),
    "n_phrases": 97,
    "by_type": {NASTY: {"n": 11, **pointing(5)}, "people": {"n": 53, **pointing(2)}},
    "curve": {"area": [0, 50, 100], "w2r": [0, 71, 100], "prior": [0, 67, 100], "true_box": [0, 97, 100]},
}
DELETION = {"removed": [0, 10, 50], "pairs": 29} | {
    order: {
        "own": [0.43, 0.43 - step, 0.43 - 2 * step],
        "others": [0.11, 0.1, 0.07],
        "own_ci95": [[0.41, 0.47], [0.3, 0.5], [0.2, 0.5]],
        "lead": [0.32, 0.31 - step, 0.29 - 2 * step],
    }
    for order, step in (("most", 0.07), ("random", 0.01), ("least", -0.02))
}
KINDS = pd.DataFrame(
    {"count": [31, 17], "regions": [23.0, 37.0], "o2w_share": [1.3, 0.7], "regions_ci95": [[19, 29], [31, 41]]},
    index=["animals", "function words"],
)
SAID = pd.DataFrame(
    {"count": range(41, 34, -1), "regions": [11.0, 13, 17, 19, 23, 29, 31]},
    index=["dog", "ball", NASTY, "a", "of", "is", "under"],
)

RETRIEVED = np.array([[0.71, 0.53, 0.31], [0.67, 0.59, 0.13]])
RIGHT = np.array([[True, False, False], [False, False, True]])

WAY = {
    "sizes": [1, 2, 5, 10, 50, 1000],
    "R@1": [31.0, 37.0, 41.0, 42.0, 43.0, 43.0],
    "R@5": [31.0, 47.0, 61.0, 67.0, 71.0, 73.0],
    "R@10": [31.0, 47.0, 61.0, 73.0, 79.0, 83.0],
    "exact": {"R@1": 43.0, "R@5": 73.0, "R@10": 83.0},
}
CURVE = {
    "t2i": {**WAY, "gallery": 1000, "one_in_twenty": {"shortlist": 50}},
    "i2t": {**WAY, "sizes": [1, 2, 5, 10, 250, 5000], "gallery": 5000, "one_in_twenty": {"shortlist": 250}},
}
GROWTH = [
    {
        "images": n,
        "ms": {
            "stage_1": {"p50": n / 4e4, "p95": n / 2e4},
            "stage_2": {"p50": 61.0, "p95": 83.0},
            "whole": {"p50": 67.0, "p95": 97.0},
        },
        "disk_mib": n * 0.067,
        "peak_rss_mib": 700 + n * 0.03,
        "own_memory_mib": 310 + n / 2048,
        "vectors_mib": n / 2048,
    }
    for n in (1000, 10000, 100000)
]

FIGURES = {
    "shortlist_curves": lambda width: viz.shortlist_curves(CURVE, width=width),
    "gallery_growth": lambda width: viz.gallery_growth(GROWTH, width=width),
    "word_panels": lambda width: viz.word_panels(
        picture(), attention().w2r, WORDS, caption=NASTY, true_boxes={2: [[0.1, 0.2, 0.5, 0.9]]}, width=width
    ),
    "word_panels of boxes": lambda width: viz.word_panels(
        picture(), softmax(2, 25), ["a ball", NASTY], boxes=WINDOWS, width=width
    ),
    "region_grid": lambda width: viz.region_grid(picture(), object_boxes=WINDOWS, width=width),
    "grid_sizes": lambda width: viz.grid_sizes(picture(), {"3 x 3": 3, "7 x 7": 7}, width=width),
    "holm_dots": lambda width: viz.holm_dots({"a": 0.5, NASTY: 0.001}, width=width),
    "matrix_panel": lambda width: viz.matrix_panel(
        softmax(3, 5),
        ["dog", NASTY, "on"],
        list("abcde"),
        title=NASTY,
        annotate=True,
        text=NASTY,
        row_title="word",
        column_title="region",
        width=width,
    ),
    "alignment": lambda width: viz.alignment(attention(), title=NASTY, width=width),
    "links": lambda width: viz.links(attention(), title=NASTY, width=width),
    "links with pictures": lambda width: viz.links(
        attention(), image=picture(), boxes=CELLS, object_boxes=WINDOWS, width=width
    ),
    "phrase_boxes": lambda width: viz.phrase_boxes(
        picture(), softmax(2, 25), WINDOWS, ["a ball", NASTY], true_boxes=[[[0, 0, 1, 1]], []], width=width
    ),
    "object_words": lambda width: viz.object_words(picture(), attention().o2w, WINDOWS, WORDS, width=width),
    "retrieved_images": lambda width: viz.retrieved_images(
        [NASTY, "a red ball " * 31],
        [[picture(), picture(70, 90), picture()]] * 2,
        RETRIEVED,
        RIGHT,
        width=width,
        own=[(picture(), 37), (picture(70, 130), 5)],
        attention=[list(softmax(3, 49))] * 2,
    ),
    "retrieved_captions": lambda width: viz.retrieved_captions(
        [picture(), picture(70, 90)],
        [[NASTY, "two", "a red ball " * 31]] * 2,
        RETRIEVED,
        RIGHT,
        width=width,
        own=[(NASTY, 37), ("one", 5)],
    ),
    "retrieved_captions with attention": lambda width: viz.retrieved_captions(
        [picture(), picture(70, 90)],
        [[NASTY, "two", "a red ball " * 31]] * 2,
        -RETRIEVED,
        attention=[list(softmax(3, 49))] * 2,
        width=width,
    ),
    "growth_curve": lambda width: viz.growth_curve(
        {"plain": ([10, 100, 1000], [0.1, 1.0, 10.0]), NASTY: ([10, 100, 1000], [[1, 2, 4], [3, 3, 9], [5, 6, 7]])},
        "images " + NASTY,
        "seconds $t_1$",
        title=NASTY,
        width=width,
    ),
    "comparison_dots": lambda width: viz.comparison_dots(
        {"joint": {"image to text R@1": (31, 29, 37), "R@5": 53.0}, NASTY: {"R@5": (43, 41, 47), "R@10": -7.0}},
        xlabel="recall (%)",
        reference={"R@5": 11.0},
        title=NASTY,
        width=width,
    ),
    "training_curves": lambda width: viz.training_curves([history(), history(3, 0.5)], width=width),
    "recall_bars": lambda width: viz.recall_bars({"joint": metrics(), NASTY: metrics(3)}, width=width),
    "grounding_bars": lambda width: viz.grounding_bars(GROUNDING, width=width),
    "pointing_dots": lambda width: viz.pointing_dots(MAPPED, width=width),
    "coverage_curves": lambda width: viz.coverage_curves(MAPPED, width=width),
    "deletion_lines": lambda width: viz.deletion_lines(DELETION, width=width),
    "word_dots": lambda width: viz.word_dots(KINDS, SAID, regions=49, most=2, shown=["a", NASTY], width=width),
    "score_matrix": lambda width: viz.score_matrix(softmax(5, 13), np.arange(13) % 5, title=NASTY, width=width),
    "attention_on_grid": lambda width: viz.attention_on_grid(softmax(3, 3), (0.4, 0, 1, 0.7), title=NASTY, width=width),
    "resampled_histogram": lambda width: viz.resampled_histogram(
        np.linspace(3, 11, 97), 7, (5, 9), xlabel="R@1 $_x$", width=width
    ),
    "group_shares": lambda width: viz.group_shares(
        {"words": {"own": SHARES, "$any_": SHARES}, "boxes": {"own": SHARES}}, ylabel="R@1 (%)", width=width
    ),
    "pair_bars": lambda width: viz.pair_bars(PAIRS, width=width),
}


def texts(figure):
    return [one.get_text() for one in figure.findobj(matplotlib.text.Text) if one.get_text() and one.get_visible()]


def meshes(axes):
    return [one for one in axes.collections if isinstance(one, matplotlib.collections.QuadMesh)]


def page_inches(pdf: bytes):
    box = re.search(rb"/MediaBox \[ ?([\d. ]+?) ?\]", pdf)
    left, low, right, high = map(float, box.group(1).split())
    return (right - left) / 72, (high - low) / 72


# -- every figure, both widths


@pytest.mark.parametrize("width, inches", [("one", 3.25), ("two", 6.75)])
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("ignore:Glyph", "ignore:no font here")
def test_page_is_as_wide_as_asked_fonts_are_embedded_and_no_text_is_cut_or_hidden(
    name, width, inches, tmp_path, monkeypatch
):
    figure, axes, mappable = FIGURES[name](width)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert all(isinstance(one, matplotlib.axes.Axes) for one in np.ravel(axes))
    assert mappable is None or isinstance(mappable, matplotlib.cm.ScalarMappable)

    drawn, draw = set(), matplotlib.text.Text.draw  # ticks beyond the limits have texts which are never drawn
    monkeypatch.setattr(matplotlib.text.Text, "draw", lambda text, *rest: (drawn.add(text), draw(text, *rest)))
    figure.canvas.draw()
    assert not [one.get_text() for one in drawn if one.get_fontsize() < 6], "smaller than 6 points"
    # Only scales may hold mathematics; every caption and name is drawn as it stands.
    assert not [one.get_text() for one in drawn if "$" in one.get_text() and one.get_parse_math()]
    boxes = [(one.get_text(), one.get_window_extent(), one.get_rotation()) for one in drawn if one.get_text().strip()]
    for i, (text, box, turned) in enumerate(boxes):
        within = box.x0 > -2 and box.y0 > -2 and box.x1 < figure.bbox.x1 + 2 and box.y1 < figure.bbox.y1 + 2
        assert within, f"{text!r} goes beyond the page: {box}"
        for other, second, also_turned in boxes[:i]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            down = min(box.y1, second.y1) - max(box.y0, second.y0)
            # Two pixels at 110 an inch: a text's extent has room for accents and descenders.
            # Extents of slanted names overlap where the names do not.
            slanted = turned % 90 or also_turned % 90
            assert slanted or across <= 2 or down <= 2, f"{text!r} and {other!r} overlap"

    (path,) = viz.save_figure(figure, tmp_path / "figure", ("pdf",))
    pdf = path.read_bytes()
    assert page_inches(pdf) == pytest.approx((inches, figure.get_figheight()), abs=0.005)
    assert re.search(rb"/Subtype /(TrueType|CIDFontType2)", pdf) and b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_figures_leave_settings_alone_and_show_nothing(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("a figure function showed a window"))
    before = dict(matplotlib.rcParams)
    viz.alignment(attention())
    assert dict(matplotlib.rcParams) == before


def test_own_width_and_wrong_widths():
    assert viz.alignment(attention(), width=5.0)[0].get_figwidth() == 5.0
    for wrong in ("three", 0.0, -3.25, float("nan"), True):
        with pytest.raises(ConfigError, match="3.25"):
            viz.alignment(attention(), width=wrong)


# -- texts and files


@pytest.mark.filterwarnings("error", "ignore:no font here")
def test_any_caption_is_saved_in_every_format_without_a_warning_but_of_missing_fonts(tmp_path):
    with style.paper_style():
        figure, axes, _ = viz.word_panels(picture(), softmax(1, 49), [NASTY], caption=NASTY, width="one")
    written = viz.save_figure(figure, tmp_path / "new folder" / "fig.v2", note={"caption": NASTY, "seed": 7})
    assert [path.name for path in written] == ["fig.v2.pdf", "fig.v2.svg", "fig.v2.png", "fig.v2.txt"]
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(path.name for path in written)
    ElementTree.parse(written[1])
    with Image.open(written[2]) as png:
        assert png.size[0] == 975
    assert any(text.startswith("$x_1^2$ _under_") for text in texts(figure))


def test_svg_page_has_the_width(tmp_path):
    (path,) = viz.save_figure(viz.alignment(attention(), width="two")[0], tmp_path / "a.pdf", ("svg",))
    assert path.name == "a.svg"
    assert float(ElementTree.parse(path).getroot().get("width").removesuffix("pt")) / 72 == pytest.approx(6.75)


def test_note_tells_what_a_caption_needs(tmp_path):
    note = {"image": "ball.png", "caption": "a $red ball\nand", "direction": "w2r", "temperature": 9.5, "score": 0.31}
    figure, _, _ = viz.alignment(attention())
    paths = viz.save_figure(figure, tmp_path / "a", formats=(), note=note)
    assert paths[0].read_text(encoding="utf-8") == (
        "image: ball.png\ncaption: a $red ball and\ncheckpoint: not given\ndirection: w2r\ntemperature: 9.5\n"
        "seed: not given\nscore: 0.31\n"
    )


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        viz.save_figure(viz.alignment(attention())[0], tmp_path / name / "figure")
    for ending in style.FORMATS:
        first, second = ((tmp_path / name / f"figure.{ending}").read_bytes() for name in ("a", "b"))
        assert first == second, ending


def test_a_figure_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    figure, _, _ = viz.alignment(attention())
    with pytest.raises(RunError, match="cannot write the figure"):
        viz.save_figure(figure, tmp_path / "file" / "a")
    with pytest.raises(ConfigError, match="pdf, svg, png"):
        viz.save_figure(figure, tmp_path / "a", ("docx",))


def test_wrap_and_fit_stay_within_their_width_and_keep_the_words():
    long = "one two three four five six seven " * 3
    lines = style.wrap(long, 1.5, lines=20).split("\n")
    assert " ".join(lines) == long.strip() and all(style.text_width(line) <= 1.5 for line in lines)
    assert style.wrap("日本語" * 20, 1.0, lines=50).replace("\n", "") == "日本語" * 20
    cut = style.wrap(long, 1.0, lines=2)
    assert cut.count("\n") == 1 and cut.endswith("…")
    assert style.fit("short", 3) == "short" and style.text_width(style.fit(long, 1.0)) <= 1.0
    assert style.wrap("", 1.0) == ""


def test_colours_grow_brighter_with_the_value():
    weights = np.array([0.2126, 0.7152, 0.0722])
    plain = matplotlib.colormaps[style.SEQUENTIAL](np.linspace(0, 1, 256))[:, :3] @ weights
    overlay = style.attention_colours()(np.arange(256))
    for ground in (0.0, pictures.DIM):  # over the darkest and the lightest that a dimmed picture holds
        laid = overlay[:, :3] @ weights * overlay[:, 3] + ground * (1 - overlay[:, 3])
        assert (np.diff(laid) > 0).all()
    assert (np.diff(plain) > -1e-3).all() and plain[-1] - plain[0] > 0.7


# -- heatmaps


def test_word_panels_draw_the_weights_on_one_scale_at_true_aspect():
    weights = softmax(3, 6)
    image = picture(130, 70)
    figure, axes, mappable = viz.word_panels(
        image, weights, ["a", "ball", "<pad>"], grid=(2, 3), true_boxes={1: [[0.1, 0.2, 0.5, 0.7]]}
    )
    assert len(axes) == 3  # the picture and two words: padding is no word
    assert [one.get_title() for one in axes] == ["picture", "a", "ball"]
    assert not meshes(axes[0])
    for t, one in enumerate(axes[1:]):
        (mesh,) = meshes(one)
        np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(2, 3), weights[t].reshape(2, 3))
        assert (mesh.norm.vmin, mesh.norm.vmax) == (0, weights[:2].max())
        mesh.update_scalarmappable()
        opacity = mesh.get_facecolors()[:, 3]
        assert (np.diff(opacity[np.argsort(weights[t])]) >= 0).all()
        corners = mesh.get_coordinates()
        assert corners[0, 0].tolist() == [0, 0] and corners[-1, -1].tolist() == [130, 70]
    figure.canvas.draw()
    for one in axes:
        box = one.get_window_extent()
        assert box.height / box.width == pytest.approx(70 / 130, rel=0.01)
    (true_box,) = [one for one in axes[2].patches if one.get_gid() == "true box"]
    assert (true_box.get_x(), true_box.get_y()) == pytest.approx((13, 14))
    assert (true_box.get_width(), true_box.get_height()) == pytest.approx((52, 35))
    assert not axes[1].patches
    (bar,) = [one for one in figure.axes if one not in axes]
    assert bar.get_xlabel() == "attention; each word's sums to one over the regions"
    assert mappable.norm.vmax == weights[:2].max()


def test_word_panels_dim_the_picture_and_keep_the_first():
    _, axes, _ = viz.word_panels(picture(), softmax(1, 49), ["ball"])
    first, second = (np.asarray(one.images[0].get_array()) for one in axes)
    np.testing.assert_array_equal(first, np.asarray(picture()))
    assert second.max() <= 255 * pictures.DIM and (np.ptp(second, axis=2) == 0).all()


def test_a_spotlight_keeps_the_colours_under_the_heaviest_region_alone():
    weights, image = np.array([[0.5, 0.2, 0.0, 0.1, 0.1, 0.1]]), Image.new("RGB", (130, 70), (200, 40, 40))
    _, axes, mappable = viz.word_panels(image, weights, ["ball"], grid=(2, 3), style="spotlight")
    (mesh,) = meshes(axes[1])
    mesh.update_scalarmappable()
    opacity = mesh.get_facecolors()[:, 3]
    assert opacity[0] == 0 and opacity.argmax() == 2 and (np.diff(opacity[np.argsort(-weights[0])]) >= 0).all()
    under = np.asarray(axes[1].images[0].get_array())
    assert under[5, 5].tolist() == [200, 40, 40] and np.ptp(under[5, -5]) == 0  # colour, and grey without attention
    assert mappable.norm.vmax == 0.5
    with pytest.raises(ConfigError, match="one of heat, spotlight"):
        viz.word_panels(image, weights, ["ball"], grid=(2, 3), style="dark")


def test_in_a_spotlight_the_heaviest_of_overlapping_boxes_counts():
    light = spotlight.light_of_boxes(np.array([0.2, 0.7]), np.array([[0, 0, 0.5, 1], [0.25, 0, 0.75, 0.5]]), (8, 4))
    np.testing.assert_allclose(light[0], [0.2, 0.2, 0.7, 0.7, 0.7, 0.7, 0, 0])
    np.testing.assert_allclose(light[3], [0.2, 0.2, 0.2, 0.2, 0, 0, 0, 0])
    assert spotlight.light_of_boxes(np.ones(1), np.array([[0, 0, 1, 1]]), (1200, 600)).shape == (150, 300)
    boxes = [[0, 0, 0.5, 1], [0.25, 0, 0.75, 0.5]]
    _, axes, mappable = viz.word_panels(picture(), [[0.3, 0.7]], ["ball"], boxes=boxes, style="spotlight")
    assert len(axes[1].images) == 2 and mappable.get_array().max() == 0.7


def test_chosen_words_and_a_chosen_scale():
    weights = softmax(5, 49)
    _, axes, mappable = viz.word_panels(picture(), weights, list("abcde"), only=[3, 1], top=0.01)
    assert [one.get_title() for one in axes] == ["picture", "d", "b"]
    assert mappable.norm.vmax == 0.01


def test_boxes_have_lines_as_wide_as_their_weight():
    weights = np.array([[0.1, 0.6, 0.3]])
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.2, 0.2, 0.4, 0.4]]
    _, axes, _ = viz.word_panels(picture(100, 50), weights, ["ball"], boxes=boxes)
    drawn = axes[1].patches
    assert [round(one.get_linewidth(), 3) for one in drawn] == [round(0.2 + 2.3 * w / 0.6, 3) for w in (0.1, 0.3, 0.6)]
    assert (drawn[2].get_x(), drawn[2].get_y(), drawn[2].get_width()) == (50, 25, 50)


def test_region_grid_numbers_every_cell():
    figure, axes, _ = viz.region_grid(picture(), grid=(2, 3), object_boxes=WINDOWS, objects=[5, 23])
    assert [one.get_text() for one in axes[0].texts] == list("012345")
    assert [one.get_text() for one in axes[1].texts] == ["5", "23"]
    x, y = axes[0].texts[4].get_position()
    assert (x, y) == pytest.approx((65, 52.5))
    assert len(viz.region_grid(picture(), grid=(2, 3))[1]) == 1


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: viz.word_panels(picture(), softmax(2, 49), ["one"]), r"\[1, any\], got \[2, 49\]"),
        (lambda: viz.word_panels(picture(), softmax(1, 36), ["one"]), r"36 regions do not fill a grid of \(7, 7\)"),
        (lambda: viz.word_panels(None, softmax(1, 49), ["one"]), "prepared without pictures"),
        (lambda: viz.word_panels(picture(), softmax(1, 49) * np.nan, ["one"]), "finite"),
        (lambda: viz.word_panels(picture(), softmax(1, 49), ["one"], only=[1]), "1 words to show"),
        (lambda: viz.phrase_boxes(picture(), softmax(1, 25), WINDOWS * 130, "one"), "divide pixels"),
        (lambda: viz.phrase_boxes(picture(), softmax(1, 25), CELLS, "one"), r"\[25, 4\].*got \[49, 4\]"),
        (lambda: viz.alignment(SimpleNamespace(w2r=softmax(2, 5), o2w=softmax(3, 7), words=["a", "b"])), "O2W"),
        (lambda: viz.matrix_panel(softmax(2, 3), rows=["a"]), "2 rows, got 1"),
        (lambda: viz.retrieved_images(["a"], [[picture()]], [[0.5, 0.3]], [[True, False]]), "Q queries"),
        (lambda: viz.training_curves([]), "at least one row"),
        (lambda: viz.recall_bars({}), "at least one row"),
        (lambda: viz.grounding_bars(GROUNDING, direction="r2w"), "r2w"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(DataError, match=said):
        call()


# -- matrices and lines


def test_alignment_is_two_vector_matrices_on_one_scale(tmp_path):
    one = attention(list("abcde"), regions=7, objects=3)
    figure, axes, mappable = viz.alignment(one)
    (w2r,), (o2w,) = meshes(axes[0]), meshes(axes[1])
    np.testing.assert_allclose(np.asarray(w2r.get_array()).reshape(5, 7), one.w2r)
    np.testing.assert_allclose(np.asarray(o2w.get_array()).reshape(3, 5), one.o2w)
    highest = max(one.w2r.max(), one.o2w.max())
    assert w2r.norm is o2w.norm is mappable.norm and (w2r.norm.vmin, w2r.norm.vmax) == (0, highest)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list("abcde")
    assert [label.get_text() for label in axes[1].get_xticklabels()] == list("abcde")
    assert axes[0].yaxis_inverted() and axes[1].yaxis_inverted()  # row 0 on top
    assert mappable.norm.gamma == 0.5
    assert "attention; the rows of either matrix sum to one; square-root scale" in texts(figure)
    linear = viz.alignment(one, power=1)[2].norm
    assert type(linear) is matplotlib.colors.Normalize and linear.vmax == highest
    (path,) = viz.save_figure(figure, tmp_path / "a", ("pdf",))
    assert b"/Subtype /Image" not in path.read_bytes()


def test_matrix_panel_prints_numbers_and_draws_in_given_axes():
    values = np.array([[0.25, -0.5, 1.0], [0.125, 0.0, 0.75]])
    figure, own = plt.subplots()
    got, axes, mappable = viz.matrix_panel(values, ["p", "q"], ["x", "y", "z"], annotate=".3f", axes=own, text="bar")
    assert got is figure and axes is own and figure.axes == [own]
    assert [one.get_text() for one in axes.texts] == ["0.250", "-0.500", "1.000", "0.125", "0.000", "0.750"]
    assert axes.texts[5].get_position() == (2.5, 1.5)
    assert (mappable.norm.vmin, mappable.norm.vmax) == (-0.5, 1.0)


def test_links_are_as_opaque_as_their_weight():
    one = attention(["a", "b"], regions=5, objects=3)
    figure, axes, mappable = viz.links(one, most=3)
    for side, weights, even in zip(axes, (one.w2r, one.o2w.T), (5, 2)):
        chosen = np.sort(spread_objects(weights.T, 3))
        (lines,) = side.collections
        multiples = weights[:, chosen].ravel() * even
        np.testing.assert_allclose(lines.get_array(), np.sort(multiples[multiples >= 1]))
        assert lines.norm is mappable.norm
        lines.update_scalarmappable()
        opacity = lines.get_colors()[:, 3]
        np.testing.assert_allclose(opacity, lines.get_array() / mappable.norm.vmax, atol=0.005)
        assert [text.get_text() for text in side.texts[2:]] == [str(number) for number in chosen]
    assert mappable.norm.vmax == max(5 * one.w2r.max(), 2 * one.o2w.max())
    (bar,) = [one for one in figure.axes if one not in axes]
    said = " ".join(bar.get_xlabel().split())
    assert "1/5 a region (W2R), 1/2 a word (O2W); attention sums to one over all regions, all words" in said


# -- boxes


def test_phrase_boxes_print_the_heaviest_with_lines_by_weight():
    weights = np.array([0.05, 0.4, 0.25, 0.3])
    boxes = np.array([[0, 0, 0.2, 0.2], [0.1, 0.5, 0.3, 0.9], [0.5, 0.1, 0.7, 0.5], [0.6, 0.6, 1, 1]])
    figure, (axes,), _ = viz.phrase_boxes(picture(100, 50), weights, boxes, "a red ball", most=3)
    assert axes.get_title() == "a red ball" and [one.get_text() for one in axes.texts] == [".40", ".30", ".25"]
    drawn = [one for one in axes.patches if one.get_gid() == "region"]
    assert [one.get_linewidth() for one in drawn] == pytest.approx([0.3 + 2.7 * w / 0.4 for w in (0.25, 0.3, 0.4)])
    assert drawn[2].get_bbox().extents == pytest.approx([10, 25, 30, 45])
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 100), (50, 0))


def test_object_words_print_the_heaviest_words():
    o2w = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    figure, axes, _ = viz.object_words(picture(), o2w, WINDOWS[:3], ["dog", "on", "grass"], objects=[1], most=2)
    assert [one.get_text() for one in axes[0].texts] == ["grass", ".70", "on", ".20"]
    _, axes, _ = viz.object_words(picture(), o2w, WINDOWS[:3], ["dog", "on", "grass"])
    # Object 2 comes before 0, which has the same heaviest word and therefore comes last.
    assert [one.get_title() for one in axes] == ["object 1", "object 2", "object 0"]


# -- retrieval


def test_right_pictures_are_marked_by_sign_and_colour():
    laid = softmax(6, 49).reshape(2, 3, 49)
    figure, axes, mappable = viz.retrieved_images(
        ["a red ball", "a box"],
        [[picture()] * 3] * 2,
        RETRIEVED,
        RIGHT,
        own=[(picture(), 37), (picture(), 2)],
        attention=laid,
    )
    assert axes.shape == (2, 4)
    for q in range(2):
        for r in range(3):
            (text,), (frame,) = axes[q, r].texts, axes[q, r].patches
            assert text.get_text() == f"{'✓' if RIGHT[q, r] else '✗'} {RETRIEVED[q, r]:.3f}"
            colour = style.RIGHT if RIGHT[q, r] else style.WRONG
            assert text.get_color() == colour and frame.get_edgecolor() == matplotlib.colors.to_rgba(colour)
            assert frame.get_linestyle() == ("-" if RIGHT[q, r] else ":")
            (mesh,) = meshes(axes[q, r])
            np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), laid[q, r])
            assert mesh.norm.vmax == laid.max()
        assert axes[q, 3].texts[0].get_text() == f"own: rank {[37, 2][q]}"
    assert {"a red ball", "a box"} <= set(texts(figure))


def test_right_captions_are_marked_and_the_own_one_told():
    figure, axes, _ = viz.retrieved_captions(
        [picture()], [["one $", "two", "three"]], [[0.5, 0.25, 0.125]], [[False, True, False]], own=[("three", 11)]
    )
    drawn = [(one.get_text(), one.get_color()) for one in axes[0, 1].texts]
    assert drawn == [
        ("✗ 0.500", style.WRONG),
        ("one $", "black"),
        ("✓ 0.250", style.RIGHT),
        ("two", style.RIGHT),
        ("✗ 0.125", style.WRONG),
        ("three", "black"),
        ("own, rank 11: three", "black"),
    ]


# -- curves and bars


def test_training_curves_show_one_history_as_it_is():
    figure, axes, _ = viz.training_curves(history())
    (loss,) = axes[0].lines
    np.testing.assert_allclose(loss.get_xydata(), [[e, 3 / e] for e in range(1, 6)])
    assert [line.get_label() for line in axes[1].lines] == ["i2t R@1", "i2t R@10", "t2i R@1", "t2i R@10"]
    np.testing.assert_allclose(axes[1].lines[3].get_ydata(), [6.0 * e for e in range(1, 6)])
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), [20.0 * e for e in range(1, 6)])
    np.testing.assert_allclose(axes[3].lines[0].get_ydata(), [10, 11, 12, 13, 14])
    assert not axes[0].collections


def test_several_seeds_give_a_mean_and_a_band():
    for histories in ([history(2), history(3, 0.5)], {"seed 1": history(2), "seed 2": history(3, 0.5)}):
        _, axes, _ = viz.training_curves(histories)
        np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [3.25, 1.75, 1.5])
        (band,) = axes[0].collections
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() == 1.5 and corners[:, 1].max() == 3.5


def test_rows_without_some_numbers_are_drawn_without_them():
    _, axes, _ = viz.training_curves([{"epoch": 1, "loss": 2.0}])
    assert len(axes[0].lines) == 1 and not axes[2].lines


def test_live_curve_outside_a_notebook_does_nothing():
    assert viz.live_curve()(history()) is None and not plt.get_fignums()


def test_live_curve_redraws_one_picture_in_a_notebook():
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="needs IPython, which notebooks bring")
    from IPython.utils.capture import capture_output

    shells.InteractiveShell.instance()
    try:
        with capture_output() as captured:
            draw = viz.live_curve()
            draw(history(1))
            draw(history(2))
    finally:
        shells.InteractiveShell.clear_instance()
    first, second = captured._outputs
    assert "image/png" in first["data"] and "image/png" in second["data"]
    assert second["update"] and first["transient"]["display_id"] == second["transient"]["display_id"]
    assert not plt.get_fignums()


def heights(axes):
    return [[bar.get_height() for bar in container] for container in axes.containers]


def test_recall_bars_with_their_intervals():
    _, axes, _ = viz.recall_bars({"joint": metrics(), "w2r": metrics(3)})
    assert heights(axes[0]) == [[11, 23, 31], [14, 26, 34]] and heights(axes[1]) == [[6, 18, 26], [9, 21, 29]]
    spans = [line.get_ydata().tolist() for line in axes[0].lines if line.get_gid() == "interval"]
    assert spans == [[8, 13], [20, 25], [28, 33], [11, 16], [23, 28], [31, 36]]
    assert axes[0].get_ylim() == (0, 112)


def test_grounding_bars_stand_beside_their_own_baselines():
    _, axes, _ = viz.grounding_bars(GROUNDING, types=["people", "animals"])
    assert heights(axes[0]) == [[61, 59, 54], [53, 51, 46]] and heights(axes[1]) == [[44, 42, 37], [29, 27, 22]]
    assert [one.get_text() for one in axes[1].get_xticklabels()] == ["all (97)", "people (53)", "animals (19)"]
    assert "picture's centre" in axes[0].get_title() and "even attention" in axes[1].get_title()
    _, axes, _ = viz.grounding_bars(GROUNDING, direction="o2w", types=["people"])
    assert heights(axes[0]) == [[41, 41], [13, 13]] and heights(axes[1]) == [[29, 29], [13, 13]]


def test_pair_bars_mark_chance():
    _, (axes,), _ = viz.pair_bars(PAIRS)
    assert heights(axes) == [[61, 29, 43], [47, 23, 33], [31, 11, 19]]
    marked = [lines.get_segments()[0][0, 1] for lines in axes.collections]
    assert marked == pytest.approx([25, 25, 100 / 6])


def dots(axes):
    """(vertical place, value) of every dot, from the first row down."""
    values = [line for line in axes.lines if line.get_gid() == "value"]
    return sorted((y, x) for line in values for x, y in line.get_xydata() if np.isfinite(x))


def test_pointing_dots_stand_at_their_numbers_the_most_frequent_type_first():
    _, (axes,), _ = viz.pointing_dots(MAPPED)
    assert [x for _, x in dots(axes)] == [60, 61, 53, 62, 58, 59, 51, 60, 55, 56, 48, 57]  # the centre is third
    assert [one.get_text() for one in axes.get_yticklabels()][:2] == ["all (97)", "people (53)"]
    spans = [line.get_xdata() for line in axes.lines if line.get_gid() == "interval"]
    assert len(spans) == 12 and list(spans[0]) == [58, 63]
    _, (axes,), _ = viz.pointing_dots(MAPPED, measure="mass_in_box", types=["people"])
    assert [x for _, x in dots(axes)] == [40, 41, 42] * 2  # the centre has no mass
    for arguments in ({"measure": "luck"}, {"maps": ["w2r", "untrained_w2r"]}, {"maps": []}):
        with pytest.raises(DataError):
            viz.pointing_dots(MAPPED, **arguments)


def test_coverage_curves_name_their_areas():
    figure, (axes,), _ = viz.coverage_curves(MAPPED)
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines["W2R (70.0)"] == [0, 71, 100] and lines["the true boxes (84.0)"] == [0, 97, 100]
    assert lines["even attention (50)"] == [0, 100]
    with pytest.raises(DataError, match="combined"):
        viz.coverage_curves(MAPPED, maps=["combined"])


def test_deletion_lines_are_the_means():
    _, axes, _ = viz.deletion_lines(DELETION)
    lines = {line.get_label(): list(line.get_ydata()) for line in axes[0].lines}
    assert lines["most attended first"] == pytest.approx([0.43, 0.36, 0.29])
    assert lines["other captions, most attended gone"] == [0.11, 0.1, 0.07]
    assert len(axes[0].collections) == 3 and not axes[1].collections  # bands where there are intervals
    with pytest.raises(DataError, match="most"):
        viz.deletion_lines({"removed": [0]})


def test_word_dots_show_both_ends_and_what_was_asked_for():
    _, axes, _ = viz.word_dots(KINDS, SAID, regions=49, most=2, shown=["a", "unheard"])
    assert [one.get_text() for one in axes[2].get_yticklabels()] == [
        "dog (41)",
        "ball (40)",
        "a (38)",
        "is (36)",
        "under (35)",
    ]
    assert [x for _, x in dots(axes[2])] == [11, 13, 19, 29, 31] and [x for _, x in dots(axes[1])] == [1.3, 0.7]
    with pytest.raises(DataError):
        viz.word_dots(KINDS, SAID[:0], regions=49)


# -- growth and comparison


def test_growth_shows_the_median_of_the_runs_and_their_reach():
    runs = [[4.0, 2.0, 9.0], [5.0, np.nan, 7.0]]
    _, axes, _ = viz.growth_curve({"a": ([100, 10], runs), "b": ([10, 100], [1.0, 3.0])}, "n", "s")
    first, second = axes.lines
    np.testing.assert_allclose(first.get_xydata(), [[10, 6], [100, 4]])  # in the order of sizes
    np.testing.assert_allclose(second.get_xydata(), [[10, 1], [100, 3]])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} == {(10, 5), (10, 7), (100, 2), (100, 9)}
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [one.get_text() for one in axes.get_legend().get_texts()] == ["a", "b", "least to greatest run"]
    assert (first.get_marker(), first.get_linestyle()) != (second.get_marker(), second.get_linestyle())


def test_growth_names_sizes_within_a_decade_too():
    for sizes, expected in (([250, 4000], ["500", "1,000", "2,000"]), ([7, 20_000], ["10", "100", "1,000", "10,000"])):
        figure, axes, _ = viz.growth_curve({"a": (sizes, [3.0, 5.0])}, "n", "s", log="x")
        figure.canvas.draw()
        low, high = axes.get_xlim()
        named = [
            tick.label1.get_text()
            for minor in (False, True)
            for tick in (axes.xaxis.get_minor_ticks() if minor else axes.xaxis.get_major_ticks())
            if low <= tick.get_loc() <= high
        ]
        assert [name for name in named if name] == expected


def test_growth_in_given_axes_and_on_linear_ones():
    figure, own = plt.subplots()
    got, axes, _ = viz.growth_curve({"a": ([0, 1], [0, -1])}, "n", "s", log="none", axes=own)
    assert got is figure and axes is own and (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    assert axes.get_legend() is None


def test_dots_lie_in_their_intervals_with_their_numbers():
    rows = {"joint": {"R@1": (31, 29, 37), "R@5": 53}, "w2r": {"R@5": (-43, -47, -41)}}
    _, axes, _ = viz.comparison_dots(rows, reference={"R@5": 11})
    assert [one.get_title(loc="left") for one in axes] == ["R@1", "R@5"]
    spans = [[list(line.get_xdata()) for line in one.lines if line.get_gid() == "interval"] for one in axes]
    assert spans == [[[29, 37]], [[-47, -41]]]
    assert [dots(one) for one in axes] == [[(0, 31)], [(0, 53), (1, -43)]]
    assert [line.get_gid() for line in axes[1].lines].count("reference") == 1
    assert [one.get_text() for one in axes[1].texts] == ["53.0", "\u221243.0"]
    assert axes[0].yaxis_inverted()  # the first method on top


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: viz.growth_curve({}, "n", "s"), "at least one series"),
        (lambda: viz.growth_curve({"a": ([1, 2], [1, 2, 3])}, "n", "s"), r"a: .*\[2\] and \[3, 1\]"),
        (lambda: viz.growth_curve({"a": ([1, 2], [0, 2])}, "n", "s"), "logarithmic"),
        (lambda: viz.growth_curve({"a": ([1, 2], [np.nan, 2])}, "n", "s"), "finite value"),
        (lambda: viz.growth_curve({"a": ([1], [2])}, "n", "s", log="z"), "'z'"),
        (lambda: viz.comparison_dots({}), "at least one method"),
        (lambda: viz.comparison_dots({"a": {"R@1": (5, 7, 9)}}), "a, R@1: expected low <= value <= high"),
        (lambda: viz.retrieved_captions([picture()], [["a"]], [[1]], attention=[[[0.5], [0.5]]]), "expected attention"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, said):
    with pytest.raises(DataError, match=said):
        call()


def test_many_words_get_their_names_on_one_column():
    many = attention([f"word{number}" for number in range(23)])
    figure, axes, _ = viz.alignment(many, width="one")
    for ticks in (axes[0].get_yticklabels(), axes[1].get_xticklabels()):
        assert [tick.get_text() for tick in ticks] == many.words
    assert axes[0].get_position().y0 > axes[1].get_position().y1  # above each other: beside they would not fit


def test_results_of_unknown_truth_bear_no_mark():
    _, axes, _ = viz.retrieved_images(["a"], [[picture()] * 2], [[0.5, -0.25]])
    assert [one.texts[0].get_text() for one in axes[0]] == ["0.500", "\u22120.250"] and not axes[0, 0].patches
    laid = softmax(2, 49).reshape(1, 2, 49)
    figure, axes, mappable = viz.retrieved_captions([picture()], [["a", "b"]], [[0.5, 0.25]], attention=laid)
    assert [one.get_text() for one in axes[0, 1].texts] == ["0.500", "a", "0.250", "b"]
    overlays = [meshes(one)[0] for one in figure.axes if meshes(one) and one.images]
    for mesh, weights in zip(overlays, laid[0]):
        np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), weights)
    assert len(overlays) == 2 and mappable.norm.vmax == laid.max()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    figure, _, _ = viz.alignment(attention())
    (tmp_path / "a.pdf").write_text("earlier")
    (tmp_path / "a.svg").mkdir()
    (tmp_path / "a.svg" / "file").write_text("in the way")
    with pytest.raises(DataError, match="a.svg"):
        viz.save_figure(figure, tmp_path / "a", ("svg", "pdf"))
    assert (tmp_path / "a.pdf").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.svg"]


# -- search


def test_shortlist_curves_draw_recalls_the_exact_result_and_the_twentieth():
    _, axes, mappable = viz.shortlist_curves(CURVE)
    assert mappable is None
    for one, way in zip(axes, ("t2i", "i2t")):
        lines = [line for line in one.lines if len(line.get_xdata()) == 6]
        for line, name in zip(lines, ("R@1", "R@5", "R@10"), strict=True):
            assert list(line.get_xdata()) == CURVE[way]["sizes"] and list(line.get_ydata()) == CURVE[way][name]
        flat = {
            line.get_ydata()[0] for line in one.lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) == [0, 1]
        }
        assert {43.0, 73.0, 83.0} <= flat
        assert f"1 in 20: {CURVE[way]['gallery'] // 20}" in [text.get_text() for text in one.texts]
    with pytest.raises(DataError, match="i2t missing"):
        viz.shortlist_curves({"t2i": WAY})


def test_gallery_growth_draws_every_size():
    _, axes, _ = viz.gallery_growth(GROWTH)
    drawn = {line.get_label(): list(line.get_ydata()) for one in axes for line in one.lines}
    assert drawn["shortlist"] == [0.025, 0.25, 2.5] and drawn["scoring"] == [61.0] * 3
    assert drawn["index on disk"] == pytest.approx([67.0, 670.0, 6700.0])
    with pytest.raises(DataError, match="at least one row"):
        viz.gallery_growth([])


# -- the diagram of the model


def filled(figure):
    """Texts of the diagram's boxes that are highlighted."""
    boxes = [patch for patch in figure.axes[0].patches if patch.get_linewidth() > 1]
    edges = [box.get_bbox() for box in boxes]
    return [
        text.get_text()
        for text in figure.axes[0].texts
        if text.get_weight() == "bold" and any(edge.contains(*text.get_position()) for edge in edges)
    ]


@pytest.mark.parametrize(
    "parts, names",
    [
        ((), []),
        ("w2r", ["W2R attention"]),
        (["o2w", "joint"], ["O2W attention", "joint score"]),
        ("encoders", ["regions v", "objects o", "words u"]),
    ],
)
def test_the_diagram_highlights_the_parts_that_are_named(parts, names):
    figure, _, _ = viz.model_diagram(parts)
    assert filled(figure) == names


def test_texts_of_the_diagram_stay_in_their_boxes():
    for width in ("two", 4.0):
        figure, axes, _ = viz.model_diagram(width=width)
        figure.canvas.draw()
        boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
        assert len(boxes) == 14
        for text in axes.texts:
            one = text.get_window_extent()
            assert any(box.x0 <= one.x0 and one.x1 <= box.x1 and box.y0 <= one.y0 and one.y1 <= box.y1 for box in boxes)


def test_an_unknown_part_of_the_diagram_is_named():
    with pytest.raises(ConfigError, match="expected parts out of data, .*, got w2rr"):
        viz.model_diagram("w2rr")


def test_the_stored_diagram_is_the_one_that_is_drawn():
    """docs/model.svg is shown by the README; remake it with viz.save_figure(viz.model_diagram()[0], "docs/model")."""
    stored = re.findall("<!-- (.*?) -->", (repository_root() / "docs" / "model.svg").read_text(encoding="utf-8"))
    figure, axes, _ = viz.model_diagram()
    assert sorted(stored) == sorted(text.get_text() for text in axes.texts)
