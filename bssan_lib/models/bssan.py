"""The holistic model: both directions of attention on one affinity, joined by a gate. Notebook 04.

    regions  v_k = norm(A x_k + P b_k)       x_k a region's feature, b_k its box (x1 y1 x2 y2): where it is
    objects  o_m = norm(A' z_m + P' b_m)     the objects may be the regions themselves
    words    h_t = norm of the two directions of an LSTM averaged ;  u_t = W' h_t
    joint    S   = g s_w2r + (1 - g) s_o2w    g = sigmoid of one learned number
    global   e_v = norm(E sum_k a_k v_k)       a = softmax_k(p . v_k); e_c likewise from the words u_t: one vector
                                              a picture or caption, the first stage of search, no part of S

Switches of `ModelConfig` take a part away or put another in its place, to see what it is worth:

    bilinear: false     u_t = h_t
    gate: half          g = 1/2
    gate: pair          g = sigmoid(a . mean_k v_k + b . mean_t u_t + c), of each image and caption
    global_term: true   S = (1 - c) (g s_w2r + (1 - g) s_o2w) + c e_v . e_c , c a learned share: now a part of S
    encoder             which recurrent network makes h_t
    tune: stage, all    x_k and z_m come from the backbone, which is tuned too: see vision/last_stage.py and whole.py

The unification of W2R and O2W in one deep model is the paper's (DOI 10.1109/TIP.2018.2882225); sizes, norms,
places, gate and temperatures are ours.

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
from bssan_lib.models.encoders import GlobalVector, Matcher, VisualProjection, read_words, recurrent

GLOBAL_SHARE = 0.25  # c of the global vectors in the score, where training starts


class BSSAN(Matcher):
    """Bi-directional attention between the words of a caption and the regions of an image.

    config: sizes and choices. vocabulary_size: rows of the word table. dimension: D. place: whether boxes are known.
    Raises ConfigError for choices that exclude each other.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__(config, vocabulary_size, dimension, place)
        _check(config)
        d = config.joint_size
        seen = d if config.reading == "inputs" else 0
        # Called by its usual name whatever the encoder, so that checkpoints keep theirs.
        self.lstm = recurrent(config.encoder, config.word_size + seen, d, config.lstm_layers, config.dropout)
        self.look = nn.Linear(config.word_size, d, bias=False) if seen else None
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
        """Whether each image and caption have a gate of their own."""
        return self.config.gate == "pair" and self.config.direction == "joint"

    @property
    def gate(self) -> Tensor:
        """g, the share of W2R in the joint score: learned, or 1 or 0 where only one direction is used.

        Of gates of pairs, the part that all have in common: sigmoid(c).
        """
        fixed = {"w2r": 1.0, "o2w": 0.0}.get(self.config.direction)
        return self.gate_logit.sigmoid() if fixed is None else self.gate_logit.new_tensor(fixed)

    def gates(self, images: ImageCodes, captions: CaptionCodes) -> Tensor:
        """g of every image with every caption: [B, C], or a scalar where one serves all pairs."""
        if not self.has_pair_gate:
            return self.gate
        image = (images.regions.mean(1) * self.gate_region).sum(-1)  # [B]
        caption = (captions.words.sum(1) * self.gate_word).sum(
            -1
        ) / captions.lengths  # [C], words being zero at padding
        return (image[:, None] + caption[None, :] + self.gate_logit).sigmoid()

    def project_images(
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

    def _states(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """h_t of norm one: [C, T, input] -> [C, T, d], zero at padding."""
        states = self.dropout(read_words(self.lstm, inputs, lengths))
        return states / safe_norm(states)[..., None]

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns u [C, T, d].

        Reading (b) has no states without an image: its words are left empty and the tokens are kept.
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

        images: B of them. captions: C of them, of any lengths. weights: keep the attention, for few pairs, since
        [B, K, C, T] is then held. products: dtype of the large matrix products, see `pairs.score_pairs`.
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
        """The joint score from those of both directions [B, C] and, where the settings say so, the global vectors."""
        gate = self.gates(images, captions)
        joint = gate * w2r + (1 - gate) * o2w
        if self.config.global_term:
            share = self.global_logit.sigmoid()
            image, caption = self.image_vectors(images), self.caption_vectors(captions)
            with torch.autocast(self.device.type, enabled=False):
                joint = (1 - share) * joint + share * (image @ caption.T)
        return PairScores(joint, w2r, o2w, alpha, beta, gate)

    def _score_by_inputs(self, images: ImageCodes, captions: CaptionCodes, weights: bool, products) -> PairScores:
        """Reading (b): a first look by the word alone joins it in the LSTM's input; the states then look again.

        One run of the LSTM for every image, so B times the cost: the reading to compare at small scale.
        """
        embedded = self.dropout(self.embed(captions.tokens))
        assert self.look is not None  # of reading (b)
        first_words, scored = self.look(embedded), []
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
        """The numbers worth watching: both inverse temperatures, the gate and, where it scores, the global vectors' share."""
        numbers = {
            "temperature_w": self.log_temperature_w.exp().item(),
            "temperature_o": self.log_temperature_o.exp().item(),
            "gate": self.gate.item(),
        }
        return {**numbers, "global_share": self.global_logit.sigmoid().item()} if self.config.global_term else numbers


def _check(config: ModelConfig) -> None:
    if config.method != "bssan":
        raise ConfigError(
            f"model.method: {config.method} is another method than BSSAN, which is what this notebook or call builds. "
            "Train it with `bssan train`, or build it with bssan_lib.models.build.build_model."
        )
    if config.global_term and (config.global_size == 0 or config.reading == "inputs"):
        raise ConfigError(
            "model.global_term: true needs global vectors, which model.reading: inputs and model.global_size: 0 are "
            f"without; got reading {config.reading} and global_size {config.global_size}."
        )
