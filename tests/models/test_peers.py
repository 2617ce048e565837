"""VSE++ and SCAN: by hand, against loops that build every attended vector, and through trainer, scoring and checkpoint.

Letters: N and B images, C captions, K regions, T words, D feature size, d joint size.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bssan_lib.attention import tiles
from bssan_lib.attention.w2r import length_mask
from bssan_lib.config import ModelConfig, TrainingConfig, load_config
from bssan_lib.data.batches import Words
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.raw import Phrase
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.errors import BssanError, CheckpointError, ConfigError
from bssan_lib.evaluation.metrics import evaluate
from bssan_lib.evaluation.scoring import attend, score_split
from bssan_lib.evaluation.tables import format_table
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.build import build_model
from bssan_lib.models.checkpoint import Checkpoint, check_directions, load_checkpoint, save_checkpoint
from bssan_lib.models.scan import SCAN, leaky_normalized, pooled, scan_attention, scan_scores
from bssan_lib.models.vsepp import VSEPP
from bssan_lib.runs import repository_root
from bssan_lib.search.global_vectors import add_global_vectors
from bssan_lib.search.index import global_model
from bssan_lib.training.losses import batch_loss, hinge_loss, negatives
from bssan_lib.training.trainer import Trainer
from bssan_lib.viz import attention_note

B, C, K, T, D, SIZE = 2, 5, 3, 7, 11, 13
WAYS, POOLINGS = ("t2i", "i2t"), ("avg", "lse")
PEERS = ("vse++", "scan-t2i", "scan-i2t")
VOCABULARY = Vocabulary(["<pad>", "<unk>", *(f"w{number}" for number in range(17))])


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def make(seed=3, dtype=torch.float64, lengths=(4, T, 1, 4, 2), images=B, regions=K):
    """Regions [B, K, d] and words [C, T, d] of norm one, zero at padding; lengths [C]."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    v = unit(torch.randn(images, regions, SIZE, generator=generator, dtype=dtype))
    u = unit(torch.randn(len(lengths), int(lengths.max()), SIZE, generator=generator, dtype=dtype))
    return v, u * length_mask(lengths)[..., None], lengths


def loop_scan(regions, words, lengths, direction, pooling):
    """Lee et al. 2018, one pair after the other, one query after the other, the attended vector built."""
    scores = torch.zeros(len(regions), len(words), dtype=regions.dtype)
    softmax, lse = {"t2i": (9.0, 6.0), "i2t": (4.0, 5.0)}[direction]
    for b, v in enumerate(regions):
        for c, padded in enumerate(words):
            u = padded[: int(lengths[c])]
            queries, context = (u, v) if direction == "t2i" else (v, u)
            leaky = {}
            for k, vector in enumerate(context):
                own = [float(vector @ query) for query in queries]
                own = [s if s > 0 else 0.1 * s for s in own]
                norm = math.sqrt(sum(s * s for s in own))
                for t, s in enumerate(own):
                    leaky[k, t] = s / norm
            cosines = []
            for t, query in enumerate(queries):
                weights = torch.softmax(torch.tensor([softmax * leaky[k, t] for k in range(len(context))]).double(), 0)
                attended = sum(weight * vector for weight, vector in zip(weights, context))
                cosines.append(float(query @ attended / query.norm() / attended.norm()))
            if pooling == "avg":
                scores[b, c] = sum(cosines) / len(cosines)
            else:
                scores[b, c] = math.log(sum(math.exp(lse * r) for r in cosines)) / lse
    return scores


def plain_scan(regions, words, lengths, direction, pooling):
    """The same in whole tensors that autograd differentiates: every attended vector is built."""
    softmax, lse = {"t2i": (9.0, 6.0), "i2t": (4.0, 5.0)}[direction]
    rows = []
    for padded, length in zip(words, lengths.tolist()):
        u = padded[:length].expand(len(regions), -1, -1)
        queries, context = (u, regions) if direction == "t2i" else (regions, u)
        leaky = torch.nn.functional.leaky_relu(context @ queries.transpose(1, 2), 0.1)
        weights = torch.softmax(softmax * leaky / leaky.norm(dim=2, keepdim=True), dim=1)
        cosines = torch.cosine_similarity(queries, weights.transpose(1, 2) @ context, dim=2)
        rows.append(cosines.mean(1) if pooling == "avg" else (lse * cosines).exp().sum(1).log() / lse)
    return torch.stack(rows, dim=1)


