"""The joint model: its parts, its padding, both readings of W2R, and what its settings switch."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bssan_lib.config import ModelConfig
from bssan_lib.errors import ConfigError
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.encoders import GlobalVector, place_features

B, C, K, M, T, D, WORDS = 2, 3, 5, 7, 11, 13, 23
SMALL = ModelConfig(joint_size=17, word_size=19, dropout=0.0, word_dropout=0.0)


def build(seed=1, place=True, **changes):
    torch.manual_seed(seed)
    return BSSAN(dataclasses.replace(SMALL, **changes), WORDS, D, place).eval()


@pytest.fixture
def case():
    """Features, boxes and padded word ids, all different sizes."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([4, T, 1])
    tokens = torch.randint(2, WORDS, (C, T), generator=generator)
    tokens[torch.arange(T)[None] >= lengths[:, None]] = 0
    corners = torch.rand(B, K + M, 2, generator=generator) * 0.5
    boxes = torch.cat([corners, corners + 0.3], dim=-1)
    return {
        "regions": torch.randn(B, K, D, generator=generator),
        "objects": torch.randn(B, M, D, generator=generator),
        "boxes": boxes[:, :K],
        "object_boxes": boxes[:, K:],
        "tokens": tokens,
        "lengths": lengths,
    }


def score(model, case, **kwargs):
    images = model.encode_images(case["regions"], case["objects"], case["boxes"], case["object_boxes"])
    return model.score(images, model.encode_captions(case["tokens"], case["lengths"]), **kwargs)


def test_joint_score_is_the_gated_sum(case):
    model = build()
    with torch.no_grad():
        model.gate_logit.fill_(1.5)
    pairs = score(model, case, weights=True)
    gate = 1 / (1 + torch.tensor(-1.5).exp())
    torch.testing.assert_close(pairs.joint, gate * pairs.w2r + (1 - gate) * pairs.o2w)
    assert pairs.joint.shape == (B, C)
    assert pairs.w2r_weights.shape == (B, K, C, T) and pairs.o2w_weights.shape == (C, T, B, M)


@pytest.mark.parametrize("direction, part", [("w2r", "w2r"), ("o2w", "o2w")])
def test_one_direction_alone_is_its_own_score(case, direction, part):
    model = build(direction=direction)
    pairs = score(model, case)
    torch.testing.assert_close(pairs.joint, getattr(pairs, part))
    assert not model.gate_logit.requires_grad


def test_codes_have_norm_one_and_words_are_zero_at_padding(case):
    model = build()
    images = model.encode_images(case["regions"], case["objects"], case["boxes"], case["object_boxes"])
    captions = model.encode_captions(case["tokens"], case["lengths"])
    torch.testing.assert_close(images.regions.norm(dim=-1), torch.ones(B, K))
    assert captions.words[0, 4:].abs().max() == 0 and captions.words[2, 1:].abs().max() == 0


def test_more_padding_and_other_neighbours_change_no_score(case):
    model = build()
    together = score(model, case).joint
    padded = {**case, "tokens": torch.nn.functional.pad(case["tokens"], (0, 3))}
    torch.testing.assert_close(score(model, padded).joint, together)
    for c in range(C):
        length = int(case["lengths"][c])
        alone = {**case, "tokens": case["tokens"][c : c + 1, :length], "lengths": case["lengths"][c : c + 1]}
        torch.testing.assert_close(score(model, alone).joint[:, 0], together[:, c])


def test_objects_are_the_regions_where_there_are_no_others(case):
    model = build(tie_projections=True)
    images = model.encode_images(case["regions"], None, case["boxes"])
    assert images.objects is images.regions
    same = model.encode_images(case["regions"], case["regions"], case["boxes"], case["boxes"])
    torch.testing.assert_close(same.objects, images.regions)
    untied = build(tie_projections=False).encode_images(case["regions"], None, case["boxes"])
    assert not torch.allclose(untied.objects, untied.regions)
    assert images[0:1].objects is not None and torch.equal(images[0:1].objects, images[0:1].regions)


