"""W2R and O2W against loops written from the equations, by hand, and by their properties."""

import math

import pytest
import torch

from bssan_lib.attention.attended import Scratch, attended_cosine, gram, safe_norm
from bssan_lib.attention.o2w import o2w_scores, o2w_weights
from bssan_lib.attention.w2r import affinity, length_mask, w2r_scores, w2r_weights
from tests.loops import loop_o2w, loop_w2r

B, C, K, M, T, D = 2, 3, 5, 7, 11, 13
TEMPERATURE = torch.tensor(4.0, dtype=torch.float64)


@pytest.fixture
def case():
    """Regions [B, K, d], objects [B, M, d], words [C, T, d] zero at padding, lengths [C]; float64."""
    generator = torch.Generator().manual_seed(17)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    lengths = torch.tensor([T, 1, 4])
    words = make(C, T, D) * length_mask(lengths, T)[..., None]
    return make(B, K, D), make(B, M, D), words, lengths


def test_w2r_by_hand():
    # One word (1, 0); two regions (1, 0) and (0, 1); lambda = ln 3: weights 3/4 and 1/4.
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[[1.0, 0.0]]])
    scores, weights = w2r_scores(regions, words, torch.tensor([1]), torch.tensor(math.log(3)))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.75, 0.25]))
    # c = (3/4, 1/4), cos = 3 / sqrt(10)
    assert scores.item() == pytest.approx(3 / math.sqrt(10), abs=1e-6)


def test_o2w_by_hand():
    # One object (2, 0); words (1, 0), (0, 1); similarities 2 and 0; lambda = ln 2 gives weights 4/5 and 1/5.
    objects = torch.tensor([[[2.0, 0.0]]])
    words = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    scores, weights = o2w_scores(objects, words, torch.tensor([2]), torch.tensor(math.log(2)))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.8, 0.2, 0.0]))
    assert scores.item() == pytest.approx(4 / math.sqrt(17), abs=1e-6)


def test_both_directions_agree_with_the_loops(case):
    regions, objects, words, lengths = case
    torch.testing.assert_close(
        w2r_scores(regions, words, lengths, TEMPERATURE)[0], loop_w2r(regions, words, lengths, TEMPERATURE)
    )
    torch.testing.assert_close(
        o2w_scores(objects, words, lengths, TEMPERATURE)[0], loop_o2w(objects, words, lengths, TEMPERATURE)
    )


@pytest.mark.parametrize("seed", range(5))
def test_float32_agrees_with_the_loops_on_random_sizes(seed):
    generator = torch.Generator().manual_seed(seed)
    size = lambda most: int(torch.randint(1, most + 1, (), generator=generator))  # noqa: E731
    lengths = torch.randint(1, (1, 80)[seed > 0] + 1, (size(4),), generator=generator)
    regions = torch.randn(size(3), size(37) if seed != 1 else 1, 19, generator=generator)
    words = torch.randn(len(lengths), int(lengths.max()), 19, generator=generator)
    words = words * length_mask(lengths)[..., None]
    temperature = torch.tensor(9.0)
    for fast, loop in ((w2r_scores, loop_w2r), (o2w_scores, loop_o2w)):
        difference = fast(regions, words, lengths, temperature)[0] - loop(regions, words, lengths, temperature)
        assert difference.abs().max() < 1e-5


def test_weights_are_those_of_the_plain_softmax(case):
    regions, objects, words, lengths = case
    alpha = w2r_weights(affinity(regions, words), TEMPERATURE)
    beta = o2w_weights(affinity(words, objects), length_mask(lengths, T), TEMPERATURE)
    torch.testing.assert_close(w2r_scores(regions, words, lengths, TEMPERATURE)[1], alpha)
    torch.testing.assert_close(o2w_scores(objects, words, lengths, TEMPERATURE)[1], beta)
    assert alpha.shape == (B, K, C, T) and beta.shape == (C, T, B, M)
    torch.testing.assert_close(alpha.sum(1), torch.ones(B, C, T, dtype=torch.float64))
    torch.testing.assert_close(beta.sum(1), torch.ones(C, B, M, dtype=torch.float64))
    assert beta[1, 1:].abs().max() == 0, "padding is looked at"


