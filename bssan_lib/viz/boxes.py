"""The heaviest regions of a phrase, and the heaviest words of an object, with their weights printed.

Letters: K regions, M objects, T words. Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

import numpy as np
from matplotlib.patheffects import withStroke
from PIL import Image

from bssan_lib.errors import DataError
from bssan_lib.viz.pictures import (
    add_box,
    add_true_boxes,
    check_boxes,
    check_images,
    panel_grid,
    panel_title,
    show_picture,
)
from bssan_lib.viz.style import RIGHT, SMALL, check_weights, fit, label, paper_style

BOX = "#FFD23F"  # bright on any picture, with a dark rim
_RIM = "black"
_BAR_LINE = 0.105  # inches of a word with its bar


def phrase_boxes(
    image: Image.Image,
    weights,
    boxes,
    phrases: str | list[str],
    *,
    most: int = 5,
    true_boxes: list | None = None,
    caption: str = "",
    width: str | float = "one",
    columns: int | None = None,
):
    """The heaviest regions of each phrase on the picture, weights printed, lines as wide as the weight.

    weights: [K] for one phrase, or [P, K] for P phrases, each summing to one. boxes: [K, 4].
    phrases: P titles. most: how many regions. true_boxes: for each phrase boxes [any, 4], outlined in white.
    caption: written above all.
    Line widths share one scale: 3 points is the greatest weight of the figure.
    Returns (figure, axes [P], None). DataError where shapes disagree.
    """
    check_images([image], "boxes of a phrase")
    phrases = [phrases] if isinstance(phrases, str) else list(phrases)
    weights = check_weights(
        weights if np.ndim(weights) == 2 else [weights], len(phrases), None, "boxes of a phrase: attention"
    )
    boxes = check_boxes(boxes, weights.shape[1], "boxes of a phrase")
    highest = weights.max() or 1.0
    with paper_style():
        figure, axes, panel = panel_grid(
            width, len(phrases), image.height / image.width, columns, header=caption, narrowest=1.4, widest=3.3
        )
        for p, one in enumerate(axes):
            show_picture(one, image, panel)
            panel_title(one, phrases[p], panel)
            if true_boxes is not None:
                add_true_boxes(one, image, true_boxes[p])
            chosen = np.argsort(-weights[p], kind="stable")[:most]
            for region in chosen[::-1]:  # the heaviest on top
                thick = 0.3 + 2.7 * weights[p, region] / highest
                add_box(
                    one,
                    image,
                    boxes[region],
                    edgecolor=BOX,
                    linewidth=thick,
                    gid="region",
                    path_effects=[withStroke(linewidth=thick + 0.8, foreground=_RIM)],
                )
            _print_weights(one, image, weights[p], boxes, chosen, panel)
    return figure, np.array(axes), None


def _print_weights(axes, image: Image.Image, weights, boxes, chosen, panel: float) -> None:
    """Each weight at its box's upper left corner; one that would cover a heavier box's number moves down."""
    wide, tall = 0.21 / panel * image.width, 0.1 / panel * image.width  # of a number, in the picture's pixels
    taken: list[tuple[float, float]] = []
    for region in chosen:
        x = min(boxes[region][0] * image.width, image.width - wide)
        y = min(boxes[region][1] * image.height, image.height - tall)
        while any(abs(x - x0) < wide and abs(y - y0) < tall for x0, y0 in taken) and y < image.height - 2 * tall:
            y += tall / 4
        taken.append((x, y))
        label(
            axes,
            x,
            y,
            f"{weights[region]:.2f}".lstrip("0"),
            fontsize=SMALL,
            ha="left",
            va="top",
            color="black",
            bbox={"facecolor": BOX, "edgecolor": "none", "pad": 0.6},
            zorder=4,
        )


def object_words(
    image: Image.Image,
    o2w,
    object_boxes,
    words: list[str],
    *,
    objects: list[int] | None = None,
    most: int = 3,
    caption: str = "",
    width: str | float = "two",
    columns: int | None = None,
):
    """Objects on the picture, a panel each, with the words they find nearest and the weights of those.

    o2w: [M, T], each row sums to one over words. object_boxes: [M, 4]. words: T.
    objects: which; by default the four whose heaviest word is heaviest, each another word where possible.
    most: how many words. caption: written above all.
    Returns (figure, axes [objects], None). DataError where shapes disagree.
    """
    check_images([image], "words of an object")
    o2w = check_weights(o2w, None, len(words), "words of an object: O2W")
    object_boxes = check_boxes(object_boxes, len(o2w), "words of an object")
    objects = spread_objects(o2w, 4) if objects is None else list(objects)
    if not objects or not all(0 <= number < len(o2w) for number in objects):
        raise DataError(f"words of an object: expected some of objects 0 to {len(o2w) - 1}, got {objects}")
    most = min(most, len(words))
    with paper_style():
        figure, axes, panel = panel_grid(
            width,
            len(objects),
            image.height / image.width,
            columns,
            header=caption,
            narrowest=1.4,
            widest=2.4,
            below=most * _BAR_LINE + 0.04,
        )
        for number, one in zip(objects, axes):
            show_picture(one, image, panel)
            panel_title(one, f"object {number}", panel)
            add_box(
                one,
                image,
                object_boxes[number],
                edgecolor=BOX,
                linewidth=1.8,
                gid="object",
                path_effects=[withStroke(linewidth=2.6, foreground=_RIM)],
            )
            _word_bars(one, image, o2w[number], words, most, panel)
            one.set(xlim=(0, image.width), ylim=(image.height, 0))
    return figure, np.array(axes), None


def _word_bars(one, image: Image.Image, weights: np.ndarray, words: list[str], most: int, panel: float) -> None:
    """Below an object's picture: its `most` heaviest words, a bar and a number each. weights: [T]. panel: inches."""
    unit = image.width / panel  # pixels an inch
    for rank, t in enumerate(np.argsort(-weights, kind="stable")[:most]):
        y = image.height + unit * (0.03 + _BAR_LINE * (rank + 0.5))
        start, long = 0.44 * panel, 0.56 * panel - 0.22
        label(
            one,
            unit * (start - 0.04),
            y,
            fit(words[t], start - 0.05, SMALL),
            fontsize=SMALL,
            ha="right",
            va="center_baseline",
        )
        one.barh(
            y, unit * long * weights[t], left=unit * start, height=unit * _BAR_LINE * 0.6, color=RIGHT, clip_on=False
        )
        label(
            one,
            unit * (start + long * weights[t] + 0.03),
            y,
            f"{weights[t]:.2f}".lstrip("0"),
            fontsize=SMALL,
            ha="left",
            va="center_baseline",
        )


def spread_objects(o2w: np.ndarray, count: int) -> list[int]:
    """`count` objects in order of their heaviest weight [M, T]; a second one for the same word when words run out."""
    order, seen = np.argsort(-o2w.max(axis=1), kind="stable"), set[int]()
    first: list[int] = []
    rest: list[int] = []
    for number in order:
        word = int(o2w[number].argmax())
        (rest if word in seen else first).append(int(number))
        seen.add(word)
    return (first + rest)[:count]
