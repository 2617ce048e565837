"""Attention maps over the regions of an image, and measures of how well they agree with true boxes. Notebook 05.

A map has weights a [K] over the regions of an image, with sum one. S_k is the share of the area A_k of region k that
is covered by the union of the true boxes. Four measures, each 0..1:

    pointing game         the centre of the heaviest region is in a true box (Zhang et al., IJCV 2018)
    pointing game, window the centre of the heaviest window of three by three regions is in a true box; only
                          windows inside the image count
    mass in box           sum_k a_k S_k
    area under the curve  sort regions by density a_k / A_k, largest first, and add them one by one; x is the share
                          of the image added so far, y the share of the true boxes inside it. Even weights give the
                          diagonal, 1/2. The true boxes as a map give the maximum: 1 - x/2 for boxes that consist
                          of whole regions and cover a share x of the image

The curve depends only on the order of the regions, so a sharper map does not score higher. A tie between
regions counts as a random choice. "Share of the image" assumes that regions tile it, as a grid does; for overlapping
regions it is the share of their summed area.

Letters: K regions, M objects, X true boxes, V windows.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MAP_MEASURES = ("pointing_game", "pointing_game_window", "mass_in_box", "area_under_curve")
AREAS = np.linspace(0, 1, 21)  # x at which curves are stored
WINDOW = 3  # regions on a side of the window
EQUAL = 1e-5  # weights with a smaller relative difference count as equal, because boxes are stored as float32


def in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points lie in any of the boxes, edges included. points: [K, 2] x y. boxes: [X, 4]. Returns bool [K]."""
    points, boxes = np.asarray(points)[:, None], np.asarray(boxes)
    inside = (boxes[:, :2] <= points) & (points <= boxes[:, 2:])  # [K, X, 2]
    return np.any(np.all(inside, axis=2), axis=1)


def common_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The common area of every pair of boxes. a: [M, 4]. b: [X, 4]. Returns [M, X]."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    return np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """boxes: [K, 4]. Returns [K], 0 for a box whose x2 < x1 or y2 < y1."""
    boxes = np.asarray(boxes, np.float64)
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)


def share_inside(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The share of each region's area that the union of the boxes covers, exactly.

    The edges of the boxes divide the plane into cells that are covered or not. A cell and a region share a rectangle.
    regions: [K, 4] x1 y1 x2 y2. boxes: [X, 4]. Returns [K] in 0..1; 0 for a region without area.
    """
    regions, boxes = np.asarray(regions, np.float64), np.asarray(boxes, np.float64)
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    columns = (boxes[:, 0, None] <= xs[:-1]) & (xs[1:] <= boxes[:, 2, None])  # [X, cells of x]
    rows = (boxes[:, 1, None] <= ys[:-1]) & (ys[1:] <= boxes[:, 3, None])
    covered = (columns[:, :, None] & rows[:, None, :]).any(0)  # [cells of x, cells of y]

    def common(low, high, edges):  # [K, cells]: common length of a region and a cell
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
    """The share of the heaviest regions that are right: 0 or 1 for one, a fraction for several. Both: [K]."""
    return float(right[weights >= weights.max() * (1 - EQUAL)].mean())


def pointing_game(weights: np.ndarray, regions: np.ndarray, boxes: np.ndarray) -> float:
    """1 if the centre of the heaviest region is in a box, else 0; the mean if several regions are heaviest.

    weights: [K]. regions: [K, 4]. boxes: [X, 4].
    """
    return share_of_heaviest(np.asarray(weights), in_boxes(centres(regions), boxes))


def mass_in_box(weights: np.ndarray, regions: np.ndarray, boxes: np.ndarray) -> float:
    """The sum of the attention weights inside the boxes, 0..1.

    weights: [K], sum one. regions: [K, 4]. boxes: [X, 4].
    """
    return float(weights @ share_inside(regions, boxes))


