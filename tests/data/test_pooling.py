"""Pooling of a grid: weights and features worked by hand, boxes, pyramids, and what is refused.

Letters: N images, K regions, L regions after pooling, D feature size, V further views.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from bssan_lib.data.pooling import objects_are_regions, pool_regions, pool_windows
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.errors import DataError
from bssan_lib.vision.backbone import grid_boxes, grid_weights, pooling_weights

N, D, V = 67, 3, 2  # more images than are pooled at once


def make_split(grid=(7, 7), features=None, views=False, **backbone):
    rng = np.random.default_rng(5)
    cells = grid[0] * grid[1] if grid else 11
    if features is None:
        features = rng.normal(size=(N, cells, D)).astype(np.float16)
    meta = {"backbone": {"name": "made up", "grid": list(grid) if grid else None, **backbone}, "splits": {"test": {}}}
    return PreparedSplit(
        folder=Path("made up"),
        name="test",
        regions=features,
        objects=rng.normal(size=(len(features), 2, D)),
        boxes=None,
        object_boxes=np.zeros((len(features), 2, 4), np.float32),
        captions=["a"],
        cap2im=np.zeros(1, np.int64),
        ids=["x.png"],
        phrases=None,
        satisfies=None,
        meta=meta,
        views=rng.normal(size=(len(features), V, cells, D)).astype(np.float16) if views else None,
    )


def test_weights_of_a_line_by_hand():
    # Three cells under two: the middle one is shared, so each half is two thirds of its own and one third of the middle.
    np.testing.assert_allclose(pooling_weights(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    # 7 cells under 5: 1.4 cells each, in units of 1 / 1.4
    np.testing.assert_allclose(
        pooling_weights(7, 5)[:2] * 1.4, [[1, 0.4, 0, 0, 0, 0, 0], [0, 0.6, 0.8, 0, 0, 0, 0]], atol=1e-12
    )
    np.testing.assert_array_equal(pooling_weights(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(pooling_weights(5, 5), np.eye(5), atol=1e-12)


@pytest.mark.parametrize("grid, pooled", [((7, 7), 5), ((7, 7), 3), ((10, 10), 7), ((5, 11), 3), ((2, 3), 1)])
def test_rows_of_weights_sum_to_one_and_cells_are_used_alike(grid, pooled):
    weights = grid_weights(grid, pooled)
    assert weights.shape == (pooled**2, grid[0] * grid[1]) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights.sum(0), pooled**2 / (grid[0] * grid[1]))


def test_features_by_hand():
    # 3 x 3 cells 0..8 under 2 x 2: top left is (4*0 + 2*1 + 2*3 + 1*4) / 9 = 12/9, and so on
    values = np.arange(9, dtype=np.float32)[None, :, None]
    pooled = pool_regions(make_split((3, 3), values), [2])
    np.testing.assert_allclose(pooled.regions[0, :, 0], [12 / 9, 24 / 9, 48 / 9, 60 / 9], atol=4e-3)
    assert pooled.regions.dtype == np.float16 and pooled.meta["backbone"]["grid"] == [2, 2]
    np.testing.assert_array_equal(
        pooled.boxes[0], [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    )
    # rows differ from columns: 1 x 2 cells are too few for 2 x 2, and 2 x 3 cells pool to one mean
    one = pool_regions(make_split((2, 3), np.arange(6, dtype=np.float32)[None, :, None]), [1])
    assert one.regions[0, 0, 0] == 2.5 and one.boxes.shape == (1, 1, 4)


def test_a_pyramid_is_its_grids_in_a_row():
    split = make_split()
    pyramid = pool_regions(split, [7, 3, 1])
    assert pyramid.regions.shape == (N, 49 + 9 + 1, D) and pyramid.boxes.shape == (N, 59, 4)
    np.testing.assert_array_equal(pyramid.regions[:, :49], split.regions)  # the full grid stays as it is
    np.testing.assert_array_equal(pyramid.regions[:, 49:58], pool_regions(split, [3]).regions)
    mean = split.regions.astype(np.float64).mean(1)
    np.testing.assert_allclose(pyramid.regions[:, 58], mean, atol=2e-3)
    np.testing.assert_array_equal(pyramid.boxes[5, 49:58], grid_boxes(3, 3))
    np.testing.assert_array_equal(pyramid.boxes[5, 58], [0, 0, 1, 1])
    assert pyramid.meta["backbone"] == {"name": "made up", "grid": None, "pooled": [7, 3, 1]}
    assert split.meta["backbone"]["grid"] == [7, 7], "the split that was given is as it was"
    assert pyramid.sizes["regions"] == 59 and pyramid.objects is split.objects


def test_a_naive_loop_over_areas_agrees():
    split = make_split((5, 7))
    pooled = pool_regions(split, [3])
    for k, (x1, y1, x2, y2) in enumerate(grid_boxes(3, 3).astype(float)):
        total = np.zeros(D)
        for row in range(5):
            for column in range(7):
                wide = max(0, min(x2, (column + 1) / 7) - max(x1, column / 7))
                high = max(0, min(y2, (row + 1) / 5) - max(y1, row / 5))
                total += 9 * wide * high * split.regions[66, row * 7 + column].astype(float)
        np.testing.assert_allclose(pooled.regions[66, k], total, atol=2e-3)


def test_further_views_are_pooled_alike():
    split = make_split(views=True)
    pooled = pool_regions(split, [5, 2])
    assert pooled.views.shape == (N, V, 29, D)
    own = pool_regions(make_split(features=split.views[:, 1]), [5, 2])
    np.testing.assert_array_equal(pooled.views[:, 1], own.regions)


def test_objects_become_the_regions():
    split = make_split()
    same = objects_are_regions(split)
    assert same.objects is None and same.object_boxes is None and same.regions is split.regions
    assert same.sizes["objects"] == 49 and split.sizes["objects"] == 2


@pytest.mark.parametrize(
    "split, grids, said",
    [
        ({"grid": None}, [3], "got 11 regions, which are no grid"),
        (
            {"grid": (3, 5), "features": np.zeros((1, 14, D))},
            [3],
            "got 14 regions, but its meta.json names a grid of 3 x 5",
        ),
        ({}, [5, 8], "1 to 7 cells a side, as its own is 7 x 7; got 8"),
        ({"grid": (3, 5)}, [5], "1 to 3 cells a side, as its own is 3 x 5; got 5"),
        ({}, [0], "got 0"),
        ({}, [], "got none"),
        ({"stage": True}, [3], "what the backbone's last stage reads"),
    ],
)
def test_what_cannot_be_pooled(split, grids, said):
    made = make_split(**{key: value for key, value in split.items() if key != "stage"})
    if "stage" in split:
        made.meta["backbone"]["features"] = "stage"
    with pytest.raises(DataError, match=f"made up, split 'test': .*{said}"):
        pool_regions(made, grids)


def test_objects_are_means_by_shared_area():
    # Three regions in a row of widths 0.25, 0.25 and 0.5. The first window has all of region 0 and 0.2 of region 1 (4/5
    # and 1/5 of 0.25 + 0.0625), the second window is the left half of region 2.
    boxes = torch.tensor([[0, 0, 0.25, 1], [0.25, 0, 0.5, 1], [0.5, 0, 1, 1]])
    windows = torch.tensor([[0, 0, 0.3125, 1], [0.5, 0.25, 0.75, 1]])
    regions = torch.tensor([[[5.0, 0.0], [10.0, 1.0], [7.0, 3.0]], [[0.0, 5.0], [0.0, 0.0], [2.0, 2.0]]])
    expected = torch.tensor([[[6.0, 0.2], [7.0, 3.0]], [[0.0, 4.0], [2.0, 2.0]]])
    torch.testing.assert_close(pool_windows(regions, boxes, windows), expected)
    each = pool_windows(regions, boxes.expand(2, -1, -1), windows.expand(2, -1, -1))
    torch.testing.assert_close(each, expected)
    assert pool_windows(regions.half(), boxes, windows).dtype == torch.float16
    torch.testing.assert_close(pool_windows(regions, 4 * boxes, 4 * windows), expected)  # units do not matter


@pytest.mark.parametrize(
    "window, shown",
    [
        ([0.2, 0.2, 0.2, 0.8], "0.2, 0.2, 0.2, 0.8"),  # no width
        ([0.8, 0.2, 0.2, 0.8], "0.8, 0.2, 0.2, 0.8"),  # x1 > x2
        ([1.5, 0.0, 2.0, 1.0], "1.5, 0, 2, 1"),  # outside
    ],
)
def test_an_empty_window_is_refused_and_not_nan(window, shown):
    boxes = torch.from_numpy(grid_boxes(2, 2))
    windows = torch.tensor([[0.0, 0.0, 1.0, 1.0], window])
    with pytest.raises(DataError, match=rf"object 1: its box \({shown}\) shares no area"):
        pool_windows(torch.ones(3, 4, 5), boxes, windows)
    with pytest.raises(DataError, match="object 1"):
        pool_windows(torch.ones(3, 4, 5), boxes.expand(3, -1, -1), windows.expand(3, -1, -1))
