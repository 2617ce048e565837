"""Groups of similar queries, shares with Wilson intervals, and rank correlation, by hand."""

import math

import numpy as np
import pytest

from bssan_lib.evaluation.hypotheses import like_groups, rank_correlation, shares_by_group


def test_equal_values_stay_together():
    found = like_groups(np.array([3, 0, 0, 1, 2, 0]), most=2)
    assert [(name, rows.tolist()) for name, rows in found] == [("0–1", [1, 2, 3, 5]), ("2–3", [0, 4])]
    assert [name for name, _ in like_groups(np.array([7, 7, 7]))] == ["7"]


def test_every_query_is_in_one_group():
    values = np.random.default_rng(5).integers(0, 13, 97)
    rows = np.concatenate([group for _, group in like_groups(values)])
    assert sorted(rows) == list(range(97)) and len(like_groups(values)) <= 5


def test_shares_with_wilson_intervals():
    table = shares_by_group(np.array([2, 2, 2, 2, 5, 5]), np.array([1, 1, 1, 1, 1, 0]), most=2)
    assert table.index.tolist() == ["2", "5"] and table["count"].tolist() == [4, 2]
    assert table["share"].tolist() == [100, 50]
    # all right: the lower end is n / (n + z^2), the upper end is 100
    assert table.loc["2", "low"] == pytest.approx(100 * 4 / (4 + 1.959964**2)) and table.loc[
        "2", "high"
    ] == pytest.approx(100)
    assert table.loc["5", "low"] == pytest.approx(100 - table.loc["5", "high"])


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation([1, 2, 3], [30, 20, -7]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([1, 2, 3], [5, 5, 5]))
