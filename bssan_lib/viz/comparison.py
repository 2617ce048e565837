"""Methods beside each other: how a quantity grows with size, and numbers with their intervals as dots.

Nothing here knows what is compared; names, numbers and units come from the caller.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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
    plain_legend,
    text_width,
    write_heading,
)

_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
_STYLES = ["-", "--", "-.", ":"]  # lines and markers differ where colours are not printed
_ROW = 0.15  # inches of a method among the dots
_NAME = 1.1  # inches that a method's name may take


def growth_curve(
    series: Mapping[str, tuple[Sequence[float], Sequence]],
    xlabel: str,
    ylabel: str,
    *,
    log: str = "both",
    title: str = "",
    width: str | float = "one",
    axes=None,
):
    """A quantity against size, a line a method: the median of its runs, and a band from their least to their greatest.

    series: {name: (sizes [n], values [n] or [n, runs])}; NaN for a run that was not made. log: which axes are
    logarithmic, "x", "y", "both" or "none". title: above the axes. axes: draw there instead of in a new figure.
    Returns (figure, axes, None). DataError where shapes disagree, or a logarithmic axis would hold 0 or less.
    """
    if log not in ("x", "y", "both", "none"):
        raise DataError(f'growth: expected logarithmic axes "x", "y", "both" or "none", got {log!r}')
    checked = {name: _runs(name, *pair, log) for name, pair in series.items()}
    if not checked:
        raise DataError("growth: expected at least one series, got none")
    with paper_style():
        figure = axes.figure if axes is not None else None
        if figure is None:
            full = column_width(width)
            figure = new_figure(full, min(0.62 * full, 2.6), layout="constrained")
            figure.get_layout_engine().set(w_pad=MARGIN, h_pad=MARGIN)
            axes = figure.subplots()
        for number, (name, (sizes, values)) in enumerate(checked.items()):
            colour = SERIES[number % len(SERIES)]
            axes.plot(
                sizes,
                np.nanmedian(values, axis=1),
                _STYLES[number % len(_STYLES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=3,
                color=colour,
                label=fit(name, 2.0, SMALL),
            )
            if values.shape[1] > 1:
                least, greatest = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
                axes.fill_between(sizes, least, greatest, color=colour, alpha=0.2, linewidth=0)
        axes.set_xscale("log" if log in ("x", "both") else "linear")
        axes.set_yscale("log" if log in ("y", "both") else "linear")
        box, (wide, tall) = axes.get_position(), figure.get_size_inches()
        wide, tall = box.width * wide - 0.1, box.height * tall  # a little less than the layout will give
        axes.set_xlabel(fit(xlabel, wide), parse_math=False)
        axes.set_ylabel(fit(ylabel, tall), parse_math=False)
        axes.set_title(fit(title, wide), parse_math=False)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":  # exponents would be smaller than what is readable
                low, high = np.log10(axis.get_view_interval())
                if np.floor(high) - np.ceil(low) < 1:  # one power of ten alone would not tell what the scale is
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
        handles, names = axes.get_legend_handles_labels()
        if any(values.shape[1] > 1 for _, values in checked.values()):
            handles, names = [*handles, Patch(color="#cccccc")], [*names, "least to greatest run"]
        if len(names) > 1:
            plain_legend(axes.legend(handles, names, handlelength=2.4, labelspacing=0.25))
        finish(axes)
        axes.tick_params(which="minor", width=0.4, length=1.5)
    return figure, axes, None


def _runs(name: str, sizes, values, log: str) -> tuple[np.ndarray, np.ndarray]:
    """sizes [n] in order, values [n, runs] with a number for each size."""
    sizes, values = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    if sizes.ndim != 1 or values.ndim != 2 or len(sizes) != len(values) or not sizes.size or not values.shape[1]:
        raise DataError(
            f"growth: {name}: expected sizes [n] and values [n] or [n, runs], got {list(sizes.shape)} and "
            f"{list(values.shape)}"
        )
    if not np.isfinite(sizes).all() or np.isinf(values).any() or np.isnan(values).all(axis=1).any():
        raise DataError(f"growth: {name}: expected finite sizes, and a finite value for each of them")
    if (log in ("x", "both") and sizes.min() <= 0) or (log in ("y", "both") and np.nanmin(values) <= 0):
        raise DataError(f'growth: {name}: numbers of 0 or less have no place on a logarithmic axis; give log="none"')
    order = np.argsort(sizes, kind="stable")
    return sizes[order], values[order]


def comparison_dots(
    rows: Mapping[str, Mapping[str, float | tuple[float, float, float]]],
    *,
    xlabel: str = "",
    reference: Mapping[str, float] | None = None,
    form: str = ".1f",
    title: str = "",
    width: str | float = "two",
):
    """Methods under each other, a panel a measure: a dot with its interval, and the number beside it.

    rows: {method: {measure: value, or (value, low, high)}}; a measure that a method lacks is left out.
    reference: {measure: a value that a dotted line marks}, such as chance. form: of the numbers. xlabel: their unit.
    Returns (figure, axes [measures], None). DataError without a row, or where a value lies outside its interval.
    """
    measures = list(dict.fromkeys(measure for row in rows.values() for measure in row))
    if not measures:
        raise DataError("comparison: expected at least one method with one measure, got none")
    found = {
        (name, measure): _with_interval(name, measure, row[measure])
        for name, row in rows.items()
        for measure in measures
        if row.get(measure) is not None
    }
    with paper_style():
        full = column_width(width)
        left = 0.1 + min(max(text_width(plain(name), SMALL) for name in rows), _NAME)
        numbers = 0.06 + max(text_width(format(value, form), SMALL) for value, *_ in found.values())
        needed = max(numbers + 0.75, 0.1 + max(text_width(plain(measure)) for measure in measures))
        across = max(1, min(len(measures), int((full - left) // needed)))
        down = -(-len(measures) // across)
        across = -(-len(measures) // down)  # rows as even as possible
        wide = (full - left - across * numbers - MARGIN) / across - 0.08
        title, head = heading(title, full)
        tall = _ROW * len(rows) + 0.06
        pitch = TITLE + tall + 0.3
        below = 0.12 if xlabel else 0.0
        figure = new_figure(full, head + down * pitch + below)
        write_heading(figure, title)
        axes = []
        for number, measure in enumerate(measures):
            column, line = number % across, number // across
            at = left + column * (wide + numbers + 0.08)
            one = place(figure, at, head + TITLE + line * pitch, wide, tall)
            axes.append(one)
            spans = [found.get((name, measure)) for name in rows]
            _dots(one, spans, (reference or {}).get(measure), form, wide)
            one.set_title(fit(measure, wide + numbers), loc="left", parse_math=False)
            names = [fit(name, _NAME, SMALL) for name in rows] if column == 0 else []
            one.set_yticks(range(len(names)), names, parse_math=False, fontsize=SMALL)
            if xlabel and number + across >= len(measures):
                one.set_xlabel(fit(xlabel, wide + numbers), parse_math=False)
        finish(axes)
        for one in axes:
            one.tick_params(axis="y", length=0)
    return figure, np.array(axes), None


def _dots(axes, spans: list, reference: float | None, form: str, wide: float) -> None:
    """A method a row, the first on top: dot, interval, and at the right edge the number."""
    axes.grid(axis="x", color="#dddddd", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    for row, span in enumerate(spans):
        if span is None:
            continue
        value, low, high = span
        colour = SERIES[row % len(SERIES)]
        axes.plot([low, high], [row, row], color=colour, linewidth=1.2, solid_capstyle="butt", gid="interval")
        axes.plot([value], [row], _MARKERS[row % len(_MARKERS)], color=colour, markersize=3.5, gid="value")
        text = format(value, form).replace("-", "\u2212")
        label(axes, 1 + 0.05 / wide, row, text, transform=axes.get_yaxis_transform(), fontsize=SMALL, va="center")
    if reference is not None:
        axes.axvline(reference, color="black", linewidth=0.7, linestyle=":", gid="reference")
    axes.margins(x=0.08)
    axes.set_ylim(len(spans) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(max(2, int(wide / 0.35)), steps=[1, 2, 5, 10]))


def _with_interval(name: str, measure: str, given) -> tuple[float, float, float]:
    value, low, high = (float(one) for one in (given if np.ndim(given) else (given,) * 3))
    if not np.isfinite([value, low, high]).all() or not low <= value <= high:
        raise DataError(f"comparison: {name}, {measure}: expected low <= value <= high, got {low}, {value}, {high}")
    return value, low, high
