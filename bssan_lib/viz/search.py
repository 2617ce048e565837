"""Search in a large gallery: what a shortlist loses, and how time and memory grow. Recalls are percentages, 0 to 100."""

import numpy as np
from matplotlib.ticker import FuncFormatter

from bssan_lib.errors import DataError
from bssan_lib.viz.style import SERIES, SMALL, column_width, finish, label, new_figure, paper_style

_WAYS = {"t2i": ("text to image", "images"), "i2t": ("image to text", "captions")}
_STYLES = {"R@1": "-", "R@5": "--", "R@10": "-."}
_STAGES = {"stage_1": ("shortlist", "-"), "stage_2": ("scoring", "--"), "whole": ("whole query", "-.")}


def shortlist_curves(curve: dict, *, width: str | float = "two"):
    """R@1, R@5 and R@10 of two-stage search by the size of its shortlist, a panel a direction.

    curve: what `search.shortlist_curve` returns. Thin lines: every pair scored. Vertical line: one pair in twenty.
    Returns (figure, axes [2], None). DataError where a direction is missing.
    """
    if missing := [way for way in _WAYS if way not in curve]:
        raise DataError(f"shortlist curves: expected the directions t2i and i2t, {', '.join(missing)} missing")
    with paper_style():
        figure, axes = _two_panels(width)
        low = min(min(curve[way]["R@1"]) for way in _WAYS)
        for one, (way, (title, things)) in zip(axes, _WAYS.items()):
            _recalls(one, curve[way], things)
            one.set(title=title, ylim=(max(0.0, low - 10), 102), ylabel="recall (%)")
        axes[1].plot([], [], color="black", linewidth=0.5, label="every pair scored")
        axes[1].legend(loc="lower right", handlelength=2.2, borderaxespad=0.1)
        finish(axes)
    return figure, axes, None


def _two_panels(width: str | float):
    full = column_width(width)
    wide = full > 5
    figure = new_figure(full, 2.2 if wide else 4.2, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.05)
    return figure, np.ravel(figure.subplots(1, 2) if wide else figure.subplots(2, 1))


def _recalls(axes, way: dict, things: str) -> None:
    for number, (name, style) in enumerate(_STYLES.items()):
        axes.axhline(way["exact"][name], color=SERIES[number], linewidth=0.5)
        axes.plot(way["sizes"], way[name], style, color=SERIES[number], label=name, marker=".", markersize=3)
    mark, gallery = way["one_in_twenty"]["shortlist"], way["gallery"]
    axes.axvline(mark, color="black", linewidth=0.6, linestyle=":")
    _log_axis(axes, 0.9, gallery * 1.1)
    axes.set_xlabel(f"{things} scored, of {gallery:,}")
    left = mark > gallery**0.4  # on the side where there is room
    label(
        axes,
        mark * (0.93 if left else 1.07),
        0.03,
        f"1 in 20: {mark:,}",
        transform=axes.get_xaxis_transform(),
        ha="right" if left else "left",
        va="bottom",
        fontsize=SMALL,
    )


def _log_axis(axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def gallery_growth(rows: list[dict], *, width: str | float = "two"):
    """Time of a query and memory by the size of the gallery, both on logarithmic axes.

    rows: one a size, {"images", "ms": {"stage_1" | "stage_2" | "whole": {"p50", "p95"}}, "disk_mib",
    "peak_rss_mib", "own_memory_mib", "vectors_mib"}. Lines are medians, bands reach to the 95th percentile. Returns (figure, axes [2], None).
    DataError without a row.
    """
    if not rows:
        raise DataError("gallery growth: expected at least one row, got none")
    sizes = [row["images"] for row in rows]
    with paper_style():
        figure, axes = _two_panels(width)
        for number, (stage, (name, style)) in enumerate(_STAGES.items()):
            middle, high = ([row["ms"][stage][key] for row in rows] for key in ("p50", "p95"))
            axes[0].plot(sizes, middle, style, color=SERIES[number], label=name, marker=".", markersize=4)
            axes[0].fill_between(sizes, middle, high, color=SERIES[number], alpha=0.15, linewidth=0)
        axes[0].set(title="time of a query, median to 95th percentile", ylabel="milliseconds")
        memory = {
            "disk_mib": ("index on disk", "-"),
            "peak_rss_mib": ("resident, mapped pages too", "--"),
            "own_memory_mib": ("the process's own", ":"),
            "vectors_mib": ("of it, global vectors", "-."),
        }
        for number, (key, (name, style)) in enumerate(memory.items()):
            axes[1].plot(
                sizes, [row[key] for row in rows], style, color=SERIES[number], label=name, marker=".", markersize=4
            )
        low, high = (pick(row[key] for row in rows for key in memory) for pick in (min, max))
        axes[1].set(title="disk and memory", ylabel="MiB", ylim=(max(low, 0.01) / 30, high * 1.7))  # below: the legend
        for one in axes:
            _log_axis(one, sizes[0] * 0.85, sizes[-1] * 1.15)
            one.set_yscale("log")
            one.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            one.set_xlabel("images in the gallery")
            one.legend(loc="lower right" if one is axes[1] else "center left", handlelength=2.2, borderaxespad=0.1)
        finish(axes)
    return figure, axes, None
