"""The data of ablations: fewer images, pooled regions, windows or regions as objects. Notebook 07.

    train, dev = variant_splits(config, variant, *open_splits(run))

Letters: N images, K regions, M objects, D feature size, E feature size after a last stage.
"""

from dataclasses import replace

import numpy as np
import torch

from bssan_lib.comparison.variants import Variant, variant_config
from bssan_lib.config import AblationConfig, Config
from bssan_lib.data import PreparedSplit, open_prepared
from bssan_lib.data.pooling import objects_are_regions, pool_regions, pool_windows
from bssan_lib.runs import Run
from bssan_lib.vision.whole import tuned_backbone

ROWS = 64  # images computed at once by a backbone's last stage


def grid_side(split: PreparedSplit) -> int | None:
    """Cells per side of the split's square grid of regions; None for other regions, such as bottom-up regions."""
    grid = (split.meta.get("backbone") or {}).get("grid")
    return grid[0] if grid and grid[0] == grid[1] and grid[0] ** 2 == split.regions.shape[1] else None


def baseline_side(config: Config, split: PreparedSplit) -> int | None:
    """Cells per side of the baseline's grid; None if the split has no grid."""
    side = grid_side(split)
    return side and min(side, config.ablation.grid)


def first_images(split: PreparedSplit, count: int) -> PreparedSplit:
    """The first `count` images of a split with their captions in order; without phrases, `satisfies` and views."""
    rows = np.flatnonzero(split.cap2im < count)

    def first(array):
        return None if array is None else array[:count]

    return replace(
        split,
        regions=split.regions[:count],
        objects=first(split.objects),
        boxes=first(split.boxes),
        object_boxes=first(split.object_boxes),
        captions=[split.captions[row] for row in rows],
        cap2im=split.cap2im[rows],
        ids=split.ids[:count],
        phrases=None,
        satisfies=None,
        views=None,
    )


@torch.inference_mode()
def frozen_map(split: PreparedSplit) -> PreparedSplit:
    """Applies the backbone's untuned last stage to a split of features before that stage.

    [N, K, D] -> [N, K, E] float16; objects that are windows become means of their cells, [N, M, E].
    """
    stage = tuned_backbone("stage", split.regions.shape[2])
    assert stage is not None  # because of "stage"
    stage.eval()
    regions, objects = [], []
    for start in range(0, len(split.regions), ROWS):
        rows = slice(start, start + ROWS)
        features = stage(torch.from_numpy(np.asarray(split.regions[rows], np.float32)))
        regions.append(features.half().numpy())
        if split.boxes is not None and split.object_boxes is not None:
            boxes, windows = (torch.from_numpy(np.array(part[rows])) for part in (split.boxes, split.object_boxes))
            objects.append(pool_windows(features, boxes, windows).half().numpy())
    meta = {**split.meta, "backbone": {**split.meta["backbone"], "features": "map"}}
    return replace(
        split, regions=np.concatenate(regions), objects=np.concatenate(objects) if objects else None, meta=meta
    )


def open_splits(run: Run) -> tuple[PreparedSplit, PreparedSplit]:
    """train and dev with as many images as any variant needs. A tuned last stage has its ImageNet weights."""
    small = run.config.ablation
    splits = [
        first_images(open_prepared(run.prepared, name), max(counts))
        for name, counts in (
            ("train", (small.images, small.slow_images)),
            ("dev", (small.dev_images, small.slow_dev_images)),
        )
    ]
    before_stage = [(split.meta.get("backbone") or {}).get("features", "map") != "map" for split in splits]
    train, dev = (frozen_map(split) if before else split for split, before in zip(splits, before_stage))
    return train, dev


def variant_splits(
    config: Config, variant: Variant, train: PreparedSplit, dev: PreparedSplit
) -> tuple[PreparedSplit, PreparedSplit]:
    """train and dev of `open_splits`, with the images, regions and objects of one variant."""
    small: AblationConfig = variant_config(config, variant, 0).ablation
    side, own = baseline_side(config, train), grid_side(train)
    grids = (variant.grids or (side,)) if side else None
    found = []
    for split, count in ((train, small.images), (dev, small.dev_images)):
        split = first_images(split, count)
        split = split if grids in (None, (own,)) else pool_regions(split, list(grids))
        found.append(split if variant.windows else objects_are_regions(split))
    return found[0], found[1]
