"""Captions sorted by length and cut into tiles, and the affinities of a tile's words with a block of images.

On a CPU a tile holds captions of one length and is small enough for the caches. Other devices compute fast but take
long to start a kernel. Their tiles are larger and also hold somewhat shorter captions, padded and masked.

Letters: B images, C captions, K regions, M objects, T words, W words of all captions together, d joint size.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bssan_lib.attention.attended import Scratch

# Largest number of affinities in a tile (2 MiB on a CPU, to fit its caches; 128 MiB on other devices), and of words.
TILE_NUMBERS: defaultdict[str, int] = defaultdict(lambda: 2**25, cpu=2**19)
TILE_WORDS: defaultdict[str, int] = defaultdict(lambda: 8192, cpu=512)
MIN_SLACK = 0.125  # for devices other than the CPU, see `make_tiles`


@dataclass
class Tile:
    """Rows first:last of the sorted captions. Their words, `length` for each caption, are rows start:stop of [W, d]."""

    number: int  # index of the tile
    first: int
    last: int
    start: int
    stop: int
    length: int
    mask: Tensor | None = None  # [captions, T], True for real words; None: all are


# a tile, the rows of its images, affinities by region [b, K, words] and by word [captions, T, b M]
AffinityTile = tuple[Tile, slice, Tensor | None, Tensor | None]


@dataclass
class PackedCaptions:
    """Captions sorted by length, with little or no padding.

    words: [W, d], zero at padding. lengths: [C] real words. padded_lengths: [C] words with padding. is_word: [W], False
    at padding, or None where there is no padding. unsort: [C]; scores s [B, C] of the sorted captions are
    s[:, unsort] in the order of the input.
    """

    words: Tensor
    tiles: list[Tile]
    lengths: Tensor
    padded_lengths: Tensor
    is_word: Tensor | None
    unsort: Tensor


def make_tiles(lengths: Sequence[int], words: int, slack: float = 0.0) -> list[Tile]:
    """Cuts captions into tiles of at most `words` words, padding included. lengths: [C], ascending.

    slack: the longest caption of a tile has at most (1 + slack) times the words of its shortest; 0: one length per
    tile.
    """
    tiles: list[Tile] = []
    first = start = 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths):
            longest = lengths[end]
            if longest <= (1 + slack) * lengths[first] and (end + 1 - first) * longest <= words:
                continue
        length = lengths[end - 1]
        stop = start + (end - first) * length
        tiles.append(Tile(len(tiles), first, end, start, stop, length))
        first, start = end, stop
    return tiles


def length_slack(device: str, affinities: int) -> float:
    """How much the lengths in a tile may differ: 0 on a CPU; on other devices less if more affinities are computed."""
    return 0.0 if device == "cpu" else min(1.0, max(MIN_SLACK, TILE_NUMBERS[device] / affinities))


def pack(words: Tensor, lengths: Tensor, affinities: int | None = None) -> PackedCaptions:
    """Sorts captions by length and packs their words.

    words: [C, T, d] with any padding. lengths: [C]. affinities: their number for each word, B times K or M; None: one
    caption length per tile on any device.
    """
    device, width = words.device, words.shape[1]
    order = lengths.cpu().sort(stable=True)
    slack = 0.0 if affinities is None else length_slack(device.type, int(order.values.sum()) * affinities)
    tiles = make_tiles(order.values.tolist(), TILE_WORDS[device.type], slack)
    padded_lengths = torch.cat([torch.full((tile.last - tile.first,), tile.length) for tile in tiles])
    columns = torch.arange(width)
    places = columns + width * order.indices[:, None]
    kept = places[columns < padded_lengths[:, None]].to(device)
    packed, is_word = words.flatten(0, 1).index_select(0, kept), None
    if not torch.equal(padded_lengths, order.values):
        masks = (columns < order.values[:, None]).to(device)
        for tile in tiles:
            tile.mask = masks[tile.first : tile.last, : tile.length]
        is_word = torch.cat([tile.mask.flatten() for tile in tiles if tile.mask is not None])
        packed = packed.masked_fill(~is_word[:, None], 0.0)
    unsort = order.indices.to(device).argsort()
    return PackedCaptions(packed, tiles, order.values.to(device), padded_lengths.to(device), is_word, unsort)


def captions_of(words: Tensor, tile: Tile) -> Tensor:
    """The captions of a tile as a view: [W, d] -> [captions, T, d]."""
    return words[tile.start : tile.stop].unflatten(0, (-1, tile.length))


def affinity_block(matrix: Tensor, images: slice, vectors: int, columns: slice) -> Tensor:
    """The affinities of some images with some words. matrix: [B K, W]. vectors: K. Returns [b K, columns]."""
    return matrix[images.start * vectors : images.stop * vectors, columns]


def affinity_tiles(
    regions: Tensor,
    objects: Tensor | None,
    words: Tensor,
    like: Tensor,
    by_region: Tensor | None,
    by_word: Tensor | None,
    tiles: list[Tile],
    directions: Sequence[str],
    scratch: Scratch,
) -> Iterator[AffinityTile]:
    """For each tile and block of images: the affinities by region [b, K, words], and by word [captions, T, b M].

    For a direction that is not in `directions` they are None. They are in scratch memory, in the dtype of `like`. If
    the stored affinities by_region [B K, W] or by_word [W, B M] are given, they are copied from there.
    """
    attending = regions if objects is None else objects
    K, M = regions.shape[1], attending.shape[1]

    def product(name: str, left: Tensor, right: Tensor, stored: Tensor | None) -> Tensor:
        if stored is None:
            shape = (len(left), len(right))
            stored = torch.mm(left, right.T, out=scratch(name + " rounded", shape, left))
            if stored.dtype == like.dtype:
                return stored
        return scratch(name, stored.shape, like).copy_(stored)

    for tile in tiles:
        columns, count = slice(tile.start, tile.stop), tile.last - tile.first
        for images in _image_blocks(len(regions), max(K, M), tile, like.device.type):
            of_regions = of_words = None
            if "o2w" in directions:
                stored = None if by_word is None else by_word[columns, images.start * M : images.stop * M]
                of_words = product("by word", words[columns], attending[images].flatten(0, 1), stored)
            if "w2r" in directions and of_words is not None and objects is None:
                # copied as a tensor of three axes, which uses all threads; a transposed matrix is copied by one thread
                of_regions = scratch("by region", of_words.shape[::-1], like)
                of_regions.view(-1, K, len(of_words)).copy_(of_words.view(len(of_words), -1, K).permute(1, 2, 0))
            elif "w2r" in directions:
                stored = None if by_region is None else affinity_block(by_region, images, K, columns)
                of_regions = product("by region", regions[images].flatten(0, 1), words[columns], stored)
            yield (
                tile,
                images,
                None if of_regions is None else of_regions.view(-1, K, tile.stop - tile.start),
                None if of_words is None else of_words.view(count, tile.length, -1),
            )


def _image_blocks(images: int, vectors: int, tile: Tile, device: str) -> list[slice]:
    """Blocks of image rows, each as large as a tile allows."""
    size = max(1, TILE_NUMBERS[device] // (vectors * (tile.stop - tile.start)))
    return [slice(first, min(first + size, images)) for first in range(0, images, size)]
