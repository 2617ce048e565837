"""VSE++: one vector per image, one per caption, scored by their product.

    e_v = norm(A mean_k x_k)      e_c = norm(last state of a GRU)      S = e_v . e_c

Faghri et al., BMVC 2018, arXiv 1707.05612; with the hinge loss on hardest negatives, margin 0.2.

Letters: B images, C captions, K regions, T words, D feature size, d joint size.
"""

import torch
from torch import Tensor, nn

from bssan_lib.attention.attended import safe_norm
from bssan_lib.config import ModelConfig
from bssan_lib.errors import BssanError
from bssan_lib.models.codes import CaptionCodes, ImageCodes, PairScores
from bssan_lib.models.encoders import Matcher, VisualProjection, recurrent, word_states


class VSEPP(Matcher):
    """VSE++. The vector of an image is stored as its only region, the vector of a caption as its only word."""

    parts = ()

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__(config, vocabulary_size, dimension, False)
        self.gru = recurrent("gru", config.word_size, config.joint_size, config.lstm_layers, config.dropout)
        self.picture = VisualProjection(self.feature_size, config.joint_size, False, config.region_dropout)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def project_images(
        self,
        regions: Tensor,
        objects: Tensor | None = None,
        boxes: Tensor | None = None,
        object_boxes: Tensor | None = None,
    ) -> ImageCodes:
        """regions [B, K, D] -> the vector of each image, [B, 1, d]. Objects and boxes are ignored."""
        vector = self.picture(regions.mean(1, keepdim=True), None)
        return ImageCodes(vector, vector)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns the vector of each caption, [C, 1, d]."""
        tokens = self.drop_words(tokens)
        states = word_states(self.gru, self.dropout(self.embed(tokens)), lengths)
        last = self.dropout(states[torch.arange(len(states), device=states.device), lengths - 1])[:, None]
        return CaptionCodes(last / safe_norm(last)[..., None], lengths, tokens)

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Scores every image with every caption by one product. Raises BssanError with `weights`."""
        if weights:
            raise BssanError("model.method: vse++ has no attention weights; use bssan, scan-t2i or scan-i2t.")
        with torch.autocast(self.device.type, enabled=False):  # these few products are computed exactly
            wide = torch.promote_types(images.regions.dtype, torch.float32)
            return PairScores(images.regions[:, 0].to(wide) @ captions.words[:, 0].to(wide).T, None, None)
