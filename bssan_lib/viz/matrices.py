"""Attention as numbers: matrices of words, regions and objects, on one scale.

Letters: K regions, M objects, T words. W2R is [T, K], each row sums to one over regions; O2W is [M, T], each
row sums to one over words.
"""

import numpy as np
from matplotlib.colors import Normalize

from bssan_lib.errors import DataError
from bssan_lib.viz.pictures import TITLE, bar_room, colour_bar, scale_words, shared_norm
from bssan_lib.viz.style import (
    SEQUENTIAL,
    SMALL,
    check_weights,
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

BOTH_SUMS = "attention; the rows of either matrix sum to one"
WIDEST_NAME = 0.62  # inches that the names of rows and columns may take
NAME_HEIGHT = 0.085  # inches from one name to the next


def matrix_panel(
    values,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    *,
    title: str = "",
    row_title: str = "",
    column_title: str = "",
    text: str = "",
    annotate: bool | str = False,
    width: str | float = "one",
    norm: Normalize | None = None,
    axes=None,
):
    """A matrix [rows, columns], row 0 on top: the vector form of `imshow`.

    rows, columns: names; without them a few indices are printed. text: what the colour bar says; without it
    there is none. annotate: True prints each number with two decimals; or a format such as ".3f".
    norm: a shared scale; by default from 0, or the least where it is negative, to the greatest value.
    axes: draw there, without a colour bar, instead of in a new figure.
    Returns (figure, axes, mappable). DataError where the shape is no matrix or the names are not as many.
    """
    values = _check_matrix(values, rows, columns)
    norm = _matrix_norm(values) if norm is None else norm
    with paper_style():
        if axes is None:
            figure, axes = _one_matrix(
                column_width(width),
                values,
                rows,
                columns,
                title,
                row_title,
                column_title,
                bar_room(text, column_width(width)) if text else 0.0,
                bool(annotate),
            )
        else:
            figure, text = axes.figure, ""
        mappable = axes.pcolormesh(values, cmap=SEQUENTIAL, norm=norm, linewidth=0)
        axes.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0))
        axes.spines[:].set_visible(True)
        box = axes.get_position()
        wide = box.width * figure.get_figwidth()
        axes.set_title(fit(title, wide), parse_math=False)
        axes.set_xlabel(fit(column_title, wide), parse_math=False)
        axes.set_ylabel(plain(row_title), parse_math=False)
        finish(axes)
        _name_cells(axes.yaxis, rows, values.shape[0], box.height * figure.get_figheight(), False)
        _name_cells(axes.xaxis, columns, values.shape[1], wide, True)
        if annotate:
            _print_numbers(axes, values, norm, ".2f" if annotate is True else annotate)
        if text:
            colour_bar(figure, mappable, text, over=values.max() > norm.vmax, over_picture=False)
    return figure, axes, mappable


def _check_matrix(values, rows: list[str] | None, columns: list[str] | None) -> np.ndarray:
    values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"matrix: expected numbers of shape [rows, columns], got {list(values.shape)}")
    for names, count, what in ((rows, values.shape[0], "rows"), (columns, values.shape[1], "columns")):
        if names is not None and len(names) != count:
            raise DataError(f"matrix: expected names of {count} {what}, got {len(names)}")
    return values


def _matrix_norm(values: np.ndarray) -> Normalize:
    """From zero, or the least value where that is negative, to the greatest."""
    finite = values[np.isfinite(values)]
    low, high = (min(0.0, finite.min()), finite.max()) if finite.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1.0)


def _one_matrix(full: float, values, rows, columns, title, row_title, column_title, bar: float, annotate: bool):
    """A figure with room for names, titles and a colour bar around one matrix."""
    left = _room(rows) + (0.14 if row_title else 0.0) + 0.06
    wide = full - left - 0.06
    below = (_room(columns) if columns and _upright(columns, wide) else 0.13) + (0.13 if column_title else 0.0) + 0.04
    tall = min(max(len(values) * (0.19 if annotate else 0.115), 0.5), 8.0)
    above = 0.17 if title else 0.05
    figure = new_figure(full, above + tall + below + bar)
    return figure, place(figure, left, above, wide, tall)