# -- SCAN's formula


def test_competition_by_hand():
    # 3 and -40: the negative one leaks a tenth, -4, and the norm is 5; a masked one takes no part
    found = leaky_normalized(torch.tensor([[3.0, -40.0, 9.0]]), torch.tensor([True, True, False]))
    torch.testing.assert_close(found, torch.tensor([[0.6, -0.8, 0.0]]))


def test_pooling_by_hand():
    cosines = torch.tensor([0.2, 0.6, 7.0])
    mask = torch.tensor([True, True, False])
    assert pooled(cosines, "avg", 6.0, mask).item() == pytest.approx(0.4)
    assert pooled(cosines, "lse", 6.0, mask).item() == pytest.approx(math.log(math.exp(1.2) + math.exp(3.6)) / 6)


def test_text_to_image_by_hand():
    # Words (1, 0) and (0.6, 0.8), regions (1, 0) and (0, 1): s = [[1, 0.6], [0, 0.8]], each row over its norm.
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    p = [[1 / math.sqrt(1.36), 0.6 / math.sqrt(1.36)], [0.0, 1.0]]
    cosines = []
    for t, (x, y) in enumerate([(1.0, 0.0), (0.6, 0.8)]):
        a, b = math.exp(9 * p[0][t]), math.exp(9 * p[1][t])
        cosines.append((x * a + y * b) / math.hypot(a, b))
    lengths = torch.tensor([2])
    for function in (lambda *given: scan_attention(*given)[0], scan_scores):
        assert function(regions, words, lengths, "t2i", "avg").item() == pytest.approx(sum(cosines) / 2, abs=1e-6)
        lse = math.log(sum(math.exp(6 * r) for r in cosines)) / 6
        assert function(regions, words, lengths, "t2i", "lse").item() == pytest.approx(lse, abs=1e-6)


def test_image_to_text_by_hand():
    # One region (1, 0): each word's similarity is over its own norm, so p is 1 for (0.6, 0.8) and -1 for (-0.6, 0.8).
    regions = torch.tensor([[[1.0, 0.0]]])
    words = torch.tensor([[[0.6, 0.8], [-0.6, 0.8], [9.0, 9.0]]])
    a, b = math.exp(4), math.exp(-4)
    expected = 0.6 * (a - b) / math.hypot(0.6 * (a - b), 0.8 * (a + b))
    for function in (lambda *given: scan_attention(*given)[0], scan_scores):
        for pooling in POOLINGS:  # of one cosine, LogSumExp is that cosine
            found = function(regions, words, torch.tensor([2]), "i2t", pooling).item()
            assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("regions", [K, 1, 17])
def test_both_forms_agree_with_the_loop(way, pooling, regions):
    given = make(regions=regions)
    expected = loop_scan(*given, way, pooling)
    torch.testing.assert_close(scan_scores(*given, way, pooling), expected)
    scores, weights = scan_attention(*given, way, pooling)
    torch.testing.assert_close(scores, expected)
    sums = weights.sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert weights.shape == ((B, regions, C, T) if way == "t2i" else (C, T, B, regions))
    if way == "i2t":
        assert weights[2, 1:].abs().max() == 0, "padding is looked at"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 37, 211])
