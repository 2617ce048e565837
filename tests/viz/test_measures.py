"""Figures of how results are measured show the numbers they were given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

from bssan_lib import viz
from bssan_lib.errors import DataError

S, CAP2IM = np.array([[0.5, -0.2, 0.3], [0.1, 0.7, 0.2]]), np.array([0, 1, 0])


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def outlines(axes):
    return [patch.get_xy() for patch in axes.patches if patch.get_gid() == "own"]


def test_a_score_matrix_outlines_what_belongs_together_and_prints_ranks():
    _, axes, mappable = viz.score_matrix(S, CAP2IM, ([1, 2], [3, 5, 7]))
    assert outlines(axes) == [(0, 0), (1, 1), (2, 0)]
    shown = [text.get_text() for text in axes.texts]
    assert [text for text in shown if "." not in text] == ["1", "2", "3", "5", "7"] and "0.70" in shown
    np.testing.assert_array_equal(np.asarray(mappable.get_array()).reshape(2, 3), S)


def test_without_ranks_the_scale_is_that_of_the_scores():
    figure, axes, mappable = viz.score_matrix(S, CAP2IM)
    assert (mappable.norm.vmin, mappable.norm.vmax) == (-0.2, 0.7) and len(figure.axes) == 2
    assert outlines(axes) == [(0, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize("cap2im", [[0, 1], [0, 1, 2], [0, 1, -1]])
def test_a_matrix_with_other_owners_is_refused(cap2im):
    with pytest.raises(DataError, match="cap2im"):
        viz.score_matrix(S, cap2im)


def test_a_small_grid_marks_the_heaviest_region_and_the_box():
    _, axes, _ = viz.attention_on_grid([[0.1, 0.2, 0.0], [0.1, 0.1, 0.5]], (0.6, 0.5, 1.0, 1.0))
    (box,), (cross,) = axes.patches, axes.lines
    np.testing.assert_allclose([*box.get_xy(), box.get_width(), box.get_height()], [1.8, 1.0, 1.2, 1.0])
    assert 2 < cross.get_xdata()[0] < 3 and 1 < cross.get_ydata()[0] < 2
    assert [text.get_text() for text in axes.texts] == ["0.10", "0.20", "0.00", "0.10", "0.10", "0.50"]


def test_a_histogram_of_samples_marks_what_was_measured():
    _, axes, _ = viz.resampled_histogram([3.0, 5.0, 5.0, 11.0], 7, (3, 11), xlabel="R@1")
    assert sum(patch.get_height() for patch in axes.patches[:30]) == 4
    assert set(axes.lines[0].get_xdata()) == {7} and axes.get_ylabel() == "samples of 4"


def test_shares_have_a_panel_for_each_quantity_and_a_line_for_each_series():
    one = pd.DataFrame(
        {"count": [3, 5], "share": [40.0, 100.0], "low": [10.0, 60.0], "high": [70.0, 100.0]}, index=["2", "3–7"]
    )
    two = one.assign(share=[50.0, 90.0])
    figure, axes, _ = viz.group_shares({"words": {"own": one, "any": two}, "boxes": {"own": one}}, ylabel="R@1 (%)")
    assert [panel.get_xlabel() for panel in axes] == ["words", "boxes"]
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["2\n(3)", "3–7\n(5)"]
    own, other = axes[0].containers
    np.testing.assert_array_equal(own.lines[0].get_ydata(), [40, 100])
    np.testing.assert_array_equal(other.lines[0].get_ydata(), [50, 90])
    spans = [sorted(segment[:, 1]) for segment in own.lines[2][0].get_segments()]
    np.testing.assert_allclose(spans, [[10, 70], [60, 100]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["own", "any"]
    with pytest.raises(DataError, match="at least one"):
        viz.group_shares({}, ylabel="R@1 (%)")