def _room(names: list[str] | None) -> float:
    """Inches that names (or a few indices) need, at most WIDEST_NAME."""
    return 0.06 + min(
        max((text_width(plain(name), SMALL) for name in names), default=0.0) if names else 0.14, WIDEST_NAME
    )


def _upright(names: list[str], inches: float) -> bool:
    """Whether names along x must stand upright, since the widest does not fit its cell."""
    return max(text_width(plain(name), SMALL) for name in names) + 0.03 > inches / len(names)


def _name_cells(axis, names: list[str] | None, count: int, inches: float, along_x: bool) -> None:
    """Ticks at the middles of cells; where names would touch, some are left out."""
    if names is None:
        room = 0.17 if along_x else 0.1
        step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if s * inches / count >= room), count)
        names = [str(number) for number in range(count)]
    else:
        step = max(1, int(np.ceil(count * NAME_HEIGHT / inches - 0.01)))
        names = [fit(name, WIDEST_NAME, SMALL) for name in names]
    settings = {"rotation": 90} if along_x and step == 1 and _upright(names, inches) else {}
    chosen = range(0, count, step)
    axis.set_ticks([i + 0.5 for i in chosen], [names[i] for i in chosen], parse_math=False, fontsize=SMALL, **settings)
    axis.set_tick_params(length=1.5)


def _print_numbers(axes, values: np.ndarray, norm: Normalize, form: str) -> None:
    for row, column in np.ndindex(values.shape):
        colour = "white" if norm(values[row, column]) < 0.55 else "black"
        label(
            axes,
            column + 0.5,
            row + 0.5,
            format(values[row, column], form),
            color=colour,
            fontsize=SMALL,
            ha="center",
            va="center",
        )


def alignment(attention, *, title: str = "", width: str | float = "two", top: float | None = None, power: float = 0.5):
    """W2R [T, K], words by regions, and O2W [M, T], objects by words, on one scale.

    Side by side, or one above the other where the words' names would not fit.
    attention: has w2r, o2w and words. top: end of the scale; by default the greatest weight of both.
    power: of the scale, 1 for a linear one. Attention over K regions is far thinner than over T words, so by default
    the scale is a square root, which the colour bar says.
    Returns (figure, axes [2], mappable). DataError where the shapes disagree with the words.
    """
    words = list(attention.words)
    w2r = check_weights(attention.w2r, len(words), None, "alignment: W2R")
    o2w = check_weights(attention.o2w, None, len(words), "alignment: O2W")
    norm = shared_norm(np.concatenate([w2r.ravel(), o2w.ravel()]), top, power)
    with paper_style():
        full = column_width(width)
        left, middle = _room(words) + 0.06, 0.42
        wide = (full - left - middle - 0.06) / 2
        beside = wide >= len(words) * NAME_HEIGHT
        wide = wide if beside else full - left - 0.06
        below = (_room(words) if _upright(words, wide) else 0.13) + 0.2
        tall = [float(np.clip(len(words) * 0.115, 1.0, 8.0)), float(np.clip(len(o2w) * 0.05, 1.0, 6.0))]
        tall = [max(tall)] * 2 if beside else tall
        title, head = heading(title, full)
        text = BOTH_SUMS + scale_words(norm)
        first = head + TITLE
        second = first if beside else first + tall[0] + 0.3 + TITLE
        figure = new_figure(full, second + tall[1] + below + bar_room(text, full))
        write_heading(figure, title)
        axes = [
            place(figure, left, first, wide, tall[0]),
            place(figure, left + (wide + middle if beside else 0), second, wide, tall[1]),
        ]
        matrix_panel(w2r, rows=words, title="W2R", column_title="region", norm=norm, axes=axes[0])
        _, _, mappable = matrix_panel(
            o2w, columns=words, title="O2W", row_title="object", column_title="word", norm=norm, axes=axes[1]
        )
        over = max(w2r.max(), o2w.max()) > norm.vmax
        colour_bar(figure, mappable, text, over=over, over_picture=False)
    return figure, np.array(axes), mappable
