"""What was found for a query: pictures for a caption, captions for a picture, right ones marked, failures.

Letters: Q queries, R results shown of each, K regions. Scores come with the results; nothing is ranked here.
"""

from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from PIL import Image

from bssan_lib.errors import DataError
from bssan_lib.viz.pictures import (
    GAP,
    bar_room,
    check_images,
    check_layout,
    colour_bar,
    dimmed,
    lay_over,
    shared_norm,
    show_picture,
)
from bssan_lib.viz.style import (
    CROSS,
    NORMAL,
    RIGHT,
    SMALL,
    TICK,
    WRONG,
    column_width,
    label,
    new_figure,
    paper_style,
    place,
    plain,
    text_width,
    wrap,
)

_LINE = 0.112  # inches between lines of text
_SMALL_PICTURE = 0.55  # inches of width: beside a caption
MEAN_SUMS = "attention, mean over the words; sums to one over the regions"


def retrieved_images(
    captions: list[str],
    images: list[list[Image.Image]],
    scores,
    right=None,
    *,
    own: list[tuple[Image.Image, int]] | None = None,
    attention: list | None = None,
    grid: tuple[int, int] = (7, 7),
    boxes=None,
    width: str | float = "two",
):
    """A row a caption: the pictures found for it, best first, with scores; right ones blue with a tick.

    captions: Q. images: Q lists of R pictures. scores: [Q, R]. right: [Q, R] bool, or None
    where nobody knows what is right: then nothing is marked.
    own: for each query its own picture and its rank, in a last column: what should have been found.
    attention: for each query R arrays [K] (means over words of W2R), laid over the pictures on one scale.
    grid, boxes [K, 4]: as for word_panels. Returns (figure, axes [Q, R (+ 1)], mappable or None).
    DataError where shapes disagree.
    """
    scores, right = _check(captions, images, scores, right, "pictures")
    maps: Any = None
    norm, mappable = Normalize(), None
    if attention is not None:
        maps, grid, boxes, norm = _check_attention(attention, scores, grid, boxes, "pictures")
    for row in images:
        check_images(row, "retrieved pictures")
    shown = [list(row) + ([own[q][0]] if own is not None else []) for q, row in enumerate(images)]
    with paper_style():
        full, found = column_width(width), scores.shape[1]
        apart = 0.1 if own is not None else 0.0  # its own picture stands a little aside
        queries = [wrap(caption, full - 2 * GAP, NORMAL, lines=2) for caption in captions]
        heads = [0.06 + _LINE * (1 + query.count("\n")) for query in queries]
        shares, tall = _sizes(shown, full - 2 * GAP - (len(shown[0]) - 1) * GAP - apart)
        bar = 0.02 if attention is None else bar_room(MEAN_SUMS, full)
        figure = new_figure(full, sum(heads) + sum(tall) + 0.17 * len(tall) + bar)
        axes, down = np.empty((len(shown), len(shown[0])), dtype=object), 0.0
        for q, row in enumerate(shown):
            height = 1 - (down + 0.03) / figure.get_figheight()
            figure.text(GAP / full, height, queries[q], va="top", parse_math=False, fontsize=NORMAL, linespacing=1.15)
            down, across = down + heads[q], GAP
            for r, image in enumerate(row):
                wide, is_own = shares[q][r] * tall[q], r == found
                one = axes[q, r] = place(figure, across + apart * is_own, down, wide, tall[q])
                laid = attention is not None and not is_own
                show_picture(one, dimmed(image) if laid else image, wide)
                if laid:
                    mappable = lay_over(one, image, maps[q, r], norm, grid, boxes)
                if is_own and own is not None:
                    _label_picture(one, image, "black", "--", f"own: rank {own[q][1]}")
                else:
                    colour, line, mark = _mark(right, q, r)
                    _label_picture(one, image, colour, line, mark + _number(scores[q, r]))
                across += wide + GAP
            down += tall[q] + 0.17
        if mappable is not None:
            colour_bar(figure, mappable, MEAN_SUMS)
    return figure, axes, mappable


