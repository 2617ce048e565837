"""Spread of attention by kind of word, by hand.

Letters: C captions, K regions, M objects, T words.
"""

import numpy as np
import pytest

from bssan_lib.data.raw import Phrase
from bssan_lib.evaluation.word_attention import (
    FUNCTION,
    OUTSIDE,
    means_by_kind,
    means_by_word,
    perplexity,
    word_kinds,
    word_rows,
)
from tests.evaluation.test_grounding import Weights

BOX = ((0.0, 0.0, 0.5, 0.5),)


def test_perplexity_by_hand():
    weights = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0.5, 0.25, 0.25, 0]])
    assert perplexity(weights) == pytest.approx([1, 2, 4, 2**1.5])


def test_kinds_of_words():
    tokens = "a red dog is running on the beach quickly".split()
    phrases = [
        Phrase(0, (0, 1, 2), "animals", BOX),
        Phrase(0, (6, 7), "scene/other", BOX),
        Phrase(0, (8,), "other", ()),
    ]
    assert word_kinds(tokens, phrases) == [
        FUNCTION,
        "animals",
        "animals",
        FUNCTION,
        OUTSIDE,
        FUNCTION,
        FUNCTION,
        "scene",
        OUTSIDE,
    ]


def rows():
    sharp, even = [1.0, 0, 0, 0], [0.25] * 4
    first = Weights(np.array([even, sharp]), np.array([[0.1, 0.9], [0.3, 0.7]]), ["a", "dog"])
    second = Weights(np.array([even, [0.5, 0.5, 0, 0], even]), np.full((2, 3), 1 / 3), ["the", "dog", "runs", "cut"])
    phrases = [Phrase(0, (0, 1), "animals", BOX), Phrase(3, (0, 1), "animals", BOX), Phrase(1, (0,), "people", BOX)]
    return word_rows([(0, first), (3, second)], phrases, np.array([5, 5, 7, 7]))


def test_a_row_for_every_word_that_was_seen():
    table = rows()
    assert table["word"].tolist() == ["a", "dog", "the", "dog", "runs"] and table["image"].tolist() == [5, 5, 7, 7, 7]
    assert table["regions"].tolist() == pytest.approx([4, 1, 4, 2, 4])
    assert table["peak"].tolist() == pytest.approx([0.25, 1, 0.25, 0.5, 0.25])
    assert table["o2w_share"].tolist() == pytest.approx([0.4, 1.6, 1, 1, 1])
    for _, caption in table.groupby("image"):
        assert caption["o2w_share"].mean() == pytest.approx(1)  # shares of one caption


def test_means_by_word_and_by_kind():
    words = means_by_word(rows(), least=1)
    assert words.index[0] == "dog" and words.loc["dog"].tolist() == pytest.approx([2, 1.5, 0.75, 1.3, False])
    assert words.index[words["function"]].tolist() == ["a", "the"]
    assert list(means_by_word(rows(), least=2).index) == ["dog"]
    assert list(means_by_word(rows(), least=5).index) == ["dog"]  # none occurs five times: the most frequent ones
    kinds = means_by_kind(rows(), bootstrap=61)
    assert kinds.index[0] == "animals" and kinds["count"].to_dict() == {"animals": 2, FUNCTION: 2, OUTSIDE: 1}
    low, high = kinds.loc["animals", "regions_ci95"]
    assert 1 <= low < kinds.loc["animals", "regions"] < high <= 2
    assert kinds.loc[OUTSIDE, "regions_ci95"] == pytest.approx([4, 4])
    assert "regions_ci95" not in means_by_kind(rows(), bootstrap=0)
