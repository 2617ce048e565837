"""Weights over regions as a map of the picture, and how well such a map points at true boxes. Notebook 05.

A map is weights a [K] over the regions of a picture, with sum one. S_k is the share of region k's area A_k that
the true boxes, taken together, cover. Four measures, each 0..1:

    pointing game         the centre of the heaviest region lies in a true box (Zhang et al., IJCV 2018)
    pointing game, window the centre of the heaviest window of three by three regions does; a window lies in the
                          picture whole, so none is centred on the picture's rim
    mass in box           sum_k a_k S_k
    area under the curve  regions are taken from the densest (largest a_k / A_k) to the thinnest; x is the share of
                          the picture taken so far, y the share of the true boxes that lies in it. Even weights give
                          the diagonal, 1/2; no map gives more than the true boxes themselves do, and that is
                          1 - x/2 for boxes of whole regions that cover a share x of the picture

The curve asks for the order alone, so a map is not better for being sharper. Equally heavy regions count as a random
choice among them. "Share of the picture" supposes regions that tile it, as a grid does; where regions overlap
it is the share of their summed area.

Letters: K regions, M objects, X true boxes, V windows.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MAP_MEASURES = ("pointing_game", "pointing_game_window", "mass_in_box", "area_under_curve")
AREAS = np.linspace(0, 1, 21)  # where curves are written down
WINDOW = 3  # regions on a side of the window
EQUAL = 1e-5  # weights that differ by a smaller share are equal: boxes are stored as float32


def in_boxes(x: np.ndarray, y: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points lie in any of the boxes, edges included. x, y: [K]. boxes: [X, 4]. Returns bool [K]."""
    x, y, boxes = np.asarray(x)[:, None], np.asarray(y)[:, None], np.asarray(boxes)
    return ((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])).any(1)


def common_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area that every pair of boxes shares. a: [M, 4]. b: [X, 4]. Returns [M, X]."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    return np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """boxes: [K, 4]. Returns [K], 0 for a box turned inside out."""
    boxes = np.asarray(boxes, np.float64)
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)


def share_inside(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The share of each region's area that the boxes, taken together, cover: exact, overlaps counted once.

    The boxes' edges cut the plane into cells; each is covered or not, and a region meets it in a rectangle.
    regions: [K, 4] x1 y1 x2 y2. boxes: [X, 4]. Returns [K] in 0..1; 0 for a region without area.
    """
    regions, boxes = np.asarray(regions, np.float64), np.asarray(boxes, np.float64)
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    columns = (boxes[:, 0, None] <= xs[:-1]) & (xs[1:] <= boxes[:, 2, None])  # [X, cells of x]
    rows = (boxes[:, 1, None] <= ys[:-1]) & (ys[1:] <= boxes[:, 3, None])
    covered = (columns[:, :, None] & rows[:, None, :]).any(0)  # [cells of x, cells of y]

    def common(low, high, edges):  # [K, cells]: the length a region and a cell share
        return np.clip(np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1]), 0, None)

    wide = common(regions[:, 0], regions[:, 2], xs)
    high = common(regions[:, 1], regions[:, 3], ys)
    inside = ((wide @ covered) * high).sum(1)
    area = box_areas(regions)
    return np.divide(inside, area, out=np.zeros_like(inside), where=area > 0)


def overlap_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes. a: [M, 4]. b: [X, 4]. Returns [M, X]."""
    common = common_area(a, b)
    union = box_areas(a)[:, None] + box_areas(b)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def centres(boxes: np.ndarray) -> np.ndarray:
    """boxes: [K, 4]. Returns [K, 2], x and y."""
    boxes = np.asarray(boxes, np.float64)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def share_of_heaviest(weights: np.ndarray, right: np.ndarray) -> float:
    """The share of the heaviest that are right: 0 or 1, between where several are equally heavy. Both: [K]."""
    return float(right[weights >= weights.max() * (1 - EQUAL)].mean())


def pointing_game(weights: np.ndarray, regions: np.ndarray, boxes: np.ndarray) -> float:
    """1 where the centre of the heaviest region lies in a box, else 0; their mean where several are heaviest.

    weights: [K]. regions: [K, 4]. boxes: [X, 4].
    """
    return share_of_heaviest(np.asarray(weights), in_boxes(*centres(regions).T, boxes))


def mass_in_box(weights: np.ndarray, regions: np.ndarray, boxes: np.ndarray) -> float:
    """How much attention lies in the boxes, 0..1. weights: [K], sum one. regions: [K, 4]. boxes: [X, 4]."""
    return float(weights @ share_inside(regions, boxes))


def coverage_curve(
    weights: np.ndarray, areas: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the curve: how much of the true boxes lies in the densest part of a map.

    weights: [K]. areas: [K], of the regions. share: [K], what `share_inside` gives. Returns x and y, [J] each with
    J <= K + 1, both from 0 to 1 (y stays 0 where no region meets a box); equally dense regions are one straight piece.
    """
    density = np.divide(weights, areas, out=np.zeros(len(areas)), where=areas > 0)
    order = np.argsort(-density, kind="stable")
    sizes, inside = areas[order].cumsum(), (share * areas)[order].cumsum()
    density = density[order]
    last = np.append(density[1:] < density[:-1] * (1 - EQUAL), True)  # of its equals
    x, y = np.append(0.0, sizes[last]), np.append(0.0, inside[last])
    return x / (x[-1] or 1), y / (y[-1] or 1)


