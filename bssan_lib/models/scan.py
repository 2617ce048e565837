"""SCAN with the interface of BSSAN, so that the same trainer and the same evaluation apply.

    scan       v_k = norm(A x_k)     u_t = norm(both directions of a GRU, averaged)     s_kt = v_k . u_t
               Lee et al., ECCV 2018, arXiv 1803.08024; as in the authors' code: a leaky ReLU, where the paper has ReLU
      t2i      p_kt = l(s_kt) / |l(s_k.)|    l(s) = s, or s / 10 where s < 0; the norm over the caption's words
               a_kt = softmax_k(9 p_kt)      z_t = sum_k a_kt v_k      r_t = cos(u_t, z_t)
               S    = mean_t r_t, or LogSumExp: 1/6 log sum_t exp(6 r_t)
      i2t      the same with words and regions swapped: softmax_t(4 p), r_k, and 5 in LogSumExp

The published tables also contain ensembles that average the scores of t2i and i2t. As in BSSAN, z is never computed
(see `attended`), and captions are scored in tiles of one length (see `attention.tiles`).

Letters: B images, C captions, K regions, T words, W words of all captions together, D feature size, d joint size.
In a tile: G groups of L attended vectors, N other groups of P queries. t2i: images, regions, captions, words; i2t:
captions, words, images, regions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bssan_lib.attention.attended import (
    SMALLEST_SQUARE,
    Scratch,
    attend,
    attend_backward,
    attended_cosine,
    gram,
    safe_norm,
)
from bssan_lib.attention.pairs import product_dtype
from bssan_lib.attention.tiles import Tile, affinity_block, affinity_tiles, pack
from bssan_lib.attention.w2r import affinity, length_mask
from bssan_lib.config import ModelConfig
from bssan_lib.models.codes import CaptionCodes, ImageCodes, PairScores
from bssan_lib.models.encoders import Matcher, VisualProjection, recurrent, word_states

LEAK = 0.1  # slope of the leaky ReLU below zero
TEMPERATURES = {"t2i": 9.0, "i2t": 4.0}  # inverse, of the softmax
POOLING_TEMPERATURES = {"t2i": 6.0, "i2t": 5.0}  # inverse, of LogSumExp
PARTS = {"t2i": "w2r", "i2t": "o2w"}  # direction in SCAN -> direction in this library


# -- SCAN's score


def leaky_normalized(similarity: Tensor, mask: Tensor | None = None) -> Tensor:
    """p: the leaky ReLU of the similarity, divided by its norm along the last axis.

    similarity: [..., P]; the last axis holds the words of a caption (t2i) or the regions of an image (i2t).
    mask: True where they are real.
    """
    leaky = nn.functional.leaky_relu(similarity, LEAK)
    if mask is not None:
        leaky = leaky.masked_fill(~mask, 0.0)
    return leaky / safe_norm(leaky)[..., None]


def pooled(cosines: Tensor, pooling: str, temperature: float, mask: Tensor | None = None) -> Tensor:
    """The mean ("avg") or LogSumExp ("lse") over the last axis. cosines: [..., P]. mask: True where they are real."""
    mask = torch.ones_like(cosines, dtype=torch.bool) if mask is None else mask.expand_as(cosines)
    if pooling == "avg":
        return cosines.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)
    return (temperature * cosines).masked_fill(~mask, float("-inf")).logsumexp(-1) / temperature


def scan_attention(
    regions: Tensor, words: Tensor, lengths: Tensor, direction: str, pooling: str
) -> tuple[Tensor, Tensor]:
    """Scores [B, C] and weights, for few pairs: the formulas above, without computing z.

    regions: v [B, K, d]. words: u [C, T, d]. lengths: [C]. direction: "t2i" or "i2t". pooling: "avg" or "lse".
    Weights: [B, K, C, T], sums to one over K (t2i); [C, T, B, K], sums to one over T (i2t).
    """
    mask, forward = length_mask(lengths, words.shape[1]), direction == "t2i"
    vectors, queries = (regions, words) if forward else (words, regions)
    similarity = affinity(vectors, queries)  # [G, L, N, P]
    logits = leaky_normalized(similarity, mask if forward else None)
    temperature = similarity.new_tensor(TEMPERATURES[direction])
    result, weights = attended_cosine(
        similarity.flatten(2), gram(vectors), temperature, None if forward else mask, logits.flatten(2)
    )
    cosines = result.view(len(vectors), *queries.shape[:2]) / safe_norm(queries)
    scores = pooled(cosines, pooling, POOLING_TEMPERATURES[direction], mask if forward else None)
    return scores if forward else scores.T, weights.view_as(similarity)


class _ScanPairs(torch.autograd.Function):
    """One direction of all pairs. The Gram matrices are arguments, so autograd computes their gradients.

    regions: [B, K, d] and words: [W, d], packed, both of norm one. grams: of the attended vectors, [B, K, K] (t2i) or
    [C, T, T] (i2t). tiles: of the captions.
    """

    @staticmethod
    def forward(context, regions, words, grams, tiles, direction, pooling):
        stored = None  # the affinity, as the tiles use it: [B K, W] (t2i) or [W, B K] (i2t)
        if any(context.needs_input_grad):
            flat = regions.flatten(0, 1)
            stored = flat @ words.T if direction == "t2i" else words @ flat.T
        scores = grams.new_zeros(len(regions), tiles[-1].last)
        context.save_for_backward(regions, words, grams, stored)
        context.settings, scratch = (tiles, direction, pooling), Scratch()
        temperature = grams.new_tensor(TEMPERATURES[direction])
        for _, _, cells, similarity, gram_tile in _tiles(regions, words, grams, stored, tiles, direction, scratch):
            logits = _leaky_normalized(similarity, scratch)[0].flatten(2)
            result = attend(similarity.flatten(2), gram_tile, temperature, scratch, None, logits, overwrite=True)[0]
            score = pooled(result.view(-1, *similarity.shape[2:]), pooling, POOLING_TEMPERATURES[direction])
            scores[cells] = score if direction == "t2i" else score.T
        return scores

    @staticmethod
    def backward(context, grad_scores):
        regions, words, grams, stored = context.saved_tensors
        (tiles, direction, pooling), scratch = context.settings, Scratch()
        grad_stored, grad_grams, K = torch.empty_like(stored), torch.zeros_like(grams), regions.shape[1]
        for tile, images, cells, similarity, gram_tile in _tiles(
            regions, words, grams, stored, tiles, direction, scratch
        ):
            grad_tile = grad_scores[cells] if direction == "t2i" else grad_scores[cells].T  # [G, N]
            grad_similarity, grad_gram = _tile_backward(grad_tile, similarity, gram_tile, direction, pooling, scratch)
            columns = slice(tile.start, tile.stop)
            if direction == "t2i":
                grad_grams[images] += grad_gram
                affinity_block(grad_stored, images, K, columns).copy_(grad_similarity.flatten(0, 1))
            else:
                grad_grams[tile.first : tile.last, : tile.length, : tile.length] += grad_gram
                grad_stored[columns, images.start * K : images.stop * K] = grad_similarity.flatten(0, 1)
        by_region = grad_stored if direction == "t2i" else grad_stored.T
        grad_words = by_region.T @ regions.flatten(0, 1)
        return (by_region @ words).view_as(regions), grad_words, grad_grams, None, None, None


def _tile_backward(
    grad_scores: Tensor, similarity: Tensor, gram_tile: Tensor, direction: str, pooling: str, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Gradients of similarities [G, L, N P], in scratch memory, and Gram matrices [G, L, L].

    grad_scores: [G, N]. similarity: s [G, L, N, P]. gram_tile: [G, L, L].
    """
    logits, norms = _leaky_normalized(similarity, scratch)
    flat, shape, temperature = similarity.flatten(2), similarity.shape, gram_tile.new_tensor(TEMPERATURES[direction])
    if pooling == "lse":  # the gradient of a cosine is its share in the sum of exponentials
        result = attend(flat, gram_tile, temperature, scratch, None, logits.flatten(2))[0].view(-1, *shape[2:])
        grad_cosines = grad_scores[..., None] * torch.softmax(POOLING_TEMPERATURES[direction] * result, -1)
    else:
        grad_cosines = (grad_scores[..., None] / shape[-1]).expand(-1, -1, shape[-1])
    grad_similarity, grad_gram, _, _, grad_logits = attend_backward(
        grad_cosines.flatten(1), flat, gram_tile, temperature, scratch, None, logits.flatten(2)
    )
    assert grad_logits is not None  # because logits were given
    grad_similarity, grad_logits = grad_similarity.view(shape), grad_logits.view(shape)
    # p = l / |l|, so dl = (dp - p (p . dp)) / |l|, and ds is that, or a tenth where s < 0
    along = torch.mul(logits, grad_logits, out=scratch("product", shape, logits)).sum(-1, keepdim=True)
    grad_logits.sub_(logits.mul_(along)).div_(norms)
    grad_similarity.add_(grad_logits.mul_(torch.where(similarity < 0, LEAK, 1.0)))
    return grad_similarity.flatten(2), grad_gram


