"""Figures of the lessons show the numbers they were given."""

from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

matplotlib.use("Agg")

from bssan_lib import viz
from bssan_lib.attention.w2r import w2r_scores, w2r_weights
from bssan_lib.errors import DataError

FIRST, SECOND = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_matrices_share_one_scale_and_vectors_come_first():
    arrows = np.array([[1.0, 0.0], [0.6, 0.8]])
    _, axes, mappable = viz.matrices(
        {"first": FIRST, "second": SECOND}, ["a", "b"], vectors={"u": arrows}, annotate=True
    )
    plane, *rest = axes
    assert [one.get_title() for one in axes] == ["u", "first", "second"]
    assert [(q.U[0], q.V[0]) for q in plane.collections] == [(1.0, 0.0), (0.6, 0.8)]
    assert [text.get_text() for text in plane.texts] == ["u1", "u2"]
    for one, values in zip(rest, (FIRST, SECOND)):
        drawn = one.collections[0]
        np.testing.assert_array_equal(np.asarray(drawn.get_array()).reshape(2, 3), values)
        assert (drawn.norm.vmin, drawn.norm.vmax) == (0, 1) and len(one.texts) == 6
    assert mappable is rest[-1].collections[0]


def test_a_colour_bar_says_what_is_shown():
    figure, axes, _ = viz.matrices({"first": FIRST}, text="attention")
    assert len(axes) == 1 and [one.get_ylabel() for one in figure.axes] == ["", "attention"]


def test_lines_have_their_names_and_values():
    _, axes, _ = viz.line_panels(
        [0, 3, 7], {"score": {"mask": [1, 1, 1], "none": [1, 2, 5]}, "share": {"mask": [2, 2, 2]}}
    )
    assert [one.get_title() for one in axes] == ["score", "share"]
    assert [line.get_label() for line in axes[0].lines] == ["mask", "none"]
    np.testing.assert_array_equal(axes[0].lines[1].get_xydata(), [[0, 1], [3, 2], [7, 5]])
    assert axes[0].get_legend() and not axes[1].get_legend()


def test_dots_by_word_show_the_most_frequent_words_in_order():
    table = pd.DataFrame(
        {"count": [11, 7, 5, 2], "regions": [30.0, 3.0, 17.0, 1.0], "function": [True, False, False, False]},
        index=["the", "$dog_", "red", "rare"],
    )
    _, axes, _ = viz.dots_by_word(table, "regions", even=49, text="regions", most=3)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["$dog_", "red", "the"]
    content, function, even = axes.lines
    np.testing.assert_array_equal(content.get_xydata(), [[0, 3], [1, 17]])
    np.testing.assert_array_equal(function.get_xydata(), [[2, 30]])
    assert set(even.get_ydata()) == {49}
    with pytest.raises(DataError, match="empty table"):
        viz.dots_by_word(table[:0], "regions", even=49, text="regions")


def test_word_attention_is_drawn_on_the_picture_or_as_a_matrix():
    attention = SimpleNamespace(w2r=np.full((2, 6), 1 / 6), words=["a", "dog"])
    _, axes, _ = viz.word_attention(attention, Image.new("RGB", (60, 40)), grid=[2, 3], top=0.5)
    assert [one.get_title() for one in axes] == ["picture", "a", "dog"]
    _, axes, mappable = viz.word_attention(attention, only=[1], caption="a dog", top=0.5)
    assert mappable.norm.vmax == 0.5 and np.asarray(mappable.get_array()).size == 6
    assert axes.get_title() == "a dog" and [tick.get_text() for tick in axes.get_yticklabels()] == ["dog"]


def test_shown_code_is_the_code():
    text = viz.source(w2r_weights, w2r_scores).data
    assert text.startswith("```python\ndef w2r_weights(") and text.endswith("```")
    assert "return torch.softmax(temperature * similarity, dim=1)\n\ndef w2r_scores(" in text
    assert viz.source(SimpleNamespaceLike.method).data == "```python\ndef method(self):\n    return 7\n```"


class SimpleNamespaceLike:
    def method(self):
        return 7


def test_p_values_are_sorted_beside_the_limits_of_holm():
    _, axes, _ = viz.holm_dots(pd.Series({"large": 0.5, "tiny": 1e-9, "small": 0.01}))
    dots, limits, _ = axes.lines
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["tiny", "small", "large"]
    np.testing.assert_allclose(dots.get_xdata(), [1e-6, 0.01, 0.5])
    np.testing.assert_allclose(limits.get_xdata(), [0.05 / 3, 0.05 / 2, 0.05])
    with pytest.raises(DataError, match="at least one"):
        viz.holm_dots({})


def test_grids_are_drawn_the_finest_first():
    _, axes, _ = viz.grid_sizes(Image.new("RGB", (60, 40)), {"coarse": 2, "fine": 4})
    assert [one.get_title() or one.texts[0].get_text() for one in axes] == ["fine", "coarse"]
    assert [len(one.lines) for one in axes] == [6, 2]
    assert {tuple(line.get_xdata()) for line in axes[1].lines} == {(30.0, 30.0), (0, 1)}
