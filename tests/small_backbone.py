"""A tiny deterministic backbone for tests: mean colours of a 3 x 3 grid, and 5 windows pooled from them."""

import numpy as np
from PIL import Image


class SmallBackbone:
    """regions [B, 9, 3]: mean colour of each cell; objects [B, 5, 3]: four 2 x 2 windows and the whole."""

    def __init__(self, scale: float = 1.0):
        self.descriptor = {"name": "colours", "grid": [3, 3], "dimension": 3, "scale": str(scale)}
        self.scale = scale
        y, x = np.mgrid[:3, :3].reshape(2, -1)
        self.boxes = (np.stack([x, y, x + 1, y + 1], axis=1) / 3).astype(np.float32)
        self.windows = [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8], list(range(9))]
        cells = [self.boxes[window] for window in self.windows]
        self.object_boxes = np.array([np.r_[box[:, :2].min(0), box[:, 2:].max(0)] for box in cells])

    def extract(self, images: list[Image.Image]) -> np.ndarray:
        small = [np.asarray(image.resize((3, 3), Image.Resampling.BOX), np.float32) for image in images]
        return np.stack(small).reshape(-1, 9, 3) * self.scale

    def pool_objects(self, regions: np.ndarray) -> np.ndarray:
        return np.stack([regions[:, window].mean(axis=1) for window in self.windows], axis=1)
