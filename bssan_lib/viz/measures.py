"""How results are measured: scores with ranks, resampled results, attention on a small grid, shares by group.

Letters: N images, C captions, S bootstrap samples.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import MARKERS
from bssan_lib.viz.matrices import matrix_panel
from bssan_lib.viz.style import RIGHT, SERIES, SMALL, WRONG, finish, new_figure, paper_style, plain, plain_legend

_LINES = ["-", "--", ":"]


def score_matrix(scores, cap2im, ranks=None, *, title: str = "", width: str | float = "two"):
    """Scores [N, C] of images and captions; what belongs together is outlined.

    cap2im: [C], the row of each caption's image. ranks: (of the images [N], of the captions [C]), printed right of the
    rows and below the columns, and the scores are printed too; without it a colour bar is drawn.
    Returns (figure, axes, mappable). DataError where cap2im does not fit the scores.
    """
    scores, cap2im = np.asarray(scores, dtype=float), np.asarray(cap2im)
    if scores.ndim != 2 or cap2im.shape != scores.shape[1:] or not np.isin(cap2im, range(len(scores))).all():
        raise DataError(
            f"scores: expected [images, captions] and cap2im [captions], got {scores.shape}, {cap2im.shape}"
        )
    names: dict = {"row_title": "image", "column_title": "caption", "text": "score"}
    if ranks is not None:
        rows, columns = (
            [f"{what} {n}" for n in range(count)] for what, count in zip(("image", "caption"), scores.shape)
        )
        names = {"rows": rows, "columns": columns, "annotate": True}
    norm = Normalize(scores.min(), scores.max()) if ranks is None else None
    figure, axes, mappable = matrix_panel(scores, title=title, width=width, norm=norm, **names)
    for c, i in enumerate(cap2im):
        axes.add_patch(Rectangle((c, i), 1, 1, fill=False, edgecolor=WRONG, linewidth=1.6, gid="own"))
    if ranks is not None:
        _print_ranks(figure, axes, *ranks)
    return figure, axes, mappable


def _print_ranks(figure, axes, of_images, of_captions) -> None:
    """Ranks in blue outside the matrix: of the images on the right, of the captions below their names."""
    figure.set_size_inches(figure.get_figwidth(), 1.25)
    axes.set_position([0.12, 0.34, 0.8, 0.5])
    style = {"textcoords": "offset points", "color": RIGHT, "fontsize": SMALL}
    for i, rank in enumerate(of_images):
        axes.annotate(f"{rank}", (len(of_captions), i + 0.5), (6, 0), va="center", **style)
    for c, rank in enumerate(of_captions):
        axes.annotate(f"{rank}", (c + 0.5, len(of_images)), (0, -20), ha="center", **style)


def attention_on_grid(weights, box, *, title: str = "", width: str | float = 2.6):
    """Attention weights [rows, columns] of a small grid, printed, with a true box and a cross at the heaviest region.

    box: x1 y1 x2 y2 as fractions of the picture. Returns (figure, axes, mappable).
    """
    weights = np.asarray(weights, dtype=float)
    figure, axes, mappable = matrix_panel(weights, title=title, width=width, annotate=True)
    figure.set_size_inches(figure.get_figwidth(), 0.75 * figure.get_figwidth())
    axes.set_position([0.12, 0.1, 0.84, 0.78])
    (rows, columns), (x1, y1, x2, y2) = weights.shape, box
    corner = (columns * x1, rows * y1)
    axes.add_patch(Rectangle(corner, columns * (x2 - x1), rows * (y2 - y1), fill=False, edgecolor=WRONG, linewidth=2))
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    axes.plot(column + 0.5, row + 0.78, "x", color=WRONG, markersize=6)
    return figure, axes, mappable


def resampled_histogram(samples, measured: float, span, *, xlabel: str, width: str | float = "one"):
    """Results of S resampled splits, the measured one as a line, and the interval `span` (low, high) shaded.

    Returns (figure, axes, None).
    """
    with paper_style():
        figure = new_figure(width, 1.6, layout="constrained")
        axes = figure.subplots()
        axes.hist(np.asarray(samples), bins=30, color=SERIES[5])
        axes.axvline(measured, color="black")
        axes.axvspan(*span, color=SERIES[0], alpha=0.15)
        axes.set_xlabel(plain(xlabel), parse_math=False)
        axes.set_ylabel(f"samples of {len(samples)}")
        finish(axes)
    return figure, axes, None


def group_shares(panels: Mapping[str, Mapping[str, pd.DataFrame]], *, ylabel: str, width: str | float = "two"):
    """Percent right in groups of similar queries, with 95% intervals: a panel for each quantity they are grouped by.

    panels: {quantity: {series: table of `hypotheses.shares_by_group`, index the group, columns count, share, low, high}}.
    All series of a panel have the same groups. Returns (figure, axes [panels], None). DataError without a panel.
    """
    if not panels:
        raise DataError("shares by group: expected at least one quantity, got none")
    with paper_style():
        figure = new_figure(width, 2.1, layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False).ravel()
        for one, (quantity, series) in zip(axes, panels.items()):
            for number, (name, table) in enumerate(series.items()):
                reach = [table["share"] - table["low"], table["high"] - table["share"]]
                at = np.arange(len(table)) + 0.08 * number
                look = {"marker": MARKERS[number], "linestyle": _LINES[number], "markersize": 3, "label": plain(name)}
                one.errorbar(at, table["share"], np.clip(reach, 0, None), **look)
            names = [f"{plain(str(group))}\n({count})" for group, count in table["count"].items()]
            one.set_xticks(range(len(table)), names, parse_math=False)
            one.set_xlabel(plain(quantity), parse_math=False)
            one.set(ylim=(0, 105), xlim=(-0.4, len(table) - 0.4))
        axes[0].set_ylabel(plain(ylabel), parse_math=False)
        if len(axes[0].containers) > 1:
            plain_legend(figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3))
        finish(axes)
    return figure, axes, None
