"""The holistic model: both directions of attention on one affinity, joined by a gate. Notebook 04.

    regions  v_k = norm(A x_k + P b_k)       x_k a region's feature, b_k its box (x1 y1 x2 y2): where it is
    objects  o_m = norm(A' z_m + P' b_m)     the objects may be the regions themselves
    words    h_t = norm of the two directions of an LSTM averaged ;  u_t = W' h_t
    joint    S   = g s_w2r + (1 - g) s_o2w    g = sigmoid of one learned number
    global   e_v = norm(E sum_k a_k v_k)       a = softmax_k(p . v_k); e_c likewise from the words u_t: one vector
                                              a picture or caption, the first stage of search, no part of S

The unification of W2R and O2W in one deep model is the paper's (DOI 10.1109/TIP.2018.2882225); sizes, norms,
places, gate and temperatures are ours.

Letters: B images, C captions, K regions, M objects, T words, D feature size, d joint size, e global size.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bssan_lib.config import ModelConfig
from bssan_lib.engine import DIRECTIONS, score_pairs
from bssan_lib.o2w import o2w_scores
from bssan_lib.w2r import affinity, length_mask, safe_norm, w2r_scores, w2r_weights

PADDING, UNKNOWN = 0, 1  # rows of every vocabulary


@dataclass
class ImageCodes:
    """Images in the joint space. regions: [B, K, d]; objects: [B, M, d], the same tensor where objects are regions."""

    regions: Tensor
    objects: Tensor

    def __getitem__(self, rows) -> "ImageCodes":
        shared = self.objects is self.regions
        regions = self.regions[rows]
        return ImageCodes(regions, regions if shared else self.objects[rows])


@dataclass
class CaptionCodes:
    """Captions in the joint space. words: u [C, T, d], zero at padding; lengths: [C].

    tokens: word ids [C, T], which reading (b) needs to run its LSTM again for every image.
    """

    words: Tensor
    lengths: Tensor
    tokens: Tensor

    def __getitem__(self, rows) -> "CaptionCodes":
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return CaptionCodes(self.words[rows][:, :width], lengths, self.tokens[rows][:, :width])


@dataclass
class PairScores:
    """Scores [B, C] of every image with every caption, and the weights behind them when they were asked for.

    w2r_weights: [B, K, C, T], sums to one over K. o2w_weights: [C, T, B, M], sums to one over T.
    """

    joint: Tensor
    w2r: Tensor
    o2w: Tensor
    w2r_weights: Tensor | None = None
    o2w_weights: Tensor | None = None


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
        if place:
            nn.init.zeros_(self.place.weight)  # starts as the model without places

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """features: [B, K, D]. boxes: [K, 4] or [B, K, 4]. Returns [B, K, d] of norm one."""
        # One mask an image, so that a channel cannot be read off a neighbouring region.
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


class BSSAN(nn.Module):
    """Bi-directional attention between the words of a caption and the regions of an image.

    config: sizes and choices. vocabulary_size: rows of the word table. dimension: D. place: whether boxes are known.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__()
        self.config, self.vocabulary_size, self.dimension = config, vocabulary_size, dimension
        self.has_place = bool(place and config.place)
        d = config.joint_size
        self.embed = nn.Embedding(vocabulary_size, config.word_size, padding_idx=PADDING)
        seen = d if config.reading == "inputs" else 0
        self.lstm = nn.LSTM(
            config.word_size + seen, d, config.lstm_layers, batch_first=True, bidirectional=True,
            dropout=config.dropout if config.lstm_layers > 1 else 0.0,
        )
        self.look = nn.Linear(config.word_size, d, bias=False) if seen else None
        self.bilinear = nn.Linear(d, d, bias=False)
        self.regions = VisualProjection(dimension, d, self.has_place, config.region_dropout)
        if not config.tie_projections:
            self.objects = VisualProjection(dimension, d, self.has_place, config.region_dropout)
        self.has_global = config.global_size > 0 and not seen  # reading (b) has no words without an image
        if self.has_global:
            self.global_image, self.global_caption = (GlobalVector(d, config.global_size) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        self.log_temperature_w = nn.Parameter(torch.tensor(float(config.temperature_w)).log())
        self.log_temperature_o = nn.Parameter(torch.tensor(float(config.temperature_o)).log())
        self.gate_logit = nn.Parameter(torch.zeros(()))
        for parameter in (self.log_temperature_w, self.log_temperature_o):
            parameter.requires_grad_(config.learn_temperature)
        self.gate_logit.requires_grad_(config.learn_gate and config.direction == "joint")
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.eye_(self.bilinear.weight)

    @property
    def gate(self) -> Tensor:
        """g, the share of W2R in the joint score: learned, or 1 or 0 where only one direction is used."""
        fixed = {"w2r": 1.0, "o2w": 0.0}.get(self.config.direction)
        return self.gate_logit.sigmoid() if fixed is None else self.gate_logit.new_tensor(fixed)

    def encode_images(
        self, regions: Tensor, objects: Tensor | None, boxes: Tensor | None = None, object_boxes: Tensor | None = None
    ) -> ImageCodes:
        """regions [B, K, D], objects [B, M, D] or None (the regions), boxes [K, 4] or [B, K, 4] -> codes [B, K, d], [B, M, d]."""
        v = self.regions(regions, boxes)
        tied = self.config.tie_projections
        if objects is None and tied:
            return ImageCodes(v, v)
        project = self.regions if tied else self.objects
        return ImageCodes(v, project(regions, boxes) if objects is None else project(objects, object_boxes))

    def image_vectors(self, images: ImageCodes) -> Tensor:
        """One vector a picture [B, e] of norm one, whose product with a caption's finds candidates in a large gallery."""
        return self.global_image(images.regions)

    def caption_vectors(self, captions: CaptionCodes) -> Tensor:
        """One vector a caption [C, e] of norm one."""
        return self.global_caption(captions.words, length_mask(captions.lengths, captions.words.shape[1]))

    def _drop_words(self, tokens: Tensor) -> Tensor:
        if not self.training or self.config.word_dropout == 0:
            return tokens
        dropped = torch.rand(tokens.shape, device=tokens.device) < self.config.word_dropout
        return tokens.masked_fill(dropped & (tokens != PADDING), UNKNOWN)

    def _states(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """h_t of norm one: [C, T, input] -> [C, T, d], zero at padding."""
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        both, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=inputs.shape[1])
        states = self.dropout(both.unflatten(-1, (2, -1)).mean(-2))
        return states / safe_norm(states)[..., None]

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns u [C, T, d].

        Reading (b) has no states without an image: its words are left empty and the tokens are kept.
        """
        tokens = self._drop_words(tokens)
        if self.config.reading == "inputs":
            return CaptionCodes(tokens.new_zeros(*tokens.shape, 1, dtype=torch.float32), lengths, tokens)
        states = self._states(self.dropout(self.embed(tokens)), lengths)
        return CaptionCodes(self.bilinear(states), lengths, tokens)

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Score every image against every caption.

        images: B of them. captions: C of them, of any lengths. weights: keep the attention, for few pairs, since
        [B, K, C, T] is then held. products: dtype of the large matrix products, see `engine.score_pairs`.
        While a model of one direction is trained, the other's scores are zeros.
        """
        if self.config.reading == "inputs":
            return self._score_by_inputs(images, captions, weights, products)
        return self._join(images, captions, weights, products)

    def _join(self, images: ImageCodes, captions: CaptionCodes, weights: bool, products) -> PairScores:
        temperatures = self.log_temperature_w.exp(), self.log_temperature_o.exp()
        if weights:
            w2r, alpha = w2r_scores(images.regions, captions.words, captions.lengths, temperatures[0])
            o2w, beta = o2w_scores(images.objects, captions.words, captions.lengths, temperatures[1])
            return PairScores(self._joint(w2r, o2w), w2r, o2w, alpha, beta)
        objects = None if images.objects is images.regions else images.objects
        directions = (self.config.direction,) if self.training and self.config.direction != "joint" else DIRECTIONS
        w2r, o2w = score_pairs(
            images.regions, objects, captions.words, captions.lengths, *temperatures, directions, products
        )
        return PairScores(self._joint(w2r, o2w), w2r, o2w)

    def _joint(self, w2r: Tensor, o2w: Tensor) -> Tensor:
        return self.gate * w2r + (1 - self.gate) * o2w

    def _score_by_inputs(self, images: ImageCodes, captions: CaptionCodes, weights: bool, products) -> PairScores:
        """Reading (b): a first look by the word alone joins it in the LSTM's input; the states then look again.

        One run of the LSTM for every image, so B times the cost: the reading to compare at small scale.
        """
        embedded = self.dropout(self.embed(captions.tokens))
        looks, scored = self.look(embedded), []
        for b in range(len(images.regions)):
            one = images[b : b + 1]
            first = w2r_weights(affinity(one.regions, looks), self.log_temperature_w.exp())[0]  # [K, C, T]
            seen = torch.einsum("kct,kd->ctd", first, one.regions[0])
            states = self._states(torch.cat([embedded, seen], dim=-1), captions.lengths)
            codes = CaptionCodes(self.bilinear(states), captions.lengths, captions.tokens)
            scored.append(self._join(one, codes, weights, products))
        joint, w2r, o2w = (torch.cat([getattr(pair, name) for pair in scored]) for name in ("joint", "w2r", "o2w"))
        if not weights:
            return PairScores(joint, w2r, o2w)
        alpha = torch.cat([pair.w2r_weights for pair in scored])
        return PairScores(joint, w2r, o2w, alpha, torch.cat([pair.o2w_weights for pair in scored], dim=2))

    def summary(self) -> dict:
        """What a metrics file says of the model: its settings, size, temperatures and gate."""
        return {
            **asdict(self.config),
            "vocabulary_size": self.vocabulary_size,
            "dimension": self.dimension,
            "parameters": sum(p.numel() for p in self.parameters()),
            "learned": self.learned(),
        }

    def learned(self) -> dict[str, float]:
        """The three numbers worth watching: both inverse temperatures and the gate."""
        return {
            "temperature_w": self.log_temperature_w.exp().item(),
            "temperature_o": self.log_temperature_o.exp().item(),
            "gate": self.gate.item(),
        }
