"""The whole model as one diagram with shapes, the part at hand highlighted.

Letters: B images, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bssan_lib.errors import ConfigError
from bssan_lib.viz.style import NORMAL, SMALL, label, new_figure, paper_style, place

HEIGHT = 2.45  # inches, on the width of two columns
PLAIN, LIT = ("#F4F4F4", "#8A8A8A", 0.6), ("#FFE3A3", "#B35900", 1.4)  # fill, edge, width of the edge


class _Box(NamedTuple):
    """A box of the diagram: its part, its lines of text, its centre and size in inches from the lower left."""

    part: str
    lines: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float = 0.58


_TOP, _MIDDLE, _BOTTOM = 2.05, 1.225, 0.4
_BOXES = {
    "image": _Box("data", ("image", "B of them"), 0.4, (_TOP + _MIDDLE) / 2, 0.68),
    "caption": _Box("data", ("caption", "C of them"), 0.4, _BOTTOM, 0.68),
    "regions": _Box("data", ("regions x", "[B, K, D]", "cells of a grid"), 1.41, _TOP, 0.94),
    "objects": _Box("data", ("objects z", "[B, M, D]", "windows or boxes"), 1.41, _MIDDLE, 0.94),
    "ids": _Box("data", ("word ids", "[C, T]", "vocabulary"), 1.41, _BOTTOM, 0.94),
    "v": _Box("encoders", ("regions v", "[B, K, d]", "project, length 1"), 2.57, _TOP, 0.98),
    "o": _Box("encoders", ("objects o", "[B, M, d]", "project, length 1"), 2.57, _MIDDLE, 0.98),
    "u": _Box("encoders", ("words u", "[C, T, d]", "LSTM, bilinear W"), 2.57, _BOTTOM, 0.98),
    "affinity": _Box(
        "affinity", ("affinity", "s = u · v", "[B, K, C, T]", "s = u · o", "[C, T, B, M]"), 3.65, _MIDDLE, 0.78, 2.23
    ),
    "w2r": _Box(
        "w2r", ("W2R attention", "softmax over regions", "mean cosine over words", "[B, C]"), 4.83, 1.92, 1.2, 0.78
    ),
    "o2w": _Box(
        "o2w", ("O2W attention", "softmax over words", "mean cosine over objects", "[B, C]"), 4.83, 0.53, 1.2, 0.78
    ),
    "joint": _Box("joint", ("joint score", "g w2r + (1−g) o2w", "[B, C]"), 6.2, _MIDDLE, 1.0),
    "loss": _Box("loss", ("ranking loss", "training"), 6.2, 2.09, 1.0, 0.45),
    "evaluation": _Box("evaluation", ("recalls", "evaluation"), 6.2, 0.36, 1.0, 0.45),
}
_ARROWS = [
    ("image", "regions"),
    ("image", "objects"),
    ("caption", "ids"),
    ("regions", "v"),
    ("objects", "o"),
    ("ids", "u"),
    ("v", "affinity"),
    ("o", "affinity"),
    ("u", "affinity"),
    ("affinity", "w2r"),
    ("affinity", "o2w"),
    ("w2r", "joint"),
    ("o2w", "joint"),
    ("joint", "loss"),
    ("joint", "evaluation"),
]
PARTS = tuple(dict.fromkeys(box.part for box in _BOXES.values()))


def model_diagram(highlight: str | Iterable[str] = (), width: str | float = "two"):
    """The joint model from images and captions to the score, with the shape of each step.

    highlight: one part or several of "data", "encoders", "affinity", "w2r", "o2w", "joint", "loss", "evaluation"; their
    boxes are filled. width: as in `column_width`; the drawing is scaled. Returns (figure, axes, None). ConfigError for
    an unknown part.
    """
    lit = {highlight} if isinstance(highlight, str) else set(highlight)
    if unknown := sorted(lit - set(PARTS)):
        raise ConfigError(f"model_diagram: expected parts out of {', '.join(PARTS)}, got {', '.join(unknown)}")
    with paper_style():
        figure = new_figure(width, 1.0)
        scale = figure.get_size_inches()[0] / 6.75
        figure.set_size_inches(6.75 * scale, HEIGHT * scale)
        axes = place(figure, 0, 0, 6.75 * scale, HEIGHT * scale)
        axes.set(xlim=(0, 6.75), ylim=(0, HEIGHT))
        axes.axis("off")
        for start, end in _ARROWS:
            _arrow(axes, _BOXES[start], _BOXES[end])
        for box in _BOXES.values():
            _draw(axes, box, box.part in lit, scale)
    return figure, axes, None


def _draw(axes, box: _Box, lit: bool, scale: float) -> None:
    """A box with its lines; the first is the name."""
    fill, edge, thick = LIT if lit else PLAIN
    corner = box.x - box.width / 2, box.y - box.height / 2
    rounded = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(corner, box.width, box.height, rounded, facecolor=fill, edgecolor=edge, linewidth=thick)
    )
    for n, line in enumerate(box.lines):
        y = box.y + 0.155 * ((len(box.lines) - 1) / 2 - n)
        style = {"fontsize": NORMAL * scale, "weight": "bold"} if n == 0 else {"fontsize": (SMALL - 0.3) * scale}
        label(axes, box.x, y, line, ha="center", va="center", **style)


def _arrow(axes, start: _Box, end: _Box) -> None:
    """From the right side of a box to the left side of another, or up or down to one that has the same x."""
    if start.x == end.x:
        up = 1 if end.y > start.y else -1
        points = (start.x, start.y + up * start.height / 2), (end.x, end.y - up * end.height / 2)
    else:  # a tall box is met, and left, at the height of the other
        y = end.y if start.height > 2 else start.y
        to_y = start.y if end.height > 2 else end.y
        points = (start.x + start.width / 2, y), (end.x - end.width / 2, to_y)
    axes.add_patch(FancyArrowPatch(*points, arrowstyle="-|>", mutation_scale=6, linewidth=0.8, color="#555555"))
