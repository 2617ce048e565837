"""What was found for single queries: the right rows, as a figure, or as a table without pictures."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

matplotlib.use("Agg")

from bssan_lib.evaluation import examples

S = np.array([[0.5, 0.1, 0.3], [0.2, 0.7, 0.4]])  # [images, captions]


class Split:
    captions, ids, cap2im, satisfies = ["a dog", "a $cat_", "two birds"], ["x.png", "y.png"], np.array([0, 1, 0]), None

    def __init__(self, pictures):
        self.pictures = pictures

    def image(self, row):
        return Image.new("RGB", (30, 20)) if self.pictures else None


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_without_pictures_there_is_a_table():
    table = examples.found_images(Split(False), S, [0, 2], k=2, own=[(0, 1), (0, 2)])
    assert table.index.tolist() == ["a dog", "two birds"]
    assert table.loc["two birds"].tolist() == ["0.400 y.png", "0.300 (right) x.png"]
    table = examples.found_captions(Split(False), S, [1], k=3)
    assert table.loc["y.png"].tolist() == ["0.700 (right) a $cat_", "0.400 two birds", "0.200 a dog"]


def test_images_that_satisfy_are_marked():
    split = Split(True)
    split.satisfies = np.array([[True, False], [False, True], [True, True]])
    figure = examples.found_images(split, S, [2], k=2, own=[(1, 7)])
    assert [text for text in texts(figure) if "0.400" in text] == ["✓ 0.400"] and "own: rank 7" in texts(figure)


def test_captions_of_an_image_with_its_own_and_its_rank():
    shown = " ".join(texts(examples.found_captions(Split(True), S, [0], k=1, own=[(2, 13)])))
    assert "0.500" in shown and "two birds" in shown and "13" in shown


def test_the_best_right_answer():
    assert examples.best_right(S[1], np.array([0, 2])) == 2 and examples.best_right(S[:, 0], np.array([1])) == 1