def test_reading_b_is_reading_a_when_it_sees_nothing(case):
    """The LSTM's weights for the attended picture set to zero: the states, and so all scores, are those of (a)."""
    states, inputs = build(reading="states"), build(seed=2, reading="inputs")
    own = states.state_dict()
    for name, tensor in inputs.state_dict().items():
        if name.startswith("lstm.weight_ih"):
            tensor.zero_()
            tensor[:, : SMALL.word_size] = own[name]
        elif name in own:
            tensor.copy_(own[name])
    ours, theirs = score(inputs, case, weights=True), score(states, case, weights=True)
    for part in ("joint", "w2r", "o2w", "w2r_weights", "o2w_weights"):
        torch.testing.assert_close(getattr(ours, part), getattr(theirs, part))


def test_reading_b_reads_every_caption_with_the_picture_before_it(case):
    model = build(reading="inputs")
    before = score(model, case).joint
    other = {**case, "regions": case["regions"].flip(0)}
    torch.testing.assert_close(
        score(
            model,
            {
                **other,
                "boxes": case["boxes"].flip(0),
                "objects": case["objects"].flip(0),
                "object_boxes": case["object_boxes"].flip(0),
            },
        ).joint,
        before.flip(0),
    )
    assert not torch.allclose(before[0], before[1])
    score(model.train(), case).joint.sum().backward()
    assert model.first_query.weight.grad.abs().sum() > 0, "the first query learns"


def test_places_matter_only_where_boxes_are_known(case):
    model = build()
    with torch.no_grad():
        model.regions.place.weight.normal_()
    moved = {**case, "boxes": case["boxes"] * 0.5}
    assert not torch.allclose(score(model, moved).w2r, score(model, case).w2r)
    blind = build(place=False)
    torch.testing.assert_close(score(blind, moved).w2r, score(blind, case).w2r)
    assert blind.regions.place is None


def test_place_features_by_hand():
    found = place_features(torch.tensor([0.0, 0.5, 0.5, 1.0]))
    # centre (0.25, 0.75) on a scale from -1 to 1, width and height one half, their product, one
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.5, 0.5, 0.5, 0.25, 1.0]))


def test_temperatures_start_where_they_are_set_and_learn_only_if_asked(case):
    model = build(temperature_w=6.0, temperature_o=3.0, learn_temperature=False, gate="half")
    assert model.learned() == pytest.approx({"temperature_w": 6, "temperature_o": 3, "gate": 0.5})
    assert not any(p.requires_grad for p in (model.log_temperature_w, model.log_temperature_o, model.gate_logit))
    learning = build(global_size=0)
    score(learning, case).joint.sum().backward()
    assert all(p.grad is not None for p in learning.parameters() if p.requires_grad)


def test_the_global_vector_by_hand():
    head = GlobalVector(2, 2)
    with torch.no_grad():
        head.pool.weight.copy_(torch.tensor([[np.log(3.0), 0.0]]))  # [1, 0] weighs three times as much as [0, 1]
        head.project.weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
        head.project.bias.zero_()
    found = head(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]]))
    # 3/4 and 1/4, then 3 and 4, then norm one
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]]))


def test_global_vectors_are_of_norm_one_and_padding_changes_nothing(case):
    model = build(global_size=3)
    with torch.no_grad():
        model.global_caption.pool.weight.normal_()
    captions = model.encode_captions(case["tokens"], case["lengths"])
    vectors = model.caption_vectors(captions)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    longer = torch.nn.functional.pad(case["tokens"], (0, 5))
    torch.testing.assert_close(model.caption_vectors(model.encode_captions(longer, case["lengths"])), vectors)
    assert not build(global_size=0).has_global and not build(global_size=3, reading="inputs").has_global


