"""What every method is made of: projected regions, words read by a recurrent network, one vector for a set. Notebook 04.

    regions  v_k = norm(A x_k + P b_k)       x_k a region's feature, b_k its box (x1 y1 x2 y2): where it is
    words    h_t = norm of the two directions of an LSTM averaged, or of another recurrent network
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

PADDING, UNKNOWN = 0, 1  # rows of every vocabulary


def place_features(boxes: Tensor) -> Tensor:
    """Where a box is and how large. boxes: [..., 4] x1 y1 x2 y2 in 0..1 -> [..., 6] centre, width, height, their product, 1."""
    centre = (boxes[..., :2] + boxes[..., 2:]) - 1.0
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([centre, size, size[..., :1] * size[..., 1:], torch.ones_like(size[..., :1])], dim=-1)


class VisualProjection(nn.Module):
    """norm(A x + P b): a feature of the backbone into the joint space, with its place where boxes are known."""

    def __init__(self, dimension: int, joint_size: int, place: bool, dropout: float):
        super().__init__()
        self.project = nn.Linear(dimension, joint_size)
        self.place = nn.Linear(6, joint_size, bias=False) if place else None
        self.dropout = nn.Dropout(dropout)
        if self.place is not None:
            nn.init.zeros_(self.place.weight)  # starts as the model without places

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """features: [B, K, D]. boxes: [K, 4] or [B, K, 4]. Returns [B, K, d] of norm one."""
        # One mask an image, so that a channel cannot be told from a neighbouring region.
        projected = self.project(features * self.dropout(torch.ones_like(features[:, :1])))
        if self.place is not None and boxes is not None:
            projected = projected + self.place(place_features(boxes))
        return projected / safe_norm(projected)[..., None]


class GlobalVector(nn.Module):
    """norm(E sum_l a_l y_l), a = softmax_l(p . y_l): one vector for a set of regions or words."""

    def __init__(self, joint_size: int, size: int):
        super().__init__()
        self.pool = nn.Linear(joint_size, 1, bias=False)
        self.project = nn.Linear(joint_size, size)
        nn.init.zeros_(self.pool.weight)  # starts as the mean

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """vectors: [N, L, d]. mask: [N, L], True where a vector is real; None: all are. Returns [N, e] of norm one."""
        logits = self.pool(vectors).float()
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None], float("-inf"))
        projected = self.project((vectors * torch.softmax(logits, dim=1)).sum(1)).float()
        return projected / safe_norm(projected)[..., None]


def recurrent(kind: str, size: int, joint_size: int, layers: int = 1, dropout: float = 0.0) -> nn.LSTM | nn.GRU:
    """A recurrent network of `joint_size` states a direction. kind: "bilstm", "lstm", "bigru" or "gru". size: of an input."""
    network = nn.LSTM if kind.endswith("lstm") else nn.GRU
    return network(
        size,
        joint_size,
        layers,
        batch_first=True,
        bidirectional=kind.startswith("bi"),
        dropout=dropout if layers > 1 else 0.0,
    )


def read_words(network: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> Tensor:
    """States of a network, its directions averaged: [C, T, input] -> [C, T, d], zero at padding. lengths: [C]."""
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(network(packed)[0], batch_first=True, total_length=inputs.shape[1])
    return states.unflatten(-1, (2 if network.bidirectional else 1, -1)).mean(-2)


class Matcher(nn.Module):
    """What all methods share: their settings, a table of word vectors, and what is tuned of the backbone.

    A method defines `project_images`, `encode_captions` and `score`.

    config: sizes and choices. vocabulary_size: rows of the word table. dimension: D. place: whether boxes are known.
    """

    has_global = False  # whether `image_vectors` and `caption_vectors` are there, for the first stage of search
    parts: tuple[str, ...] = ("w2r", "o2w")  # the directions whose own scores `score` returns

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
        """Where the weights lie."""
        return self.embed.weight.device

    def encode_images(
        self,
        regions: Tensor,
        objects: Tensor | None = None,
        boxes: Tensor | None = None,
        object_boxes: Tensor | None = None,
    ) -> ImageCodes:
        """Codes of B images: regions [B, K, D], objects [B, M, D] or None, boxes [K, 4] or [B, K, 4], or None."""
        features = self.tuned_features(regions, objects, boxes, object_boxes)
        return self.project_images(*features, boxes, object_boxes)

    def encode_arrays(self, regions: np.ndarray, *others: np.ndarray | None) -> ImageCodes:
        """`encode_images` of NumPy arrays: regions [B, K, D], then objects, boxes and object_boxes, or None."""

        def tensor(array: np.ndarray) -> Tensor:
            # Copied, because torch cannot use read-only memory maps.
            return torch.from_numpy(np.array(array, np.float32)).to(self.device)

        return self.encode_images(tensor(regions), *(None if array is None else tensor(array) for array in others))

    def tuned_features(
        self, regions: Tensor, objects: Tensor | None, boxes: Tensor | None, object_boxes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The features of regions and objects: those given, or what the tuned part of the backbone makes of them."""
        if self.stage is None:
            return regions, objects
        features = self.stage(regions)
        return features, None if boxes is None or object_boxes is None else pool_windows(features, boxes, object_boxes)

    def project_images(
        self, regions: Tensor, objects: Tensor | None, boxes: Tensor | None = None, object_boxes: Tensor | None = None
    ) -> ImageCodes:
        """Features of regions [B, K, D] and objects [B, M, D] into the joint space."""
        raise NotImplementedError

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]."""
        raise NotImplementedError

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Every image against every caption; with the attention weights where `weights` asks for them."""
        raise NotImplementedError

    def image_vectors(self, images: ImageCodes) -> Tensor:
        """One vector an image [B, e], where `has_global`."""
        raise NotImplementedError

    def caption_vectors(self, captions: CaptionCodes) -> Tensor:
        """One vector a caption [C, e], where `has_global`."""
        raise NotImplementedError

    def drop_words(self, tokens: Tensor) -> Tensor:
        """Word ids [C, T], some of them unknown in training, as config.word_dropout has it."""
        if not self.training or self.config.word_dropout == 0:
            return tokens
        dropped = torch.rand(tokens.shape, device=tokens.device) < self.config.word_dropout
        return tokens.masked_fill(dropped & (tokens != PADDING), UNKNOWN)

    def learned(self) -> dict[str, float]:
        """The few numbers worth watching in training, by name; none in methods without any."""
        return {}

    def summary(self) -> dict:
        """What a metrics file says of the model: its settings, size and the numbers of `learned`."""
        return {
            **asdict(self.config),
            "vocabulary_size": self.vocabulary_size,
            "dimension": self.dimension,
            "parameters": sum(p.numel() for p in self.parameters()),
            "learned": self.learned(),
        }
