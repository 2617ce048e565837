"""Data before any model: pictures with captions, the boxes that words name, how often words occur, where boxes lie.

Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

from bssan_lib.errors import DataError
from bssan_lib.viz.pictures import add_box, check_images, panel_grid, panel_title, show_picture
from bssan_lib.viz.style import RIGHT, SERIES, SMALL, WRONG, finish, label, new_figure, paper_style, wrap

_BOX = (("black", 2.6), ("#FFD23F", 1.4))  # yellow with a dark rim is visible on any picture
_OTHERS = "#BBBBBB"


def picture_sheet(
    pictures: Sequence[Image.Image],
    titles: Sequence[str],
    texts: Sequence[str] = (),
    *,
    right: Sequence[bool] | None = None,
    lines: int = 3,
    columns: int = 4,
):
    """Pictures in rows, a title above and a text below each.

    texts: none, or one for each picture, broken into at most `lines` lines. right: whether a title is blue or orange.
    Returns (figure, axes [pictures], None). DataError for other numbers of titles or texts than of pictures.
    """
    check_images(list(pictures), "picture sheet")
    for what, some in (("titles", titles), ("texts", texts or titles), ("right", right or titles)):
        if len(some) != len(pictures):
            raise DataError(f"picture sheet: expected {len(pictures)} {what}, got {len(some)}")
    with paper_style():
        tallest = max(image.height / image.width for image in pictures)
        below = 0.1 * lines + 0.04 if texts else 0.0
        figure, axes, panel = panel_grid("two", len(pictures), tallest, columns, below=below)
        for one, image, title in zip(axes, pictures, titles):
            show_picture(one, image, panel)
            panel_title(one, title, panel)
        for one, text in zip(axes, texts):
            label(one, 0, -0.03, wrap(text, panel, SMALL, lines), transform=one.transAxes, va="top", fontsize=SMALL)
        for one, is_right in zip(axes, right or ()):
            one.title.set_color(RIGHT if is_right else WRONG)
    return figure, np.array(axes), None


def named_boxes(image: Image.Image, groups: Mapping[tuple, str], most: int = 7):
    """A picture, and beside it the same picture for each group of words with the boxes that they name.

    groups: {boxes: words}, boxes a tuple of boxes; at most `most` are drawn. Returns (figure, axes, None).
    """
    shown = list(groups.items())[:most]
    figure, axes, _ = picture_sheet([image] * (len(shown) + 1), ["picture", *(words for _, words in shown)])
    for one, (boxes, _) in zip(axes[1:], shown):
        for box in boxes:
            for colour, thick in _BOX:
                add_box(one, image, box, edgecolor=colour, linewidth=thick)
    return figure, axes, None


def word_statistics(counts: Sequence[int], known: Mapping[int, float], lengths: Sequence[int], threshold: int):
    """How often words occur, what a threshold on that costs, and how long captions are.

    counts: of each word of train. known: {threshold: percentage of the words of dev that are in the vocabulary}.
    lengths: words of each caption. threshold: the one in use, dotted. Returns (figure, axes [3], None).
    """
    with paper_style():
        figure = new_figure("two", 1.9, layout="constrained")
        axes = figure.subplots(1, 3)
        axes[0].loglog(np.arange(1, len(counts) + 1), sorted(counts, reverse=True), ".", markersize=2.5)
        axes[0].axhline(threshold, color="black", linewidth=0.7, linestyle=":")
        axes[0].set(xlabel="rank of the word", ylabel="times in train", title="words of train")
        axes[1].semilogx(list(known), list(known.values()), "o-", markersize=3, base=2)
        axes[1].axvline(threshold, color="black", linewidth=0.7, linestyle=":")
        ticks = list(known)[:: max(1, len(known) // 5)]
        axes[1].set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes[1].set(xlabel="threshold m", ylabel="words of dev (%)", ylim=(0, 105), title="in the vocabulary")
        axes[2].hist(lengths, bins=np.arange(0.5, max(lengths) + 1))
        axes[2].set(xlabel="words of a caption", ylabel="captions of train", title="lengths")
        finish(axes)
    return figure, axes, None


def box_places(heat, counts: Sequence[int]):
    """Where true boxes lie, and how many an image has.

    heat: [cells, cells], row 0 on top: the percentage of phrases that have a box at this place. counts: boxes of each image.
    Returns (figure, axes [2], mappable).
    """
    heat = np.asarray(heat, dtype=float)
    with paper_style():
        figure = new_figure("two", 2.2, layout="constrained")
        axes = figure.subplots(1, 2)
        mesh = axes[0].pcolormesh(*(np.linspace(0, 1, size + 1) for size in heat.shape[::-1]), heat, vmin=0)
        axes[0].plot(0.5, 0.5, "+", color="white", markersize=7)
        ticks = [0, 0.5, 1]
        axes[0].set(aspect="equal", ylim=(1, 0), xticks=ticks, yticks=ticks, title="phrases with a box here")
        figure.colorbar(mesh, ax=axes[0]).set_label("phrases (%)")
        axes[1].bar(*np.unique(np.asarray(counts), return_counts=True), color=SERIES[0])
        axes[1].set(xlabel="different boxes", ylabel="images", title="boxes of an image")
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        finish(axes)
    return figure, axes, mesh


def scatter_panels(points, panels: Mapping[str, Sequence[str]], colours: Mapping[str, str] | None = None):
    """The same points in several panels, coloured by a label each; "" is drawn grey, below all others.

    points: [n, 2]. panels: {title: a label for each point}. colours: of labels; others have one of the series.
    Returns (figure, axes [panels], None). DataError where labels are not as many as points.
    """
    points = np.asarray(points, dtype=float)
    with paper_style():
        figure = new_figure("two", 2.5, layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False).ravel()
        for one, (title, given) in zip(axes, panels.items()):
            labels = np.asarray(given, dtype=object)
            if len(labels) != len(points):
                raise DataError(f"scatter: {title}: expected {len(points)} labels, got {len(labels)}")
            names = [name for name in dict.fromkeys(sorted(labels)) if name]
            palette = {name: SERIES[number % len(SERIES)] for number, name in enumerate(names)} | dict(colours or {})
            for name in ["", *names]:
                chosen = points[labels == name]
                colour = palette[name] if name else _OTHERS
                one.scatter(*chosen.T, s=2, color=colour, label=name or None, linewidth=0, rasterized=True)
            one.set(xlabel="component 1", ylabel="component 2", title=title)
            if names:
                legend = one.legend(markerscale=3, loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.1)
                for text in legend.get_texts():
                    text.set_parse_math(False)
        finish(axes)
    return figure, axes, None
