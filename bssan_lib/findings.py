"""Is a difference more than luck? Images and seeds are asked together, and many differences at once. Notebook 07.

    findings(compare(records))       a row a difference, with what may be said of it

Of two methods that were trained with several seeds and answered the same queries, `comparison.compare` knows

    d            the difference of their mean rsum
    ci95         what other images would have made of it (paired bootstrap, seeds averaged)
    s            the standard deviation over seeds: what another training would have made of either

and a difference of means of n seeds each has, by seeds alone, the standard error s sqrt(1/n + 1/n). Here
d is called a finding only where its interval lies clear of zero and it is larger than 1.96 such errors. The two variances
added give one p (a normal approximation), and Holm's procedure corrects it for the number of questions asked
(Holm, Scandinavian Journal of Statistics 6, 1979).

Letters: R methods, n seeds, m differences.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from bssan_lib.comparison import compare
from bssan_lib.comparison_tables import differences_table, methods_table
from bssan_lib.errors import DataError
from bssan_lib.records import Record, read_record, without_seed

NORMAL = 1.96  # standard errors on either side of a 95% interval


def seed_spread(comparison: dict) -> float | None:
    """The standard deviation of rsum over seeds that the methods have in common; None with one seed each.

    Three seeds know little of their own spread; all methods together know it well. The median of their variances, since
    one training that collapses would drown a mean; divided by the share of the true variance at which the median of a
    sample's variance lies, (1 - 2 / 9(n - 1))^3, which is 0.70 for three seeds (Wilson and Hilferty, PNAS 17, 1931).
    """
    spreads = [one["sd"]["rsum"] ** 2 / (1 - 2 / (9 * (one["n"] - 1))) ** 3 for one in comparison["methods"] if one["sd"]]
    return math.sqrt(np.median(spreads)) if spreads else None


def seed_error(comparison: dict, ours: str, theirs: str) -> float | None:
    """Standard error of a difference of two mean rsums by seeds alone: of the common spread, or of these two's, if larger.

    None where no method has two seeds.
    """
    common = seed_spread(comparison)
    if common is None:
        return None
    two = [one for one in comparison["methods"] if one["method"] in (ours, theirs)]
    own = [one["sd"]["rsum"] ** 2 for one in two if one["sd"]]
    spread = max(common, math.sqrt(sum(own) / len(own)) if own else 0.0)
    return spread * math.sqrt(sum(1 / one["n"] for one in two))


def verdict(difference: float, ci95: list[float], error: float | None) -> str:
    """What may be said: "ahead", "behind", either "within the seeds' spread" or "of one seed", or "not told apart"."""
    if ci95[0] <= 0 <= ci95[1]:
        return "not told apart"
    said = "ahead" if difference > 0 else "behind"
    if error is None:
        return f"{said}, of one seed"
    return said if abs(difference) > NORMAL * error else f"{said}, within the seeds' spread"


def p_value(difference: float, ci95: list[float], error: float | None) -> float:
    """Two-sided, of no difference: the variances by images (from the interval's width) and by seeds are added."""
    by_images = (ci95[1] - ci95[0]) / (2 * NORMAL)
    whole = math.hypot(by_images, error or 0.0)
    return math.erfc(abs(difference) / whole / math.sqrt(2)) if whole else float(difference == 0)


def holm(values: list[float]) -> list[float]:
    """p of m questions, corrected by Holm: the smallest times m, the next times m - 1, ..., none below one before it."""
    order, corrected, highest = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected


def findings(comparison: dict) -> pd.DataFrame:
    """A row a difference of `compare`: "difference", "low", "high" of rsum, "seeds" (1.96 errors), "says", "p", "holm".

    Raises DataError where the records had no ranks, so that there is no paired interval.
    """
    rows = {}
    for row in comparison["differences"]:
        one = row["rsum"]
        if one["ci95"] is None:
            raise DataError(f"{row['method']}: no paired interval, since ranks were not stored with every record; measure "
                            "again with `bssan evaluate --out`.")
        error = seed_error(comparison, row["method"], row["against"])
        rows[row["method"]] = {
            "difference": one["difference"], "low": one["ci95"][0], "high": one["ci95"][1],
            "seeds": math.nan if error is None else NORMAL * error,
            "says": verdict(one["difference"], one["ci95"], error), "p": p_value(one["difference"], one["ci95"], error),
        }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high", "seeds", "says", "p"])
    return table.assign(holm=holm(list(table["p"])))


def one_table(comparison: dict, groups: dict[str, str], kind: str = "single") -> pd.DataFrame:
    """Methods and their differences in one table, a block a group. groups: {method: group}, in the order of the rows."""
    made, apart, said = methods_table(comparison, kind), differences_table(comparison), findings(comparison)["says"]
    order = [name for name in groups if name in made.index]
    made = made.loc[order, [made.columns[0], "i2t R@1", "t2i R@1", "rsum"]]
    against = f"to {comparison['reference']}"
    made[against] = [apart["rsum"].get(name, "") if len(apart) else "" for name in order]
    made["says"] = [said.get(name, "") for name in order]
    made.index = pd.MultiIndex.from_tuples([(groups[name], name) for name in order])
    return made


def read_folder(folder: Path | str) -> list[Record]:
    """The records of all FOLDER/*/metrics.json, each called as its folder is, without the seed; none where none are."""
    paths = sorted(Path(folder).glob("*/metrics.json"))
    return [read_record(path.parent, without_seed(path.parent.name, None)) for path in paths]


def by_gallery(records: list[Record], reference: str = "joint") -> list[dict]:
    """One comparison for each gallery that was ranked, largest first; against `reference` where it has that."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        gallery = record.gallery or {}
        key = (*(record.metrics[name] for name in ("n_images", "dataset", "split", "protocol")), gallery.get("captions_sha256"))
        groups.setdefault(key, []).append(record)
    found = []
    for key in sorted(groups, key=lambda key: (-key[0], *map(str, key[1:]))):
        own = {record.method for record in groups[key]}
        found.append(compare(groups[key], against=reference if reference in own else None))
    return found


def signed(value: float) -> str:
    """+3.1 or \u22122.0, with no sign that a zero only got by rounding."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\u2212")


def plain_words(name: str, row: pd.Series, reference: str, images: int) -> str:
    """One row of `findings` seen from the reference: is it ahead, and if it cannot be said, why not.

    images: N of the gallery.
    """
    lead, reach = -row["difference"], (row["high"] - row["low"]) / 2
    numbers = f"{signed(lead)} rsum, 95% {signed(-row['high'])} to {signed(-row['low'])}"
    if row["low"] == row["high"] == 0:
        return f"{reference} and {name} rank alike: **no difference** in any sample."
    if row["says"] == "not told apart":
        return (f"{reference} and {name} are **not told apart** ({numbers}): the interval holds zero; with {images} images it "
                f"reaches {reach:.1f} to either side.")
    said = f"{reference} is **{'ahead of' if lead > 0 else 'behind'}** {name} ({numbers})"
    if row["says"].endswith("spread"):
        return f"{said} on these images, which is **no finding**: other seeds alone make differences of up to {row['seeds']:.1f}."
    if row["says"].endswith("seed"):
        return f"{said} for these two trained models; what another seed would do is not known."
    return f"{said}: clear of zero, and more than other seeds make ({row['seeds']:.1f})."
