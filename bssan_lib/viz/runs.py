"""Methods trained several times: every seed's rsum, their mean with its interval, and the difference to a reference.

What is drawn is what `bssan_lib.comparison.compare` returns; nothing is computed here.
"""

import numpy as np
from matplotlib.ticker import MaxNLocator

from bssan_lib.errors import DataError
from bssan_lib.viz.pictures import TITLE
from bssan_lib.viz.style import (
    MARGIN,
    SERIES,
    SMALL,
    column_width,
    finish,
    fit,
    heading,
    label,
    new_figure,
    paper_style,
    place,
    plain,
    text_width,
    write_heading,
)

_ROW = 0.16  # inches of a method
_GAP = 0.6  # of a row, between single models and ensembles
_NAME = 1.6  # inches that a method's name may take
_MARKERS = {"single": "o", "ensemble": "s"}


def run_dots(comparison: dict, *, title: str = "", width: str | float = "two"):
    """Left, or above: rsum of each method, a small ring a seed and a dot for their mean, with its 95% interval over images.
    Right, or below: its difference to the reference with the interval of the paired bootstrap; a dotted line at zero.

    comparison: what `compare` returns. Ensembles are squares, below the single models. An interval that could not be
    made is not drawn. Returns (figure, axes [panels], None). DataError without a method.
    """
    methods = sorted(comparison["methods"], key=lambda one: one["kind"] == "ensemble")  # stable: single models first
    if not methods:
        raise DataError("runs: expected at least one method, got none")
    after = sum(one["kind"] == "single" for one in methods)
    heights = [row + (_GAP if 0 < after <= row else 0) for row in range(len(methods))]
    apart = {row["method"]: row["rsum"] for row in comparison["differences"]}
    names = [one["method"] + ("" if one["kind"] == "single" else ", ensemble") for one in methods]
    with paper_style():
        full = column_width(width)
        most = min(_NAME, 0.36 * full)
        left = 0.1 + min(max(text_width(plain(name), SMALL) for name in names), most)
        numbers = 0.08 + text_width("\u2212000.0", SMALL)
        panels = 2 if apart else 1
        across = panels if full >= 5 else 1
        wide = (full - left - MARGIN - across * numbers) / across - 0.08
        title, head = heading(title, full)
        tall = _ROW * (heights[-1] + 1) + 0.06
        pitch = TITLE + tall + 0.3
        figure = new_figure(full, head + panels // across * pitch)
        write_heading(figure, title)
        axes = []
        for panel in range(panels):
            at, line = left + panel % across * (wide + numbers + 0.08), panel // across
            one = place(figure, at, head + TITLE + line * pitch, wide, tall)
            what = "rsum" if panel == 0 else f"rsum, difference to {comparison['reference']}"
            one.set_title(fit(what, wide + numbers), loc="left", parse_math=False)
            shown = [fit(name, most, SMALL) for name in names] if panel == 0 or across == 1 else []
            one.set_yticks(heights if shown else [], shown, parse_math=False, fontsize=SMALL)
            one.grid(axis="x", color="#dddddd", linewidth=0.4)
            one.set_axisbelow(True)
            one.spines["left"].set_visible(False)
            axes.append(one)
        for row, method in enumerate(methods):
            colour, marker = SERIES[row % len(SERIES)], _MARKERS[method["kind"]]
            seeds = [record["rsum"] for record in method["records"]]
            if len(seeds) > 1:
                axes[0].plot(seeds, [heights[row]] * len(seeds), "o", color=colour, markersize=3.2, markerfacecolor="none",
                             markeredgewidth=0.5, linestyle="none", gid="seeds")
            _dot(axes[0], heights[row], method["mean"]["rsum"], method["rsum_ci95"], colour, marker, ".1f", wide)
            if method["method"] in apart:
                one = apart[method["method"]]
                _dot(axes[1], heights[row], one["difference"], one["ci95"], colour, marker, "+.1f", wide)
        if apart:
            axes[1].axvline(0, color="black", linewidth=0.7, linestyle=":", gid="reference")
        finish(axes)
        for one in axes:
            one.tick_params(axis="y", length=0)
            one.margins(x=0.08)
            one.set_ylim(heights[-1] + 0.6, -0.6)
            one.xaxis.set_major_locator(MaxNLocator(max(2, int(wide / 0.4)), steps=[1, 2, 5, 10]))
    return figure, np.array(axes), None


def _dot(axes, row: float, value: float, span, colour: str, marker: str, form: str, wide: float) -> None:
    """The mean as a dot with its interval, and the number at the right edge."""
    if span:
        axes.plot(span, [row, row], color=colour, linewidth=1.2, solid_capstyle="butt", gid="interval")
    axes.plot([value], [row], marker, color=colour, markersize=3.8, gid="value")
    text = format(round(value, 1) + 0.0, form).replace("-", "\u2212")
    label(axes, 1 + 0.05 / wide, row, text, transform=axes.get_yaxis_transform(), fontsize=SMALL, va="center")
