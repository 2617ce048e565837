"""Exact scores of all images with all captions, in both directions, fast and with little memory.

Notebooks 02 and 03 compute the same numbers for a few pairs, with the same function `attended.attend`. This module is
fast for four reasons:

    one affinity     words times regions is one large matrix product; where the objects are the regions, W2R and O2W
                     use the same one, along its two axes
    no padding       captions are sorted by length, and a tile holds captions of one length
    tiles            softmax and Gram products work on tiles that fit the caches, in reused memory
    little memory    only the affinity [B, K, C, T] is stored for the backward pass; weights are recomputed

On a GPU the same code uses larger tiles with a little padding.

Letters: B images, C captions, K regions, M objects, T words, W words of all captions together, d joint size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bssan_lib.attention.attended import SMALLEST_SQUARE, Scratch, attend, attend_backward, gram
from bssan_lib.attention.tiles import AffinityTile, PackedCaptions, affinity_block, affinity_tiles, captions_of, pack

DIRECTIONS = ("w2r", "o2w")


@dataclass
class _Inputs:
    """The tensors that the forward and the backward pass need.

    regions: [B, K, d]. objects: [B, M, d], None where they are the regions. words: [W, d]. rounded_regions and others:
    the same in the dtype of the large products. region_gram: [B, K, K], or [0, K, K] where it is not needed.
    word_square, object_square: [W] and [B, M] squared norms. by_region, by_word: the stored affinities [B K, W] and [W,
    B M], or None. word_grams: [captions, T, T] for each tile.
    """

    regions: Tensor
    objects: Tensor | None
    words: Tensor
    rounded_regions: Tensor
    rounded_objects: Tensor | None
    rounded_words: Tensor
    region_gram: Tensor
    word_square: Tensor
    object_square: Tensor
    temperature_w: Tensor
    temperature_o: Tensor
    by_region: Tensor | None
    by_word: Tensor | None
    word_grams: list[Tensor]
    captions: PackedCaptions
    directions: Sequence[str]

    def __post_init__(self) -> None:
        self.word_scale, self.object_scale = _one_over_norm(self.word_square), _one_over_norm(self.object_square)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], captions: PackedCaptions, directions: Sequence[str]) -> "_Inputs":
        """The inverse of `tensors`."""
        named = dict(zip((field.name for field in fields(cls)[:-3]), tensors))
        grams = list(tensors[len(named) :])
        return cls(**named, word_grams=grams, captions=captions, directions=directions)

    def tensors(self) -> list[Tensor | None]:
        """All tensors as one list, to be saved for the backward pass."""
        return [getattr(self, field.name) for field in fields(self)[:-3]] + self.word_grams

    def tiles(self, scratch: Scratch) -> Iterator[AffinityTile]:
        """The affinities of each tile with each block of images, see `affinity_tiles`."""
        vectors = self.rounded_regions, self.rounded_objects, self.rounded_words, self.words
        return affinity_tiles(*vectors, self.by_region, self.by_word, self.captions.tiles, self.directions, scratch)


@dataclass
class _Gradients:
    """Gradients of stored affinities, Gram matrices, scales 1/|x| and temperatures, summed tile by tile."""

    by_region: Tensor | None
    by_word: Tensor | None
    region_gram: Tensor
    word_grams: list[Tensor]
    word_scale: Tensor
    object_scale: Tensor
    temperature_w: Tensor
    temperature_o: Tensor


class _ScorePairs(torch.autograd.Function):
    """Both directions of all pairs.

    regions: [B, K, d]. objects: [B, M, d], or None where they are the regions. words: [W, d], those of `captions`,
    packed. temperatures: scalars. directions: the ones to compute; scores of the other are zero. products: dtype
    of the large products. Gram matrices and norms are computed here, so that their gradients can be added in place to
    those of the large products. This needs no other tensor of the size of regions or words.
    """

    @staticmethod
    def forward(context, regions, objects, words, temperature_w, temperature_o, captions, directions, products):
        needs_gradient, w2r, o2w = any(context.needs_input_grad), "w2r" in directions, "o2w" in directions
        shared = objects is None
        rounded_regions, rounded_words = regions.to(products), words.to(products)
        rounded_objects = None if objects is None else objects.to(products)
        region_gram = gram(regions if shared or w2r else regions[:0])
        word_grams = [gram(captions_of(words, tile)) for tile in captions.tiles]
        word_square = torch.cat([one.diagonal(dim1=1, dim2=2).flatten() for one in word_grams])
        object_square = (
            region_gram.diagonal(dim1=1, dim2=2) if shared else torch.linalg.vector_norm(objects, dim=-1).square_()
        )
        by_region = by_word = None
        if needs_gradient and w2r and not (shared and o2w):  # one affinity, by word, serves both directions
            by_region = rounded_regions.flatten(0, 1) @ rounded_words.T
        if needs_gradient and o2w:
            by_word = rounded_words @ (rounded_regions if rounded_objects is None else rounded_objects).flatten(0, 1).T
        vectors = regions, objects, words, rounded_regions, rounded_objects, rounded_words
        inputs = _Inputs(
            *vectors,
            region_gram.to(products),
            word_square,
            object_square,
            temperature_w,
            temperature_o,
            by_region,
            by_word,
            word_grams,
            captions,
            directions,
        )
        context.settings = captions, directions
        context.save_for_backward(*inputs.tensors())
        return _scores(inputs)

    @staticmethod
    def backward(context, grad_w2r, grad_o2w):
        inputs = _Inputs.from_tensors(context.saved_tensors, *context.settings)
        grads = _Gradients(
            by_region=None if inputs.by_region is None else torch.empty_like(inputs.by_region),
            by_word=None if inputs.by_word is None else torch.empty_like(inputs.by_word),
            region_gram=torch.zeros_like(inputs.region_gram, dtype=inputs.words.dtype),
            word_grams=[torch.zeros_like(one) for one in inputs.word_grams],
            word_scale=torch.zeros_like(inputs.word_scale),
            object_scale=torch.zeros_like(inputs.object_scale),
            temperature_w=torch.zeros_like(inputs.temperature_w),
            temperature_o=torch.zeros_like(inputs.temperature_o),
        )
        _attention_backward(inputs, grads, grad_w2r, grad_o2w)
        grad_regions, grad_objects, grad_words = _affinity_backward(inputs, grads)
        _norm_backward(inputs, grads, grad_regions, grad_objects, grad_words)
        return grad_regions, grad_objects, grad_words, grads.temperature_w, grads.temperature_o, None, None, None


def _scores(inputs: _Inputs) -> tuple[Tensor, Tensor]:
    """Scores [B, C] of both directions, captions sorted by length."""
    captions, scratch = inputs.captions, Scratch()
    w2r, o2w = (inputs.words.new_zeros(len(inputs.regions), len(captions.lengths)) for _ in range(2))
    for tile, images, by_region, by_word in inputs.tiles(scratch):
        count, rows = tile.last - tile.first, slice(tile.first, tile.last)
        if by_region is not None:
            result = attend(by_region, inputs.region_gram[images], inputs.temperature_w, scratch, overwrite=True)[0]
            result *= inputs.word_scale[tile.start : tile.stop]
            cosines = result.view(-1, count, tile.length)
            if tile.mask is None:
                w2r[images, rows] = cosines.mean(2)
            else:
                w2r[images, rows] = cosines.mul_(tile.mask).sum(2) / captions.lengths[rows]
        if by_word is not None:
            word_gram = inputs.word_grams[tile.number]
            result = attend(by_word, word_gram, inputs.temperature_o, scratch, tile.mask, overwrite=True)[0]
            result *= inputs.object_scale[images].flatten()
            o2w[images, rows] = result.view(count, -1, inputs.object_scale.shape[1]).mean(2).T
    return w2r, o2w


def _attention_backward(inputs: _Inputs, grads: _Gradients, grad_w2r: Tensor, grad_o2w: Tensor) -> None:
    """Gradients of affinities, Gram matrices, scales and temperatures from those of the scores [B, C], tile by tile."""
    captions, M = inputs.captions, inputs.object_scale.shape[1]
    # gradients of the cosines of words with images, [B, W], and of objects with captions, [C, B M]
    grad_word_cosines = (grad_w2r / captions.lengths).repeat_interleave(
        captions.padded_lengths, 1, output_size=len(inputs.words)
    )
    if captions.is_word is not None:
        grad_word_cosines *= captions.is_word
    grad_object_cosines = (grad_o2w.T / M).repeat_interleave(M, 1)
    scratch_o, scratch_w = Scratch(), Scratch()
    for tile, images, by_region, by_word in inputs.tiles(scratch_o):
        columns, rows = slice(tile.start, tile.stop), slice(images.start * M, images.stop * M)
        grad_by_word = None
        if by_word is not None:
            grad_cosines = grad_object_cosines[tile.first : tile.last, rows]
            grad_by_word, grad_gram, grad_temperature, result, _ = attend_backward(
                grad_cosines * inputs.object_scale[images].flatten(),
                *(by_word, inputs.word_grams[tile.number], inputs.temperature_o, scratch_o, tile.mask),
            )
            grads.object_scale[images].add_((grad_cosines * result).sum(0).view(-1, M))
            grads.word_grams[tile.number].add_(grad_gram)
            grads.temperature_o.add_(grad_temperature)
        if by_region is not None:
            grad_cosines = grad_word_cosines[images, columns]
            grad_by_region, grad_gram, grad_temperature, result, _ = attend_backward(
                grad_cosines * inputs.word_scale[columns],
                *(by_region, inputs.region_gram[images], inputs.temperature_w, scratch_w),
            )
            grads.word_scale[columns].add_((grad_cosines * result).sum(0))
            grads.region_gram[images].add_(grad_gram)
            grads.temperature_w.add_(grad_temperature)
            if grads.by_region is not None:
                block = affinity_block(grads.by_region, images, inputs.regions.shape[1], columns)
                block.copy_(grad_by_region.flatten(0, 1))
            elif (
                grad_by_word is not None
            ):  # one affinity serves both: their gradients are added before they are rounded
                grad_by_word.view(tile.stop - tile.start, -1, M).add_(grad_by_region.permute(2, 0, 1))
        if grad_by_word is not None and grads.by_word is not None:
            grads.by_word[columns, rows] = grad_by_word.flatten(0, 1)


def _affinity_backward(inputs: _Inputs, grads: _Gradients) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of regions [B, K, d], objects [B, M, d] (or None) and words [W, d] from those of the affinities."""
    grad_regions = grad_objects = grad_words = None
    if grads.by_region is not None:
        grad_regions = (grads.by_region @ inputs.rounded_words).view_as(inputs.regions).to(inputs.regions)
        grad_words = (grads.by_region.T @ inputs.rounded_regions.flatten(0, 1)).to(inputs.words)
    if grads.by_word is not None:
        like = inputs.regions if inputs.objects is None else inputs.objects
        grad_vectors = (grads.by_word.T @ inputs.rounded_words).view_as(like).to(like)
        vectors = inputs.rounded_regions if inputs.rounded_objects is None else inputs.rounded_objects
        if inputs.objects is None:
            grad_regions = grad_vectors
        else:
            grad_objects = grad_vectors
        more = grads.by_word @ vectors.flatten(0, 1)
        grad_words = more.to(inputs.words) if grad_words is None else grad_words.add_(more)
    return grad_regions, grad_objects, grad_words


