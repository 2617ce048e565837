"""Random crops and flips of photographs for training, computed on the device.

Crops are large, so that captions stay true. A photograph is not flipped if its caption contains "left" or "right".

Letters: B images, K regions, S pixels along a side.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bssan_lib.vision.backbone import from_patches, to_patches

SMALLEST_AREA = 0.65  # of the photograph
STRETCH = 0.9, 1.1  # height over width of a crop
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def can_mirror(captions: Sequence[str]) -> np.ndarray:
    """Which captions stay true after a horizontal flip. Returns [C] bool."""
    return np.array([SIDES.search(caption) is None for caption in captions], bool)


def draw_views(count: int, seed: Sequence[int]) -> np.ndarray:
    """Random crops and flips for `count` photographs, a function of `seed` alone.

    Returns [count, 5] float32: x1 y1 x2 y2 as fractions of width and height, then 1 for a flip, else 0.
    """
    random = np.random.default_rng(list(seed))
    side = np.sqrt(random.uniform(SMALLEST_AREA, 1, count))
    stretch = np.sqrt(random.uniform(*STRETCH, count))
    width, height = np.minimum(1, side / stretch), np.minimum(1, side * stretch)
    left, top = random.random(count) * (1 - width), random.random(count) * (1 - height)
    mirrored = random.random(count) < 0.5
    return np.stack([left, top, left + width, top + height, mirrored], axis=1).astype(np.float32)


def apply_views(patches: Tensor, views: Tensor) -> Tensor:
    """Crops each photograph, resizes the crop to full size (bilinear) and flips it where its view says so.

    patches: [B, K, 3072], 0 to 255. views: [B, 5], from `draw_views`. Returns [B, K, 3072] float32, 0 to 255.
    """
    pixels = from_patches(patches).float()
    left, top, right, bottom, mirrored = views.unbind(1)
    flip = 1 - 2 * mirrored
    zero = torch.zeros_like(left)
    # grid_sample's coordinates run from -1 to 1: x -> (right - left) x + (left + right - 1)
    theta = torch.stack(
        [
            torch.stack([(right - left) * flip, zero, left + right - 1], dim=1),
            torch.stack([zero, bottom - top, top + bottom - 1], dim=1),
        ],
        dim=1,
    )
    grid = torch.nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    return to_patches(torch.nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False))