def _sizes(shown: list[list[Image.Image]], room: float) -> tuple[list[np.ndarray], list[float]]:
    """Of each row its pictures' widths as shares of their height, and that height in inches.

    The pictures of a row are equally tall; very narrow ones keep room for their score.
    """
    shares = [np.array([np.clip(one.width / one.height, 0.75, 2.5) for one in row]) for row in shown]
    return shares, [min(room / share.sum(), 1.6) for share in shares]


def _label_picture(axes, image: Image.Image, colour: str, line: str, text: str) -> None:
    """A frame round a picture, where there is a line for it, and a text below."""
    if line:
        _frame(axes, image, colour, line)
    _below(axes, image, text, colour)


def _frame(axes, image: Image.Image, colour: str, style: str) -> None:
    axes.add_patch(
        Rectangle(
            (0, 0),
            image.width,
            image.height,
            fill=False,
            edgecolor=colour,
            linewidth=1.4,
            linestyle=style,
            clip_on=False,
            gid="frame",
        )
    )


def _below(axes, image: Image.Image, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (image.width / 2, image.height),
        (0, -2.5),
        textcoords="offset points",
        ha="center",
        va="top",
        color=colour,
        fontsize=SMALL,
        annotation_clip=False,
        parse_math=False,
    )


def retrieved_captions(
    images: list[Image.Image],
    captions: list[list[str]],
    scores,
    right=None,
    *,
    own: list[tuple[str, int]] | None = None,
    attention: list | None = None,
    grid: tuple[int, int] = (7, 7),
    boxes=None,
    width: str | float = "two",
):
    """A row a picture: the captions found for it, best first, with scores; right ones blue with a tick.

    images: Q. captions: Q lists of R texts. scores: [Q, R]. right: [Q, R] bool, or None where nobody knows.
    own: for each query its best-placed own caption and that one's rank, on a last line (failures).
    attention: for each query R arrays [K] (means over words of W2R), laid over a small picture beside each caption,
    on one scale. grid, boxes [K, 4]: as for word_panels.
    Returns (figure, axes [Q, 2: picture, captions], mappable or None). DataError where shapes disagree.
    """
    scores, right = _check(images, captions, scores, right, "captions")
    check_images(images, "retrieved captions")
    maps: Any = None
    norm, mappable = Normalize(), None
    if attention is not None:
        maps, grid, boxes, norm = _check_attention(attention, scores, grid, boxes, "captions")
    with paper_style():
        full = column_width(width)
        picture, start = min(0.3 * full, 1.3), GAP + min(0.3 * full, 1.3) + 0.08
        small = 0.0 if attention is None else _SMALL_PICTURE + GAP  # inches of the small pictures
        number = small + text_width(f"{CROSS} \u22120.000", SMALL) + 0.07
        room = full - start - number - GAP
        texts = [[wrap(text, room, SMALL, lines=3 if small else 2) for text in row] for row in captions]
        lasts = [wrap(f"own, rank {rank}: {plain(text)}", room, SMALL, lines=2) for text, rank in own or []]
        shapes = [image.height / image.width for image in images]
        talls = [min(shape, 1.0) * (_SMALL_PICTURE if small else 0.0) for shape in shapes]
        tops = _row_tops(texts, talls)
        ends = [(1.3 + last.count("\n")) * _LINE for last in lasts] or [0.0] * len(images)
        heights = [max(top[-1] + end, min(shape, 1.3) * picture) for top, end, shape in zip(tops, ends, shapes)]
        bar = bar_room(MEAN_SUMS, full) if small else 0.0
        figure = new_figure(full, sum(heights) + 0.1 * len(heights) + 0.02 + bar)
        axes, down = np.empty((len(images), 2), dtype=object), 0.06
        for q, image in enumerate(images):
            axes[q, 0] = place(figure, GAP, down, picture, heights[q])
            show_picture(axes[q, 0], image, picture)
            axes[q, 0].set_anchor("N")
            one = axes[q, 1] = _text_area(figure, start, down, full - start - GAP, heights[q])
            for r, text in enumerate(texts[q]):
                colour, line, mark = _mark(right, q, r)
                _lines(one, small, tops[q][r], mark + _number(scores[q, r]), color=colour)
                _lines(one, number, tops[q][r], text, color=RIGHT if line == "-" else "black")
            if attention is not None:
                insets = [place(figure, start, down + top, _SMALL_PICTURE, talls[q]) for top in tops[q][:-1]]
                mappable = _small_maps(insets, image, maps[q], norm, grid, boxes)
            if lasts:
                _lines(one, number, tops[q][-1] + 0.3 * _LINE, lasts[q], style="italic")
            down += heights[q] + 0.1
        if mappable is not None:
            colour_bar(figure, mappable, MEAN_SUMS)
    return figure, axes, mappable


