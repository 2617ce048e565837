"""Dots and bars with intervals that were measured before: seaborn draws them and computes no interval itself."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.ticker import MaxNLocator

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
    place,
    plain,
    text_width,
    write_heading,
)

MARKERS = ["o", "s", "^", "D", "v", "P", "X"]  # they differ where colours are not printed
_WIDER = 1.18  # bold letters, compared with normal ones
ROW = 0.16  # inches of a row of dots
Span = Sequence[float] | None  # (low, high), or None where no interval was measured
# For seaborn: the first number of a place is the value, and the next two are the ends of its interval.
AS_MEASURED = {
    "estimator": lambda numbers: numbers.iloc[0],
    "errorbar": lambda numbers: tuple(numbers.iloc[1:3]),
    "legend": False,
}


def measured_frame(measured: Iterable[tuple[int, float, float, Span]]) -> pd.DataFrame:
    """(series, place, value, span) as rows for AS_MEASURED: one for the value, and two for an interval."""
    rows = [
        (series, at, float(number))
        for series, at, value, span in measured
        if np.isfinite(value)
        for number in (value, *(() if span is None else span))
    ]
    return pd.DataFrame(rows, columns=["series", "place", "number"])


def draw_dots(axes, measured, colours: Sequence, markers: Sequence[str], names: Sequence[str] = (), **settings) -> None:
    """A dot for each (series, place, value, span), with its interval behind it; place counts down the y axis.

    colours, markers: of the series 0, 1, ... names: of the series, for a legend. settings: of the dots.
    """
    seaborn.pointplot(
        measured_frame(measured),
        x="number",
        y="place",
        hue="series",
        hue_order=range(len(colours)),
        palette=list(colours),
        markers=list(markers),
        linestyles="none",
        orient="y",
        native_scale=True,
        ax=axes,
        gid="value",
        err_kws={"gid": "interval", "linewidth": 1.1, "solid_capstyle": "butt", "zorder": 1.9},
        **{"markersize": 3.6, "markeredgewidth": 0.8, **settings},
        **AS_MEASURED,
    )
    axes.set(xlabel="", ylabel="")
    for line in [line for line in axes.lines if line.get_gid() == "interval" and np.isnan(line.get_xdata()).any()]:
        line.remove()  # seaborn draws an interval of no length where there is none
    for line, name in zip((line for line in axes.lines if line.get_gid() == "value"), names):
        line.set_label(name)


def name_rows(axes, names: Sequence[str], heights: Sequence[float] | None = None) -> None:
    """Names at their rows, the first on top, with a light grid for reading values."""
    heights = range(len(names)) if heights is None else heights
    axes.set_yticks(heights, names, parse_math=False, fontsize=SMALL)
    axes.set_ylim(heights[-1] + 0.6, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.4)
    axes.set_axisbelow(True)
    finish(axes)
    axes.tick_params(axis="y", length=0)


def _write_numbers(axes, texts: list[str | None], heights, weights: list[str], gap: float) -> None:
    """The number of each row at the right edge. weights: of the fonts. gap: as a share of the axes' width."""
    for text, height, weight in zip(texts, heights, weights):
        if text:
            settings = {"transform": axes.get_yaxis_transform(), "fontsize": SMALL, "va": "center"}
            label(axes, 1 + gap, height, text, fontweight=weight, **settings)


def dot_panels(
    names: Sequence[str],
    panels: Mapping[str, Sequence[tuple[float, Span] | None]],
    form: dict[str, str],
    *,
    heights: Sequence[float] | None = None,
    markers: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    bold: Sequence[bool] | None = None,
    widest_name: float = 1.1,
    title: str = "",
    xlabel: str = "",
    width: str | float = "two",
):
    """A row for each name, a panel for each title: a dot with its interval, and the number at the right edge.

    panels: {title: for each name (value, interval) or None}. form: {title: format of its numbers}. heights: of the
    rows, by default 0, 1, ... colours, bold: of each row, by default a colour for each and none bold. Returns (figure, axes [panels]).
    """
    heights = list(range(len(names)) if heights is None else heights)
    markers = [MARKERS[row % len(MARKERS)] for row in range(len(names))] if markers is None else markers
    colours = [SERIES[row % len(SERIES)] for row in range(len(names))] if colours is None else colours
    weights = ["bold" if one else "normal" for one in bold or [False] * len(names)]
    texts = {
        (name, row): format(round(dot[0], 6) + 0.0, form[name]).replace("-", "\u2212")
        for name, dots in panels.items()
        for row, dot in enumerate(dots)
        if dot is not None
    }
    wider = _WIDER if bold else 1
    numbers = 0.06 + max(text_width(text, SMALL) for text in texts.values()) * wider
    full = column_width(width)
    left = 0.1 + min(wider * max(text_width(plain(name), SMALL) for name in names), widest_name)
    needed = max(numbers + 0.75, 0.1 + min(max(text_width(plain(name)) for name in panels), 2.0))
    across = max(1, min(len(panels), int((full - left) // needed)))
    down = -(-len(panels) // across)
    across = -(-len(panels) // down)  # as many panels in each row as possible
    wide = (full - left - across * numbers - MARGIN) / across - 0.08
    title, head = heading(title, full)
    tall = ROW * (heights[-1] + 1) + 0.06
    pitch = TITLE + tall + 0.3
    figure = new_figure(full, head + down * pitch + (0.12 if xlabel else 0.0))
    write_heading(figure, title)
    axes = []
    for panel, (name, dots) in enumerate(panels.items()):
        column, line = panel % across, panel // across
        one = place(figure, left + column * (wide + numbers + 0.08), head + TITLE + line * pitch, wide, tall)
        draw_dots(one, [(row, heights[row], *dot) for row, dot in enumerate(dots) if dot], colours, markers)
        _write_numbers(one, [texts.get((name, row)) for row in range(len(names))], heights, weights, 0.05 / wide)
        one.set_title(fit(name, wide + numbers), loc="left", parse_math=False)
        one.margins(x=0.08)
        name_rows(one, [fit(name, widest_name / wider, SMALL) if column == 0 else "" for name in names], heights)
        for tick, weight in zip(one.get_yticklabels(), weights):
            tick.set_fontweight(weight)
        one.spines["left"].set_visible(False)
        one.xaxis.set_major_locator(MaxNLocator(max(2, int(wide / 0.38)), steps=[1, 2, 5, 10]))
        if xlabel and panel + across >= len(panels):
            one.set_xlabel(fit(xlabel, wide + numbers), parse_math=False)
        axes.append(one)
    return figure, np.array(axes)
