"""What figures with pictures are made of: panels at true aspect, dimmed pictures, boxes, attention, a bar.

Letters: K regions. Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

import math

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator
from PIL import Image

from bssan_lib.errors import DataError
from bssan_lib.viz.style import (
    MARGIN,
    NORMAL,
    SMALL,
    attention_colours,
    column_width,
    fit,
    heading,
    new_figure,
    place,
    wrap,
    write_heading,
)

DIM, DIM_FACE = 0.5, "#404040"  # brightness kept under attention; what the middle of a picture becomes
TITLE, GAP, BAR = 0.15, MARGIN, 0.36  # inches: a panel's title, between panels, the colour bar with a line of words
HALO = [withStroke(linewidth=1.8, foreground="black")]  # white stays readable on any picture


def dimmed(image: Image.Image) -> Image.Image:
    """The picture in dark grey, so that colour and brightness above it can only mean attention."""
    return image.convert("L").point(lambda value: int(value * DIM)).convert("RGB")


def show_picture(axes, image: Image.Image, inches: float | None = None) -> None:
    """The picture in its own pixels and aspect: x 0 to its width, y 0 (top) to its height, without ticks.

    inches: the width it gets on paper; what it has beyond 300 pixels an inch is not kept in the figure.
    """
    width, height = image.size
    small = image.convert("RGB")
    if inches and width > 300 * inches:
        small = small.resize((int(300 * inches), max(1, round(height * 300 * inches / width))))
    axes.imshow(np.asarray(small), extent=(0, width, height, 0), aspect="equal")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def check_boxes(boxes, count: int | None, what: str) -> np.ndarray:
    """Boxes as float64 [count, 4], corners in order. DataError otherwise."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4 or count not in (None, len(array)):
        raise DataError(
            f"{what}: expected boxes of shape [{'any' if count is None else count}, 4] as x1 y1 x2 y2, "
            f"got {list(array.shape)}"
        )
    wrong = ~np.isfinite(array).all(1) | (array[:, 2] < array[:, 0]) | (array[:, 3] < array[:, 1])
    wrong |= (array < -0.01).any(1) | (array > 1.01).any(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{what}: expected fractions of the picture from 0 to 1 with x1 <= x2 and y1 <= y2, "
            f"got {array[row].tolist()} in row {row}; divide pixels by the picture's width and height"
        )
    return array


def add_box(axes, image: Image.Image, box, **settings) -> Rectangle:
    """Outlines a box given in fractions, in the picture's pixels; returns the rectangle."""
    (width, height), (x1, y1, x2, y2) = image.size, (float(side) for side in box)
    return axes.add_patch(
        Rectangle(
            (x1 * width, y1 * height),
            (x2 - x1) * width,
            (y2 - y1) * height,
            **{"fill": False, "joinstyle": "miter", **settings},
        )
    )


def add_true_boxes(axes, image: Image.Image, boxes) -> None:
    """True boxes in white with a dark rim."""
    for box in boxes:
        add_box(axes, image, box, edgecolor="white", linewidth=0.9, path_effects=HALO, gid="true box")


def lay_over(axes, image: Image.Image, weights, norm: Normalize, grid=(7, 7), boxes=None) -> ScalarMappable:
    """Attention [K] over axes that hold a dimmed picture: cells of a grid, or the outlines of boxes [K, 4].

    Boxes overlap, and areas filled one over the other would mix their colours: lines are as wide and as
    opaque as the weight, the heaviest drawn last. Returns the mappable.
    """
    colours, (width, height) = attention_colours(), image.size
    weights = np.asarray(weights, dtype=np.float64)
    if boxes is None:
        rows, columns = grid
        return axes.pcolormesh(
            np.linspace(0, width, columns + 1),
            np.linspace(0, height, rows + 1),
            weights.reshape(rows, columns),
            cmap=colours,
            norm=norm,
            linewidth=0,
        )
    for region in np.argsort(weights, kind="stable"):
        strength = float(np.clip(norm(weights[region]), 0, 1))
        add_box(axes, image, boxes[region], edgecolor=colours(strength), linewidth=0.2 + 2.3 * strength)
    mappable = ScalarMappable(norm, colours)
    mappable.set_array(weights)
    return mappable


def check_layout(regions: int, grid, boxes, what: str):
    """(grid, boxes) for K regions: boxes are checked, or else the grid has K cells. DataError otherwise."""
    if boxes is not None:
        return grid, check_boxes(boxes, regions, f"boxes of {what}")
    if len(grid) != 2 or grid[0] * grid[1] != regions:
        raise DataError(
            f"{what}: {regions} regions do not fill a grid of {tuple(grid)}; "
            "pass the right grid, or boxes for regions that are none"
        )
    return grid, None


