"""Published methods behind the interface of BSSAN: trained by the same trainer, scored by the same function.

    vse++      e_v = norm(A mean_k x_k)      e_c = norm(last state of a GRU)      S = e_v . e_c
               Faghri et al., BMVC 2018, arXiv 1707.05612; with the hinge loss on hardest negatives, margin 0.2

    scan       v_k = norm(A x_k)     u_t = norm(both directions of a GRU, averaged)     s_kt = v_k . u_t
               Lee et al., ECCV 2018, arXiv 1803.08024; as in its authors' code, which leaks where the paper clips at 0
      t2i      p_kt = l(s_kt) / |l(s_k.)|    l(s) = s, or s / 10 where s < 0; the norm over the caption's words
               a_kt = softmax_k(9 p_kt)      z_t = sum_k a_kt v_k      r_t = cos(u_t, z_t)
               S    = mean_t r_t, or LogSumExp: 1/6 log sum_t exp(6 r_t)
      i2t      the same with words and regions changed over: softmax_t(4 p), r_k, and 5 in LogSumExp

The published tables also have ensembles of t2i and i2t, whose scores are averaged. SCAN's z is no more built than BSSAN's
(`attended`), and its captions are scored in tiles of one length like BSSAN's (`engine`).

Letters: B images, C captions, K regions, T words, W words of all captions together, D feature size, d joint size.
In a tile: G groups of L attended vectors, N other groups of P queries. t2i: images, regions, captions, words; i2t:
captions, words, images, regions.
"""

from dataclasses import fields

import torch
from torch import Tensor, nn

from bssan_lib.attended import SMALLEST_SQUARE, Scratch, attend, attend_backward, attended_cosine
from bssan_lib.config import ModelConfig
from bssan_lib.encoders import Matcher, VisualProjection, read_words, recurrent
from bssan_lib.engine import pack, part, product_dtype, similarities
from bssan_lib.errors import BssanError, ConfigError
from bssan_lib.model import BSSAN, CaptionCodes, ImageCodes, PairScores
from bssan_lib.w2r import affinity, gram, length_mask, safe_norm

LEAK = 0.1  # slope of the leaky ReLU below zero
TEMPERATURES = {"t2i": 9.0, "i2t": 4.0}  # inverse, of the softmax
POOLING_TEMPERATURES = {"t2i": 6.0, "i2t": 5.0}  # inverse, of LogSumExp
PARTS = {"t2i": "w2r", "i2t": "o2w"}  # SCAN's names of the directions, and ours
BSSAN_ONLY = ("reading", "direction", "encoder", "bilinear", "gate", "global_term")  # settings that peers do not have


# -- SCAN's score


def compete(similarity: Tensor, mask: Tensor | None = None) -> Tensor:
    """p: leaky ReLU of the similarity, over its norm along the last axis.

    similarity: [..., P], its last axis being the words that want one region, or the regions that want one word.
    mask: True where they are real.
    """
    leaky = nn.functional.leaky_relu(similarity, LEAK)
    if mask is not None:
        leaky = leaky.masked_fill(~mask, 0.0)
    return leaky / safe_norm(leaky)[..., None]


