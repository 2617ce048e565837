"""Methods trained several times: every seed's rsum, their mean with its interval, and the difference to a reference.

What is drawn is what `bssan_lib.comparison.compare.compare` returns; nothing is computed here.
"""

import pandas as pd
import seaborn

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import dot_panels
from bssan_lib.viz.style import SERIES, column_width, paper_style

_GAP = 0.6  # of a row, between single models and ensembles
_NAME = 1.6  # inches that a method's name may take
_MARKERS = {"single": "o", "ensemble": "s"}


def run_dots(comparison: dict, *, title: str = "", width: str | float = "two"):
    """rsum of each method: a small ring for each seed, and a dot for their mean with its 95% interval over images.
    A second panel shows the difference to the reference with the interval of the paired bootstrap.

    comparison: what `compare` returns. Ensembles are squares below the single models. A dotted line marks a difference
    of zero. An interval that could not be made is not drawn. Returns (figure, axes [panels], None).
    DataError without a method.
    """
    methods = sorted(comparison["methods"], key=lambda one: one["kind"] == "ensemble")  # stable: single models first
    if not methods:
        raise DataError("runs: expected at least one method, got none")
    single = sum(one["kind"] == "single" for one in methods)
    heights = [row + (_GAP if 0 < single <= row else 0) for row in range(len(methods))]
    difference = f"rsum, difference to {comparison['reference']}"
    panels: dict[str, list] = {"rsum": [(one["mean"]["rsum"], one["rsum_ci95"]) for one in methods]}
    apart = {row["method"]: (row["rsum"]["difference"], row["rsum"]["ci95"]) for row in comparison["differences"]}
    if apart:
        panels[difference] = [apart.get(one["method"]) for one in methods]
    with paper_style():
        figure, axes = dot_panels(
            [one["method"] + ("" if one["kind"] == "single" else ", ensemble") for one in methods],
            panels,
            {"rsum": ".1f", difference: "+.1f"},
            heights=heights,
            markers=[_MARKERS[one["kind"]] for one in methods],
            widest_name=min(_NAME, 0.36 * column_width(width)),
            title=title,
            width=width,
        )
        _draw_seeds(axes[0], methods, heights)
        for one in axes[1:]:
            one.axvline(0, color="black", linewidth=0.7, linestyle=":", gid="reference")
            one.margins(x=0.08)
    return figure, axes, None


def _draw_seeds(axes, methods: list[dict], heights: list[float]) -> None:
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
    order, palette = range(len(methods)), [SERIES[row % len(SERIES)] for row in range(len(methods))]
    seaborn.stripplot(
        seeds,
        x="rsum",
        y="place",
        hue="method",
        hue_order=order,
        palette=palette,
        orient="y",
        native_scale=True,
        legend=False,
        ax=axes,
        **rings,
    )
    for ring in axes.collections[before:]:
        ring.set(edgecolor=ring.get_facecolor(), facecolor="none")
    axes.set(xlabel="", ylabel="", ylim=limits)