def test_word_dropout_hides_words_in_training_alone(case):
    model = build(word_dropout=1 - 1e-9)  # every word, in float32
    unknown = {**case, "tokens": torch.where(case["tokens"] > 0, 1, 0)}
    torch.testing.assert_close(score(model.train(), case).joint, score(model.eval(), unknown).joint)
    assert not torch.allclose(score(model, case).joint, score(model, unknown).joint)


def test_channel_dropout_takes_a_channel_from_all_regions_of_an_image():
    model = build(region_dropout=0.5, place=False).train()
    with torch.no_grad():
        model.regions.project.weight.copy_(torch.eye(17, D))
        model.regions.project.bias.zero_()
    torch.manual_seed(3)
    codes = model.regions(torch.ones(B, K, D), None)
    gone = codes[..., :D] == 0
    assert gone.any() and torch.equal(gone, gone[:, :1].expand_as(gone)) and not torch.equal(gone[0], gone[1])


def test_summary_counts_every_parameter():
    model = build()
    summary = model.summary()
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["vocabulary_size"] == WORDS and summary["dimension"] == D and summary["joint_size"] == 17


# -- switches that take a part away or put another in its place


def naive_states(network, inputs):
    """[T, input] -> [T, d]: one caption, unpadded; the directions averaged."""
    states = network(inputs[None])[0][0]
    return states.unflatten(-1, (2 if network.bidirectional else 1, -1)).mean(1)


@pytest.mark.parametrize(
    "encoder, kind, gates, both",
    [
        ("bilstm", torch.nn.LSTM, 4, True),
        ("lstm", torch.nn.LSTM, 4, False),
        ("bigru", torch.nn.GRU, 3, True),
        ("gru", torch.nn.GRU, 3, False),
    ],
)
def test_the_encoder_that_the_settings_name(case, encoder, kind, gates, both):
    model = build(encoder=encoder)
    assert type(model.lstm) is kind and model.lstm.bidirectional is both
    assert model.lstm.weight_ih_l0.shape == (gates * 17, 19)
    found = model.encode_captions(case["tokens"], case["lengths"]).words
    for c, length in enumerate(case["lengths"].tolist()):
        states = naive_states(model.lstm, model.embed(case["tokens"][c, :length]))
        torch.testing.assert_close(found[c, :length], states / states.norm(dim=-1, keepdim=True))
        assert found[c, length:].abs().sum() == 0
    # A network of one direction knows nothing of later words; one of two does.
    later = case["tokens"].clone()
    later[1, 5:] = 1
    same = torch.equal(model.encode_captions(later, case["lengths"]).words[1, :5], found[1, :5])
    assert same is not both


def test_without_the_bilinear_form_words_meet_regions_as_they_are(case):
    plain, whole = build(bilinear=False), build()
    plain.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if "bilinear" not in name})
    torch.testing.assert_close(score(plain, case).joint, score(whole, case).joint)  # W starts as the identity
    with torch.no_grad():
        whole.bilinear.weight.normal_()
    assert not torch.allclose(score(plain, case).joint, score(whole, case).joint)
    counts = [sum(p.numel() for p in model.parameters()) for model in (whole, plain)]
    assert counts[0] - counts[1] == 17 * 17 and not any("bilinear" in name for name in plain.state_dict())
    assert plain.device == plain.embed.weight.device


def test_half_a_gate_stays_half(case):
    model = build(gate="half")
    pairs = score(model.train(), case)
    torch.testing.assert_close(pairs.joint, (pairs.w2r + pairs.o2w) / 2)
    pairs.joint.sum().backward()
    assert model.gate_logit.grad is None and model.learned()["gate"] == 0.5


