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

from bssan_lib.attended import SMALLEST_SQUARE, Scratch, attend, attend_backward
from bssan_lib.w2r import gram

TILE_NUMBERS = {"cpu": 2**19, "cuda": 2**25}  # affinities of one tile: 2 MiB in a processor's caches, 128 MiB on a GPU
TILE_WORDS = {"cpu": 512, "cuda": 8192}
DIRECTIONS = ("w2r", "o2w")


@dataclass
class Tile:
    """Captions of one length, rows first:last of those sorted by length; their words are rows start:stop of [W, d]."""

    number: int  # among the tiles
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
            tiles.append(Tile(len(tiles), first, end, start, stop, length))
            first, start = end, stop
    return tiles


def _image_blocks(images: int, vectors: int, tile: Tile, device: str) -> list[slice]:
    size = max(1, TILE_NUMBERS[device] // (vectors * (tile.stop - tile.start)))
    return [slice(first, min(first + size, images)) for first in range(0, images, size)]


class _ScorePairs(torch.autograd.Function):
    """Both directions of all pairs.

    regions: [B, K, d]. objects: [B, M, d], or None where they are the regions. words: [W, d], packed. temperatures:
    scalars. tiles: of the captions. directions: which are wanted; the other's scores stay zero. products: dtype of the
    large products. Gram matrices and norms are made in here too: their gradients are then added where those of the large
    products lie already, without a further tensor of the size of regions or words.
    """

    @staticmethod
    def forward(context, regions, objects, words, temperature_w, temperature_o, tiles, directions, products):
        shared, (images, captions) = objects is None, (len(regions), tiles[-1].last)
        turns = shared and "o2w" in directions  # one affinity, by word, for both directions
        narrow = [None if part is None else part.to(products) for part in (regions, objects, words)]
        region_gram = gram(regions) if shared or "w2r" in directions else None
        word_grams = [gram(_captions(words, tile)) for tile in tiles]
        word_square = torch.cat([made.diagonal(dim1=1, dim2=2).flatten() for made in word_grams])
        object_square = region_gram.diagonal(dim1=1, dim2=2) if shared else torch.linalg.vector_norm(objects, dim=-1).square_()
        word_scale, object_scale = _one_over_norm(word_square), _one_over_norm(object_square)
        region_gram = None if region_gram is None else region_gram.to(products)
        w2r, o2w = (words.new_zeros(images, captions) for _ in range(2))
        differentiable = any(context.needs_input_grad)
        by_region = by_word = None  # the affinity, [B K, W] or [W, B M]
        if differentiable and "w2r" in directions and not turns:
            by_region = narrow[0].flatten(0, 1) @ narrow[2].T
        if differentiable and "o2w" in directions:
            by_word = narrow[2] @ narrow[0 if shared else 1].flatten(0, 1).T
        scratch = Scratch()
        for tile, block, similarity, turned in similarities(*narrow, words, by_region, by_word, tiles, directions, scratch):
            count = tile.last - tile.first
            if similarity is not None:
                result = attend(similarity, region_gram[block], temperature_w, scratch, spent=True)[0]
                result *= word_scale[tile.start : tile.stop]
                w2r[block, tile.first : tile.last] = result.view(-1, count, tile.length).mean(2)
            if turned is not None:
                result = attend(turned, word_grams[tile.number], temperature_o, scratch, spent=True)[0]
                result *= object_scale[block].flatten()
                o2w[block, tile.first : tile.last] = result.view(count, -1, object_scale.shape[1]).mean(2).T
        context.settings = tiles, directions
        context.save_for_backward(regions, objects, words, *narrow, region_gram, word_square, object_square,
                                  temperature_w, temperature_o, by_region, by_word, *word_grams)
        return w2r, o2w

    @staticmethod
    def backward(context, over_w2r, over_o2w):
        (regions, objects, words, *narrow, region_gram, word_square, object_square, temperature_w, temperature_o,
         by_region, by_word) = context.saved_tensors[:13]
        word_scale, object_scale = _one_over_norm(word_square), _one_over_norm(object_square)
        word_grams, (tiles, directions) = context.saved_tensors[13:], context.settings
        shared, vectors = objects is None, object_scale.shape[1]
        over_by_region, over_by_word = (None if kept is None else torch.empty_like(kept) for kept in (by_region, by_word))
        # of each word's part in an image's W2R score, [B, W], and of each object's in a caption's O2W score, [C, B M]
        each = torch.cat([torch.full((tile.last - tile.first,), tile.length) for tile in tiles]).to(words.device)
        over_word_results = (over_w2r / each).repeat_interleave(each, 1)
        over_object_results = (over_o2w.T / vectors).repeat_interleave(vectors, 1)
        over_region_gram = None if region_gram is None else torch.zeros_like(region_gram, dtype=words.dtype)
        over_word_grams = [torch.zeros_like(made) for made in word_grams]
        over_word_scale, over_object_scale = torch.zeros_like(word_scale), torch.zeros_like(object_scale)
        over_temperature_w, over_temperature_o = torch.zeros_like(temperature_w), torch.zeros_like(temperature_o)
        scratch, other = Scratch(), Scratch()
        for tile, block, similarity, turned in similarities(*narrow, words, by_region, by_word, tiles, directions, scratch):
            columns, seen = slice(tile.start, tile.stop), slice(block.start * vectors, block.stop * vectors)
            if turned is not None:
                gradient = over_object_results[tile.first : tile.last, seen]
                over_turned, gram_slope, heat, result, _ = attend_backward(
                    gradient * object_scale[block].flatten(), turned, word_grams[tile.number], temperature_o, scratch)
                over_object_scale[block].add_((gradient * result).sum(0).view(-1, vectors))
                over_word_grams[tile.number].add_(gram_slope)
                over_temperature_o.add_(heat)
            if similarity is not None:
                gradient = over_word_results[block, columns]
                slope, gram_slope, heat, result, _ = attend_backward(
                    gradient * word_scale[columns], similarity, region_gram[block], temperature_w, other)
                over_word_scale[columns].add_((gradient * result).sum(0))
                over_region_gram[block].add_(gram_slope)
                over_temperature_w.add_(heat)
                if over_by_region is not None:
                    part(over_by_region, block, regions.shape[1], columns).copy_(slope.flatten(0, 1))
                else:  # before both are narrowed
                    over_turned.view(tile.stop - tile.start, -1, vectors).add_(slope.permute(2, 0, 1))
            if turned is not None:
                over_by_word[columns, seen] = over_turned.flatten(0, 1)
        over_regions = over_objects = over_words = None
        if over_by_region is not None:
            over_regions = (over_by_region @ narrow[2]).view_as(regions).to(regions)
            over_words = (over_by_region.T @ narrow[0].flatten(0, 1)).to(words)
        if over_by_word is not None:
            kind, whole = (narrow[0], regions) if shared else (narrow[1], objects)
            over_kind = (over_by_word.T @ narrow[2]).view_as(whole).to(whole)
            over_regions, over_objects = (over_kind, None) if shared else (over_regions, over_kind)
            more = over_by_word @ kind.flatten(0, 1)
            over_words = more.to(words) if over_words is None else over_words.add_(more)
        # one over the norm is a function of the square, which is the Gram matrix's diagonal; -1/2 |x|^-3 is its slope
        over_word_square, over_object_square = (
            torch.where(square > SMALLEST_SQUARE, slope * scale**3 / -2, 0.0) for slope, scale, square in (
                (over_word_scale, word_scale, word_square), (over_object_scale, object_scale, object_square)))
        if shared:
            over_region_gram.diagonal(dim1=1, dim2=2).add_(over_object_square)
        elif over_objects is not None:
            over_objects.addcmul_(objects, 2 * over_object_square[..., None])
        if over_regions is not None:
            over_regions.baddbmm_(over_region_gram + over_region_gram.transpose(1, 2), regions)
        for tile, slope in zip(tiles, over_word_grams):
            square = over_word_square[tile.start : tile.stop].view(-1, tile.length)
            slope.diagonal(dim1=1, dim2=2).add_(square)
            _captions(over_words, tile).baddbmm_(slope + slope.transpose(1, 2), _captions(words, tile))
        return over_regions, over_objects, over_words, over_temperature_w, over_temperature_o, None, None, None


def _one_over_norm(square: Tensor) -> Tensor:
    return square.clamp_min(SMALLEST_SQUARE).rsqrt()


def _captions(words: Tensor, tile: Tile) -> Tensor:
    """The captions of a tile: [W, d] -> [captions, T, d], the same memory."""
    return words[tile.start : tile.stop].unflatten(0, (-1, tile.length))


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
            if "o2w" in directions:
                kept = None if by_word is None else by_word[columns, block.start * M : block.stop * M]
                seen = regions if shared else objects
                turned = product("by word", words[columns], seen[block].flatten(0, 1), kept)
            if "w2r" in directions and turned is not None and shared:
                # as a copy of three axes, which takes all threads; one of a transposed matrix takes one
                similarity = scratch("by region", turned.shape[::-1], like)
                similarity.view(-1, K, len(turned)).copy_(turned.view(len(turned), -1, K).permute(1, 2, 0))
            elif "w2r" in directions:
                kept = None if by_region is None else part(by_region, block, K, columns)
                similarity = product("by region", regions[block].flatten(0, 1), words[columns], kept)
            yield (
                tile, block,
                None if similarity is None else similarity.view(-1, K, tile.stop - tile.start),
                None if turned is None else turned.view(count, tile.length, -1),
            )


def product_dtype(regions: Tensor, products: torch.dtype | None) -> torch.dtype:
    """The dtype of the large products: the one asked for, that of autocast, or that of the regions."""
    device = regions.device.type
    return products or (torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else regions.dtype)


def pack(words: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tile], Tensor]:
    """Captions sorted by length: their words without padding [W, d], tiles, and the way back [C].

    words: [C, T, d], padded anyhow. lengths: [C]. Scores [B, C] of sorted captions are s[:, back] of those given.
    """
    width, ordered = words.shape[1], lengths.cpu().sort(stable=True)
    tiles = tiles_of(ordered.values.tolist(), TILE_WORDS[words.device.type])
    places = torch.arange(width) + width * ordered.indices[:, None]
    real = places[torch.arange(width) < ordered.values[:, None]].to(words.device)
    return words.flatten(0, 1).index_select(0, real), tiles, ordered.indices.to(words.device).argsort()


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
        packed, tiles, back = pack(words.to(wide), lengths)
        if directions == ("o2w",):  # nothing to share: the affinity is made the way round that O2W reads it
            objects = regions if objects is None else objects
        w2r, o2w = _ScorePairs.apply(
            regions.to(wide), None if objects is None else objects.to(wide), packed, temperature_w.to(wide),
            temperature_o.to(wide), tiles, directions, products,
        )
        return w2r[:, back], o2w[:, back]
