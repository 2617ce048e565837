"""The rule of `bssan compare` and notebook 07: is a difference of two methods larger than noise?

For two methods with the same queries and several seeds we know

    d            the difference of their means
    ci95         its 95% interval over images (paired bootstrap, seeds averaged)
    s            the standard deviation over seeds

The standard error by seeds of a difference between means of n seeds each is s sqrt(1/n + 1/n). A method is "ahead" or
"behind" only if the interval excludes zero and d is larger than 1.96 of these standard errors.
"""

import math

import numpy as np

NORMAL = 1.96  # standard errors on either side of a 95% interval
WITHIN_NOISE = "within noise"
WITHIN_SEEDS = "within the seeds' spread"
ONE_SEED = "of one seed"


def seed_spread(comparison: dict, measure: str = "rsum") -> float | None:
    """The standard deviation of a measure over seeds, pooled over all methods; None if each has one seed.

    A few seeds give a poor estimate for one method, but a good one for all methods together. We take the median of the
    variances, because one collapsed training would dominate their mean. The median of a sample variance is the true
    variance times (1 - 2 / 9(n - 1))^3, 0.70 for three seeds (Wilson and Hilferty, PNAS 17, 1931), so we divide by it.
    """
    variances = [
        one["sd"][measure] ** 2 / (1 - 2 / (9 * (one["n"] - 1))) ** 3 for one in comparison["methods"] if one["sd"]
    ]
    return math.sqrt(np.median(variances)) if variances else None


def seed_error(comparison: dict, method: str, reference: str, measure: str = "rsum") -> float | None:
    """Standard error by seeds of a difference of two means, from the larger of the pooled spread and that of these two.

    None if no method has two seeds.
    """
    pooled = seed_spread(comparison, measure)
    if pooled is None:
        return None
    two = [one for one in comparison["methods"] if one["method"] in (method, reference)]
    own = [one["sd"][measure] ** 2 for one in two if one["sd"]]
    spread = max(pooled, math.sqrt(sum(own) / len(own)) if own else 0.0)
    return spread * math.sqrt(sum(1 / one["n"] for one in two))


def verdict(difference: float, ci95: list[float], error: float | None) -> str:
    """ "ahead", "behind", either with ", within the seeds' spread" or ", of one seed", or "within noise".

    ci95: of the difference. error: its standard error by seeds, from `seed_error`.
    """
    if ci95[0] <= 0 <= ci95[1]:
        return WITHIN_NOISE
    side = "ahead" if difference > 0 else "behind"
    if error is None:
        return f"{side}, {ONE_SEED}"
    return side if abs(difference) > NORMAL * error else f"{side}, {WITHIN_SEEDS}"
