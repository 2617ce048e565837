"""Every image of a block against every caption of a block, in both directions: exact, fast, and small in memory.

What notebooks 02 and 03 compute for a few pairs is computed here for millions, by the same function
(`attended.attend`) and with the same numbers. What makes it fast:

    one affinity     words times regions is one large matrix product; where objects are the regions, W2R reads it along
                     its rows and O2W along its columns
    no padding       captions are sorted by length, and a tile holds captions of one length alone
    tiles            softmax and Gram products run on tiles that stay in the processor's caches, in memory used again
    little is kept   for the backward pass the affinity alone, [B, K, C, T]; weights are made again

On a GPU the same code runs in larger tiles.

Letters: B images, C captions, K regions, M objects, T words, W words of all captions together, d joint size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bssan_lib.attended import Scratch, attend, attend_backward
from bssan_lib.w2r import gram, safe_norm

TILE_NUMBERS = {"cpu": 2**19, "cuda": 2**25}  # affinities of one tile: 2 MiB in a processor's caches, 128 MiB on a GPU
TILE_WORDS = {"cpu": 512, "cuda": 8192}
DIRECTIONS = ("w2r", "o2w")


@dataclass
class Tile:
    """Captions of one length, rows first:last of those sorted by length; their words are rows start:stop of [W, d]."""

    first: int
    last: int
    start: int
    stop: int
    length: int


def tiles_of(lengths: list[int], words: int) -> list[Tile]:
    """Cuts captions into tiles of one length and at most `words` words. lengths: [C], ascending."""
    tiles, first, start = [], 0, 0
    for end in range(1, len(lengths) + 1):
        length = lengths[first]
        if end == len(lengths) or lengths[end] != length or (end + 1 - first) * length > words:
            stop = start + (end - first) * length
            tiles.append(Tile(first, end, start, stop, length))
            first, start = end, stop
    return tiles


def _image_blocks(images: int, vectors: int, tile: Tile, device: str) -> list[slice]:
    size = max(1, TILE_NUMBERS[device] // (vectors * (tile.stop - tile.start)))
    return [slice(first, min(first + size, images)) for first in range(0, images, size)]


class _ScorePairs(torch.autograd.Function):
    """Both directions of all pairs. Gram matrices and norms come from outside, where autograd goes on with them.

    regions: [B, K, d]. objects: [B, M, d], or None where they are the regions. words: [W, d], packed. region_gram:
    [B, K, K]. word_gram: [C, T, T]. word_scale: [W] and object_scale: [B, M], one over the norms. temperatures:
    scalars. tiles: of the captions. directions: which are wanted; the other's scores stay zero.
    """

    @staticmethod
    def forward(context, regions, objects, words, region_gram, word_gram, word_scale, object_scale,
                temperature_w, temperature_o, tiles, directions):
        shared, (images, captions) = objects is None, (len(regions), len(word_gram))
        w2r, o2w = (word_gram.new_zeros(images, captions) for _ in range(2))
        differentiable = any(context.needs_input_grad)
        by_region = by_word = None  # the affinity, [B K, W] and, for objects of their own, [W, B M]
        if differentiable and (shared or "w2r" in directions):
            by_region = regions.flatten(0, 1) @ words.T
        if differentiable and not shared and "o2w" in directions:
            by_word = words @ objects.flatten(0, 1).T
        scratch = Scratch()
        for tile, block, similarity, turned in similarities(
            regions, objects, words, word_gram, by_region, by_word, tiles, directions, scratch
        ):
            count = tile.last - tile.first
            if similarity is not None and "w2r" in directions:
                result = attend(similarity, region_gram[block], temperature_w, scratch)[0]
                result *= word_scale[tile.start : tile.stop]
                w2r[block, tile.first : tile.last] = result.view(-1, count, tile.length).mean(2)
            if turned is not None:
                own_gram = word_gram[tile.first : tile.last, : tile.length, : tile.length]
                result = attend(turned, own_gram, temperature_o, scratch)[0]
                result *= object_scale[block].flatten()
                o2w[block, tile.first : tile.last] = result.view(count, -1, object_scale.shape[1]).mean(2).T
        context.tiles, context.directions = tiles, directions
        context.save_for_backward(regions, objects, words, region_gram, word_gram, word_scale, object_scale,
                                  temperature_w, temperature_o, by_region, by_word)
        return w2r, o2w

    @staticmethod
    def backward(context, over_w2r, over_o2w):
        (regions, objects, words, region_gram, word_gram, word_scale, object_scale, temperature_w, temperature_o,
         by_region, by_word) = context.saved_tensors
        shared = objects is None
        over_by_region = None if by_region is None else torch.empty_like(by_region)
        over_by_word = None if by_word is None else torch.empty_like(by_word)
        over = {name: torch.zeros_like(tensor) for name, tensor in (
            ("region_gram", region_gram.to(word_gram.dtype)), ("word_gram", word_gram), ("word_scale", word_scale),
            ("object_scale", object_scale), ("temperature_w", temperature_w), ("temperature_o", temperature_o))}
        scratch, other = Scratch(), Scratch()
        for tile, block, similarity, turned in similarities(
            regions, objects, words, word_gram, by_region, by_word, context.tiles, context.directions, scratch
        ):
            count, columns, rows = tile.last - tile.first, slice(tile.start, tile.stop), slice(tile.first, tile.last)
            vectors = regions.shape[1] if shared else object_scale.shape[1]
            slope_by_region = None
            if similarity is not None and "w2r" in context.directions:
                gradient = (over_w2r[block, rows] / tile.length).repeat_interleave(tile.length, 1)  # [b, words]
                slope_by_region, gram_slope, heat, result, _ = attend_backward(
                    gradient * word_scale[columns], similarity, region_gram[block], temperature_w, scratch)
                over["word_scale"][columns] += (gradient * result).sum(0)
                over["region_gram"][block] += gram_slope
                over["temperature_w"] += heat
                slope_by_region = slope_by_region.flatten(0, 1)
            if turned is not None:
                own_gram = word_gram[rows, : tile.length, : tile.length]
                gradient = (over_o2w[block, rows] / vectors).T.repeat_interleave(vectors, 1)  # [captions, b M]
                slope, gram_slope, heat, result, _ = attend_backward(
                    gradient * object_scale[block].flatten(), turned, own_gram, temperature_o, other)
                over["object_scale"][block] += (gradient * result).sum(0).view(-1, vectors)
                over["word_gram"][rows, : tile.length, : tile.length] += gram_slope
                over["temperature_o"] += heat
                slope = slope.flatten(0, 1)
                if not shared:
                    over_by_word[columns, block.start * vectors : block.stop * vectors] = slope
                else:
                    slope_by_region = slope.T if slope_by_region is None else slope_by_region.add_(slope.T)
            if slope_by_region is not None:
                part(over_by_region, block, regions.shape[1], columns).copy_(slope_by_region)
        over_regions, over_objects, over_words = None, None, 0.0
        if over_by_region is not None:
            over_regions = (over_by_region @ words).view_as(regions)
            over_words = over_by_region.T @ regions.flatten(0, 1)
        if over_by_word is not None:
            over_objects = (over_by_word.T @ words).view_as(objects)
            over_words = over_words + over_by_word @ objects.flatten(0, 1)
        over["region_gram"] = over["region_gram"].to(region_gram.dtype)
        return over_regions, over_objects, over_words, *over.values(), None, None


def part(matrix: Tensor, block: slice, vectors: int, columns: slice) -> Tensor:
    """The affinities of some images with some words. matrix: [B K, W]. vectors: K. Returns [b K, columns]."""
    return matrix[block.start * vectors : block.stop * vectors, columns]


def similarities(regions, objects, words, like, by_region, by_word, tiles, directions, scratch):
    """For each tile and block of images: s [b, K, words] and its counterpart [captions, T, b M], None if not wanted.

    They lie in scratch memory, in the dtype of `like`, made from the kept affinities where there are any.
    """
    shared, (K, M) = objects is None, (regions.shape[1], (regions if objects is None else objects).shape[1])

    def product(name, left, right, kept):
        if kept is None:
            shape = (len(left), len(right))
            kept = torch.mm(left, right.T, out=scratch(name + " narrow", shape, left))
            if kept.dtype == like.dtype:
                return kept
        return scratch(name, kept.shape, like).copy_(kept)

    for tile in tiles:
        columns, count = slice(tile.start, tile.stop), tile.last - tile.first
        for block in _image_blocks(len(regions), max(K, M), tile, like.device.type):
            similarity = turned = None
            if shared or "w2r" in directions:
                kept = None if by_region is None else part(by_region, block, K, columns)
                similarity = product("by region", regions[block].flatten(0, 1), words[columns], kept)
            if "o2w" in directions and shared:
                turned = scratch("by word", similarity.shape[::-1], like).copy_(similarity.T)
            elif "o2w" in directions:
                kept = None if by_word is None else by_word[columns, block.start * M : block.stop * M]
                turned = product("by word", words[columns], objects[block].flatten(0, 1), kept)
            yield (
                tile, block,
                None if similarity is None else similarity.view(-1, K, tile.stop - tile.start),
                None if turned is None else turned.view(count, tile.length, -1),
            )


def product_dtype(regions: Tensor, products: torch.dtype | None) -> torch.dtype:
    """The dtype of the large products: the one asked for, that of autocast, or that of the regions."""
    device = regions.device.type
    return products or (torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else regions.dtype)


def pack(words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, list[Tile], Tensor]:
    """Captions sorted by length: words [C, T, d], the same without padding [W, d], tiles, and the way back [C].

    words: [C, T, d], padded anyhow. lengths: [C]. Scores [B, C] of sorted captions are s[:, back] of those given.
    """
    ordered = lengths.cpu().sort(stable=True)
    tiles = tiles_of(ordered.values.tolist(), TILE_WORDS[words.device.type])
    order = ordered.indices.to(words.device)
    words = words[order]
    place = torch.arange(words.shape[1], device=words.device) < lengths[order, None]
    return words, words[place], tiles, order.argsort()


def score_pairs(
    regions: Tensor, objects: Tensor | None, words: Tensor, lengths: Tensor, temperature_w: Tensor, temperature_o: Tensor,
    directions: tuple[str, ...] = DIRECTIONS, products: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """W2R and O2W scores of every image with every caption: [B, C] each, differentiable, as `w2r_scores`, `o2w_scores`.

    regions: v [B, K, d]. objects: o [B, M, d], or None where they are the regions. words: u [C, T, d], padded anyhow.
    lengths: [C]. temperatures: scalars. directions: those wanted; the other's scores are zeros. products: dtype of
    the large matrix products, such as torch.bfloat16; None: that of autocast, else of the regions. Softmax, Gram
    products and sums are float32, or float64 for such input.
    """
    products = product_dtype(regions, products)
    with torch.autocast(regions.device.type, enabled=False):
        wide = torch.promote_types(regions.dtype, torch.float32)
        words, packed, tiles, back = pack(words.to(wide), lengths)
        if directions == ("o2w",):  # nothing to share: the affinity is made the way round that O2W reads it
            objects = regions if objects is None else objects
        seen = regions if objects is None else objects
        w2r, o2w = _ScorePairs.apply(
            regions.to(products), None if objects is None else objects.to(products), packed.to(products),
            gram(regions.to(wide)).to(products), gram(words), 1 / safe_norm(packed), 1 / safe_norm(seen.to(wide)),
            temperature_w.to(wide), temperature_o.to(wide), tiles, directions,
        )
        return w2r[:, back], o2w[:, back]
