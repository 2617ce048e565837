"""The joint model: both directions of attention on one affinity, combined by a gate. Notebook 04.

    regions  v_k = norm(A x_k + P b_k)       x_k a region's feature, b_k features of its box
    objects  o_m = norm(A' z_m + P' b_m)     the objects may be the regions themselves
    words    h_t = norm of the two directions of an LSTM averaged ;  u_t = W' h_t
    joint    S   = g s_w2r + (1 - g) s_o2w    g = sigmoid of one learned number
    global   e_v = norm(E sum_k a_k v_k)       a = softmax_k(p . v_k); e_c in the same way from the words u_t: one
                                              vector per image or caption, for the shortlist of search; not in S

Settings of `ModelConfig` remove or replace a part, so that its effect can be measured:

    bilinear: false     u_t = h_t
    gate: half          g = 1/2
    gate: pair          g = sigmoid(a . mean_k v_k + b . mean_t u_t + c), one for each pair of image and caption
    global_term: true   S = (1 - c) (g s_w2r + (1 - g) s_o2w) + c e_v . e_c , with a learned share c
    encoder             the recurrent network that computes h_t
    tune: stage, all    part of the backbone is trained too: see vision/last_stage.py and vision/whole.py

One deep model for W2R and O2W is the idea of the paper (DOI 10.1109/TIP.2018.2882225). We chose the sizes, norms, box
features, gate and temperatures.

Letters: B images, C captions, K regions, M objects, T words, D feature size, d joint size, e global size.
"""

import math

import torch
from torch import Tensor, nn

from bssan_lib.attention.attended import safe_norm
from bssan_lib.attention.o2w import o2w_scores
from bssan_lib.attention.pairs import DIRECTIONS, score_pairs
from bssan_lib.attention.w2r import affinity, length_mask, w2r_scores, w2r_weights
from bssan_lib.config import ModelConfig
from bssan_lib.errors import ConfigError
from bssan_lib.models.codes import CaptionCodes, ImageCodes, PairScores
from bssan_lib.models.encoders import GlobalVector, Matcher, VisualProjection, recurrent, word_states

GLOBAL_SHARE = 0.25  # initial share c of the global vectors in the score