def test_more_padding_changes_nothing(case):
    regions, objects, words, lengths = case
    # Even padding that is not zero: masks come from lengths.
    padded = torch.cat([words, torch.full((C, 3, D), 7.0, dtype=torch.float64)], dim=1)
    for score, sight in ((w2r_scores, regions), (o2w_scores, objects)):
        before = score(sight, words, lengths, TEMPERATURE)[0]
        torch.testing.assert_close(score(sight, padded, lengths, TEMPERATURE)[0], before)


def test_order_of_regions_images_and_captions_is_only_order(case):
    regions, objects, words, lengths = case
    some, other = torch.tensor([4, 2, 0, 3, 1]), torch.tensor([2, 0, 1])
    scores, weights = w2r_scores(regions, words, lengths, TEMPERATURE)
    permuted, permuted_weights = w2r_scores(regions[:, some].flip(0), words[other], lengths[other], TEMPERATURE)
    torch.testing.assert_close(permuted, scores.flip(0)[:, other])
    torch.testing.assert_close(permuted_weights, weights.flip(0)[:, some][:, :, other])
    scores, _ = o2w_scores(objects, words, lengths, TEMPERATURE)
    torch.testing.assert_close(
        o2w_scores(objects.flip(0), words[other], lengths[other], TEMPERATURE)[0], scores.flip(0)[:, other]
    )


def test_sharper_temperature_ends_at_the_nearest_region(case):
    regions, _, words, lengths = case
    _, weights = w2r_scores(regions, words, lengths, torch.tensor(1e4, dtype=torch.float64))
    nearest = affinity(regions, words).argmax(1)
    mask = length_mask(lengths, T).expand(B, C, T)
    assert (weights.argmax(1)[mask] == nearest[mask]).all()
    assert weights.amax(1)[mask].min() > 0.99


def test_gradients_in_float64(case):
    regions, objects, words, lengths = (part.clone() for part in case)
    for tensor in (regions, objects, words):
        tensor.requires_grad_()
    temperature = TEMPERATURE.clone().requires_grad_()
    # Words of one length each, so that no padded word's zero norm lies at the kink of the clamp.
    full = torch.full((C,), T)
    words = torch.randn(C, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, u, x: w2r_scores(v, u, full, x)[0], (regions, words, temperature))
    assert torch.autograd.gradcheck(lambda o, u, x: o2w_scores(o, u, lengths, x)[0], (objects, words, temperature))


def test_gradients_agree_with_the_loops(case):
    regions, objects, words, lengths = case
    weights = torch.arange(1.0, B * C + 1, dtype=torch.float64).view(B, C)
    for fast, loop, sight in ((w2r_scores, loop_w2r, regions), (o2w_scores, loop_o2w, objects)):
        found = []
        for function in (lambda *a: fast(*a)[0], loop):
            leaves = [
                sight.clone().requires_grad_(),
                words.clone().requires_grad_(),
                TEMPERATURE.clone().requires_grad_(),
            ]
            (function(leaves[0], leaves[1], lengths, leaves[2]) * weights).sum().backward()
            found.append([leaf.grad for leaf in leaves])
        for ours, theirs in zip(*found):
            torch.testing.assert_close(ours, theirs)


def test_padded_words_have_a_gradient_of_zero_and_not_of_nan(case):
    regions, objects, words, lengths = case
    words = words.clone().requires_grad_()
    total = w2r_scores(regions, words, lengths, TEMPERATURE)[0].sum()
    (total + o2w_scores(objects, words, lengths, TEMPERATURE)[0].sum()).backward()
    assert torch.isfinite(words.grad).all()
    assert words.grad[~length_mask(lengths, T)].abs().max() == 0


def test_scores_are_cosines_whatever_the_scale(case):
    regions, objects, words, lengths = case
    scores, _ = w2r_scores(regions, 3 * words, lengths, TEMPERATURE / 3)
    torch.testing.assert_close(scores, w2r_scores(regions, words, lengths, TEMPERATURE)[0])
    assert w2r_scores(regions, words, lengths, TEMPERATURE)[0].abs().max() <= 1


def test_attended_cosine_of_equal_similarities_is_the_mean():
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    result, weights = attended_cosine(torch.ones(1, 2, 1), gram(vectors), torch.tensor(5.0))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.5, 0.5]))
    assert result.item() == pytest.approx(math.sqrt(2))  # (1, 1) . (1, 1) / sqrt 2 / ... = 1 / sqrt(1/2)


