"""Scenes: a few plain shapes on a pale background, drawn in integer arithmetic alone.

Nothing here depends on fonts, on floating point or on how a library rasterises: a shape is an inequality over
whole numbers, evaluated at four times the size and averaged down, so a scene has the same pixels on every machine.

Units: pixels, x to the right, y down, the picture is SIDE x SIDE.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 224
FINE = 4  # sub-pixels along each axis of a pixel
OUTLINE = 2  # pixels

COLOURS = {
    "red": (216, 36, 40),
    "orange": (248, 134, 16),
    "yellow": (250, 218, 40),
    "green": (38, 156, 66),
    "blue": (36, 92, 216),
    "purple": (132, 56, 176),
    "pink": (250, 138, 196),
    "black": (38, 38, 44),
}
# Sides in pixels, first and last. The least box side is 40: a cell of a 7 x 7 grid has 32, so that every box
# contains the centre of a cell.
SIZES = {"small": (48, 52), "medium": (68, 74), "large": (96, 104)}
BACKGROUNDS = ("plain", "gradient", "stripes", "checks", "speckle")


@dataclass(frozen=True)
class Thing:
    """One object. (x, y): the centre of its box; side: the greatest extent of its box; all in pixels."""

    shape: str  # a key of SHAPES
    colour: str  # a key of COLOURS
    size: str  # a key of SIZES
    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Background:
    """kind: one of BACKGROUNDS; light, dark: its two pale colours (r, g, b); scale: pixels of a stripe or
    check; turn: 0..3, the direction of stripes and gradients; seed: where speckles fall."""

    kind: str
    light: tuple[int, int, int]
    dark: tuple[int, int, int]
    scale: int = 16
    turn: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """Things from back to front: a later one covers an earlier one."""

    things: tuple[Thing, ...]
    background: Background = Background("plain", (246, 243, 234), (230, 225, 214))


# --- shapes: each a function of points (u, v), whole numbers from -1000 to 1000, v down; True inside


def _disc(u, v, x, y, radius):
    return (u - x) ** 2 + (v - y) ** 2 <= radius * radius


def _polygon(u, v, points):
    """Even-odd rule: a point is inside when a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(np.broadcast(u, v).shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        spans = (v < y1) != (v < y2)
        side = (u - x1) * (y2 - y1) - (v - y1) * (x2 - x1)
        inside ^= spans & (side < 0 if y2 > y1 else side > 0)
    return inside


def _flower(u, v):
    petals = ((0, -600), (600, -190), (371, 500), (-371, 500), (-600, -190))
    inside = _disc(u, v, 0, 0, 500)
    for x, y in petals:
        inside = inside | _disc(u, v, x, y, 400)
    return inside & ~_disc(u, v, 0, 0, 210)


def _heart(u, v):
    point = _polygon(u, v, [(-868, -34), (0, 940), (868, -34), (480, -380), (-480, -380)])
    return _disc(u, v, -480, -380, 520) | _disc(u, v, 480, -380, 520) | point


_STAR = [
    (0, -951),
    (278, -283),
    (1000, -225),
    (450, 246),
    (618, 951),
    (0, 573),
    (-618, 951),
    (-450, 246),
    (-1000, -225),
    (-278, -283),
]
_HEXAGON = [(-1000, 0), (-500, -866), (500, -866), (1000, 0), (500, 866), (-500, 866)]
_ARROW = [(-1000, -300), (0, -300), (0, -880), (1000, 0), (0, 880), (0, 300), (-1000, 300)]

SHAPES = {
    "circle": lambda u, v: _disc(u, v, 0, 0, 1000),
    "square": lambda u, v: (abs(u) <= 1000) & (abs(v) <= 1000),
    "triangle": lambda u, v: _polygon(u, v, [(0, -930), (1000, 900), (-1000, 900)]),
    "star": lambda u, v: _polygon(u, v, _STAR),
    "heart": _heart,
    "cross": lambda u, v: (abs(u) <= 320) | (abs(v) <= 320),
    "ring": lambda u, v: _disc(u, v, 0, 0, 1000) & ~_disc(u, v, 0, 0, 560),
    "crescent": lambda u, v: _disc(u, v, 0, 0, 1000) & ~_disc(u, v, 500, 0, 750),
    "diamond": lambda u, v: _polygon(u, v, [(0, -1000), (870, 0), (0, 1000), (-870, 0)]),
    "hexagon": lambda u, v: _polygon(u, v, _HEXAGON),
    "arrow": lambda u, v: _polygon(u, v, _ARROW),
    "flower": _flower,
}


def _shrunk(fine, pixels):
    """bool [n, n]: the sub-pixels that are so many pixels or more away from the outside."""
    for _ in range(pixels * FINE):
        fine = np.pad(fine, 1)
        fine = fine[1:-1, 1:-1] & fine[:-2, 1:-1] & fine[2:, 1:-1] & fine[1:-1, :-2] & fine[1:-1, 2:]
    return fine


def _averaged(fine):
    """bool [4 n, 4 n] to coverage [n, n] uint8, 255 where a pixel is wholly covered."""
    n = len(fine) // FINE
    covered = fine.reshape(n, FINE, n, FINE).sum(axis=(1, 3))
    return (covered * 255 // FINE**2).astype(np.uint8)


@lru_cache(maxsize=None)
def shape_masks(shape: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of a shape and of its inside without the outline, uint8 [h, w] each, cut to the shape's box.

    side: pixels, the greater of h and w.
    """
    n = side * FINE
    line = (2 * np.arange(n, dtype=np.int64) + 1 - n) * 1000 // n
    fine = SHAPES[shape](line[None, :], line[:, None])
    whole, inner = _averaged(fine), _averaged(_shrunk(fine, OUTLINE))
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return whole[cut], inner[cut]


def thing_box(thing: Thing) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 in pixels: every pixel of the thing, hidden ones too, and no empty row or column."""
    height, width = shape_masks(thing.shape, thing.side)[0].shape
    left, top = thing.x - width // 2, thing.y - height // 2
    return left, top, left + width, top + height


def box_fractions(thing: Thing) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 as fractions of the picture's width and height."""
    x1, y1, x2, y2 = thing_box(thing)
    return x1 / SIDE, y1 / SIDE, x2 / SIDE, y2 / SIDE


def draw_background(background: Background) -> Image.Image:
    """The empty picture: every pixel lies between the two pale colours, by a whole weight of 0 to 255."""
    x, y = np.meshgrid(np.arange(SIDE, dtype=np.int64), np.arange(SIDE, dtype=np.int64))
    along = (x, y, x + y, x - y + SIDE)[background.turn]
    if background.kind == "plain":
        weight = np.zeros_like(x)
    elif background.kind == "gradient":
        weight = along * 255 // int(along.max())
    elif background.kind == "stripes":
        weight = along // background.scale % 2 * 255
    elif background.kind == "checks":
        weight = (x // background.scale + y // background.scale) % 2 * 255
    elif background.kind == "speckle":
        dot = max(2, background.scale // 6)
        mixed = (x // dot * 374761393 + y // dot * 668265263 + background.seed * 2246822519) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
        weight = ((mixed ^ (mixed >> 16)) % 5 == 0) * 255
    else:
        raise ValueError(f"background kind {background.kind!r} is none of {', '.join(BACKGROUNDS)}")
    light, dark = np.array(background.light), np.array(background.dark)
    pixels = light + (dark - light) * weight[:, :, None] // 255
    return Image.fromarray(pixels.astype(np.uint8))


def draw_scene(scene: Scene) -> Image.Image:
    """The picture, RGB, SIDE x SIDE: things from back to front, each with a darker outline."""
    picture = draw_background(scene.background)
    for thing in scene.things:
        colour = COLOURS[thing.colour]
        outline = tuple(part * 9 // 16 for part in colour)
        whole, inner = shape_masks(thing.shape, thing.side)
        for paint, mask in ((outline, whole), (colour, inner)):
            picture.paste(paint, thing_box(thing), Image.fromarray(mask))
    return picture
