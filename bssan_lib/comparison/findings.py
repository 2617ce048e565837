"""Differences of a comparison with verdicts and p values for many differences at once. Notebook 07.

    findings(compare(records))       a row for each difference, with its verdict

`verdicts` defines the verdict. For p, the variances over images (from the interval) and over seeds are added (a normal
approximation). Holm's procedure corrects p for the number of differences
(Holm, Scandinavian Journal of Statistics 6, 1979).

Letters: R methods, n seeds, m differences.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from bssan_lib.comparison.compare import compare
from bssan_lib.comparison.tables import differences_table, methods_table, signed
from bssan_lib.comparison.verdicts import NORMAL, ONE_SEED, WITHIN_NOISE, WITHIN_SEEDS, seed_error, seed_spread
from bssan_lib.errors import DataError
from bssan_lib.evaluation.records import Record, read_record, without_seed


def p_value(difference: float, ci95: list[float], error: float | None) -> float:
    """Two-sided p value of no difference. ci95: over images. error: standard error by seeds, or None."""
    by_images = (ci95[1] - ci95[0]) / (2 * NORMAL)
    error_of_both = math.hypot(by_images, error or 0.0)
    return math.erfc(abs(difference) / error_of_both / math.sqrt(2)) if error_of_both else float(difference == 0)


def holm(values: list[float]) -> list[float]:
    """m p values corrected by Holm: the smallest times m, the next times m - 1, ..., never below the previous one."""
    order, corrected, highest = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected


def findings(comparison: dict) -> pd.DataFrame:
    """A row for each rsum difference of `compare`: "difference", "low", "high", "seeds", "verdict", "p", "holm".

    "seeds" is 1.96 standard errors by seeds. Raises DataError without ranks, which paired intervals need.
    """
    rows = {}
    for row in comparison["differences"]:
        one = row["rsum"]
        if one["ci95"] is None:
            raise DataError(
                f"{row['method']}: no paired interval, because some records have no ranks. Evaluate again with "
                "`bssan evaluate --out`."
            )
        error = seed_error(comparison, row["method"], row["against"])
        rows[row["method"]] = {
            "difference": one["difference"],
            "low": one["ci95"][0],
            "high": one["ci95"][1],
            "seeds": math.nan if error is None else NORMAL * error,
            "verdict": one["verdict"],
            "p": p_value(one["difference"], one["ci95"], error),
        }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high", "seeds", "verdict", "p"])
    return table.assign(holm=holm(list(table["p"])))


def results_table(comparison: dict, groups: dict[str, str], kind: str = "single") -> pd.DataFrame:
    """Methods and their differences in one table, with a block per group.

    groups: {method: group}, in the order of rows.
    """
    table, differences = methods_table(comparison, kind), differences_table(comparison)
    verdicts = findings(comparison)["verdict"]
    order = [name for name in groups if name in table.index]
    table = table.loc[order, [table.columns[0], "i2t R@1", "t2i R@1", "rsum"]]
    column = f"to {comparison['reference']}"
    table[column] = [differences["rsum"].get(name, "") if len(differences) else "" for name in order]
    table["verdict"] = [verdicts.get(name, "") for name in order]
    table.index = pd.MultiIndex.from_tuples([(groups[name], name) for name in order])
    return table


def read_records(folder: Path | str) -> list[Record]:
    """The records of all FOLDER/*/metrics.json, with the name of the folder without the seed as their method."""
    paths = sorted(Path(folder).glob("*/metrics.json"))
    return [read_record(path.parent, without_seed(path.parent.name, None)) for path in paths]


def compare_by_gallery(records: list[Record], reference: str = "joint") -> list[dict]:
    """One comparison for each gallery, the largest first. reference: the method to compare with, if it exists."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        gallery = record.gallery or {}
        key = (
            *(record.metrics[name] for name in ("n_images", "dataset", "split", "protocol")),
            gallery.get("captions_sha256"),
        )
        groups.setdefault(key, []).append(record)
    found = []
    for key in sorted(groups, key=lambda key: (-key[0], *map(str, key[1:]))):
        own = {record.method for record in groups[key]}
        found.append(compare(groups[key], against=reference if reference in own else None))
    return found


def describe_finding(name: str, row: pd.Series, reference: str, images: int) -> str:
    """One row of `findings` as a sentence about the reference, with the reason. images: N of the gallery."""
    lead, half_width = -row["difference"], (row["high"] - row["low"]) / 2
    numbers = f"{signed(lead)} rsum, 95% {signed(-row['high'])} to {signed(-row['low'])}"
    if row["low"] == row["high"] == 0:
        return f"{reference} and {name} have equal ranks: **no difference** in any sample."
    if row["verdict"] == WITHIN_NOISE:
        return (
            f"The difference of {reference} and {name} is **within noise** ({numbers}): the interval includes zero; "
            f"with {images} images it extends {half_width:.1f} to either side."
        )
    text = f"{reference} is **{'ahead of' if lead > 0 else 'behind'}** {name} ({numbers})"
    if row["verdict"].endswith(WITHIN_SEEDS):
        change = f"{row['seeds']:.1f}"
        return f"{text} on these images, but **within the seeds' spread**: other seeds change it by up to {change}."
    if row["verdict"].endswith(ONE_SEED):
        return f"{text} for these two trained models; with one seed each, the effect of another seed is unknown."
    return f"{text}: the interval excludes zero, and other seeds change the difference by less ({row['seeds']:.1f})."


def describe_findings(comparison: dict, names: Iterable[str] | None = None) -> str:
    """Findings as a Markdown list, a sentence each. names: of these methods, by default of all that have a difference."""
    table, images = findings(comparison), comparison["gallery"]["n_images"]
    chosen = table.index if names is None else [name for name in names if name in table.index]
    lines = [describe_finding(name, table.loc[name], comparison["reference"], images) for name in chosen]
    return "\n".join(f"* {line}" for line in lines)


def verdict_table(comparison: dict) -> pd.DataFrame:
    """All methods that differ from the reference, a row for each verdict: how many, and which, the largest difference first.

    Index verdict, of the method and not of the reference; columns methods, names.
    """
    table = findings(comparison).sort_values("difference", key=abs, ascending=False, kind="stable")
    rows = {}
    for said, part in table.groupby("verdict", sort=True):
        names = [f"{name} ({signed(number)})" for name, number in part["difference"].items()]
        rows[said] = {"methods": len(part), "names": ", ".join(names)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["methods", "names"])


def unsteady(comparison: dict, times: float = 3.0) -> list[str]:
    """Methods whose rsum has a standard deviation over seeds of more than `times` the common one.

    An empty list where each has one seed.
    """
    spread = seed_spread(comparison)
    if spread is None:
        return []
    return [one["method"] for one in comparison["methods"] if one["sd"] and one["sd"]["rsum"] > times * spread]
