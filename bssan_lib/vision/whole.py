"""The whole backbone as a part of the model, trained from photographs.

With `data.features: pixels` the stored feature of a region is its 32 x 32 pixels. In every step the model joins the
cells to an image and runs the backbone on it. Each photograph is decoded only once, and pixels are stored like any
other features.

Batch norms are folded into the convolutions before them and keep their ImageNet statistics: a batch of a few hundred
photographs gives no better estimate. We do not know how the paper trained its image features.

Letters: B images, K regions, S pixels along a side.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from bssan_lib.errors import ConfigError
from bssan_lib.vision.backbone import PATCH, from_patches, load_backbone
from bssan_lib.vision.last_stage import LastStage, last_stage


class WholeBackbone(nn.Module):
    """Pixels [B, K, 3072] -> features [B, K, 1280] of EfficientNet-Lite0.

    tune: "all", or "stage" to train only the last stage.
    """

    out = 1280

    def __init__(self, tune: Literal["stage", "all"]):
        super().__init__()
        self.network = load_backbone("efficientnet_lite0", device="cpu").network
        self.network._fc = nn.Identity()  # the classifier of ImageNet's 1,000 classes
        self.requires_grad_(tune == "all")
        if tune == "stage":
            for part in (self.network._blocks[-1], self.network._conv_head):
                part.requires_grad_(True)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, K, 3072], 0 to 255, the cells of a square grid row by row. Returns [B, K, 1280]."""
        pixels = (from_patches(patches).float() - 127) / 128
        maps = self.network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return maps.flatten(2).transpose(1, 2)


def tuned_backbone(tune: Literal["none", "stage", "all"], dimension: int) -> LastStage | WholeBackbone | None:
    """The part of the backbone that is trained, for features of `dimension` numbers; None for tune "none".

    Raises ConfigError if the features do not fit `tune`.
    """
    if tune == "none":
        if dimension == PATCH:
            raise ConfigError(
                "data.features: pixels needs a model that contains the backbone; set model.tune to stage or all."
            )
        return None
    if dimension == PATCH:
        return WholeBackbone(tune)
    if tune == "all":
        raise ConfigError(
            f"model.tune: all needs pixels, got features of {dimension} numbers; prepare the data with "
            "data.features: pixels."
        )
    return last_stage(dimension)
