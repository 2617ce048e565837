"""Numbers beside each other with intervals: recalls, grounding, pairs. All are percentages, 0 to 100."""

from collections.abc import Iterable, Mapping

import numpy as np
import seaborn

from bssan_lib.errors import DataError
from bssan_lib.viz.dots import AS_MEASURED, measured_frame
from bssan_lib.viz.style import (
    SERIES,
    SMALL,
    column_width,
    finish,
    fit,
    new_figure,
    paper_style,
    plain,
    plain_legend,
    text_width,
)

RECALLS = ("R@1", "R@5", "R@10")
_WAYS = {"i2t": "image to text", "t2i": "text to image"}
# Hatches tell bars apart where colours are not printed.
_HATCHES = ["", "////", "....", "xxxx", "\\\\\\\\", "++++", "oo"]


def bars(
    axes,
    groups: list[str],
    series: Mapping[str, Iterable[float | None]],
    intervals: Mapping[str, Iterable] | None = None,
    chance: Mapping[str, float] | None = None,
) -> None:
    """Bars side by side: a group a name in `groups`, in it a bar a name in `series`.

    series: by name, a percentage for each group, or None for no bar; printed where there is room.
    intervals: by name of series, (low, high) or None for each group, or for the first ones. chance: by name of series, a height that
    a dashed line marks.
    """
    heights = {name: [np.nan if value is None else float(value) for value in values] for name, values in series.items()}
    spans = {name: [*(intervals or {}).get(name, []), *[None] * len(groups)][: len(groups)] for name in series}
    seaborn.barplot(
        measured_frame(
            (number, group, value, spans[name][group])
            for number, (name, values) in enumerate(heights.items())
            for group, value in enumerate(values)
        ),
        x="place",
        y="number",
        hue="series",
        order=range(len(groups)),
        hue_order=range(len(series)),
        palette=[SERIES[number % len(SERIES)] for number in range(len(series))],
        saturation=1,
        width=0.84,
        gap=0.06,
        alpha=0.9,
        edgecolor="white",
        linewidth=0,
        ax=axes,
        err_kws={"gid": "interval", "color": "black", "linewidth": 0.8, "solid_capstyle": "butt"},
        **AS_MEASURED,
    )
    room = axes.get_position().width * axes.figure.get_figwidth() * 0.84 / max(len(series) * len(groups), 1)
    for number, (name, container) in enumerate(zip(series, axes.containers)):
        container.set_label(fit(name, axes.figure.get_figwidth() - 0.6, SMALL))
        tops = [
            value if span is None else max(value, span[1])
            for value, span in zip(heights[name], spans[name])
            if np.isfinite(value)
        ]
        if chance:
            tops = _mark_chance(axes, container, chance[name], tops)
        for bar, top in zip(container, tops):
            bar.set_hatch(_HATCHES[number % len(_HATCHES)])
            if room > 0.15:
                _print_height(axes, bar, top, "{:.0f}" if room < 0.24 else "{:.1f}")
    axes.set(xlabel="", ylabel="", xlim=(-0.5, len(groups) - 0.5))
    axes.set_xticks(range(len(groups)), [plain(group) for group in groups], parse_math=False)
    axes.tick_params(axis="x", length=0)


