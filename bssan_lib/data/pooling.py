"""Coarser regions from a fine grid, to compare 7 x 7 cells with 5 x 5, with 3 x 3 or with all of them together.

    split = pool_regions(open_prepared(folder, "train"), [5])           # one grid of 5 x 5
    split = pool_regions(open_prepared(folder, "train"), [7, 3, 1])     # a pyramid: 49 + 9 + 1 regions

A pooled cell is the mean of the cells under it, each weighted by the area that both share: from 7 cells to 5
there are 7/5 = 1.4 cells under each, so the first pooled cell has all of the first cell and 0.4 of the second.

Letters: N images, K regions, L regions after pooling, D feature size, V further views.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import DataError
from bssan_lib.vision.backbone import grid_boxes, grid_weights

ROWS = 64  # images pooled at once, as float32


def pool_regions(split: PreparedSplit, grids: list[int]) -> PreparedSplit:
    """The split with its grid of regions pooled to one coarser grid, or to several together.

    grids: sides of square grids, such as [5] or [7, 3, 1]; the split's own side is allowed.
    Features [N, L, D] are computed in memory as float16, and further views too. Boxes change; objects do not.
    meta["backbone"] has the new "grid" (None for several) and the sides as "pooled".
    Raises DataError for a split without a grid, features before the last stage, a grid finer than the own one, or none.
    """
    backbone, (_, regions, _) = split.meta.get("backbone") or {}, split.regions.shape
    grid, where = backbone.get("grid"), f"{split.folder}, split {split.name!r}"
    if not grid or grid[0] * grid[1] != regions:
        found = "which are no grid" if not grid else f"but its meta.json names a grid of {grid[0]} x {grid[1]}"
        raise DataError(
            f"{where}: pooling needs the cells of a grid, got {regions} regions, {found}. Take features of a backbone's map."
        )
    if backbone.get("features", "map") != "map":
        raise DataError(
            f"{where}: these features are what the backbone's last stage reads, which needs its own grid. "
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
        split,
        regions=_pool(split.regions, weights),
        boxes=np.broadcast_to(boxes, (len(split.regions), *boxes.shape)),
        views=None if split.views is None else _pool(split.views, weights),
        meta=meta,
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


def pool_windows(regions: Tensor, boxes: Tensor, windows: Tensor) -> Tensor:
    """Objects as means of the regions in each window, by shared area.

    regions: [B, K, E]. boxes: [K, 4] or [B, K, 4]. windows: [M, 4] or [B, M, 4]. Returns [B, M, E].
    Raises DataError for a window that shares no area with any region: it has no mean.
    """
    low = torch.maximum(windows[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(windows[..., :, None, 2:], boxes[..., None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)  # [M, K] or [B, M, K]
    total = shared.sum(-1, keepdim=True)
    if (empty := (total <= 0).nonzero()).numel():
        place = tuple(empty[0, :-1].tolist())
        box = ", ".join(f"{number:.3g}" for number in windows[place].tolist())
        raise DataError(
            f"object {place[-1]}: its box ({box}) shares no area with any region's box. Expected x1 y1 x2 y2 with x1 < x2 and "
            "y1 < y2, in the units of the regions' boxes. Correct the object's box."
        )
    return (shared / total).to(regions.dtype) @ regions
