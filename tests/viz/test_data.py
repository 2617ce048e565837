"""Figures of the data show the pictures, boxes and numbers that they were given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

matplotlib.use("Agg")

from bssan_lib import viz
from bssan_lib.errors import DataError
from bssan_lib.viz.style import RIGHT, WRONG

WIDE, TALL = Image.new("RGB", (50, 30)), Image.new("RGB", (20, 70))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_a_sheet_has_each_picture_with_its_title_and_text():
    _, axes, _ = viz.picture_sheet([WIDE, TALL, WIDE], ["a", "$b_", "c"], ["one", "two_$", "three"], columns=2)
    assert [one.get_title() for one in axes] == ["a", "$b_", "c"]
    assert [one.texts[0].get_text() for one in axes] == ["one", "two_$", "three"]
    assert [one.get_xlim()[1] for one in axes] == [50, 20, 50]


def test_right_and_wrong_titles_have_different_colours():
    _, axes, _ = viz.picture_sheet([WIDE, WIDE], ["true", "false"], right=[True, False])
    assert [to_hex(one.title.get_color()).upper() for one in axes] == [RIGHT, WRONG]


@pytest.mark.parametrize("texts, right", [(["one"], None), ((), [True])])
def test_a_sheet_needs_as_many_texts_as_pictures(texts, right):
    with pytest.raises(DataError, match="expected 2"):
        viz.picture_sheet([WIDE, WIDE], ["a", "b"], texts, right=right)


def test_named_boxes_are_drawn_in_pixels_of_the_picture():
    left, both = ((0.0, 0.0, 0.5, 1.0),), ((0.0, 0.0, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))
    _, axes, _ = viz.named_boxes(WIDE, {left: "a dog", both: "two things", ((0, 0, 1, 1),): "third"}, most=2)
    assert [one.get_title() for one in axes] == ["picture", "a dog", "two things"]
    assert [len(one.patches) for one in axes] == [0, 2, 4]  # a rim and a line for each box
    frame = axes[1].patches[0]
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (0, 0, 25, 30)


def test_word_statistics_are_sorted_and_counted():
    _, axes, _ = viz.word_statistics([2, 11, 5], {1: 100.0, 2: 90.0, 4: 70.0}, [3, 3, 7], threshold=2)
    np.testing.assert_array_equal(axes[0].lines[0].get_xydata(), [[1, 11], [2, 5], [3, 2]])
    np.testing.assert_array_equal(axes[1].lines[0].get_xydata(), [[1, 100], [2, 90], [4, 70]])
    assert [patch.get_height() for patch in axes[2].patches] == [0, 0, 2, 0, 0, 0, 1]


def test_box_places_show_the_heat_from_the_top_and_count_images():
    heat = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    _, axes, mesh = viz.box_places(heat, [2, 2, 5])
    np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(2, 3), heat)
    assert axes[0].get_ylim() == (1, 0)
    bars = {patch.get_x() + patch.get_width() / 2: patch.get_height() for patch in axes[1].patches}
    assert bars == {2: 2, 5: 1}


def test_points_have_the_colour_of_their_label_and_those_without_one_are_grey():
    points = np.array([[0, 0], [1, 1], [2, 2]])
    _, axes, _ = viz.scatter_panels(points, {"kinds": ["red", "", "ring"]}, {"red": "#ff0000"})
    nothing, red, ring = axes[0].collections
    np.testing.assert_array_equal(nothing.get_offsets(), [[1, 1]])
    np.testing.assert_array_equal(red.get_offsets(), [[0, 0]])
    assert to_hex(red.get_facecolor()[0]) == "#ff0000" and to_hex(nothing.get_facecolor()[0]) == "#bbbbbb"
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["red", "ring"]
    with pytest.raises(DataError, match="expected 3 labels"):
        viz.scatter_panels(points, {"kinds": ["red"]})