def area_under(x: np.ndarray, y: np.ndarray) -> float:
    """The area under a curve of straight pieces. x, y: [J]."""
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2)


@dataclass(frozen=True)
class Layout:
    """What the boxes of a picture say before any weights are known.

    regions: [K, 4]. objects: [M, 4]. centres: [K, 2]. areas: [K], of the regions. windows: [V, K], the share of each
    region in each window; window_centres: [V, 2]. object_centres: [M, 2]. laid: [M, K], the share of each object's
    area in each region, rows sum to one.
    """

    regions: np.ndarray
    objects: np.ndarray
    centres: np.ndarray
    areas: np.ndarray
    windows: np.ndarray
    window_centres: np.ndarray
    object_centres: np.ndarray
    laid: np.ndarray


def layout(regions: np.ndarray, objects: np.ndarray) -> Layout:
    """regions: [K, 4]. objects: [M, 4]. Kept for the next picture, whose boxes are mostly the same.

    Windows have three times a region's width and height and its centre. Where none fits into the picture, as on a
    grid of two by two, the regions stand in for them.
    """
    regions, objects = np.ascontiguousarray(regions, np.float64), np.ascontiguousarray(objects, np.float64)
    return _layout(regions.tobytes(), objects.tobytes())


@lru_cache(maxsize=4)
def _layout(regions: bytes, objects: bytes) -> Layout:
    regions, objects = (np.frombuffer(part).reshape(-1, 4) for part in (regions, objects))
    middle, areas = centres(regions), box_areas(regions)
    half = WINDOW * (regions[:, 2:] - regions[:, :2]) / 2
    windows = np.concatenate([middle - half, middle + half], axis=1)
    windows = windows[(windows[:, :2] > -EQUAL).all(1) & (windows[:, 2:] < 1 + EQUAL).all(1)]
    windows = windows if len(windows) else regions
    shared = common_area(windows, regions)
    laid = common_area(objects, regions)
    total = laid.sum(1, keepdims=True)  # an object's area where regions tile the picture
    return Layout(
        regions, objects, middle, areas, np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0),
        centres(windows), centres(objects), np.divide(laid, total, out=np.zeros_like(laid), where=total > 0),
    )


@dataclass(frozen=True)
class Target:
    """The true boxes of a phrase, as a picture's layout meets them.

    share: [K], object_share: [M], of each region or object in the boxes. hit: [K], window_hit: [V], object_hit: [M]
    bool, whether their centres lie in one.
    """

    share: np.ndarray
    hit: np.ndarray
    window_hit: np.ndarray
    object_hit: np.ndarray
    object_share: np.ndarray


def target(place: Layout, boxes: np.ndarray) -> Target:
    """boxes: [X, 4] x1 y1 x2 y2 as fractions of width and height."""
    hit, window_hit, object_hit = (
        in_boxes(*points.T, boxes) for points in (place.centres, place.window_centres, place.object_centres)
    )
    return Target(share_inside(place.regions, boxes), hit, window_hit, object_hit, share_inside(place.objects, boxes))


def measure_map(weights: np.ndarray, place: Layout, true: Target) -> tuple[list[float], np.ndarray]:
    """The numbers of MAP_MEASURES, in their order, and the curve's height at AREAS [21]. weights: [K], sum one."""
    x, y = coverage_curve(weights, place.areas, true.share)
    measures = [
        share_of_heaviest(weights, true.hit), share_of_heaviest(place.windows @ weights, true.window_hit),
        float(weights @ true.share), area_under(x, y),
    ]
    return measures, np.interp(AREAS, x, y)
