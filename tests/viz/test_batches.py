"""Figures of a batch show the scores they were given and who computes them."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

matplotlib.use("Agg")

from bssan_lib import viz
from bssan_lib.errors import DataError


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_right_pairs_are_framed_and_each_matrix_has_its_own_scale():
    first = np.array([[0.5, 0.501, 0.502], [0.503, 0.504, 0.505], [0.506, 0.507, 0.508]])
    _, axes, _ = viz.batch_scores({"before": first, "after": np.eye(3)})
    for one, scores, limits in zip(axes, (first, np.eye(3)), ((0.5, 0.508), (0, 1))):
        assert [text.get_text() for text in one.texts] == [f"{score:.3f}" for score in scores.ravel()]
        assert one.collections[0].get_clim() == limits
        assert [frame.get_xy() for frame in one.patches] == [(0, 0), (1, 1), (2, 2)]
    assert axes[1].texts[0].get_color() == "black" and axes[1].texts[1].get_color() == "white"


def test_equal_scores_and_a_batch_of_one_are_drawn():
    _, axes, _ = viz.batch_scores({"one": np.zeros((1, 1))}, form=".1f")
    assert axes[0].texts[0].get_text() == "0.0"


def test_scores_of_a_batch_are_square():
    with pytest.raises(DataError, match="as many images as captions"):
        viz.batch_scores({"wrong": np.zeros((2, 3))})


def test_gathered_captions_give_every_image_all_negatives():
    _, (alone, gathered), _ = viz.process_rows(pairs=6, processes=2)
    cells = [np.asarray(one.collections[0].get_array()).reshape(6, 6) for one in (alone, gathered)]
    assert (cells[0] > 0).sum() == 18 and (cells[0][:3, :3] == 1).all() and (cells[0][3:, 3:] == 2).all()
    assert (cells[1][:3] == 1).all() and (cells[1][3:] == 2).all()
    assert alone.get_title().endswith("2 negatives") and gathered.get_title().endswith("5 negatives")


@pytest.mark.parametrize("pairs, processes", [(5, 2), (2, 3), (3, 0)])
def test_processes_share_pairs_evenly(pairs, processes):
    with pytest.raises(DataError, match="cannot share"):
        viz.process_rows(pairs, processes)
