"""The backbone's last stage as a part of the model, so that it is tuned along with attention.

    x [192] a cell of the map that the stage reads, kept on disk (`data.features: stage`)
    y = relu6(P relu6(D relu6(E x)))   E widens, D a 3 x 3 filter for each channel, P narrows: an inverted residual block
    z = relu6(H y)                     the head: what a frozen backbone hands over as a region's feature

(MobileNetV2, Sandler et al., CVPR 2018, arXiv 1801.04381; batch norms are folded into the convolutions before them
and stay as ImageNet left them.) Everything below the stage stays frozen and is computed once. Whether and how the paper
tuned its features is not known to us; the published methods of its time gained most by it.

Letters: B images, K regions, M objects, D feature size of what is kept, E feature size of the last map.
"""

import math

import torch
from torch import Tensor, nn

from bssan_lib.backbone import load_backbone
from bssan_lib.errors import ConfigError

KNOWN = {192: "efficientnet_lite0", 208: "efficientnet_lite2"}  # numbers a cell before the last stage


class LastStage(nn.Module):
    """[B, K, D] -> [B, K, E] over a square grid. Sizes are those of the EfficientNet-Lite family's last stage."""

    def __init__(self, dimension: int, widened: int, narrowed: int, out: int):
        super().__init__()
        self.dimension, self.out = dimension, out
        self.expand = nn.Conv2d(dimension, widened, 1)
        self.filter = nn.Conv2d(widened, widened, 3, padding=1, groups=widened)
        self.narrow = nn.Conv2d(widened, narrowed, 1)
        self.head = nn.Conv2d(narrowed, out, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: [B, K, D], the cells of a square grid row by row. Returns [B, K, E]. ConfigError for another K or D."""
        side = math.isqrt(maps.shape[1])
        if side * side != maps.shape[1] or maps.shape[2] != self.dimension:
            raise ConfigError(
                f"model.tune_stage: expected the cells of a square grid, of {self.dimension} numbers each, got "
                f"{maps.shape[1]} cells of {maps.shape[2]}; prepare the data with data.features: stage."
            )
        x = maps.transpose(1, 2).unflatten(2, (side, side)).contiguous(memory_format=torch.channels_last)
        for layer in (self.expand, self.filter):
            x = nn.functional.relu6(layer(x))
        return nn.functional.relu6(self.head(self.narrow(x))).flatten(2).transpose(1, 2)


def last_stage(dimension: int) -> LastStage:
    """The last stage of the backbone whose kept maps have so many numbers a cell, with its ImageNet weights.

    Batch norms are folded in. ConfigError where no known backbone has such maps.
    """
    if dimension not in KNOWN:
        raise ConfigError(
            f"model.tune_stage: features of {dimension} numbers are not what a known backbone's last stage reads "
            f"({', '.join(map(str, KNOWN))}); prepare the data with data.features: stage."
        )
    network = load_backbone(KNOWN[dimension], device="cpu").network
    block = network._blocks[-1]
    theirs = [block._expand_conv, block._depthwise_conv, block._project_conv, network._conv_head]
    stage = LastStage(dimension, *(layer.out_channels for layer in theirs[1:]))
    with torch.no_grad():
        for ours, layer in zip((stage.expand, stage.filter, stage.narrow, stage.head), theirs):
            ours.weight.copy_(layer.weight)
            ours.bias.copy_(layer.bias)
    return stage


def pool_windows(regions: Tensor, boxes: Tensor, windows: Tensor) -> Tensor:
    """Objects as means of the regions in each window, by shared area.

    regions: [B, K, E]. boxes: [K, 4] or [B, K, 4]. windows: [M, 4] or [B, M, 4]. Returns [B, M, E].
    """
    low = torch.maximum(windows[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(windows[..., :, None, 2:], boxes[..., None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)  # [M, K] or [B, M, K]
    return (shared / shared.sum(-1, keepdim=True)).to(regions.dtype) @ regions