def test_weights_can_be_made_of_something_else_than_what_they_weigh():
    """Logits of their own, by hand: weights 3/4 and 1/4 over similarities 1 and 0.5, vectors (1, 0) and (0.5, 1)."""
    vectors = torch.tensor([[[1.0, 0.0], [0.5, 1.0]]])
    similarity = torch.tensor([[[1.0], [0.5]]])  # with the query (1, 0)
    logits = torch.tensor([[[math.log(3) / 5], [0.0]]])
    result, weights = attended_cosine(similarity, gram(vectors), torch.tensor(5.0), None, logits)
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.75, 0.25]))
    # z = (7/8, 1/4)
    assert result.item() == pytest.approx(0.875 / math.hypot(0.875, 0.25))


def test_gradients_with_logits_of_their_own():
    generator = torch.Generator().manual_seed(23)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()  # noqa: E731
    vectors, queries, logits, temperature = (
        make(B, K, D),
        make(B, T, D),
        make(B, K, T),
        TEMPERATURE.clone().requires_grad_(),
    )
    mask = torch.tensor([[True] * K, [True, True, False, True, False]])

    def result(vectors, queries, logits, temperature):
        return attended_cosine(vectors @ queries.transpose(1, 2), gram(vectors), temperature, mask, logits)[0]

    inputs = vectors, queries, logits, temperature
    assert torch.autograd.gradcheck(result, inputs)
    weights = torch.softmax((temperature * logits).masked_fill(~mask[..., None], float("-inf")), 1)
    attended = weights.transpose(1, 2) @ vectors  # built, as it is nowhere else
    torch.testing.assert_close(result(*inputs), (attended * queries).sum(-1) / attended.norm(dim=-1))
    # Logits that are the similarities give what there is without them, gradients included.
    outputs = []
    for given in (None, 1):
        similarity = (vectors @ queries.transpose(1, 2)).detach().requires_grad_()
        whole = attended_cosine(similarity, gram(vectors), temperature, mask, None if given is None else similarity)[0]
        outputs.append((whole, *torch.autograd.grad(whole.sin().sum(), [similarity, vectors, temperature])))
    for one, other in zip(*outputs):
        torch.testing.assert_close(one, other)


def test_products_in_bfloat16_keep_softmax_and_sums_in_float32(case):
    regions, objects, words, lengths = (part.float() if part.is_floating_point() else part for part in case)
    with torch.autocast("cpu", torch.bfloat16):
        scores, weights = w2r_scores(regions, words, lengths, TEMPERATURE.float())
    assert scores.dtype == weights.dtype == torch.float32
    exact = w2r_scores(regions, words, lengths, TEMPERATURE.float())[0]
    assert (scores - exact).abs().max() < 0.05


def test_safe_norm_and_mask():
    assert safe_norm(torch.tensor([[3.0, 4.0]])).item() == 5
    assert length_mask(torch.tensor([2, 0, 1]), 3).tolist() == [[True, True, False], [False] * 3, [True, False, False]]


def test_nothing_as_large_as_an_attended_vector_a_word_is_ever_made():
    """Memory: the largest tensor is [B, K, C, T] and not [B, C, T, d]. With d over a hundred times K it would show."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(
                part.numel()
                for part in (result if isinstance(result, tuple) else (result,))
                if isinstance(part, torch.Tensor)
            )
            return result

    regions = torch.randn(7, 3, 521, requires_grad=True)
    words = torch.randn(11, 5, 521, requires_grad=True)
    lengths = torch.full((11,), 5)
    with Watch():
        scores, _ = w2r_scores(regions, words, lengths, torch.tensor(9.0))
        (scores + o2w_scores(regions, words, lengths, torch.tensor(9.0))[0]).sum().backward()
    assert max(sizes) <= words.numel() < 7 * 11 * 5 * 521


def test_scratch_memory_is_reused():
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch("a", (3, 5), like)
    assert first.shape == (3, 5) and first.dtype == torch.float32 and first.is_contiguous()
    for shape in ((2, 7), (5, 3)):  # smaller or as large: the same memory
        assert scratch("a", shape, like).data_ptr() == first.data_ptr()
    assert scratch("b", (3, 5), like).data_ptr() != first.data_ptr()
    assert scratch("a", (2, 11), like).data_ptr() != first.data_ptr()  # larger
    assert scratch("a", (3,), like, torch.bfloat16).dtype == torch.bfloat16
    assert scratch("a", (3,), like.double()).dtype == torch.float64