@pytest.mark.parametrize("reading", ["states", "inputs"])
def test_every_pair_has_a_gate_of_its_own(case, reading):
    model = build(gate="pair", reading=reading, direction="joint")
    start = score(model, case)
    torch.testing.assert_close(start.gate, torch.full((B, C), 0.5))
    torch.testing.assert_close(start.joint, (start.w2r + start.o2w) / 2)
    with torch.no_grad():
        model.gate_region.normal_()
        model.gate_word.normal_()
        model.gate_logit.fill_(0.3)
    pairs = score(model, case, weights=True)
    assert pairs.gate.shape == (B, C) and pairs.gate.unique().numel() == B * C
    torch.testing.assert_close(pairs.joint, pairs.gate * pairs.w2r + (1 - pairs.gate) * pairs.o2w)
    torch.testing.assert_close(score(model, case).gate, pairs.gate)
    if reading == "states":
        images = model.encode_images(case["regions"], case["objects"], case["boxes"], case["object_boxes"])
        captions = model.encode_captions(case["tokens"], case["lengths"])
        for b in range(B):
            for c, length in enumerate(case["lengths"].tolist()):
                logit = (
                    model.gate_region @ images.regions[b].mean(0)
                    + model.gate_word @ captions.words[c, :length].mean(0)
                    + 0.3
                )
                assert pairs.gate[b, c].item() == pytest.approx(1 / (1 + math.exp(-logit.item())), abs=1e-6)
    assert model.learned()["gate"] == pytest.approx(1 / (1 + math.exp(-0.3)))


def test_the_gate_of_a_pair_learns_from_its_start(case):
    model = build(gate="pair")
    weights = torch.tensor([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0]])
    (score(model, case).joint * weights).sum().backward()
    for parameter in (model.gate_region, model.gate_word, model.gate_logit):
        assert parameter.grad.abs().sum() > 0
    alone = build(gate="pair", direction="w2r")
    pairs = score(alone, case)
    assert torch.equal(pairs.joint, pairs.w2r) and pairs.gate == 1 and not alone.gate_logit.requires_grad


def test_the_global_vectors_join_the_score(case):
    model = build(global_term=True, global_size=3)
    images = model.encode_images(case["regions"], case["objects"], case["boxes"], case["object_boxes"])
    captions = model.encode_captions(case["tokens"], case["lengths"])
    products = model.image_vectors(images) @ model.caption_vectors(captions).T
    for share in (0.25, 0.6):
        with torch.no_grad():
            if share != 0.25:  # which is where it starts
                model.global_logit.fill_(math.log(share / (1 - share)))
        for pairs in (model.score(images, captions), model.score(images, captions, weights=True)):
            both = 0.5 * pairs.w2r + 0.5 * pairs.o2w
            torch.testing.assert_close(pairs.joint, (1 - share) * both + share * products)
        assert model.learned()["global_share"] == pytest.approx(share)
    assert "global_share" not in build().learned()


def test_the_global_term_moves_regions_and_words(case):
    """With the attention's part held away, the gradient of the joint score still reaches projection and encoder."""
    for global_term in (True, False):
        model = build(global_term=global_term, global_size=3)
        images = model.encode_images(case["regions"], case["objects"], case["boxes"], case["object_boxes"])
        captions = model.encode_captions(case["tokens"], case["lengths"])
        pairs = model.score(images, captions)
        rest = 0.5 * pairs.w2r + 0.5 * pairs.o2w
        leaf = pairs.joint - (1 - (0.25 if global_term else 0)) * rest
        gradients = torch.autograd.grad(leaf.sum(), [images.regions, captions.words])
        assert all((part.abs().max() > 1e-4) == global_term for part in gradients)
    model = build(global_term=True, global_size=3)
    score(model, case).joint.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.global_logit.grad != 0


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"reading": "inputs"}, "got reading inputs and global_size 128"),
        ({"global_size": 0}, "got reading states and global_size 0"),
    ],
)
def test_the_global_term_needs_global_vectors(settings, said):
    with pytest.raises(ConfigError, match=f"model.global_term: true needs global vectors.*{said}"):
        build(global_term=True, **settings)