def test_make_tiles_any_size_give_the_same_scores_and_gradients(way, size, monkeypatch):
    given, weights = make(images=5, lengths=(3, 5, 3, 3, 2, 5, 3)), torch.randn(5, 7, dtype=torch.float64)

    def gradients():
        v, u = (part.clone().requires_grad_() for part in given[:2])
        scores = scan_scores(v, u, given[2], way, "lse")
        (scores * weights).sum().backward()
        return scores.detach(), v.grad, u.grad

    expected = gradients()
    monkeypatch.setitem(tiles.TILE_NUMBERS, "cpu", size)
    monkeypatch.setitem(tiles.TILE_WORDS, "cpu", size)
    for ours, whole in zip(gradients(), expected):
        torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients(way, pooling):
    v, u, lengths = make(lengths=(4, 2, 4, 1))
    weights = torch.arange(1.0, 9.0, dtype=torch.float64).view(B, 4)
    found = []
    for function in (scan_scores, lambda *given: scan_attention(*given)[0], plain_scan):
        # Norms are part of what is differentiated: the fast form holds for vectors of norm one.
        raw = [(3 * v).requires_grad_(), (3 * u).requires_grad_()]
        mask = length_mask(lengths)[..., None]
        words = (raw[1] / raw[1].norm(dim=-1, keepdim=True).clamp_min(1e-9)).masked_fill(~mask, 0.0)
        (function(unit(raw[0]), words, lengths, way, pooling) * weights).sum().backward()
        found.append([part.grad.masked_fill(~mask, 0.0) if part is raw[1] else part.grad for part in raw])
    for ours in found[:2]:
        for one, other in zip(ours, found[2]):
            torch.testing.assert_close(one, other)
    whole = torch.randn(3, 5, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    regions, three = (3 * v).requires_grad_(), torch.tensor([5, 5, 5])
    assert torch.autograd.gradcheck(
        lambda left, right: scan_scores(unit(left), unit(right), three, way, pooling), (regions, whole)
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_and_order_change_nothing(way, pooling):
    v, u, lengths = make()
    expected = scan_scores(v, u, lengths, way, pooling)
    padded = torch.cat([u, torch.full((C, 3, SIZE), 7.0, dtype=torch.float64)], 1)  # masks come from lengths
    torch.testing.assert_close(scan_scores(v, padded, lengths, way, pooling), expected)
    torch.testing.assert_close(scan_attention(v, padded, lengths, way, pooling)[0], expected)
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = scan_scores(v.flip(0)[:, [2, 0, 1]], u[order], lengths[order], way, pooling)
    torch.testing.assert_close(turned, expected.flip(0)[:, order])


@pytest.mark.parametrize("way", WAYS)
def test_products_in_bfloat16_move_scores_little(way):
    v, u, lengths = make(dtype=torch.float32)
    exact = scan_scores(v, u, lengths, way, "avg")
    near = scan_scores(v.requires_grad_(), u.requires_grad_(), lengths, way, "avg", torch.bfloat16)
    assert near.dtype == torch.float32 and 0 < (near - exact).abs().max() < 0.03
    near.sum().backward()
    assert v.grad.isfinite().all() and u.grad.isfinite().all()


def test_nothing_as_large_as_an_attended_vector_a_query_is_ever_made():
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

    v, u = torch.randn(7, 3, 521, requires_grad=True), torch.randn(11, 5, 521, requires_grad=True)
    for way in WAYS:
        with Watch():
            scan_scores(v, u, torch.full((11,), 5), way, "lse").sum().backward()
    assert max(sizes) <= u.numel() < 7 * 11 * 3 * 521


# -- models


def make_model(method, seed=2, **settings):
    torch.manual_seed(seed)
    given = dict(joint_size=SIZE, word_size=5, dropout=0.0, word_dropout=0.0, place=False) | settings
    return build_model(ModelConfig(method=method, **given), len(VOCABULARY), D, True)


def make_split(n=7, name="test", phrases=None):
    rng = np.random.default_rng(7)
    boxes = np.sort(rng.random((n, K, 2, 2)), axis=2).reshape(n, K, 4).astype(np.float32)
    captions = [" ".join(f"w{word}" for word in rng.integers(0, 19, rng.integers(1, 9))) for _ in range(2 * n)]
    return PreparedSplit(
        folder=Path("made up"),
        name=name,
        regions=rng.normal(size=(n, K, D)).astype(np.float32),
        objects=None,
        boxes=boxes,
        object_boxes=None,
        captions=captions,
        cap2im=np.arange(2 * n) // 2,
        ids=[f"{row}.png" for row in range(n)],
        phrases=phrases,
        satisfies=None,
        meta={"source": "made up", "splits": {name: {}}},
    )


def gru_states(network, inputs, backward=False):
    """States [T, d] of one direction of a GRU, cell by cell (Cho et al., 2014, as torch lays out its weights)."""
    end = "_l0_reverse" if backward else "_l0"
    w_i, w_h, b_i, b_h = (getattr(network, name + end) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    state, states = torch.zeros(SIZE), []
    for x in inputs.flip(0) if backward else inputs:
        (r_i, z_i, n_i), (r_h, z_h, n_h) = (w_i @ x + b_i).chunk(3), (w_h @ state + b_h).chunk(3)
        reset, update = torch.sigmoid(r_i + r_h), torch.sigmoid(z_i + z_h)
        state = (1 - update) * torch.tanh(n_i + reset * n_h) + update * state
        states.append(state)
    states = torch.stack(states)
    return states.flip(0) if backward else states


@torch.no_grad()
def scores_by_hand(model, split):
    """Scores [N, C] of a peer, one pair after the other."""
    project = (model.picture if isinstance(model, VSEPP) else model.regions).project
    found = np.zeros((len(split.ids), len(split.captions)))
    for c, caption in enumerate(split.captions):
        inputs = model.embed(torch.tensor(VOCABULARY.encode(tokenize(caption))))
        forward = gru_states(model.gru, inputs)
        for i, features in enumerate(torch.from_numpy(split.regions)):
            if isinstance(model, VSEPP):
                image = features.mean(0) @ project.weight.T + project.bias
                found[i, c] = torch.cosine_similarity(image, forward[-1], dim=0)
                continue
            words = unit((forward + gru_states(model.gru, inputs, backward=True)) / 2)[None]
            regions = unit(features @ project.weight.T + project.bias)[None]
            lengths = torch.tensor([words.shape[1]])
            found[i, c] = loop_scan(regions.double(), words.double(), lengths, model.direction, model.config.pooling)
    return found


@pytest.mark.parametrize(
    "method, settings",
    [
        ("vse++", {}),
        ("scan-t2i", {}),
        ("scan-t2i", {"pooling": "lse"}),
        ("scan-i2t", {}),
        ("scan-i2t", {"pooling": "lse"}),
    ],
)
def test_scores_of_a_split_agree_with_plain_loops(method, settings):
    model, split = make_model(method, **settings).eval(), make_split()
    checkpoint, parts = (
        Checkpoint(model, VOCABULARY, None, {}),
        {"scan-t2i": ("w2r",), "scan-i2t": ("o2w",)}.get(method, ()),
    )
    for memory in ("1GiB", "9KB"):
        scores = score_split(checkpoint, split, memory, progress=False)
        np.testing.assert_allclose(scores.joint, scores_by_hand(model, split), atol=2e-6)
    for part in ("w2r", "o2w"):
        own = getattr(scores, part)
        assert own is None if part not in parts else np.array_equal(own, scores.joint)
    assert scores.gate is None and model.parts == parts


@pytest.mark.parametrize("method, shape", [("scan-t2i", (4, K)), ("scan-i2t", (K, 4))])
def test_attention_shown_is_the_attention_that_scored(method, shape):
    model, split = make_model(method).eval(), make_split()
    split.captions[3] = "w1 w5 w2 w2"
    checkpoint = Checkpoint(model, VOCABULARY, None, {})
    one = attend(checkpoint, split, [(2, 3)])[0]
    shown, other = (one.w2r, one.o2w) if method == "scan-t2i" else (one.o2w, one.w2r)
    assert other is None and shown.shape == shape and one.gate is None
    np.testing.assert_allclose(shown.sum(1), 1, atol=1e-6)
    assert one.score == pytest.approx(score_split(checkpoint, split, progress=False).joint[2, 3], abs=1e-6)
    own, none = (one.score_w2r, one.score_o2w) if method == "scan-t2i" else (one.score_o2w, one.score_w2r)
    assert own == one.score and none is None
    note = attention_note(checkpoint, one, "2.png", split.captions[3], "W2R")
    assert note["method"] == method and [name for name in note if name.startswith("score ")] == (
        ["score W2R"] if method == "scan-t2i" else ["score O2W"]
    )
    codes = model.encode_images(torch.from_numpy(split.regions[2:3])).regions[0]
    words = model.encode_captions(*Words(split.captions, VOCABULARY).batch(np.array([3]))).words[0]
    queries, context = (words, codes) if method == "scan-t2i" else (codes, words)
    cosines = torch.cosine_similarity(queries, torch.from_numpy(shown.copy()) @ context, dim=1)
    assert cosines.mean().item() == pytest.approx(one.score, abs=1e-6)


def test_vse_has_no_attention_to_show():
    checkpoint = Checkpoint(make_model("vse++").eval(), VOCABULARY, None, {})
    with pytest.raises(BssanError, match="vse.* has no attention weights; use bssan"):
        attend(checkpoint, make_split(), [(0, 1)])


@pytest.mark.parametrize("method", PEERS)
def test_a_checkpoint_comes_back_as_it_was(method, tmp_path):
    model, split = make_model(method).eval(), make_split()
    save_checkpoint(tmp_path, model, VOCABULARY, None, {})
    loaded = load_checkpoint(tmp_path)
    assert type(loaded.model) is type(model) and loaded.model.config == model.config
    before = score_split(Checkpoint(model, VOCABULARY, None, {}), split, progress=False)
    np.testing.assert_array_equal(score_split(loaded, split, progress=False).joint, before.joint)
    with pytest.raises(CheckpointError, match="has no global vectors"):
        global_model(loaded)
    with pytest.raises(CheckpointError, match="expected bssan"):
        add_global_vectors(loaded, split, tmp_path / "more")


def make_trainer(folder, method, **training):
    settings = dict(epochs=3, batch_size=7, warmup_steps=0, learning_rate=0.01, dev_images=7) | training
    return Trainer(
        make_model(method),
        VOCABULARY,
        make_split(name="train"),
        make_split(name="dev"),
        TrainingConfig(**settings),
        folder,
        progress=False,
    )


@pytest.mark.parametrize("method", PEERS)
def test_the_trainer_trains_it(method, tmp_path):
    trainer = make_trainer(tmp_path, method, epochs=12)
    history = trainer.run()
    assert history[-1]["dev"]["rsum"] > history[0]["dev"]["rsum"] + 50, "seven pictures can be learned by heart"
    assert load_checkpoint(tmp_path).model.config.method == method


@pytest.mark.parametrize("method", PEERS)
def test_a_batch_in_parts_has_the_same_gradients(method, tmp_path):
    rows, gradients = np.array([0, 3, 5, 12, 9, 8, 7]), []
    for parts in (1, 3):
        trainer = make_trainer(tmp_path / str(parts), method, accumulation_steps=parts)
        trainer.backward(rows, epoch=2)
        gradients.append({name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
        assert gradient.abs().sum() > 0, f"{name} learns"


@pytest.mark.parametrize("method", PEERS)
def test_its_loss_is_that_of_its_score_alone(method):
    model, split = make_model(method), make_split()
    captions = np.arange(0, 14, 2)
    tokens = Words(split.captions, VOCABULARY).batch(captions)
    pairs = model.score(model.encode_images(torch.from_numpy(split.regions)), model.encode_captions(*tokens))
    rows = torch.arange(7)
    loss = batch_loss(pairs, rows, 2, TrainingConfig(direction_weight=0.5), "joint")
    assert loss == hinge_loss(pairs.joint, negatives(rows), 0.2, hardest=True)


@pytest.mark.parametrize("method, directions", [("vse++", None), ("scan-t2i", ["w2r"]), ("scan-i2t", ["o2w"])])
def test_metrics_leave_out_what_is_not_there(method, directions, tmp_path):
    split = replace(make_split(phrases=[Phrase(0, (0,), "shape", ((0.1, 0.1, 0.6, 0.7),))]), folder=tmp_path)
    metrics = evaluate(Checkpoint(make_model(method).eval(), VOCABULARY, None, {}), split, bootstrap=0, progress=False)
    assert "grounding" not in metrics and (list(metrics["directions"]) if directions else None) == directions
    assert ("directions" in metrics) == bool(directions) and metrics["model"]["method"] == method
    if directions:
        assert metrics["directions"][directions[0]]["rsum"] == metrics["rsum"]
    text = format_table(metrics)
    assert ("W2R alone" in text, "O2W alone" in text) == (method == "scan-t2i", method == "scan-i2t")


def test_what_shows_both_directions_refuses_a_method_without_them():
    for method in PEERS:
        with pytest.raises(CheckpointError, match=f"{method}.*does not attend in both directions".replace("+", r"\+")):
            check_directions(Checkpoint(make_model(method).eval(), VOCABULARY, None, {}))
    check_directions(Checkpoint(make_model("bssan").eval(), VOCABULARY, None, {}))


# -- which model the settings name


def test_the_model_that_the_settings_name():
    kinds = {"bssan": BSSAN, "vse++": VSEPP, "scan-t2i": SCAN, "scan-i2t": SCAN}
    assert {method: type(make_model(method)) for method in kinds} == kinds
    assert make_model("scan-t2i", place=True).has_place and not make_model("vse++", place=True).has_place


@pytest.mark.parametrize(
    "method, settings, said",
    [
        (
            "vse++",
            {"encoder": "lstm"},
            r"model.encoder: lstm has no effect with model.method: vse\+\+; remove it, or set it to bilstm",
        ),
        (
            "scan-t2i",
            {"direction": "w2r"},
            "model.direction: w2r has no effect with model.method: scan-t2i; remove it, or set it to joint",
        ),
        ("scan-i2t", {"global_term": True}, "model.global_term: True has no effect with"),
        ("vse++", {"pooling": "lse"}, "model.pooling: lse has no effect with"),
        (
            "bssan",
            {"pooling": "lse"},
            "model.pooling: lse has no effect with model.method: bssan; remove it, or set it to avg",
        ),
    ],
)
def test_settings_of_another_method_are_refused(method, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_model(method, **settings)


def test_bssan_is_not_built_where_another_method_is_wanted():
    with pytest.raises(ConfigError, match="model.method: expected bssan.* got scan-t2i.*build_model"):
        BSSAN(ModelConfig(method="scan-t2i"), len(VOCABULARY), D, False)


@pytest.mark.parametrize("name, method", [("vsepp", "vse++"), ("scan-t2i", "scan-t2i"), ("scan-i2t", "scan-i2t")])
def test_shipped_settings_are_those_their_authors_published(name, method):
    config = load_config(repository_root() / "configs" / "peers" / f"{name}.yaml", {"data.source": "flickr8k"})
    model = build_model(config.model, len(VOCABULARY), D, True)
    assert config.model.method == method and (config.model.joint_size, config.model.word_size) == (1024, 300)
    training = config.training
    assert (training.batch_size, training.clip_norm, training.margin, training.epochs) == (128, 2.0, 0.2, 30)
    assert training.learning_rate == 2e-4 and training.loss == "hinge" and not model.has_place


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_no_captions_or_no_images_have_no_scores(direction):
    regions, words, lengths = torch.randn(2, 3, 5), torch.randn(1, 4, 5), torch.tensor([4])
    assert scan_scores(regions, words[:0], lengths[:0], direction, "avg").shape == (2, 0)
    assert scan_scores(regions[:0], words, lengths, direction, "lse").shape == (0, 1)