def _mark_chance(axes, bars, chance: float, tops: list[float]) -> list[float]:
    """A dashed line over bars at the height of chance; returns from where up there is room for the bars' numbers."""
    left, right = zip(*((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars))
    name = None if axes.collections else "chance"
    axes.hlines([chance] * len(left), left, right, color="black", linewidth=1.0, linestyle=(0, (2, 1)), label=name)
    return [max(top, chance) if top + 9 > chance else top for top in tops]


def _print_height(axes, bar, top: float, form: str) -> None:
    axes.annotate(
        form.format(bar.get_height()),
        (bar.get_x() + bar.get_width() / 2, top),
        (0, 1),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SMALL,
    )


def recall_bars(metrics: Mapping[str, dict], *, width: str | float = "two"):
    """R@1, R@5 and R@10 both ways of one or several results, with 95% intervals where they have "ci95".

    metrics: {name: {"i2t": {"R@1", "R@5", "R@10"}, "t2i": {...}, "ci95": the same with (low, high)}}.
    Returns (figure, axes [2: image to text, text to image], None).
    """
    _some(metrics, "recalls")
    with paper_style():
        figure, axes = _bar_panels(width, 2, 1.7)
        for one, (way, title) in zip(axes, _WAYS.items()):
            bars(
                one,
                list(RECALLS),
                {name: [_under(row, way, k) for k in RECALLS] for name, row in metrics.items()},
                {name: [_under(row, "ci95", way, k) for k in RECALLS] for name, row in metrics.items()},
            )
            one.set_title(title)
        _bar_finish(figure, axes, "recall (%)", len(metrics) > 1)
    return figure, axes, None


_GROUNDING = {  # measure, its title, its baseline's key and title
    "w2r": (
        ("pointing_game", "pointing game", "center", "the picture's centre"),
        ("mass_in_box", "mass in box", "uniform_mass", "even attention"),
    ),
    "o2w": (
        ("pointing_game", "heaviest word right", "uniform_words", "even attention"),
        ("mass_on_words", "mass on words", "uniform_words", "even attention"),
    ),
}


def grounding_bars(
    grounding: dict, *, direction: str = "w2r", types: list[str] | None = None, width: str | float = "two"
):
    """Where attention points, over all phrases and by type, beside what needs no model.

    grounding: as metrics["grounding"] of an evaluation: {"n_phrases", "w2r", "o2w", "baselines", "ci95",
    "by_type": {type: {"n", the same}}}. direction: "w2r" (words to regions) or "o2w" (objects to words).
    types: which, in this order; by default all, the most frequent first.
    Returns (figure, axes [2: pointing game, mass], None). DataError for a direction that is not there.
    """
    if direction not in _GROUNDING or not grounding or direction not in grounding:
        raise DataError(
            f'grounding bars: expected direction "w2r" or "o2w" which the metrics hold, got {direction!r} '
            f"and metrics with {sorted(grounding or {})}"
        )
    kinds = grounding.get("by_type", {})
    types = sorted(kinds, key=lambda kind: -kinds[kind].get("n", 0)) if types is None else list(types)
    rows = [grounding, *(kinds[kind] for kind in types)]
    names = [f"all ({grounding.get('n_phrases', '?')})", *(f"{kind} ({kinds[kind].get('n', '?')})" for kind in types)]
    with paper_style():
        figure, axes = _bar_panels(width, 2, 1.9, stacked=len(names) > 4)
        for one, (measure, title, baseline, explained) in zip(axes, _GROUNDING[direction]):
            name = direction.upper()
            bars(
                one,
                names,
                {
                    name: [_under(row, direction, measure) for row in rows],
                    "baseline": [_under(row, "baselines", baseline) for row in rows],
                },
                {name: [_under(row, "ci95", direction, measure) for row in rows]},
            )
            one.set_title(f"{title}; baseline: {explained}")
            _slant(one, names)
        _bar_finish(figure, axes, "phrases (%)", True)
    return figure, axes, None


def pair_bars(pairs: Mapping[str, Mapping[str, float]], *, width: str | float = "one"):
    """Pairs of scenes that differ in one thing: how often text, image and both are matched right, with chance.

    pairs: {kind: {"n", "text", "image", "group"}} as pair_metrics gives them, with a row "chance".
    Returns (figure, axes [1], None).
    """
    _some(pairs, "pairs")
    chance = pairs.get("chance", {"text": 25.0, "image": 25.0, "group": 100 / 6})
    kinds = [kind for kind in pairs if kind not in ("chance", "all")] + (["all"] if "all" in pairs else [])
    names = [f"{kind} ({pairs[kind]['n']})" if "n" in pairs[kind] else kind for kind in kinds]
    with paper_style():
        figure, axes = _bar_panels(width, 1, 1.7)
        measures = ("text", "image", "group")
        bars(
            axes[0],
            names,
            {name: [pairs[kind].get(name) for kind in kinds] for name in measures},
            chance={name: chance[name] for name in measures},
        )
        _slant(axes[0], names)
        _bar_finish(figure, axes, "pairs (%)", True)
    return figure, axes, None


def _some(rows, what: str) -> None:
    if not rows:
        raise DataError(f"bars of {what}: expected at least one row, got none")


def _under(row, *path):
    """What lies under `path`, or None."""
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _bar_panels(width: str | float, count: int, height: float, stacked: bool = False):
    """Panels beside each other on two columns, above each other on one (or where `stacked`)."""
    full = column_width(width)
    across = count if full > 5 and not stacked else 1
    figure = new_figure(full, height * count / across, layout="constrained")
    axes = figure.subplots(count // across, across, sharey=True, squeeze=False).ravel()
    return figure, axes


def _slant(axes, names: list[str]) -> None:
    """Names slanted where they would touch."""
    room = axes.get_position().width * axes.figure.get_figwidth() / len(names)
    if max(text_width(plain(name), SMALL) for name in names) + 0.05 > room:
        for tick in axes.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")


def _bar_finish(figure, axes, text: str, legend: bool) -> None:
    for one in axes:
        one.set_ylim(0, 112)  # room for the number above a bar of 100
        one.set_yticks(range(0, 101, 20))
        one.set_ylabel(text)
        one.label_outer(remove_inner_ticks=False)
    finish(axes)
    for one in axes:
        one.tick_params(axis="x", length=0)
    if legend:
        handles, names = axes[0].get_legend_handles_labels()
        each = max(text_width(name, SMALL) for name in names) + 0.4
        legend = figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=int(min(len(names), 4, max(1, figure.get_figwidth() // each))),
            handlelength=1.4,
            columnspacing=1.0,
            fontsize=SMALL,
        )
        plain_legend(legend)