class BSSAN(Matcher):
    """Bi-directional attention between the words of a caption and the regions of an image.

    config: sizes and choices. vocabulary_size: rows of the word table. dimension: D. place: whether boxes are known.
    Raises ConfigError for settings that exclude each other.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__(config, vocabulary_size, dimension, place)
        _check(config)
        d = config.joint_size
        seen = d if config.reading == "inputs" else 0
        # Named lstm for every encoder, so that the names in checkpoints stay the same.
        self.lstm = recurrent(config.encoder, config.word_size + seen, d, config.lstm_layers, config.dropout)
        self.first_query = nn.Linear(config.word_size, d, bias=False) if seen else None
        self.bilinear = nn.Linear(d, d, bias=False) if config.bilinear else nn.Identity()
        self.regions = VisualProjection(self.feature_size, d, self.has_place, config.region_dropout)
        if not config.tie_projections:
            self.objects = VisualProjection(self.feature_size, d, self.has_place, config.region_dropout)
        self.has_global = config.global_size > 0 and not seen  # reading (b) has no words without an image
        if self.has_global:
            self.global_image, self.global_caption = (GlobalVector(d, config.global_size) for _ in range(2))
        self.log_temperature_w = nn.Parameter(torch.tensor(float(config.temperature_w)).log())
        self.log_temperature_o = nn.Parameter(torch.tensor(float(config.temperature_o)).log())
        self.gate_logit = nn.Parameter(torch.zeros(()))
        for parameter in (self.log_temperature_w, self.log_temperature_o):
            parameter.requires_grad_(config.learn_temperature)
        self.gate_logit.requires_grad_(config.gate != "half" and config.direction == "joint")
        if self.has_pair_gate:
            self.gate_region, self.gate_word = (nn.Parameter(torch.zeros(d)) for _ in range(2))
        if config.global_term:
            self.global_logit = nn.Parameter(torch.tensor(math.log(GLOBAL_SHARE / (1 - GLOBAL_SHARE))))
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        if isinstance(self.bilinear, nn.Linear):
            nn.init.eye_(self.bilinear.weight)

    @property
    def has_pair_gate(self) -> bool:
        """Whether each pair of image and caption has its own gate."""
        return self.config.gate == "pair" and self.config.direction == "joint"

    @property
    def gate(self) -> Tensor:
        """g, the share of W2R in the joint score: learned; 1 or 0 if only one direction is used.

        With a gate for each pair, the part that all share: sigmoid(c).
        """
        fixed = {"w2r": 1.0, "o2w": 0.0}.get(self.config.direction)
        return self.gate_logit.sigmoid() if fixed is None else self.gate_logit.new_tensor(fixed)

    def gates(self, images: ImageCodes, captions: CaptionCodes) -> Tensor:
        """g of every image with every caption: [B, C], or a scalar if all pairs have the same gate."""
        if not self.has_pair_gate:
            return self.gate
        image = (images.regions.mean(1) * self.gate_region).sum(-1)  # [B]
        caption = (captions.words.sum(1) * self.gate_word).sum(-1) / captions.lengths  # [C]; words are zero at padding
        return (image[:, None] + caption[None, :] + self.gate_logit).sigmoid()

    def project_images(
        self, regions: Tensor, objects: Tensor | None, boxes: Tensor | None = None, object_boxes: Tensor | None = None
    ) -> ImageCodes:
        """Projects features into the joint space.

        regions: [B, K, D]. objects: [B, M, D], or None if they are the regions. boxes: [K, 4] or [B, K, 4]. Returns
        codes [B, K, d] and [B, M, d].
        """
        v = self.regions(regions, boxes)
        tied = self.config.tie_projections
        if objects is None and tied:
            return ImageCodes(v, v)
        project = self.regions if tied else self.objects
        return ImageCodes(v, project(regions, boxes) if objects is None else project(objects, object_boxes))

    def image_vectors(self, images: ImageCodes) -> Tensor:
        """One vector per image, [B, e], of norm one. Its products with caption vectors make the shortlist of search."""
        return self.global_image(images.regions)

    def caption_vectors(self, captions: CaptionCodes) -> Tensor:
        """One vector per caption, [C, e], of norm one."""
        return self.global_caption(captions.words, length_mask(captions.lengths, captions.words.shape[1]))

    def _states(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """h_t of norm one: [C, T, input] -> [C, T, d], zero at padding."""
        states = self.dropout(word_states(self.lstm, inputs, lengths))
        return states / safe_norm(states)[..., None]

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns u [C, T, d].

        In reading (b) the states depend on the image, so here the words stay empty and only the tokens are kept.
        """
        tokens = self.drop_words(tokens)
        if self.config.reading == "inputs":
            return CaptionCodes(tokens.new_zeros(*tokens.shape, 1, dtype=torch.float32), lengths, tokens)
        states = self._states(self.dropout(self.embed(tokens)), lengths)
        return CaptionCodes(self.bilinear(states), lengths, tokens)

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Score every image against every caption.

        images: B. captions: C, of any lengths. weights: also return the attention weights; only for few pairs, because
        they have the size [B, K, C, T]. products: dtype of the large matrix products, see `pairs.score_pairs`.
        While a model of one direction is trained, the scores of the other are zero.
        """
        if self.config.reading == "inputs":
            return self._score_by_inputs(images, captions, weights, products)
        return self._join(images, captions, weights, products)

    def _join(self, images: ImageCodes, captions: CaptionCodes, weights: bool, products) -> PairScores:
        temperatures = self.log_temperature_w.exp(), self.log_temperature_o.exp()
        if weights:
            w2r, alpha = w2r_scores(images.regions, captions.words, captions.lengths, temperatures[0])
            o2w, beta = o2w_scores(images.objects, captions.words, captions.lengths, temperatures[1])
            return self._paired(images, captions, w2r, o2w, alpha, beta)
        objects = None if images.objects is images.regions else images.objects
        directions = (self.config.direction,) if self.training and self.config.direction != "joint" else DIRECTIONS
        w2r, o2w = score_pairs(
            images.regions, objects, captions.words, captions.lengths, *temperatures, directions, products
        )
        return self._paired(images, captions, w2r, o2w)

    def _paired(
        self,
        images: ImageCodes,
        captions: CaptionCodes,
        w2r: Tensor,
        o2w: Tensor,
        alpha: Tensor | None = None,
        beta: Tensor | None = None,
    ) -> PairScores:
        """The joint score from those of both directions [B, C] and, with config.global_term, the global vectors."""
        gate = self.gates(images, captions)
        joint = gate * w2r + (1 - gate) * o2w
        if self.config.global_term:
            share = self.global_logit.sigmoid()
            image, caption = self.image_vectors(images), self.caption_vectors(captions)
            with torch.autocast(self.device.type, enabled=False):
                joint = (1 - share) * joint + share * (image @ caption.T)
        return PairScores(joint, w2r, o2w, alpha, beta, gate)

    def _score_by_inputs(self, images: ImageCodes, captions: CaptionCodes, weights: bool, products) -> PairScores:
        """Reading (b): each word vector attends first, and the attended region is part of the LSTM's input.

        The LSTM runs once for every image, so this costs B times as much; it is for comparisons at small scale.
        """
        embedded = self.dropout(self.embed(captions.tokens))
        assert self.first_query is not None  # of reading (b)
        first_words, scored = self.first_query(embedded), []
        for b in range(len(images.regions)):
            one = images[b : b + 1]
            first = w2r_weights(affinity(one.regions, first_words), self.log_temperature_w.exp())[0]  # [K, C, T]
            attended = torch.einsum("kct,kd->ctd", first, one.regions[0])
            states = self._states(torch.cat([embedded, attended], dim=-1), captions.lengths)
            codes = CaptionCodes(self.bilinear(states), captions.lengths, captions.tokens)
            scored.append(self._join(one, codes, weights, products))

        def joined(name: str, dim: int = 0) -> Tensor:
            return torch.cat([getattr(pair, name) for pair in scored], dim)

        joint, w2r, o2w = (joined(name) for name in ("joint", "w2r", "o2w"))
        gate = joined("gate") if self.has_pair_gate else self.gate
        if not weights:
            return PairScores(joint, w2r, o2w, gate=gate)
        return PairScores(joint, w2r, o2w, joined("w2r_weights"), joined("o2w_weights", 2), gate)

    def learned(self) -> dict[str, float]:
        """Learned numbers to report: inverse temperatures, gate and, with config.global_term, the global share."""
        numbers = {
            "temperature_w": self.log_temperature_w.exp().item(),
            "temperature_o": self.log_temperature_o.exp().item(),
            "gate": self.gate.item(),
        }
        return {**numbers, "global_share": self.global_logit.sigmoid().item()} if self.config.global_term else numbers


def _check(config: ModelConfig) -> None:
    if config.method != "bssan":
        raise ConfigError(
            f"model.method: expected bssan, because this notebook or call builds a BSSAN model; got {config.method}. "
            "Train other methods with `bssan train`, or build them with bssan_lib.models.build.build_model."
        )
    if config.global_term and (config.global_size == 0 or config.reading == "inputs"):
        raise ConfigError(
            "model.global_term: true needs global vectors, so model.reading must be states and model.global_size at "
            f"least 1; got reading {config.reading} and global_size {config.global_size}."
        )
