"""Guesses about the cause of failures, tested over all queries. Notebook extra/05b.

A guess is a number for each query, such as the length of its caption. Queries are sorted into groups by it; the guess is
of use if the share of right answers differs between the groups.

Letters: Q queries, G groups.
"""

import numpy as np
import pandas as pd

Z = 1.959964  # the normal distribution has 95% within so many standard deviations


def like_groups(values: np.ndarray, most: int = 5) -> list[tuple[str, np.ndarray]]:
    """At most `most` groups of similar values with about as many queries in each: a list of (name, rows).

    values: [Q]. Equal values are in the same group. A name is the value, or the least and the greatest: "3" or "4–7".
    """
    values = np.asarray(values)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, most + 1)[1:], method="higher"))
    group = np.searchsorted(edges, values)
    found = []
    for rows in (np.flatnonzero(group == number) for number in range(len(edges))):
        low, high = values[rows].min(), values[rows].max()
        found.append((f"{low}" if low == high else f"{low}–{high}", rows))
    return found


def shares_by_group(values: np.ndarray, right: np.ndarray, most: int = 5) -> pd.DataFrame:
    """Percent right in groups of similar queries, with 95% Wilson intervals.

    values, right: [Q], a number and a truth value for each query. Index: names of `like_groups`. Columns: count, share,
    low, high. A Wilson interval has a width even where all or none are right. Queries of one image are not independent,
    so these intervals are somewhat too narrow.
    """
    rows = {}
    for name, group in like_groups(values, most):
        n, share = len(group), float(np.mean(np.asarray(right)[group]))
        middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        reach = Z * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        rows[name] = {"count": n, "share": 100 * share, "low": 100 * (middle - reach), "high": 100 * (middle + reach)}
    return pd.DataFrame.from_dict(rows, orient="index").astype({"count": int})


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two quantities [Q]: that of their ranks, ties shared. NaN if one of them is constant."""
    ranks = [pd.Series(values).rank().to_numpy() for values in (a, b)]
    if any(np.ptp(one) == 0 for one in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