def coverage_curve(weights: np.ndarray, areas: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of the curve defined at the head of this file.

    weights: [K]. areas: [K], of the regions. share: [K], from `share_inside`. Returns x and y, [J] each with
    J <= K + 1, both from 0 to 1 (y stays 0 if no region overlaps a box). Equally dense regions form one line
    segment.
    """
    density = np.divide(weights, areas, out=np.zeros(len(areas)), where=areas > 0)
    order = np.argsort(-density, kind="stable")
    sizes, inside = areas[order].cumsum(), (share * areas)[order].cumsum()
    density = density[order]
    last = np.append(density[1:] < density[:-1] * (1 - EQUAL), True)  # of equally dense regions
    x, y = np.append(0.0, sizes[last]), np.append(0.0, inside[last])
    return x / (x[-1] or 1), y / (y[-1] or 1)


def area_under(x: np.ndarray, y: np.ndarray) -> float:
    """The area under a piecewise linear curve. x, y: [J]."""
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2)


@dataclass(frozen=True)
class Layout:
    """Everything that depends on the boxes of an image but not on weights.

    regions: [K, 4]. objects: [M, 4]. centres: [K, 2]. areas: [K], of the regions. windows: [V, K], the share of each
    region in each window; window_centres: [V, 2]. object_centres: [M, 2]. region_shares: [M, K], the share of each
    object's area in each region, rows sum to one.
    """

    regions: np.ndarray
    objects: np.ndarray
    centres: np.ndarray
    areas: np.ndarray
    windows: np.ndarray
    window_centres: np.ndarray
    object_centres: np.ndarray
    region_shares: np.ndarray


def layout(regions: np.ndarray, objects: np.ndarray) -> Layout:
    """regions: [K, 4]. objects: [M, 4]. Cached, because most images have the same boxes.

    A window has the centre of a region and three times its width and height. If none fits into the image, as on a grid
    of two by two, the regions themselves are the windows.
    """
    regions, objects = np.ascontiguousarray(regions, np.float64), np.ascontiguousarray(objects, np.float64)
    return _layout(regions.tobytes(), objects.tobytes())


@lru_cache(maxsize=4)
def _layout(region_bytes: bytes, object_bytes: bytes) -> Layout:
    regions, objects = (np.frombuffer(part).reshape(-1, 4) for part in (region_bytes, object_bytes))
    middle, areas = centres(regions), box_areas(regions)
    half = WINDOW * (regions[:, 2:] - regions[:, :2]) / 2
    windows = np.concatenate([middle - half, middle + half], axis=1)
    windows = windows[(windows[:, :2] > -EQUAL).all(1) & (windows[:, 2:] < 1 + EQUAL).all(1)]
    windows = windows if len(windows) else regions
    shared = common_area(windows, regions)
    region_shares = common_area(objects, regions)
    total = region_shares.sum(1, keepdims=True)  # an object's area if regions tile the image
    return Layout(
        regions,
        objects,
        middle,
        areas,
        np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0),
        centres(windows),
        centres(objects),
        np.divide(region_shares, total, out=np.zeros_like(region_shares), where=total > 0),
    )


@dataclass(frozen=True)
class Target:
    """How the true boxes of a phrase overlap the layout of an image.

    share: [K], object_share: [M], of the area of each region or object in the boxes. hit: [K], window_hit: [V],
    object_hit: [M] bool, whether the centre of each is in a box.
    """

    share: np.ndarray
    hit: np.ndarray
    window_hit: np.ndarray
    object_hit: np.ndarray
    object_share: np.ndarray


def target(place: Layout, boxes: np.ndarray) -> Target:
    """boxes: [X, 4] x1 y1 x2 y2 as fractions of width and height."""
    hit, window_hit, object_hit = (
        in_boxes(points, boxes) for points in (place.centres, place.window_centres, place.object_centres)
    )
    return Target(share_inside(place.regions, boxes), hit, window_hit, object_hit, share_inside(place.objects, boxes))


def measure_map(weights: np.ndarray, place: Layout, true: Target) -> tuple[list[float], np.ndarray]:
    """The values of MAP_MEASURES, in this order, and the curve's y at AREAS [21]. weights: [K], sum one."""
    x, y = coverage_curve(weights, place.areas, true.share)
    measures = [
        share_of_heaviest(weights, true.hit),
        share_of_heaviest(place.windows @ weights, true.window_hit),
        float(weights @ true.share),
        area_under(x, y),
    ]
    return measures, np.interp(AREAS, x, y)