def _text_area(figure, left: float, top: float, width: float, height: float):
    """Axes without a frame, in inches from their upper left corner."""
    axes = place(figure, left, top, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return axes


def _row_tops(texts: list[list[str]], talls: list[float]) -> list[np.ndarray]:
    """Of each query's captions the inches from the top, and where the last one ends: arrays [R + 1]."""
    steps = [[max((1 + text.count("\n")) * _LINE, tall) + 0.03 for text in row] for row, tall in zip(texts, talls)]
    return [np.concatenate([[0.0], np.cumsum(row)]) for row in steps]


def _small_maps(insets: list, image: Image.Image, maps: np.ndarray, norm: Normalize, grid, boxes):
    """The picture once for each caption, with the caption's attention map [K]. Returns the last mappable."""
    mappable = None
    for inset, weights in zip(insets, maps, strict=False):
        show_picture(inset, dimmed(image), _SMALL_PICTURE)
        mappable = lay_over(inset, image, weights, norm, grid, boxes)
    return mappable


def _mark(right, q: int, r: int) -> tuple[str, str, str]:
    """Colour, frame's line and sign of a result; black, none and none where nobody knows what is right."""
    if right is None:
        return "black", "", ""
    return (RIGHT, "-", f"{TICK} ") if right[q, r] else (WRONG, ":", f"{CROSS} ")


def _number(score: float) -> str:
    return f"{score:.3f}".replace("-", "\u2212")


def _check_attention(attention, scores: np.ndarray, grid, boxes, what: str):
    """Attention [Q, R, K] that fits the scores [Q, R], with its layout and one scale for all of it."""
    attention = np.array([[np.asarray(one, dtype=float) for one in row] for row in attention])
    if attention.shape[:2] != scores.shape or attention.ndim != 3:
        raise DataError(
            f"retrieved {what}: expected attention of shape {[*scores.shape, 'K']}, got {list(attention.shape)}"
        )
    grid, boxes = check_layout(attention.shape[2], grid, boxes, f"retrieved {what}")
    return attention, grid, boxes, shared_norm(attention, None)


def _lines(axes, x: float, y: float, text: str, **settings) -> None:
    """Lines of text from y inches downwards, baselines evenly apart for any letters."""
    for number, line in enumerate(text.split("\n")):
        label(axes, x, y + 0.08 + number * _LINE, line, fontsize=SMALL, va="baseline", **settings)


def _check(queries, results, scores, right, what: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores and right, where it is known, as arrays [Q, R] that fit the queries and their results."""
    scores = np.asarray(scores, dtype=float)
    right = None if right is None else np.asarray(right, dtype=bool)
    shape = (len(queries), len(results[0]) if len(results) else 0)
    if (
        0 in shape
        or scores.shape != shape
        or (right is not None and right.shape != shape)
        or len(results) != shape[0]
        or any(len(row) != shape[1] for row in results)
    ):
        raise DataError(
            f"retrieved {what}: expected Q queries, Q lists of R results, scores and right [Q, R]; got "
            f"{len(queries)} queries, lists of {[len(row) for row in results]}, scores "
            f"{list(scores.shape)}, right {None if right is None else list(right.shape)}"
        )
    return scores, right
