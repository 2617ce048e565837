"""Methods trained several times: every seed's rsum, their mean with its interval, and the difference to a reference.

What is drawn is what `bssan_lib.comparison.compare.compare` returns; nothing is computed here.
"""

import pandas as pd
import seaborn

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import dot_panels
from bssan_lib.viz.style import RIGHT, WRONG, column_width, paper_style

_GAP = 0.6  # of a row, between single models and ensembles
_NAME = 1.6  # inches that a method's name may take
_MARKERS = {"single": "o", "ensemble": "s"}


def run_dots(comparison: dict, *, title: str = "", width: str | float = "two"):
    """rsum of each method: a small ring for each seed, and a dot for their mean with its 95% interval over images.
    A second panel shows the difference to the reference with the interval of the paired bootstrap.

    comparison: what `compare` returns. The reference is drawn in another colour, as a diamond; a name is bold where its
    verdict is "ahead" or "behind", that is, where the difference is larger than noise. Ensembles are squares below the single models. A dotted line marks a difference
    of zero. An interval that could not be made is not drawn. Returns (figure, axes [panels], None).
    DataError without a method.
    """
    methods = sorted(comparison["methods"], key=lambda one: one["kind"] == "ensemble")  # stable: single models first
    if not methods:
        raise DataError("runs: expected at least one method, got none")
    single = sum(one["kind"] == "single" for one in methods)
    heights = [row + (_GAP if 0 < single <= row else 0) for row in range(len(methods))]
    reference = [one["method"] == comparison["reference"] for one in methods]
    colours = [WRONG if one else RIGHT for one in reference]
    difference = f"rsum, difference to {comparison['reference']}"
    panels: dict[str, list] = {"rsum": [(one["mean"]["rsum"], one["rsum_ci95"]) for one in methods]}
    apart = {row["method"]: (row["rsum"]["difference"], row["rsum"]["ci95"]) for row in comparison["differences"]}
    if apart:
        panels[difference] = [apart.get(one["method"]) for one in methods]
    clear = {row["method"] for row in comparison["differences"] if row["rsum"]["verdict"] in ("ahead", "behind")}
    with paper_style():
        figure, axes = dot_panels(
            [one["method"] + ("" if one["kind"] == "single" else ", ensemble") for one in methods],
            panels,
            {"rsum": ".1f", difference: "+.1f"},
            heights=heights,
            markers=["D" if mark else _MARKERS[one["kind"]] for one, mark in zip(methods, reference)],
            colours=colours,
            bold=[one["method"] in clear for one in methods],
            widest_name=min(_NAME, 0.36 * column_width(width)),
            title=title,
            width=width,
        )
        _draw_seeds(axes[0], methods, heights, colours)
        for one in axes[1:]:
            one.axvline(0, color="black", linewidth=0.7, linestyle=":", gid="reference")
            one.margins(x=0.08)
    return figure, axes, None


def _draw_seeds(axes, methods: list[dict], heights: list[float], colours: list[str]) -> None:
    """A ring for the rsum of each seed of the methods that have several."""
    seeds = pd.DataFrame(
        [
            (row, heights[row], record["rsum"])
            for row, method in enumerate(methods)
            for record in method["records"]
            if len(method["records"]) > 1
        ],
        columns=["method", "place", "rsum"],
    )
    before, limits = len(axes.collections), axes.get_ylim()
    rings = {"jitter": False, "size": 3.4, "linewidth": 0.5, "zorder": 1.8, "gid": "seeds"}
    seaborn.stripplot(
        seeds,
        x="rsum",
        y="place",
        hue="method",
        hue_order=range(len(methods)),
        palette=colours,
        orient="y",
        native_scale=True,
        legend=False,
        ax=axes,
        **rings,
    )
    for ring in axes.collections[before:]:
        ring.set(edgecolor=ring.get_facecolor(), facecolor="none")
    axes.set(xlabel="", ylabel="", ylim=limits)
