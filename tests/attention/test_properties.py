"""Properties of the equations, on inputs that hypothesis chooses: padding, order, scale, and the two directions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bssan_lib.attention.o2w import o2w_scores
from bssan_lib.attention.pairs import score_pairs
from bssan_lib.attention.w2r import w2r_scores

SMALL = st.integers(1, 5)
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def cases(draw):
    """Regions [B, K, d], objects [B, M, d], words [C, T, d], lengths [C], both temperatures; float64."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    d, scale = draw(st.integers(2, 7)), draw(st.floats(0.1, 3.0))
    lengths = torch.tensor(draw(st.lists(SMALL, min_size=1, max_size=4)))

    def make(*shape):
        return scale * torch.randn(*shape, d, generator=generator, dtype=torch.float64)

    images, regions, objects = draw(SMALL), draw(SMALL), draw(SMALL)
    temperatures = [torch.tensor(draw(st.floats(0.1, 20.0)), dtype=torch.float64) for _ in range(2)]
    words = make(len(lengths), int(lengths.max()))
    return make(images, regions), make(images, objects), words, lengths, *temperatures


def both(regions, objects, words, lengths, temperature_w, temperature_o):
    """Scores of the functions of the notebooks and of the fast ones, which must agree."""
    w2r = w2r_scores(regions, words, lengths, temperature_w)[0]
    o2w = o2w_scores(objects, words, lengths, temperature_o)[0]
    fast = score_pairs(regions, objects, words, lengths, temperature_w, temperature_o)
    same(fast, (w2r, o2w))
    return w2r, o2w


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


@EXAMPLES
@given(case=cases(), width=SMALL, value=st.floats(-50, 50))
def test_padding_changes_nothing(case, width, value):
    regions, objects, words, lengths, *temperatures = case
    padding = torch.full((len(words), width, words.shape[2]), value, dtype=words.dtype)
    padded = torch.cat([words, padding], dim=1)
    same(both(regions, objects, padded, lengths, *temperatures), both(*case))


@EXAMPLES
@given(case=cases(), data=st.data())
def test_order_of_images_regions_objects_and_captions(case, data):
    regions, objects, words, lengths, *temperatures = case

    def order(size):
        return torch.tensor(data.draw(st.permutations(range(size))))

    images, captions = order(len(regions)), order(len(words))
    mixed_regions = regions[images][:, order(regions.shape[1])]
    mixed_objects = objects[images][:, order(objects.shape[1])]
    found = both(mixed_regions, mixed_objects, words[captions], lengths[captions], *temperatures)
    same(found, [scores[images][:, captions] for scores in both(*case)])


@EXAMPLES
@given(case=cases(), data=st.data())
def test_order_of_words(case, data):
    """Attention has no place in the sentence; that comes from the encoder."""
    regions, objects, words, lengths, *temperatures = case
    mixed = words.clone()
    for caption, length in zip(mixed, lengths.tolist()):
        caption[:length] = caption[:length][torch.tensor(data.draw(st.permutations(range(length))))]
    same(both(regions, objects, mixed, lengths, *temperatures), both(*case))


@EXAMPLES
@given(case=cases(), factor=st.floats(0.1, 10.0))
def test_scale_of_words_is_that_of_the_temperature(case, factor):
    regions, objects, words, lengths, *temperatures = case
    scaled = both(regions, objects, factor * words, lengths, *(one / factor for one in temperatures))
    same(scaled, both(*case))
    assert all(scores.abs().max() <= 1 + 1e-9 for scores in scaled)


@EXAMPLES
@given(case=cases())
def test_one_direction_is_the_other_with_exchanged_roles(case):
    """W2R of regions and words is O2W of words as objects and regions as words, transposed."""
    regions, _, words, _, temperature, _ = case
    full = torch.full((len(words),), words.shape[1])
    regions_full = torch.full((len(regions),), regions.shape[1])
    w2r, weights = w2r_scores(regions, words, full, temperature)
    o2w, other_weights = o2w_scores(words, regions, regions_full, temperature)
    same((w2r, weights), (o2w.T, other_weights))
    fast_w2r, _ = score_pairs(regions, None, words, full, temperature, temperature)
    _, fast_o2w = score_pairs(words, None, regions, regions_full, temperature, temperature)
    same((fast_w2r,), (fast_o2w.T,))


@EXAMPLES
@given(case=cases(), times=st.integers(2, 4))
def test_regions_that_are_repeated_change_nothing(case, times):
    """A softmax over copies gives each its share of the same attended vector."""
    regions, objects, words, lengths, *temperatures = case
    repeated = both(regions.repeat(1, times, 1), objects.repeat(1, times, 1), words, lengths, *temperatures)
    same(repeated, both(*case))