def _norm_backward(inputs: _Inputs, grads: _Gradients, grad_regions, grad_objects, grad_words) -> None:
    """Adds the gradients through Gram matrices and norms to those of regions, objects and words."""
    # 1 / |x| is a function of |x|^2, the diagonal of the Gram matrix; its derivative is -1/2 |x|^-3
    grad_word_square, grad_object_square = (
        torch.where(square > SMALLEST_SQUARE, grad * scale**3 / -2, 0.0)
        for grad, scale, square in (
            (grads.word_scale, inputs.word_scale, inputs.word_square),
            (grads.object_scale, inputs.object_scale, inputs.object_square),
        )
    )
    if inputs.objects is None:
        grads.region_gram.diagonal(dim1=1, dim2=2).add_(grad_object_square)
    elif grad_objects is not None:
        grad_objects.addcmul_(inputs.objects, 2 * grad_object_square[..., None])
    if grad_regions is not None:
        grad_regions.baddbmm_(grads.region_gram + grads.region_gram.transpose(1, 2), inputs.regions)
    for tile, grad_gram in zip(inputs.captions.tiles, grads.word_grams, strict=True):
        square = grad_word_square[tile.start : tile.stop].view(-1, tile.length)
        grad_gram.diagonal(dim1=1, dim2=2).add_(square)
        captions_of(grad_words, tile).baddbmm_(grad_gram + grad_gram.transpose(1, 2), captions_of(inputs.words, tile))