def shared_norm(weights: np.ndarray, top: float | None, power: float = 1.0) -> Normalize:
    """One scale from 0 to `top`, by default the greatest weight shown; power: 1 is linear, 0.5 a square root."""
    highest = float(weights.max()) if top is None else float(top)
    highest = highest if highest > 0 else 1.0
    return Normalize(0.0, highest) if power == 1.0 else PowerNorm(power, 0.0, highest)


def scale_words(norm: Normalize) -> str:
    """What a colour bar adds where the scale is not linear."""
    if not isinstance(norm, PowerNorm):
        return ""
    return "; square-root scale" if norm.gamma == 0.5 else f"; scale of power {norm.gamma:g}"


def bar_room(text: str, full: float) -> float:
    """Inches that a colour bar takes below a figure of `full` inches: one line of words or two."""
    return BAR + 0.1 * wrap(text, full - 2 * MARGIN, SMALL, lines=2).count("\n")


def panel_grid(
    width: str | float,
    count: int,
    aspect: float,
    columns: int | None = None,
    *,
    bottom: float = 0.0,
    below: float = 0.0,
    header: str = "",
    narrowest: float = 0.8,
    widest: float = 2.4,
):
    """A figure with `count` axes, centred, in rows as even as possible.

    aspect: height over width of a panel. columns: by default as many as fit at `narrowest` inches each.
    below: inches under each panel; bottom: under all. header: a text over all.
    Returns (figure, list of axes, inches of a panel's width).
    """
    full = column_width(width)
    columns = min(count, columns or max(1, int(full / narrowest)))
    columns = math.ceil(count / math.ceil(count / columns))
    panel = min((full - 2 * GAP - (columns - 1) * GAP) / columns, widest)
    rows, tall = math.ceil(count / columns), panel * aspect
    header, head = heading(header, full)
    pitch = TITLE + tall + below + GAP
    figure = new_figure(full, head + rows * pitch + bottom)
    write_heading(figure, header)
    left = (full - columns * panel - (columns - 1) * GAP) / 2
    axes = [
        place(figure, left + (i % columns) * (panel + GAP), head + TITLE + (i // columns) * pitch, panel, tall)
        for i in range(count)
    ]
    return figure, axes, panel


def panel_title(axes, text: object, inches: float, **settings) -> None:
    """A panel's title, cut where it is wider than the panel."""
    axes.set_title(fit(text, inches, settings.get("fontsize", NORMAL)), parse_math=False, pad=2.0, **settings)


def colour_bar(figure, mappable, text: str, over: bool = False, over_picture: bool = True):
    """A colour bar in the lowest `bar_room` inches of the figure, which says what is shown; returns its axes.

    over: a value lies beyond the scale, which gets an arrow. over_picture: its ground is dark, too.
    """
    full, tall = figure.get_size_inches()
    long = min(2.6, full - 0.4)
    axes = place(figure, (full - long) / 2, tall - bar_room(text, full) + 0.05, long, 0.07)
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend="max" if over else "neither")
    # Transparent strips side by side show seams: such a bar is a picture, any other one is vectors.
    transparent = mappable.cmap(0.0)[3] < 1
    bar.solids.set_rasterized(transparent)
    bar.solids.set_edgecolor("none" if transparent else "face")
    if over_picture:
        axes.set_facecolor(DIM_FACE)
    bar.outline.set_linewidth(0.4)
    bar.locator = FixedLocator(_apart(mappable.norm)) if isinstance(mappable.norm, PowerNorm) else MaxNLocator(5)
    axes.tick_params(labelsize=SMALL, width=0.5, length=2.0, pad=1.5)
    words = wrap(text, full - 2 * MARGIN, SMALL, lines=2)
    axes.set_xlabel(words, fontsize=SMALL, labelpad=1.0, linespacing=1.1, parse_math=False)
    return axes


def _apart(norm: PowerNorm) -> list[float]:
    """Round numbers on a scale that is not linear, from its end down, none nearer than a seventh of the bar."""
    steps = [digit * 10.0**power for power in range(2, -7, -1) for digit in (5, 2, 1)]
    chosen, last = [0.0], 1.1
    for step in steps:
        if norm.vmax is not None and step <= norm.vmax and last - norm(step) >= 1 / 7 and norm(step) >= 1 / 7:
            chosen.append(step)
            last = norm(step)
    return chosen


def check_images(images, what: str) -> list[Image.Image]:
    """A list of PIL images. DataError where one is missing: features may come without pictures."""
    for row, image in enumerate(images):
        if not isinstance(image, Image.Image):
            raise DataError(
                f"{what}: expected a PIL image in row {row}, got {type(image).__name__}; "
                "this data may have been prepared without pictures"
            )
    return list(images)
