"""Where each word looks: attention laid over the picture; and the regions and objects themselves, numbered.

Letters: K regions, M objects, T words. Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from bssan_lib.errors import ConfigError, DataError
from bssan_lib.viz.pictures import (
    HALO,
    add_box,
    add_true_boxes,
    bar_room,
    check_boxes,
    check_images,
    check_layout,
    colour_bar,
    dimmed,
    lay_over,
    panel_grid,
    panel_title,
    shared_norm,
    show_picture,
)
from bssan_lib.viz.spotlight import coloured, lay_veil
from bssan_lib.viz.style import SERIES, SMALL, check_weights, column_width, label, paper_style

WORD_SUMS = "attention; each word's sums to one over the regions"
HIDDEN = {"<pad>"}
STYLES = ("heat", "spotlight")


def word_panels(
    image: Image.Image,
    weights,
    words: list[str],
    grid: tuple[int, int] = (7, 7),
    boxes=None,
    true_boxes: dict | None = None,
    only: list[int] | None = None,
    caption: str = "",
    width: str | float = "two",
    columns: int | None = None,
    top: float | None = None,
    text: str = WORD_SUMS,
    style: str = "heat",
):
    """The picture, then a panel a word (or phrase): its attention over the picture, on one scale.

    weights: W2R attention [T, K], rows summing to one. words: T titles of the panels; padding is left out.
    grid: rows and columns of the K cells; boxes [K, 4] instead, for regions that are no grid.
    true_boxes: {row of weights: boxes [any, 4]}, outlined in white. only: rows to show, in this order;
    `content_words` of evaluation.grounding leaves out function words.
    caption: written above all. top: end of the scale; by default the greatest weight shown.
    text: what the colour bar says. style: "heat", colour over the dimmed picture, or "spotlight", the picture's own
    colours where attention is and a pale veil elsewhere. Returns (figure, axes [panels + 1, the picture first],
    mappable). DataError where shapes disagree, ConfigError for another style.
    """
    if style not in STYLES:
        raise ConfigError(f"style: expected one of {', '.join(STYLES)}, got {style!r}")
    check_images([image], "word panels")
    weights = check_weights(weights, len(words), None, "word panels: attention of words")
    grid, boxes = check_layout(weights.shape[1], grid, boxes, "word panels")
    shown = [t for t, word in enumerate(words) if word not in HIDDEN] if only is None else list(only)
    if not shown or not all(0 <= t < len(words) for t in shown):
        raise DataError(f"word panels: expected at least one of {len(words)} words to show, got rows {shown}")
    norm = shared_norm(weights[shown], top)
    with paper_style():
        bottom = bar_room(text, column_width(width))
        figure, axes, panel = panel_grid(
            width, len(shown) + 1, image.height / image.width, columns, bottom=bottom, header=caption
        )
        show_picture(axes[0], image, panel)
        panel_title(axes[0], "picture", panel, style="italic")
        dark = dimmed(image)
        for t, one in zip(shown, axes[1:]):
            laid = (image, weights[t], norm, grid, boxes)
            show_picture(one, dark if style == "heat" else coloured(*laid), panel)
            mappable = lay_over(one, *laid) if style == "heat" else lay_veil(one, *laid)
            add_true_boxes(one, image, (true_boxes or {}).get(t, ()))
            panel_title(one, words[t], panel)
        colour_bar(figure, mappable, text, over=norm.vmax is not None and float(weights[shown].max()) > norm.vmax)
    return figure, np.array(axes), mappable


def region_grid(
    image: Image.Image,
    boxes=None,
    grid: tuple[int, int] = (7, 7),
    object_boxes=None,
    objects: list[int] | None = None,
    width: str | float = "two",
):
    """What the model looks at: the K regions over the picture with their numbers, and beside it some objects.

    boxes: [K, 4] for regions that are no grid. object_boxes: [M, 4] or None, for one panel alone.
    objects: which to draw; by default four spread from the smallest to the largest.
    Returns (figure, axes [1 or 2], None).
    """
    check_images([image], "region grid")
    if boxes is None:
        rows, columns = grid
        x, y = np.meshgrid(np.arange(columns) / columns, np.arange(rows) / rows)
        boxes = np.stack([x, y, x + 1 / columns, y + 1 / rows], axis=-1).reshape(-1, 4)
    boxes = check_boxes(boxes, None, "region grid")
    with paper_style():
        # Numbers need 0.18 inches a region.
        narrowest = max(1.5, 0.18 * len(np.unique(boxes[:, 0])))
        panels = 1 if object_boxes is None else 2
        figure, axes, panel = panel_grid(width, panels, image.height / image.width, narrowest=narrowest, widest=3.4)
        show_picture(axes[0], image, panel)
        panel_title(axes[0], f"{len(boxes)} regions", panel)
        for number, box in enumerate(boxes):
            add_box(axes[0], image, box, edgecolor="white", linewidth=0.5)
            _number(axes[0], image, box, number, inside=True)
        if object_boxes is not None:
            object_boxes = check_boxes(object_boxes, None, "region grid: objects")
            sizes = (object_boxes[:, 2] - object_boxes[:, 0]) * (object_boxes[:, 3] - object_boxes[:, 1])
            if objects is None:
                order = np.argsort(sizes, kind="stable")
                objects = order[np.linspace(0, len(order) - 1, min(4, len(order))).round().astype(int)]
            show_picture(axes[1], image, panel)
            panel_title(axes[1], f"{len(objects)} of {len(object_boxes)} objects", panel)
            for place, number in enumerate(objects):
                colour = SERIES[place % len(SERIES)]
                add_box(axes[1], image, object_boxes[number], edgecolor=colour, linewidth=1.6)
                _number(axes[1], image, object_boxes[number], int(number), colour=colour)
    return figure, np.array(axes), None


def grid_sizes(image: Image.Image, sides: Mapping[str, int], width: str | float = "two"):
    """One picture under square grids of several sizes, the finest first. sides: {title: cells along a side}.

    Returns (figure, axes [grids], None).
    """
    check_images([image], "grid sizes")
    with paper_style():
        figure, axes, panel = panel_grid(width, len(sides), image.height / image.width)
        for one, (title, side) in zip(axes, sorted(sides.items(), key=lambda item: -item[1])):
            show_picture(one, image, panel)
            panel_title(one, title, panel)
            for cell in range(1, side):
                one.axvline(cell / side * image.width, color="black", linewidth=0.5)
                one.axhline(cell / side * image.height, color="black", linewidth=0.5)
    return figure, np.array(axes), None


def _number(axes, image: Image.Image, box, number: int, inside: bool = False, colour: str = "black") -> None:
    """A number in the middle of a cell, or at the upper left corner of a window."""
    look: dict[str, Any]
    if inside:
        x, y, where = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, {"ha": "center", "va": "center_baseline"}
        look = {"color": "white", "path_effects": HALO}
    else:
        x, y, where = box[0], box[1], {"ha": "left", "va": "top"}
        look = {"color": "white", "bbox": {"facecolor": colour, "edgecolor": "none", "pad": 1.2}}
    label(axes, x * image.width, y * image.height, str(number), fontsize=SMALL, clip_on=True, **where, **look)