def _leaky_normalized(similarity: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """`leaky_normalized` in scratch memory, and the norms [..., 1]."""
    leaky = torch.mul(similarity, LEAK, out=scratch("leaky", similarity.shape, similarity))
    leaky = torch.maximum(leaky, similarity, out=leaky)
    norms = torch.linalg.vector_norm(leaky, dim=-1, keepdim=True).clamp_min_(SMALLEST_SQUARE**0.5)
    return leaky.div_(norms), norms


def _tiles(
    regions: Tensor,
    words: Tensor,
    grams: Tensor,
    stored: Tensor | None,
    tiles: list[Tile],
    direction: str,
    scratch: Scratch,
) -> Iterator[tuple[Tile, slice, tuple[slice, slice], Tensor, Tensor]]:
    """Yields tile, image rows, cells in the scores, s [G, L, N, P] and Gram matrices [G, L, L]."""
    forward, K = direction == "t2i", regions.shape[1]
    objects = None if forward else regions
    by_region, by_word = (stored, None) if forward else (None, stored)
    for tile, images, of_regions, of_words in affinity_tiles(
        regions, objects, words, grams, by_region, by_word, tiles, (PARTS[direction],), scratch
    ):
        cells = images, slice(tile.first, tile.last)
        if of_regions is not None:
            yield tile, images, cells, of_regions.unflatten(2, (-1, tile.length)), grams[images]
        elif of_words is not None:
            gram_tile = grams[tile.first : tile.last, : tile.length, : tile.length]
            yield tile, images, cells, of_words.unflatten(2, (-1, K)), gram_tile


def scan_scores(
    regions: Tensor, words: Tensor, lengths: Tensor, direction: str, pooling: str, products: torch.dtype | None = None
) -> Tensor:
    """The scores [B, C] of `scan_attention` for regions and words of norm one, fast and differentiable.

    products: dtype of the large product, as in `pairs.score_pairs`. Without captions or images the scores are empty.
    """
    if not len(regions) or not len(words):
        return regions.new_zeros(len(regions), len(words), dtype=torch.promote_types(regions.dtype, torch.float32))
    products = product_dtype(regions, products)
    with torch.autocast(regions.device.type, enabled=False):
        dtype = torch.promote_types(regions.dtype, torch.float32)
        words = words.to(dtype)
        captions = pack(words, lengths)
        grams = gram(regions.to(dtype) if direction == "t2i" else words[captions.unsort.argsort()])
        scores = _ScanPairs.apply(
            regions.to(products), captions.words.to(products), grams, captions.tiles, direction, pooling
        )
        return scores[:, captions.unsort]


# -- the methods


class SCAN(Matcher):
    """Stacked cross attention.

    config.method chooses text to image or image to text, config.pooling mean or LogSumExp.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, dimension: int, place: bool):
        super().__init__(config, vocabulary_size, dimension, place)
        self.direction = config.method.removeprefix("scan-")
        self.parts = (PARTS[self.direction],)
        self.gru = recurrent("bigru", config.word_size, config.joint_size, config.lstm_layers, config.dropout)
        self.regions = VisualProjection(self.feature_size, config.joint_size, self.has_place, config.region_dropout)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def project_images(
        self,
        regions: Tensor,
        objects: Tensor | None = None,
        boxes: Tensor | None = None,
        object_boxes: Tensor | None = None,
    ) -> ImageCodes:
        """regions [B, K, D], boxes [K, 4] or [B, K, 4] -> codes [B, K, d]. Objects are ignored."""
        v = self.regions(regions, boxes)
        return ImageCodes(v, v)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> CaptionCodes:
        """tokens: word ids [C, T], zero at padding. lengths: [C]. Returns u [C, T, d]."""
        tokens = self.drop_words(tokens)
        states = self.dropout(word_states(self.gru, self.dropout(self.embed(tokens)), lengths))
        return CaptionCodes(states / safe_norm(states)[..., None], lengths, tokens)

    def score(
        self, images: ImageCodes, captions: CaptionCodes, weights: bool = False, products: torch.dtype | None = None
    ) -> PairScores:
        """Scores every image with every caption, as `BSSAN.score`; the joint score is that of the single direction."""
        inputs, attention = (
            (images.regions, captions.words, captions.lengths, self.direction, self.config.pooling),
            None,
        )
        if weights:
            scores, attention = scan_attention(*inputs)
        else:
            scores = scan_scores(*inputs, products)
        if self.direction == "t2i":
            return PairScores(scores, scores, None, attention)
        return PairScores(scores, None, scores, None, attention)
