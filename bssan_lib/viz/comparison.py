"""Methods beside each other: how a quantity grows with size, and numbers with their intervals as dots.

Nothing here knows what is compared; names, numbers and units come from the caller.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import MARKERS, dot_panels
from bssan_lib.viz.style import MARGIN, SERIES, SMALL, column_width, finish, fit, new_figure, paper_style, plain_legend

_STYLES = ["-", "--", "-.", ":"]  # lines and markers differ where colours are not printed


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
            # The interval of 100 percent of the runs reaches from the least to the greatest.
            seaborn.lineplot(
                x=np.repeat(sizes, values.shape[1]),
                y=values.ravel(),
                estimator="median",
                errorbar=("pi", 100) if values.shape[1] > 1 else None,
                err_kws={"linewidth": 0},
                linestyle=_STYLES[number % len(_STYLES)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=3,
                markeredgewidth=0,
                color=SERIES[number % len(SERIES)],
                label=fit(name, 2.0, SMALL),
                legend=False,
                ax=axes,
            )
        _finish_growth(figure, axes, log, xlabel, ylabel, title)
        handles, names = axes.get_legend_handles_labels()
        if any(values.shape[1] > 1 for _, values in checked.values()):
            handles, names = [*handles, Patch(color="#cccccc")], [*names, "least to greatest run"]
        if len(names) > 1:
            plain_legend(axes.legend(handles, names, handlelength=2.4, labelspacing=0.25))
    return figure, axes, None


def _finish_growth(figure, axes, log: str, xlabel: str, ylabel: str, title: str) -> None:
    """Scales with readable numbers, and the names of both axes within their lengths."""
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
            if np.floor(high) - np.ceil(low) < 1:  # a single power of ten would not show the scale
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
    finish(axes)
    axes.tick_params(which="minor", width=0.4, length=1.5)


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
    panels = {
        measure: [
            None if row.get(measure) is None else _with_interval(name, measure, row[measure])
            for name, row in rows.items()
        ]
        for measure in measures
    }
    with paper_style():
        figure, axes = dot_panels(
            list(rows), panels, dict.fromkeys(measures, form), title=title, xlabel=xlabel, width=width
        )
        for measure, one in zip(measures, axes):
            if reference and measure in reference:
                one.axvline(reference[measure], color="black", linewidth=0.7, linestyle=":", gid="reference")
                one.margins(x=0.08)
    return figure, axes, None


def _with_interval(name: str, measure: str, given) -> tuple[float, tuple[float, float] | None]:
    value, low, high = (float(one) for one in (given if np.ndim(given) else (given,) * 3))
    if not np.isfinite([value, low, high]).all() or not low <= value <= high:
        raise DataError(f"comparison: {name}, {measure}: expected low <= value <= high, got {low}, {value}, {high}")
    return value, (low, high) if np.ndim(given) else None


def holm_dots(p: Mapping[str, float], *, width: str | float = "two"):
    """p of many differences, the smallest on top, with the limits that Holm's procedure sets for each place.

    p: {name: p}; below 1e-6 they are drawn there. Returns (figure, axes, None). DataError without a difference.
    """
    p = dict(p)  # also of a pandas Series
    if not p:
        raise DataError("p of differences: expected at least one, got none")
    names = sorted(p, key=lambda name: p[name])
    place = np.arange(len(names))
    with paper_style():
        columns = 3 if column_width(width) > 5 else 1  # of the legend
        figure = new_figure(width, (0.8 if columns > 1 else 1.2) + 0.14 * len(names), layout="constrained")
        axes = figure.subplots()
        values = np.clip([p[name] for name in names], 1e-6, None)
        axes.semilogx(values, place, "o", color=SERIES[0], markersize=3.5, label="p of each difference")
        limits = {"color": SERIES[1], "label": "Holm: 0.05 / (questions left)"}
        axes.semilogx(0.05 / (len(names) - place), place, **limits)
        axes.axvline(0.05, color="black", linestyle=":", linewidth=0.8, label="0.05, for one question")
        axes.set_yticks(place, [fit(name, 1.6, SMALL) for name in names], parse_math=False, fontsize=SMALL)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="p")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside upper center", ncols=columns)
        finish(axes)
    return figure, axes, None
