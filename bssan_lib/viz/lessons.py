"""Small figures that the lessons share: arrows in a plane, matrices beside each other, lines, dots by word, attention.

Letters: T words, K regions.
"""

import inspect
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import MARKERS
from bssan_lib.viz.heatmaps import word_panels
from bssan_lib.viz.matrices import matrix_panel
from bssan_lib.viz.style import SERIES, finish, label, new_figure, paper_style, plain

_LINES = ["-", "--", "-.", ":"]


def matrices(
    panels: Mapping[str, object],
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    *,
    vectors: Mapping[str, object] | None = None,
    text: str = "",
    row_title: str = "",
    annotate: bool = False,
    width: str | float = "two",
):
    """Matrices beside each other on one scale, and before them, where they are given, vectors as arrows in a plane.

    panels: {title: numbers [rows, columns]}. rows, columns: names. vectors: {letter: [any, 2]}, drawn as letter1, letter2,
    ... text: what the colour bar says; without it there is none. annotate: print the numbers.
    Returns (figure, axes [panels, the plane first], mappable).
    """
    values = {title: np.asarray(numbers, dtype=float) for title, numbers in panels.items()}
    norm = Normalize(min(0.0, *(one.min() for one in values.values())), max(one.max() for one in values.values()))
    count = len(values) + (vectors is not None)
    tallest = max(len(one) for one in values.values())
    with paper_style():
        tall = float(np.clip(0.09 * tallest + 0.9, 2.1 if vectors else 1.4, 4.5))
        figure = new_figure(width, tall, layout="constrained")
        axes = figure.subplots(1, count, squeeze=False).ravel()
        if vectors is not None:
            _arrows(axes[0], vectors)
        for one, (title, numbers) in zip(axes[count - len(values) :], values.items()):
            _, _, mappable = matrix_panel(
                numbers, rows, columns, title=title, row_title=row_title, annotate=annotate, norm=norm, axes=one
            )
        if text:
            figure.colorbar(mappable, ax=list(axes), shrink=0.8).set_label(text)
    return figure, axes, mappable


def _arrows(axes, vectors: Mapping[str, object]) -> None:
    """Vectors from the origin; the group named later is thinner, so that equal ones are both seen."""
    reach = 1.0
    for number, (letter, group) in enumerate(vectors.items()):
        colour, thick = SERIES[number % len(SERIES)], 0.02 - 0.006 * number
        for which, (x, y) in enumerate(np.asarray(group, dtype=float).tolist(), start=1):
            axes.quiver(0, 0, x, y, angles="xy", scale_units="xy", scale=1, width=thick, color=colour)
            away = (1.22, 1.07, 0.66)[number % 3]  # names of the same arrow do not meet
            label(axes, away * x + 0.03, away * y + 0.03, f"{letter}{which}", color=colour)
            reach = max(reach, x, y)
    axes.set(xlim=(-0.05, 1.42 * reach), ylim=(-0.05, 1.42 * reach), aspect="equal", title=", ".join(vectors))


def line_panels(
    x: Sequence[float] | np.ndarray,
    panels: Mapping[str, Mapping[str, object]],
    *,
    xlabel: str = "",
    width: str | float = "two",
):
    """Lines over one x, a panel for each title. panels: {title: {name: y, as long as x}}; names in the first panel.

    Returns (figure, axes [panels], None).
    """
    with paper_style():
        figure = new_figure(width, 2.0, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False).ravel()
        for one, (title, lines) in zip(axes, panels.items()):
            for number, (name, y) in enumerate(lines.items()):
                one.plot(x, np.asarray(y), _LINES[number % len(_LINES)], label=name)
            one.set(xlabel=xlabel, title=title)
        if len(axes[0].lines) > 1:
            axes[0].legend()
        finish(axes)
    return figure, axes, None


def dots_by_word(table: pd.DataFrame, measure: str, *, even: float, text: str, most: int = 28):
    """A measure of the most frequent words, the smallest first; dotted: what even attention gives.

    table: of `word_attention.means_by_word`, with "count" and "function". measure: a column of it. text: of the y axis.
    Returns (figure, axes, None). DataError for an empty table.
    """
    if not len(table):
        raise DataError("dots by word: expected at least one word, got an empty table")
    shown = table.sort_values("count", kind="stable").tail(most).sort_values(measure, kind="stable")
    with paper_style():
        figure = new_figure("two", 2.2, layout="constrained")
        axes = figure.subplots()
        for number, (is_function, name) in enumerate(((False, "content word"), (True, "function word"))):
            at = np.flatnonzero(shown["function"] == is_function)
            axes.plot(at, shown[measure].iloc[at], MARKERS[number], color=SERIES[number], label=name, markersize=4)
        axes.set_xticks(range(len(shown)), [plain(word) for word in shown.index], rotation=90, parse_math=False)
        axes.axhline(even, color="black", linewidth=0.6, linestyle=":")
        axes.set(ylabel=text)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper right", ncols=2)
        finish(axes)
    return figure, axes, None


def word_attention(
    attention, image=None, *, grid=None, boxes=None, true_boxes=None, only=None, caption="", top: float | None = None
):
    """W2R attention of a caption's words: over the picture where there is one, as a matrix where there is none.

    attention: has w2r [T, K] and words. grid, boxes, true_boxes, only, caption, top: as for `word_panels`; boxes count
    where there is no grid. Returns (figure, axes, mappable).
    """
    if image is not None:
        where = {"grid": tuple(grid)} if grid else {"boxes": boxes}
        return word_panels(
            image, attention.w2r, attention.words, true_boxes=true_boxes, only=only, caption=caption, top=top, **where
        )
    chosen = list(range(len(attention.words))) if only is None else list(only)
    return matrix_panel(
        attention.w2r[chosen],
        [attention.words[t] for t in chosen],
        width="two",
        title=caption,
        column_title="region",
        norm=Normalize(0, top),
        text="attention; each row sums to one",
    )


def source(*functions):
    """The library's own code of some functions, for a notebook to show: nothing is typed a second time."""
    from IPython.display import Markdown

    text = "\n".join(inspect.cleandoc("\n" + inspect.getsource(one)) + "\n" for one in functions)
    return Markdown(f"```python\n{text}```")
