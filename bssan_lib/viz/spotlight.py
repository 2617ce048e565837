"""Attention as light: attended regions keep the picture's own colours, the others turn grey under a pale veil.

Letters: K regions. Boxes are x1 y1 x2 y2 as fractions of the picture's width and height.
"""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from PIL import Image

VEIL, THICK = (0.93, 0.93, 0.93), 0.93  # colour of the veil, and its opacity where there is no attention
SIDE = 300  # pixels of the longer side of a veil with overlapping boxes


def veil_colours() -> ListedColormap:
    """From an almost opaque veil, where there is no attention, to none at the end of the scale."""
    share = np.linspace(0, 1, 256)[:, None]
    return ListedColormap(np.hstack([np.tile(VEIL, (256, 1)), THICK * (1 - share**0.75)]), name="bssan_veil")


def coloured(image: Image.Image, weights, norm: Normalize, grid=(7, 7), boxes=None) -> Image.Image:
    """The picture with its colours where attention [K] is, and in grey elsewhere; to lie under the veil."""
    weights = np.asarray(weights, dtype=np.float64)
    light = weights.reshape(grid) if boxes is None else light_of_boxes(weights, boxes, image.size)
    share = np.clip(np.asarray(norm(light), dtype=np.float64), 0, 1)
    mask = Image.fromarray((255 * share).round().astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(image.convert("RGB"), image.convert("L").convert("RGB"), mask)


def lay_veil(axes, image: Image.Image, weights, norm: Normalize, grid=(7, 7), boxes=None) -> ScalarMappable:
    """A veil by attention [K] over axes that hold the picture from `coloured`; returns the mappable.

    grid: rows and columns of the K cells. boxes: [K, 4] instead; where they overlap, the heaviest counts.
    """
    colours, (width, height) = veil_colours(), image.size
    weights = np.asarray(weights, dtype=np.float64)
    if boxes is None:
        rows, columns = grid
        x, y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
        for edges in (x, y):  # the veil ends beyond the axes, so that no line of the picture is left at its rim
            edges[[0, -1]] += 0.01 * edges[-1] * np.array([-1, 1])
        return axes.pcolormesh(x, y, weights.reshape(rows, columns), cmap=colours, norm=norm, linewidth=0)
    light = light_of_boxes(weights, boxes, (width, height))
    limits = axes.axis()
    mappable = axes.imshow(light, cmap=colours, norm=norm, extent=(0, width, height, 0), interpolation="nearest")
    axes.axis(limits)
    return mappable


def light_of_boxes(weights: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The heaviest weight over each pixel, 0 outside of all boxes: [H, W] of at most SIDE pixels a side.

    weights: [K]. boxes: [K, 4]. size: width and height of the picture, whose aspect is kept.
    """
    scale = min(1.0, SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    light = np.zeros((height, width))
    for weight, (x1, y1, x2, y2) in zip(weights, boxes):
        part = light[round(y1 * height) : max(round(y2 * height), 1), round(x1 * width) : max(round(x2 * width), 1)]
        np.maximum(part, weight, out=part)
    return light
