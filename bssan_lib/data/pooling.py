"""Coarser regions out of a fine grid: what 7 x 7 cells are worth beside 5 x 5, 3 x 3 or all of them together.

    split = pool_regions(open_prepared(folder, "train"), [5])           # one grid of 5 x 5
    split = pool_regions(open_prepared(folder, "train"), [7, 3, 1])     # a pyramid: 49 + 9 + 1 regions

A pooled cell is the mean of the cells under it, each weighted by the area that both share: 7 cells under 5 are
7/5 = 1.4 cells under each, so the first pooled cell takes the first cell whole and 0.4 of the second.

Letters: N images, K regions, L regions after pooling, D feature size, V further views.
"""

import copy
from dataclasses import replace

import numpy as np

from bssan_lib.backbone import grid_boxes, grid_weights
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import DataError

ROWS = 64  # images pooled at once, as float32


def pool_regions(split: PreparedSplit, grids: list[int]) -> PreparedSplit:
    """The split with its grid of regions pooled to one coarser grid, or to several that stand together.

    grids: sides of square grids, such as [5] or [7, 3, 1]; that of the split itself may be among them.
    Features [N, L, D] are computed into memory as float16, and further views likewise; boxes follow, objects stay.
    meta["backbone"] has the new "grid", None for several, and the sides as "pooled".
    Raises DataError for a split that is no grid or only feeds a last stage, a grid that is finer than its own, or none.
    """
    backbone, (_, regions, _) = split.meta.get("backbone") or {}, split.regions.shape
    grid, where = backbone.get("grid"), f"{split.folder}, split {split.name!r}"
    if not grid or grid[0] * grid[1] != regions:
        found = "which are no grid" if not grid else f"but its meta.json names a grid of {grid[0]} x {grid[1]}"
        raise DataError(
            f"{where}: pooling needs the cells of a grid, got {regions} regions, {found}. Take features of a backbone's map."
        )
    if backbone.get("features") == "stage":
        raise DataError(
            f"{where}: these features are what the backbone's last stage reads, which needs them on their own grid. "
            "Prepare the data with data.features: map."
        )
    wrong = [side for side in grids if not 1 <= side <= min(grid)]
    if wrong or not grids:
        raise DataError(
            f"{where}: expected one or more grids of 1 to {min(grid)} cells a side, as its own is {grid[0]} x {grid[1]}; "
            f"got {wrong[0] if wrong else 'none'}. For a finer grid prepare the data with a larger data.image_size."
        )
    weights = np.concatenate([grid_weights(tuple(grid), side) for side in grids]).astype(np.float32)
    boxes = np.concatenate([grid_boxes(side, side) for side in grids])
    meta = copy.deepcopy(split.meta)
    meta["backbone"] |= {"grid": [grids[0]] * 2 if len(grids) == 1 else None, "pooled": list(grids)}
    return replace(
        split, regions=_pool(split.regions, weights), boxes=np.broadcast_to(boxes, (len(split.regions), *boxes.shape)),
        views=None if split.views is None else _pool(split.views, weights), meta=meta,
    )


def _pool(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """features: [N, ..., K, D]. weights: [L, K]. Returns [N, ..., L, D] float16."""
    pooled = np.empty((*features.shape[:-2], *weights.shape[:1], features.shape[-1]), np.float16)
    for start in range(0, len(features), ROWS):
        pooled[start : start + ROWS] = weights @ np.asarray(features[start : start + ROWS], np.float32)
    return pooled


def objects_are_regions(split: PreparedSplit) -> PreparedSplit:
    """The same split without objects of its own: its regions are the objects too."""
    return replace(split, objects=None, object_boxes=None)
