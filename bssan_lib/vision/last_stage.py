"""The backbone's last stage as a part of the model, trained together with attention.

    x [192]                    a cell of the stage's input, stored on disk (`data.features: stage`)
    y = P relu6(D relu6(E x))  an inverted residual block: E widens, D filters each channel (3 x 3), P narrows
    z = relu6(H y)             the head: the feature of a region

(MobileNetV2, Sandler et al., CVPR 2018, arXiv 1801.04381.) Batch norms are folded into the convolutions before them
and keep their ImageNet statistics. The layers before the stage are frozen; their output is computed once and stored. We
do not know whether the paper tuned its backbone.

Letters: B images, K regions, M objects, D feature size of the stage's input, E feature size of the last map.
"""

import math

import torch
from torch import Tensor, nn

from bssan_lib.errors import ConfigError
from bssan_lib.vision.backbone import load_backbone

STAGE_BACKBONES = {192: "efficientnet_lite0", 208: "efficientnet_lite2"}  # input size of the last stage -> backbone


class LastStage(nn.Module):
    """Features [B, K, D] -> [B, K, E] on a square grid, with the last stage of the EfficientNet-Lite family."""

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
                f"model.tune: expected a square grid of cells with {self.dimension} numbers each, got "
                f"{maps.shape[1]} cells of {maps.shape[2]}; prepare the data with data.features: stage."
            )
        x = maps.transpose(1, 2).unflatten(2, (side, side)).contiguous(memory_format=torch.channels_last)
        for layer in (self.expand, self.filter):
            x = nn.functional.relu6(layer(x))
        return nn.functional.relu6(self.head(self.narrow(x))).flatten(2).transpose(1, 2)


def last_stage(dimension: int) -> LastStage:
    """The last stage, with ImageNet weights, of the backbone whose last stage has inputs of `dimension` numbers.

    Raises ConfigError if no backbone has a stage of this size.
    """
    if dimension not in STAGE_BACKBONES:
        raise ConfigError(
            f"model.tune: the last stage needs features of {' or '.join(map(str, STAGE_BACKBONES))} numbers, got "
            f"{dimension}; prepare the data with data.features: stage."
        )
    network = load_backbone(STAGE_BACKBONES[dimension], device="cpu").network
    block = network._blocks[-1]
    theirs = [block._expand_conv, block._depthwise_conv, block._project_conv, network._conv_head]
    stage = LastStage(dimension, *(layer.out_channels for layer in theirs[1:]))
    for ours, layer in zip((stage.expand, stage.filter, stage.narrow, stage.head), theirs):
        ours.load_state_dict(layer.state_dict())
    return stage
