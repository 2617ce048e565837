"""The parts of all methods: projected regions, word states of a recurrent network, global vectors. Notebook 04.

    regions  v_k = norm(A x_k + P b_k)       x_k a region's feature, b_k features of its box
    words    h_t = norm of the averaged directions of an LSTM or another recurrent network
    global   e   = norm(E sum_l a_l y_l)     a = softmax_l(p . y_l): one vector for a set of regions or words

Letters: B images, C captions, K regions, T words, D feature size, d joint size, e global size.
"""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bssan_lib.attention.attended import safe_norm
from bssan_lib.config import ModelConfig
from bssan_lib.data.pooling import pool_windows
from bssan_lib.models.codes import CaptionCodes, ImageCodes, PairScores
from bssan_lib.vision.whole import tuned_backbone

PADDING, UNKNOWN = 0, 1  # ids in every vocabulary


def place_features(boxes: Tensor) -> Tensor:
    """Position and size of boxes.

    boxes: [..., 4] x1 y1 x2 y2 in 0..1. Returns [..., 6]: centre (scaled to -1..1), width, height, area, 1.
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) - 1.0
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([centre, size, size[..., :1] * size[..., 1:], torch.ones_like(size[..., :1])], dim=-1)


class VisualProjection(nn.Module):
    """norm(A x + P b): projects a feature of the backbone into the joint space, with its box if boxes are known."""

    def __init__(self, dimension: int, joint_size: int, place: bool, dropout: float):
        super().__init__()
        self.project = nn.Linear(dimension, joint_size)
        self.place = nn.Linear(6, joint_size, bias=False) if place else None
        self.dropout = nn.Dropout(dropout)
        if self.place is not None:
            nn.init.zeros_(self.place.weight)  # training starts as if there were no boxes

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """features: [B, K, D]. boxes: [K, 4] or [B, K, 4]. Returns [B, K, d] of norm one."""
        # One mask for all regions of an image, so that a dropped channel cannot be inferred from a neighbouring region.
        projected = self.project(features * self.dropout(torch.ones_like(features[:, :1])))
        if self.place is not None and boxes is not None:
            projected = projected + self.place(place_features(boxes))
        return projected / safe_norm(projected)[..., None]


class GlobalVector(nn.Module):
    """norm(E sum_l a_l y_l), a = softmax_l(p . y_l): one vector for all regions or words."""

    def __init__(self, joint_size: int, size: int):
        super().__init__()
        self.pool = nn.Linear(joint_size, 1, bias=False)
        self.project = nn.Linear(joint_size, size)
        nn.init.zeros_(self.pool.weight)  # training starts with the mean

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """vectors: [N, L, d]. mask: [N, L], True where a vector is real; None: all are. Returns [N, e] of norm one."""
        logits = self.pool(vectors).float()
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], float("-inf"))
        projected = self.project((vectors * torch.softmax(logits, dim=1)).sum(1)).float()
        return projected / safe_norm(projected)[..., None]


def recurrent(kind: str, size: int, joint_size: int, layers: int = 1, dropout: float = 0.0) -> nn.LSTM | nn.GRU:
    """A recurrent network. kind: "bilstm", "lstm", "bigru" or "gru". size: of an input. joint_size: of a state."""
    network = nn.LSTM if kind.endswith("lstm") else nn.GRU
    return network(
        size,
        joint_size,
        layers,
        batch_first=True,
        bidirectional=kind.startswith("bi"),
        dropout=dropout if layers > 1 else 0.0,
    )


def word_states(network: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> Tensor:
    """States of a network, averaged over its directions: [C, T, input] -> [C, T, d], zero at padding. lengths: [C]."""
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(network(packed)[0], batch_first=True, total_length=inputs.shape[1])
    return states.unflatten(-1, (2 if network.bidirectional else 1, -1)).mean(-2)


class Matcher(nn.Module):
    """The base class of all methods: settings, word vectors, and the tuned part of the backbone.

    A method defines `project_images`, `encode_captions` and `score`.

    config: sizes and choices. vocabulary_size: rows of the word table. dimension: D. place: whether boxes are known.
    """

    has_global = False  # whether there are `image_vectors` and `caption_vectors`, for the shortlist of search
    parts: tuple[str, ...] = ("w2r", "o2w")  # the directions whose scores `score` returns beside the joint score

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__()
        self.config, self.vocabulary_size, self.dimension = config, vocabulary_size, dimension
        self.has_place = bool(place and config.place)
        self.stage = tuned_backbone(config.tune, dimension)
        self.feature_size = dimension if self.stage is None else self.stage.out
        self.embed = nn.Embedding(vocabulary_size, config.word_size, padding_idx=PADDING)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.embed.weight.device

    def encode_images(
        self,
        regions: Tensor,
        objects: Tensor | None = None,
        boxes: Tensor | None = None,
        object_boxes: Tensor | None = None,
    ) -> ImageCodes:
        """Encodes B images. regions: [B, K, D]. objects: [B, M, D] or None. Boxes: [K, 4], [B, K, 4] or None."""
        features = self.tuned_features(regions, objects, boxes, object_boxes)
        return self.project_images(*features, boxes, object_boxes)

    def encode_arrays(self, regions: np.ndarray, *others: np.ndarray | None) -> ImageCodes:
        """`encode_images` for NumPy arrays. regions: [B, K, D]. others: objects, boxes, object_boxes, or None."""

        def tensor(array: np.ndarray) -> Tensor:
            # Copied, because torch cannot use read-only memory maps.
            return torch.from_numpy(np.array(array, np.float32)).to(self.device)

        return self.encode_images(tensor(regions), *(None if array is None else tensor(array) for array in others))

    def tuned_features(
        self, regions: Tensor, objects: Tensor | None, boxes: Tensor | None, object_boxes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The features of regions and objects; with a tuned backbone, after its tuned part."""
        if self.stage is None:
            return regions, objects
        features = self.stage(regions)
        return features, None if boxes is None or object_boxes is None else pool_windows(features, boxes, object_boxes)

    def project_images(
        self, regions: Tensor, objects: Tensor | None, boxes: Tensor | None = None, object_boxes: Tensor | None = None
    ) -> ImageCodes:
        """Projects features of regions [B, K, D] and objects [B, M, D] into the joint space."""
        raise NotImplementedError

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """Encodes C captions. tokens: word ids [C, T], zero at padding. lengths: [C]."""
        raise NotImplementedError

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Scores every image with every caption. weights: also return the attention weights."""
        raise NotImplementedError

    def image_vectors(self, images: ImageCodes) -> Tensor:
        """One vector per image, [B, e], if `has_global`."""
        raise NotImplementedError

    def caption_vectors(self, captions: CaptionCodes) -> Tensor:
        """One vector per caption, [C, e], if `has_global`."""
        raise NotImplementedError

    def drop_words(self, tokens: Tensor) -> Tensor:
        """Word ids [C, T]; in training a share of config.word_dropout of them becomes <unk>."""
        if not self.training or self.config.word_dropout == 0:
            return tokens
        dropped = torch.rand(tokens.shape, device=tokens.device) < self.config.word_dropout
        return tokens.masked_fill(dropped & (tokens != PADDING), UNKNOWN)

    def learned(self) -> dict[str, float]:
        """Learned numbers to report in training, by name; empty for most methods."""
        return {}

    def summary(self) -> dict:
        """The entry of a metrics file: settings, sizes and the numbers of `learned`."""
        return {
            **asdict(self.config),
            "vocabulary_size": self.vocabulary_size,
            "dimension": self.dimension,
            "parameters": sum(p.numel() for p in self.parameters()),
            "learned": self.learned(),
        }