def _one_over_norm(square: Tensor) -> Tensor:
    return square.clamp_min(SMALLEST_SQUARE).rsqrt()


def product_dtype(regions: Tensor, products: torch.dtype | None) -> torch.dtype:
    """The dtype of the large products: `products`, else that of autocast, else that of the regions."""
    device = regions.device.type
    return products or (torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else regions.dtype)


def score_pairs(
    regions: Tensor,
    objects: Tensor | None,
    words: Tensor,
    lengths: Tensor,
    temperature_w: Tensor,
    temperature_o: Tensor,
    directions: tuple[str, ...] = DIRECTIONS,
    products: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """W2R and O2W scores of every image with every caption: [B, C] each, differentiable, as `w2r_scores`, `o2w_scores`.

    regions: v [B, K, d]. objects: o [B, M, d], or None where they are the regions. words: u [C, T, d] with any padding.
    lengths: [C]. temperatures: scalars. directions: the ones to compute; scores of the other are zero. products: dtype
    of the large matrix products, such as torch.bfloat16; None: that of autocast, else of the regions. Softmax, Gram
    products and sums are float32, or float64 for float64 input. Without captions or images the scores are empty.
    """
    products = product_dtype(regions, products)
    with torch.autocast(regions.device.type, enabled=False):
        dtype = torch.promote_types(regions.dtype, torch.float32)
        if not len(regions) or not len(words):
            empty = regions.new_zeros(len(regions), len(words), dtype=dtype)
            return empty, empty.clone()
        most = max(regions.shape[1], 0 if objects is None else objects.shape[1])
        captions = pack(words.to(dtype), lengths, affinities=len(regions) * most)
        if directions == ("o2w",) and objects is None:  # there is no affinity to share
            objects = regions
        w2r, o2w = _ScorePairs.apply(
            *(regions.to(dtype), None if objects is None else objects.to(dtype), captions.words),
            *(temperature_w.to(dtype), temperature_o.to(dtype), captions, directions, products),
        )
        return w2r[:, captions.unsort], o2w[:, captions.unsort]