def pooled(cosines: Tensor, pooling: str, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Mean ("avg") or LogSumExp ("lse") over the last axis. cosines: [..., P]. mask: True where they are real."""
    mask = torch.ones_like(cosines, dtype=torch.bool) if mask is None else mask.expand_as(cosines)
    if pooling == "avg":
        return cosines.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)
    return (temperature * cosines).masked_fill(~mask, float("-inf")).logsumexp(-1) / temperature


def scan_attention(
    regions: Tensor, words: Tensor, lengths: Tensor, direction: str, pooling: str
) -> tuple[Tensor, Tensor]:
    """Scores [B, C] and weights, for few pairs: the formulas as they stand, but for z, which is never built.

    regions: v [B, K, d]. words: u [C, T, d]. lengths: [C]. direction: "t2i" or "i2t". pooling: "avg" or "lse".
    Weights: [B, K, C, T], sums to one over K (t2i); [C, T, B, K], sums to one over T (i2t).
    """
    mask, forward = length_mask(lengths, words.shape[1]), direction == "t2i"
    vectors, queries = (regions, words) if forward else (words, regions)
    similarity = affinity(vectors, queries)  # [G, L, N, P]
    competing = compete(similarity, mask if forward else None)
    temperature = similarity.new_tensor(TEMPERATURES[direction])
    result, weights = attended_cosine(
        similarity.flatten(2), gram(vectors), temperature, None if forward else mask, competing.flatten(2)
    )
    cosines = result.view(len(vectors), *queries.shape[:2]) / safe_norm(queries)
    scores = pooled(cosines, pooling, POOLING_TEMPERATURES[direction], mask if forward else None)
    return scores if forward else scores.T, weights.view_as(similarity)


class _ScanPairs(torch.autograd.Function):
    """One direction of all pairs. Gram matrices come from outside, where autograd goes on with them.

    regions: [B, K, d] and words: [W, d], packed, both of norm one. own_gram: of the attended vectors, [B, K, K] (t2i) or
    [C, T, T] (i2t). tiles: of the captions.
    """

    @staticmethod
    def forward(context, regions, words, own_gram, tiles, direction, pooling):
        kept = None  # the affinity, as the tiles read it: [B K, W] (t2i) or [W, B K] (i2t)
        if any(context.needs_input_grad):
            flat = regions.flatten(0, 1)
            kept = flat @ words.T if direction == "t2i" else words @ flat.T
        scores = own_gram.new_zeros(len(regions), tiles[-1].last)
        context.save_for_backward(regions, words, own_gram, kept)
        context.settings, scratch = (tiles, direction, pooling), Scratch()
        temperature = own_gram.new_tensor(TEMPERATURES[direction])
        for _, _, place, similarity, own in _tiles(regions, words, own_gram, kept, tiles, direction, scratch):
            logits = _compete(similarity, scratch)[0]
            result = attend(similarity.flatten(2), own, temperature, scratch, None, logits.flatten(2), spent=True)[0]
            made = pooled(result.view(-1, *similarity.shape[2:]), pooling, POOLING_TEMPERATURES[direction])
            scores[place] = made if direction == "t2i" else made.T
        return scores

    @staticmethod
    def backward(context, over_scores):
        regions, words, own_gram, kept = context.saved_tensors
        (tiles, direction, pooling), scratch = context.settings, Scratch()
        over_kept, over_gram, temperature = (
            torch.empty_like(kept), torch.zeros_like(own_gram), own_gram.new_tensor(TEMPERATURES[direction]))
        for tile, block, place, similarity, own in _tiles(regions, words, own_gram, kept, tiles, direction, scratch):
            logits, norms = _compete(similarity, scratch)
            flat, shape = similarity.flatten(2), similarity.shape
            over = over_scores[place] if direction == "t2i" else over_scores[place].T  # [G, N]
            if pooling == "lse":  # a cosine counts by its share in the sum of exponentials
                result = attend(flat, own, temperature, scratch, None, logits.flatten(2))[0].view(-1, *shape[2:])
                over = over[..., None] * torch.softmax(POOLING_TEMPERATURES[direction] * result, -1)
            else:
                over = (over[..., None] / shape[-1]).expand(-1, -1, shape[-1])
            slope, gram_slope, _, _, over_logits = attend_backward(
                over.flatten(1), flat, own, temperature, scratch, None, logits.flatten(2))
            slope, over_logits = slope.view(shape), over_logits.view(shape)
            # p = l / |l|, so dl = (dp - p (p . dp)) / |l|, and ds is that, or a tenth where s < 0
            along = torch.mul(logits, over_logits, out=scratch("product", shape, logits)).sum(-1, keepdim=True)
            over_logits.sub_(logits.mul_(along)).div_(norms)
            slope.add_(over_logits.mul_(torch.where(similarity < 0, LEAK, 1.0)))
            columns, K = slice(tile.start, tile.stop), regions.shape[1]
            if direction == "t2i":
                over_gram[block] += gram_slope
                part(over_kept, block, K, columns).copy_(slope.flatten(2).flatten(0, 1))
            else:
                over_gram[tile.first : tile.last, : tile.length, : tile.length] += gram_slope
                over_kept[columns, block.start * K : block.stop * K] = slope.flatten(2).flatten(0, 1)
        flat = regions.flatten(0, 1)
        by_region = over_kept if direction == "t2i" else over_kept.T
        return (by_region @ words).view_as(regions), by_region.T @ flat, over_gram, None, None, None


def _compete(similarity: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """`compete` in scratch memory, and the norms [..., 1]."""
    leaky = torch.mul(similarity, LEAK, out=scratch("leaky", similarity.shape, similarity))
    leaky = torch.maximum(leaky, similarity, out=leaky)
    norms = torch.linalg.vector_norm(leaky, dim=-1, keepdim=True).clamp_min_(SMALLEST_SQUARE**0.5)
    return leaky.div_(norms), norms


def _tiles(regions, words, own_gram, kept, tiles, direction, scratch):
    """For each tile and block of images: both, their place in the scores, s [G, L, N, P] and the Gram matrices [G, L, L]."""
    forward, K = direction == "t2i", regions.shape[1]
    made = similarities(regions, None if forward else regions, words, own_gram, kept if forward else None,
                        None if forward else kept, tiles, (PARTS[direction],), scratch)
    for tile, block, similarity, turned in made:
        place = block, slice(tile.first, tile.last)
        if forward:
            yield tile, block, place, similarity.unflatten(2, (-1, tile.length)), own_gram[block]
        else:
            own = own_gram[tile.first : tile.last, : tile.length, : tile.length]
            yield tile, block, place, turned.unflatten(2, (-1, K)), own


def scan_scores(
    regions: Tensor, words: Tensor, lengths: Tensor, direction: str, pooling: str, products: torch.dtype | None = None
) -> Tensor:
    """The scores [B, C] of `scan_attention` for regions and words of norm one, fast and differentiable.

    products: dtype of the large product, as in `engine.score_pairs`.
    """
    products = product_dtype(regions, products)
    with torch.autocast(regions.device.type, enabled=False):
        wide = torch.promote_types(regions.dtype, torch.float32)
        words = words.to(wide)
        packed, tiles, back = pack(words, lengths)
        own_gram = gram(regions.to(wide) if direction == "t2i" else words[back.argsort()])
        return _ScanPairs.apply(regions.to(products), packed.to(products), own_gram, tiles, direction, pooling)[:, back]


# -- the methods


class SCAN(Matcher):
    """Stacked cross attention, text to image or image to text as config.method names it, pooled as config.pooling does."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__(config, vocabulary_size, dimension, place)
        self.direction = config.method.removeprefix("scan-")
        self.parts = (PARTS[self.direction],)
        self.gru = recurrent("bigru", config.word_size, config.joint_size, config.lstm_layers, config.dropout)
        self.regions = VisualProjection(self.feature_size, config.joint_size, self.has_place, config.region_dropout)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def project_images(
        self, regions: Tensor, objects: Tensor | None = None, boxes: Tensor | None = None, object_boxes: Tensor | None = None
    ) -> ImageCodes:
        """regions [B, K, D], boxes [K, 4] or [B, K, 4] -> codes [B, K, d]. Objects are not looked at: regions are all."""
        v = self.regions(regions, boxes)
        return ImageCodes(v, v)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns u [C, T, d]."""
        tokens = self.drop_words(tokens)
        states = self.dropout(read_words(self.gru, self.dropout(self.embed(tokens)), lengths))
        return CaptionCodes(states / safe_norm(states)[..., None], lengths, tokens)

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Every image against every caption, as `BSSAN.score`; the one direction's score is the joint score."""
        given, found = (images.regions, captions.words, captions.lengths, self.direction, self.config.pooling), None
        if weights:
            scores, found = scan_attention(*given)
        else:
            scores = scan_scores(*given, products)
        if self.direction == "t2i":
            return PairScores(scores, scores, None, found)
        return PairScores(scores, None, scores, None, found)


class VSEPP(Matcher):
    """VSE++: a vector a picture, a vector a caption, their product. Its codes have one "region" and one "word"."""

    parts = ()

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__(config, vocabulary_size, dimension, False)
        self.gru = recurrent("gru", config.word_size, config.joint_size, config.lstm_layers, config.dropout)
        self.picture = VisualProjection(self.feature_size, config.joint_size, False, config.region_dropout)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def project_images(
        self, regions: Tensor, objects: Tensor | None = None, boxes: Tensor | None = None, object_boxes: Tensor | None = None
    ) -> ImageCodes:
        """regions [B, K, D] -> the vector of each picture, [B, 1, d]; nothing else is looked at."""
        vector = self.picture(regions.mean(1, keepdim=True), None)
        return ImageCodes(vector, vector)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns the vector of each caption as words [C, 1, d]."""
        tokens = self.drop_words(tokens)
        states = read_words(self.gru, self.dropout(self.embed(tokens)), lengths)
        last = self.dropout(states[torch.arange(len(states), device=states.device), lengths - 1])[:, None]
        return CaptionCodes(last / safe_norm(last)[..., None], lengths, tokens)

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Every image against every caption: one product a pair. BssanError where weights are asked for."""
        if weights:
            raise BssanError("model.method: vse++ has no attention to look at; take bssan, scan-t2i or scan-i2t.")
        with torch.autocast(self.device.type, enabled=False):  # so few products may as well be exact
            wide = torch.promote_types(images.regions.dtype, torch.float32)
            return PairScores(images.regions[:, 0].to(wide) @ captions.words[:, 0].to(wide).T, None, None)


def build_model(config: ModelConfig, vocabulary_size: int, dimension: int, place: bool) -> BSSAN | SCAN | VSEPP:
    """The untrained model that config.method names. vocabulary_size, dimension, place: as for `BSSAN`.

    Raises ConfigError where a peer is given a setting of another method.
    """
    foreign = {"bssan": ("pooling",), "vse++": ("pooling", *BSSAN_ONLY)}.get(config.method, BSSAN_ONLY)
    for field in fields(config):
        if field.name in foreign and getattr(config, field.name) != field.default:
            raise ConfigError(
                f"model.{field.name}: {getattr(config, field.name)} means nothing to model.method: {config.method}; leave "
                f"it at {field.default}."
            )
    kind = {"bssan": BSSAN, "vse++": VSEPP}.get(config.method, SCAN)
    return kind(config, vocabulary_size, dimension, place)
