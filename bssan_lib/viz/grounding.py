"""Where attention points, beside what needs no picture or no training; what its removal costs; which words look where.

Maps of `bssan_lib.evaluation.grounding`, curves of `bssan_lib.evaluation.faithfulness`, tables of `bssan_lib.evaluation.word_attention` are drawn as
they come. Percentages are 0 to 100.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import draw_dots, name_rows
from bssan_lib.viz.style import SERIES, SMALL, column_width, finish, fit, new_figure, paper_style

GREY = "#6B6B6B"  # what attention is compared with
# name in the metrics: (title, colour, marker, line); filled markers are attention, hollow ones are compared with
MAPS = {
    "w2r": ("W2R", SERIES[0], "o", "-"),
    "w2r_content_words": ("W2R, content words", SERIES[5], "v", "-"),
    "o2w_transposed": ("O2W transposed", SERIES[1], "s", "--"),
    "combined": ("combined", SERIES[2], "D", "-."),
    "center": ("the picture's centre", GREY, "x", ":"),
    "prior": ("mean of training boxes", GREY, "o", (0, (6, 2))),
    "shuffled_w2r": ("W2R of another caption", SERIES[3], "^", (0, (3, 1, 1, 1))),
    "untrained_w2r": ("W2R, untrained", SERIES[4], "<", (0, (1, 1))),
    "true_box": ("the true boxes", "black", "", "-"),
}
NAME = 0.95  # inches that the name of a type or word may take
HOLLOW = ("prior", "shuffled_w2r", "untrained_w2r")
_MEASURES = {
    "pointing_game": "pointing game (%)",
    "pointing_game_window": "pointing game, window (%)",
    "mass_in_box": "mass in box (%)",
    "area_under_curve": "area under the curve (%)",
}
_ORDERS = {
    "most": ("most attended first", SERIES[0], "o", "-"),
    "another": ("another caption's first", SERIES[3], "^", "-."),
    "random": ("random", GREY, "x", ":"),
    "least": ("least attended first", SERIES[1], "s", "--"),
}


def _known(table: Mapping, name: str, measure: str):
    """(value, interval or None) of a map, a baseline or the centre; None where the metrics lack it."""
    part, key = ("baselines", name) if name == "center" else (name, measure)
    if name == "center" and not measure.startswith("pointing"):
        return None
    if key not in table.get(part, {}):
        return None
    return table[part][key], table.get("ci95", {}).get(part, {}).get(key)


def pointing_dots(
    grounding: Mapping,
    *,
    measure: str = "pointing_game",
    maps: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    width: str | float = "two",
):
    """A measure of each map with its 95% interval, over all phrases and by type.

    grounding: metrics["grounding"]. measure: a key of a map, such as "mass_in_box". maps: which of "w2r",
    "w2r_content_words", "o2w_transposed", "combined", "center", "prior", "shuffled_w2r", "untrained_w2r", by default
    all that the metrics have. types: which, in this order; by default all, the most frequent first.
    Returns (figure, axes [1], None). DataError for a measure or a map that is not there.
    """
    if measure not in _MEASURES or not grounding:
        raise DataError(
            f"pointing: expected one of {', '.join(_MEASURES)} and grounding metrics, got {measure!r} and "
            f"metrics with {sorted(grounding or {})}"
        )
    maps = [name for name in MAPS if _known(grounding, name, measure)] if maps is None else list(maps)
    missing = [name for name in maps if name not in MAPS or not _known(grounding, name, measure)]
    if missing or not maps:
        raise DataError(
            f"pointing: no {measure} of {', '.join(missing) or 'any map'} in the metrics; a prior, other "
            "words and an untrained model are measured only with checks."
        )
    kinds = grounding.get("by_type", {})
    types = sorted(kinds, key=lambda kind: -kinds[kind]["n"]) if types is None else list(types)
    rows = {f"all ({grounding['n_phrases']})": grounding}
    rows |= {f"{fit(kind, NAME, SMALL)} ({kinds[kind]['n']})": kinds[kind] for kind in types}
    step = 0.8 / len(maps)
    looks = [MAPS[name] for name in maps]
    measured = [
        (number, at + (number - (len(maps) - 1) / 2) * step, *_known(row, name, measure))
        for number, name in enumerate(maps)
        for at, row in enumerate(rows.values())
    ]
    with paper_style():
        figure = new_figure(width, 0.75 + len(rows) * (0.1 + 0.06 * len(maps)), layout="constrained")
        axes = figure.subplots()
        titles, colours, markers, _ = zip(*looks)
        draw_dots(axes, measured, colours, markers, titles, markersize=3.2)
        for name, line in zip(maps, [line for line in axes.lines if line.get_gid() == "value"]):
            line.set_markerfacecolor("white" if name in HOLLOW else line.get_color())
        for place in range(len(rows) - 1):
            axes.axhline(place + 0.5, color="0.85", linewidth=0.5)
        name_rows(axes, list(rows))
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel=_MEASURES[measure])
        _legend(figure, axes)
    return figure, np.array([axes]), None


def coverage_curves(grounding: Mapping, *, maps: Sequence[str] | None = None, width: str | float = "one"):
    """How much of the true boxes lies in the densest part of each map, as that part grows to the whole picture.

    grounding: metrics["grounding"] with "curve". maps: which, by default all but the content words', whose curve
    lies on W2R's; even attention is the diagonal.
    The number in brackets is the area under the curve. Returns (figure, axes [1], None). DataError without curves.
    """
    curves = (grounding or {}).get("curve", {})
    own = [name for name in MAPS if name in curves and name != "w2r_content_words"]
    maps = own if maps is None else list(maps)
    if not maps or any(name not in curves or name not in MAPS for name in maps):
        raise DataError(f"coverage: expected curves of {', '.join(maps) or 'some map'}, got {sorted(curves)}")
    with paper_style():
        figure = new_figure(width, 0.62 * min(column_width(width), 4) + 0.75, layout="constrained")
        axes = figure.subplots()
        for name in maps:
            title, colour, _, line = MAPS[name]
            under = (
                grounding["baselines"].get("true_box_area_under_curve")
                if name == "true_box"
                else grounding[name]["area_under_curve"]
            )
            axes.plot(
                curves["area"],
                curves[name],
                color=colour,
                linestyle=line,
                label=f"{title} ({under:.1f})",
                linewidth=0.8 if name == "true_box" else 1.1,
            )
        axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.8, label="even attention (50)")
        axes.set(xlim=(0, 100), xlabel="share of the picture taken (%)")
        axes.set(ylim=(0, 101), ylabel="share of the true boxes in it (%)")
        finish(axes)
        _legend(figure, axes, across=2 if column_width(width) < 5 else 4)
    return figure, np.array([axes]), None


def deletion_lines(deletion: Mapping, *, width: str | float = "two"):
    """The score of true pairs, and its lead over other captions, as regions are left out in several orders.

    deletion: as `faithfulness.deletion_summary` gives it: {"removed", "pairs", order: {"own", "own_ci95", "others",
    "lead", "lead_ci95"}}. Bands are 95% intervals. Returns (figure, axes [2], None).
    """
    orders = [name for name in _ORDERS if name in (deletion or {})]
    if not orders:
        raise DataError(f"deletion: expected one of {', '.join(_ORDERS)}, got {sorted(deletion or {})}")
    with paper_style():
        full = column_width(width)
        figure = new_figure(width, 2.2 if full > 5 else 3.7, layout="constrained")
        axes = (figure.subplots(1, 2) if full > 5 else figure.subplots(2, 1)).ravel()
        for one, what, title in zip(axes, ("own", "lead"), ("score of the true pair", "its lead over other captions")):
            for name in orders:
                label, colour, marker, line = _ORDERS[name]
                row = deletion[name]
                gone, marks = deletion["removed"], {"marker": marker, "markersize": 3, "label": label}
                one.plot(gone, row[what], color=colour, linestyle=line, **marks)
                if f"{what}_ci95" in row:
                    low, high = np.transpose(row[f"{what}_ci95"])
                    one.fill_between(gone, low, high, color=colour, alpha=0.18, linewidth=0)
            one.set(xlabel="regions left out (%)", xlim=(0, 100), title=title)
            one.axhline(0, color="0.8", linewidth=0.6, zorder=0)
        others = deletion["most"]["others"] if "most" in orders else deletion[orders[0]]["others"]
        label = "other captions, most attended gone"
        axes[0].plot(deletion["removed"], others, color="black", linewidth=0.8, label=label)
        finish(axes)
        _legend(figure, axes[0], across=3 if full > 5 else 2)
    return figure, axes, None


def word_dots(
    kinds: pd.DataFrame,
    words: pd.DataFrame,
    *,
    regions: int,
    most: int = 10,
    shown: Sequence[str] = (),
    width: str | float = "two",
):
    """Over how many regions the attention of words spreads, and how much attention they get from objects.

    Kinds of words with intervals, then the narrowest, some chosen and the widest words, counts in brackets; squares
    are function words.
    kinds, words: of `word_attention.means_by_kind` and `means_by_word`. regions: K, the most there can be. most: how many words at
    either end. shown: words to show between. Returns (figure, axes [3], None). DataError for empty tables.
    """
    if not len(kinds) or not len(words):
        raise DataError(f"words: expected kinds and words, got {len(kinds)} and {len(words)} rows")
    most = min(most, len(words) // 2)
    inner = words.index[most : len(words) - most]
    chosen = [*words.index[:most], *(word for word in shown if word in inner), *words.index[len(words) - most :]]
    every, title = list(kinds.index), f"regions attended to (of {regions})"
    panels = [
        (kinds, every, "regions", title),
        (kinds, every, "o2w_share", "attention from objects (even: 1)"),
        (words, chosen, "regions", title),
    ]
    with paper_style():
        if column_width(width) > 5:
            figure = new_figure(width, 0.125 * max(len(kinds), len(chosen)) + 0.6, layout="constrained")
            axes = figure.subplots(1, 3, width_ratios=[1, 0.8, 1])
        else:
            counts = [len(names) for _, names, _, _ in panels]
            figure = new_figure(width, 0.125 * sum(counts) + 1.6, layout="constrained")
            axes = figure.subplots(3, 1, height_ratios=counts)
        for one, (table, names, measure, text) in zip(axes, panels):
            _word_rows(one, table.loc[names], measure)
            one.set(xlabel=text, xlim=(0, regions if measure == "regions" else None))
        axes[1].axvline(1, color="0.6", linewidth=0.8, zorder=0)
        if column_width(width) > 5:
            axes[1].set_yticklabels([])
        for one, title in zip(axes, ("kinds of words", "kinds of words", "words: narrowest, some, widest")):
            one.set_title(title)
    return figure, axes, None


def _word_rows(axes, table: pd.DataFrame, measure: str) -> None:
    """A row for each row of the table, names with counts on the left; function words are squares."""
    function = [bool(name == "function words" or row.get("function", False)) for name, row in table.iterrows()]
    spans = table.get(f"{measure}_ci95", [None] * len(table))
    measured = [
        (int(square), at, value, span) for at, (square, value, span) in enumerate(zip(function, table[measure], spans))
    ]
    draw_dots(axes, measured, SERIES[:2], ["o", "s"], markersize=3.2)
    name_rows(axes, [f"{fit(name, NAME, SMALL)} ({count:.0f})" for name, count in table["count"].items()])


def _legend(figure, axes, across: int = 4) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        fontsize=SMALL,
        handlelength=2.2,
        columnspacing=1.0,
        ncols=min(len(names), across if figure.get_figwidth() > 5 else 2),
    )
