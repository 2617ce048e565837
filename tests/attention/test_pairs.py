"""The engine against loops written from the equations: values, gradients, and what may not change them."""

import math

import pytest
import torch

from bssan_lib.attention import tiles
from bssan_lib.attention.o2w import o2w_scores
from bssan_lib.attention.pairs import score_pairs
from bssan_lib.attention.tiles import make_tiles
from bssan_lib.attention.w2r import length_mask, w2r_scores
from tests.loops import loop_o2w, loop_w2r

D = 19
LAMBDA_W, LAMBDA_O = torch.tensor(9.0), torch.tensor(4.0)


def make(seed, images, regions, lengths, objects=None, dtype=torch.float32):
    """regions [B, K, d], objects [B, M, d] or None, words [C, T, d] zero at padding, lengths [C]."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    lengths = torch.tensor(lengths)
    words = draw(len(lengths), int(lengths.max()), D) * length_mask(lengths)[..., None]
    return draw(images, regions, D), None if objects is None else draw(images, objects, D), words, lengths


def loops(regions, objects, words, lengths, temperature_w=LAMBDA_W, temperature_o=LAMBDA_O):
    seen = regions if objects is None else objects
    return loop_w2r(regions, words, lengths, temperature_w), loop_o2w(seen, words, lengths, temperature_o)


CASES = {
    "objects are the regions": (3, 5, [7, 2, 7, 11, 1], None),
    "objects of their own": (3, 5, [7, 2, 7, 11, 1], 2),
    "more objects than regions": (2, 3, [5, 13], 7),
    "one region": (3, 1, [4, 2, 9], None),
    "one object": (2, 3, [4, 2, 9], 1),
    "one word": (2, 3, [1, 1], None),
    "one image and one caption": (1, 5, [3], 2),
    "every length to 80": (2, 3, list(range(80, 0, -3)), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_loops(case):
    images, regions, lengths, objects = CASES[case]
    inputs = make(7, images, regions, lengths, objects)
    for found, expected in zip(score_pairs(*inputs, LAMBDA_W, LAMBDA_O), loops(*inputs)):
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_make_tiles_any_size_give_the_same(seed, monkeypatch):
    inputs = make(seed, 11, 5, [3, 8, 3, 3, 2, 8, 5, 3, 3, 1], (None, 3)[seed % 2])
    expected = score_pairs(*inputs, LAMBDA_W, LAMBDA_O)
    monkeypatch.setitem(tiles.TILE_NUMBERS, "cpu", (1, 37, 211, 997)[seed])
    monkeypatch.setitem(tiles.TILE_WORDS, "cpu", (1, 6, 10, 24)[seed])
    for found, whole in zip(score_pairs(*inputs, LAMBDA_W, LAMBDA_O), expected):
        torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("slack", [0.2, 1.0, 99.0])
@pytest.mark.parametrize("objects", [None, 3])
def test_tiles_with_padding_give_the_same_scores_and_gradients(slack, objects, monkeypatch):
    """As on a GPU: captions of several lengths in a tile, padded and masked."""
    inputs = make(13, 7, 5, [3, 8, 3, 1, 2, 8, 5, 3, 11, 1], objects)

    def scores_and_gradients():
        vectors = [None if part is None else part.clone().requires_grad_() for part in inputs[:3]]
        lambda_w, lambda_o = LAMBDA_W.clone().requires_grad_(), LAMBDA_O.clone().requires_grad_()
        w2r, o2w = score_pairs(*vectors, inputs[3], lambda_w, lambda_o)
        (w2r * torch.linspace(-1, 2, w2r.numel()).view_as(w2r) + o2w.square()).sum().backward()
        return [w2r.detach(), o2w.detach(), *(part.grad for part in (*vectors, lambda_w, lambda_o) if part is not None)]

    expected = scores_and_gradients()
    monkeypatch.setattr(tiles, "length_slack", lambda device, affinities: slack)
    padded = tiles.pack(inputs[2], inputs[3], affinities=35)
    assert (padded.is_word is not None) == any(tile.mask is not None for tile in padded.tiles)
    assert len(padded.tiles) == {0.2: 6, 1.0: 3, 99.0: 1}[slack]
    for found, whole in zip(scores_and_gradients(), expected):
        torch.testing.assert_close(found, whole, atol=2e-5, rtol=1e-5)


def test_padding_by_how_much_is_computed():
    assert tiles.length_slack("cpu", 10) == 0 and tiles.length_slack("cuda", 10) == 1
    assert tiles.length_slack("cuda", 2**26) == 0.5 and tiles.length_slack("mps", 2**40) == tiles.MIN_SLACK


def test_no_captions_or_no_images_have_no_scores():
    regions, _, words, lengths = make(3, 2, 5, [4])
    assert [part.shape for part in score_pairs(regions, None, words[:0], lengths[:0], LAMBDA_W, LAMBDA_O)] == [
        (2, 0)
    ] * 2
    assert [part.shape for part in score_pairs(regions[:0], None, words, lengths, LAMBDA_W, LAMBDA_O)] == [(0, 1)] * 2


def test_equal_scores_stay_equal():
    regions, _, words, lengths = make(3, 1, 5, [4])
    twins = regions.expand(7, -1, -1), None, words.expand(13, -1, -1), lengths.expand(13)
    for scores in score_pairs(*twins, LAMBDA_W, LAMBDA_O):
        torch.testing.assert_close(scores, scores[:1, :1].expand(7, 13), atol=1e-6, rtol=0)
    flat = torch.ones(2, 5, D), None, torch.ones(3, 4, D), torch.tensor([4, 2, 1])
    for scores in score_pairs(*flat, LAMBDA_W, LAMBDA_O):  # everything looks like everything: every cosine is one
        torch.testing.assert_close(scores, torch.ones(2, 3), atol=1e-6, rtol=0)


def test_padding_order_and_scale_change_nothing():
    regions, objects, words, lengths = make(5, 3, 5, [6, 2, 9, 6], 2)
    expected = score_pairs(regions, objects, words, lengths, LAMBDA_W, LAMBDA_O)
    padded = torch.cat([words, torch.full((4, 17, D), 7.0)], 1)  # masks come from lengths, not from zeros
    order, images = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 0, 1])
    permuted = score_pairs(
        regions[images][:, [4, 1, 0, 2, 3]], objects[images], words[order], lengths[order], LAMBDA_W, LAMBDA_O
    )
    larger = score_pairs(
        regions, objects, 3 * words, lengths, LAMBDA_W / 3, LAMBDA_O / 3
    )  # the product with lambda is the same
    for place, whole in enumerate(expected):
        again = score_pairs(regions, objects, padded, lengths, LAMBDA_W, LAMBDA_O)[place]
        torch.testing.assert_close(again, whole, atol=1e-6, rtol=0)
        torch.testing.assert_close(permuted[place], whole[images][:, order], atol=1e-6, rtol=0)
        torch.testing.assert_close(larger[place], whole, atol=1e-6, rtol=0)
        assert whole.abs().max() <= 1


def test_similarities_of_any_size_do_not_overflow():
    regions, objects, words, lengths = make(29, 3, 5, [6, 2, 9], 2)
    for scale in (1e-6, 30.0):  # lambda s from nothing to tens of thousands
        inputs = regions * scale, objects * scale, words * scale, lengths
        for found, expected in zip(score_pairs(*inputs, LAMBDA_W, LAMBDA_O), loops(*inputs)):
            assert (found - expected).abs().max() < 1e-5


def test_a_word_of_zeros_has_a_finite_gradient():
    regions, objects, words, lengths = make(5, 2, 3, [4, 2], 2)
    words[0, 1] = 0
    inputs = [part.requires_grad_() for part in (regions, objects, words)]
    sum(scores.sum() for scores in score_pairs(*inputs, lengths, LAMBDA_W, LAMBDA_O)).backward()
    assert all(part.grad.isfinite().all() for part in inputs)


@pytest.mark.parametrize("objects", [None, 2])
@pytest.mark.parametrize("directions", [("w2r", "o2w"), ("w2r",), ("o2w",)])
def test_gradients_in_float64(objects, directions):
    regions, objects, words, lengths = make(11, 2, 3, [5, 2, 5], objects, torch.float64)
    leaves = [part.requires_grad_() for part in (regions, objects, words) if part is not None]
    heat = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (3.0, 2.0)]

    def scores(*parts):
        *codes, words, lambda_w, lambda_o = parts
        own = codes[1] if len(codes) > 1 else None
        both = score_pairs(codes[0], own, words, lengths, lambda_w, lambda_o, directions)
        return tuple(score for score, name in zip(both, ("w2r", "o2w")) if name in directions)

    assert torch.autograd.gradcheck(scores, (*leaves, *heat), atol=1e-6)


@pytest.mark.parametrize("objects", [None, 3])
def test_gradients_are_those_of_the_loops(objects):
    inputs = make(13, 3, 5, [7, 2, 11, 2], objects, torch.float64)
    weight = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for method in (score_pairs, loops):
        leaves = [None if part is None else part.clone().requires_grad_() for part in inputs[:3]]
        heat = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (9.0, 4.0)]
        w2r, o2w = method(*leaves, inputs[3], *heat)
        (weight[0] * w2r + weight[1] * o2w).sum().backward()
        found.append([leaf.grad for leaf in (*leaves, *heat) if leaf is not None])
    for fast, plain in zip(*found):
        torch.testing.assert_close(fast, plain, atol=1e-9, rtol=1e-7)


def test_one_direction_leaves_the_other_out():
    inputs = make(2, 3, 5, [6, 2, 9], 2)
    w2r, o2w = score_pairs(*inputs, LAMBDA_W, LAMBDA_O)
    alone = score_pairs(*inputs, LAMBDA_W, LAMBDA_O, ("w2r",))
    torch.testing.assert_close(alone[0], w2r)
    assert alone[1].abs().max() == 0
    alone = score_pairs(*inputs, LAMBDA_W, LAMBDA_O, ("o2w",))
    torch.testing.assert_close(alone[1], o2w)
    assert alone[0].abs().max() == 0


@pytest.mark.parametrize("objects", [None, 3])
def test_bfloat16_is_near(objects):
    inputs = make(17, 7, 11, [7, 2, 11, 5, 5], objects)
    leaves = [
        None if part is None else torch.nn.functional.normalize(part, dim=-1).requires_grad_() for part in inputs[:3]
    ]
    exact = score_pairs(*leaves, inputs[3], LAMBDA_W, LAMBDA_O)
    (exact[0] + exact[1]).sum().backward()
    exact_gradients = [leaf.grad.clone() for leaf in leaves if leaf is not None]
    for leaf in leaves:
        if leaf is not None:
            leaf.grad = None
    near = score_pairs(*leaves, inputs[3], LAMBDA_W, LAMBDA_O, products=torch.bfloat16)
    assert all(scores.dtype == torch.float32 for scores in near)
    for found, expected in zip(near, exact):
        assert 0 < (found - expected).abs().max() < 0.01  # narrower indeed, and no further off than its three digits
    (near[0] + near[1]).sum().backward()
    for leaf, expected in zip((leaf for leaf in leaves if leaf is not None), exact_gradients):
        assert leaf.grad.dtype == torch.float32
        assert (leaf.grad - expected).norm() < 0.03 * expected.norm()


def test_autocast_narrows_the_products_alone():
    inputs = make(17, 3, 5, [7, 2], 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = score_pairs(*inputs, LAMBDA_W, LAMBDA_O)
    for scores, expected in zip(found, score_pairs(*inputs, LAMBDA_W, LAMBDA_O, products=torch.bfloat16)):
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, expected, atol=0, rtol=0)


def test_tiles_hold_one_length_and_every_caption_once():
    lengths = sorted([3, 3, 3, 3, 5, 5, 1, 80])
    tiles = make_tiles(lengths, 7)
    assert [(tile.first, tile.last, tile.start, tile.stop, tile.length) for tile in tiles] == [
        (0, 1, 0, 1, 1),
        (1, 3, 1, 7, 3),
        (3, 5, 7, 13, 3),
        (5, 6, 13, 18, 5),
        (6, 7, 18, 23, 5),
        (7, 8, 23, 103, 80),
    ]  # no padding at all; a caption longer than a tile stands alone


def test_the_same_numbers_as_the_functions_that_teach():
    regions, objects, words, lengths = make(23, 3, 5, [6, 2, 9, 6], 2)
    w2r, o2w = score_pairs(regions, objects, words, lengths, LAMBDA_W, LAMBDA_O)
    torch.testing.assert_close(w2r, w2r_scores(regions, words, lengths, LAMBDA_W)[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(o2w, o2w_scores(objects, words, lengths, LAMBDA_O)[0], atol=1e-6, rtol=0)


def test_by_hand():
    # Regions (1, 0) and (0, 1), one word (1, 0), lambda = ln 3: weights 3/4 and 1/4, cosine 3 / sqrt(10).
    # Each region reads the one word: cosines 1 and 0.
    regions, words = torch.eye(2)[None], torch.tensor([[[1.0, 0.0]]])
    w2r, o2w = score_pairs(regions, None, words, torch.tensor([1]), torch.tensor(math.log(3)), torch.tensor(5.0))
    assert w2r.item() == pytest.approx(3 / math.sqrt(10), abs=1e-6) and o2w.item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("directions", [("w2r", "o2w"), ("w2r",), ("o2w",)])
@pytest.mark.parametrize("objects", [None, 3])
def test_gradients_of_many_small_tiles_are_those_of_one(objects, directions, monkeypatch):
    """Several blocks of images and several tiles of captions, each of which adds to the gradients."""
    inputs = make(13, 7, 5, [3, 8, 3, 1, 2, 8, 5, 3], objects)

    def gradients():
        leaves = [None if part is None else part.clone().requires_grad_() for part in inputs[:3]]
        temperatures = [LAMBDA_W.clone().requires_grad_(), LAMBDA_O.clone().requires_grad_()]
        scores = score_pairs(*leaves, inputs[3], *temperatures, directions)
        sum((one * torch.linspace(-1, 2, one.numel()).view_as(one)).sum() for one in scores).backward()
        return [part.grad for part in (*leaves, *temperatures) if part is not None and part.grad is not None]

    expected = gradients()
    monkeypatch.setitem(tiles.TILE_NUMBERS, "cpu", 97)
    monkeypatch.setitem(tiles.TILE_WORDS, "cpu", 6)
    for found, whole in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, whole, atol=2e-5, rtol=1e-5)


def test_packed_captions_by_hand(monkeypatch):
    """Three captions of 3, 1 and 2 words in one tile: sorted, padded with zeros, and back in their order."""
    monkeypatch.setattr(
        tiles, "length_slack", lambda device, affinities: 9.0 if (device, affinities) == ("cpu", 42) else 0.0
    )
    words = torch.arange(1.0, 10.0).view(3, 3, 1)
    packed = tiles.pack(words, torch.tensor([3, 1, 2]), affinities=7)  # six words with seven affinities each
    assert packed.words.flatten().tolist() == [4, 0, 0, 7, 8, 0, 1, 2, 3]
    assert packed.is_word.tolist() == [True, False, False, True, True, False, True, True, True]
    assert packed.lengths.tolist() == [1, 2, 3] and packed.padded_lengths.tolist() == [3, 3, 3]
    assert torch.tensor([[1, 2, 3]])[:, packed.unsort].tolist() == [[3, 1, 2]]
    alone = tiles.pack(words, torch.tensor([3, 1, 2]))
    assert [tile.length for tile in alone.tiles] == [1, 2, 3] and alone.is_word is None


def test_equal_lengths_keep_their_order():
    words = torch.arange(34.0).view(34, 1, 1)
    assert tiles.pack(words, torch.ones(34, dtype=torch.long)).words.flatten().tolist() == list(range(34))
