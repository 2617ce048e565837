"""Scores and attention of a split against two plain loops that build every attended vector.

Letters: N images, C captions, K regions, M objects, T words, D feature size, d joint size.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from bssan_lib.config import ModelConfig
from bssan_lib.data.batches import Words
from bssan_lib.data.prepared import PreparedSplit
from bssan_lib.data.vocabulary import Vocabulary, tokenize
from bssan_lib.errors import CheckpointError, ConfigError
from bssan_lib.evaluation import scoring
from bssan_lib.evaluation.scoring import attend, attend_arrays, score_model, score_split
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bssan_lib.models.encoders import place_features

D, SIZE = 11, 13
VOCABULARY = Vocabulary(["<pad>", "<unk>", *(f"w{number}" for number in range(17))])
BUDGETS = ["1GiB", "200KB", "20KB", 700]


def make_checkpoint(place=True, kind=BSSAN, **settings):
    """A model with random weights everywhere, also where training starts from zeros."""
    torch.manual_seed(5)
    model = kind(ModelConfig(joint_size=SIZE, word_size=7, **settings), len(VOCABULARY), D, place)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
        model.gate_logit.fill_(0.6)
        if model.has_pair_gate:
            model.gate_region.normal_()
            model.gate_word.normal_()
    return Checkpoint(model.eval(), VOCABULARY, None, {})


def make_split(n=7, k=5, m=3, lengths=(2, 19, 1, 3, 40, 7, 5, 11, 1, 13, 23), boxes=True, kind=np.float32):
    """Random features; caption c has lengths[c] words, some unknown. m=None: the objects are the regions."""
    rng = np.random.default_rng(7)

    def some_boxes(count):
        return np.sort(rng.random((n, count, 2, 2)), axis=2).reshape(n, count, 4).astype(np.float32)

    return PreparedSplit(
        folder=Path("made up"),
        name="test",
        regions=rng.normal(size=(n, k, D)).astype(kind),
        objects=None if m is None else rng.normal(size=(n, m, D)).astype(kind),
        boxes=some_boxes(k) if boxes else None,
        object_boxes=some_boxes(m) if boxes and m else None,
        captions=[" ".join(f"w{number}" for number in rng.integers(0, 19, length)) for length in lengths],
        cap2im=np.arange(len(lengths)) % n,
        ids=[f"{row}.png" for row in range(n)],
        phrases=None,
        satisfies=None,
        meta={"splits": {"test": {}}},
    )


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


def visual_codes(projection, features, boxes):
    """[K, D], [K, 4] or None -> [K, d]: norm(A x + a + P b)."""
    linear = projection.project
    found = torch.tensor(np.asarray(features, np.float32)) @ linear.weight.T + linear.bias
    if projection.place is not None and boxes is not None:
        found = found + place_features(torch.tensor(np.asarray(boxes))) @ projection.place.weight.T
    return unit(found)


def lstm_words(model, inputs):
    """[T, input] -> u [T, d], without packing or padding."""
    states = model.lstm(inputs[None])[0][0]
    if model.lstm.bidirectional:
        states = (states[:, :SIZE] + states[:, SIZE:]) / 2
    return unit(states) @ model.bilinear.weight.T if model.config.bilinear else unit(states)


def global_vector(head, vectors):
    """[L, d] -> [e] of norm one."""
    weights = torch.softmax(vectors @ head.pool.weight[0], 0)
    return unit(head.project.weight @ (weights @ vectors) + head.project.bias)


@torch.no_grad()
def by_hand(checkpoint, split, image, caption):
    """One pair, word by word and object by object: weights [T, K], [M, T] and (joint, w2r, o2w)."""
    model = checkpoint.model
    boxes = None if split.boxes is None else split.boxes[image]
    regions = visual_codes(model.regions, split.regions[image], boxes)
    of_objects = model.regions if model.config.tie_projections else model.objects
    if split.objects is None:
        objects = visual_codes(of_objects, split.regions[image], boxes)
    else:
        own = None if split.object_boxes is None else split.object_boxes[image]
        objects = visual_codes(of_objects, split.objects[image], own)
    lambda_w, lambda_o = float(model.log_temperature_w.exp()), float(model.log_temperature_o.exp())
    inputs = model.embed(torch.tensor(checkpoint.vocabulary.encode(tokenize(split.captions[caption]))))
    if model.config.reading == "inputs":
        first = inputs @ model.first_query.weight.T
        seen = torch.stack([torch.softmax(lambda_w * regions @ look, 0) @ regions for look in first])
        inputs = torch.cat([inputs, seen], dim=-1)
    words = lstm_words(model, inputs)
    alpha = torch.stack([torch.softmax(lambda_w * regions @ word, 0) for word in words])
    beta = torch.stack([torch.softmax(lambda_o * words @ one, 0) for one in objects])
    w2r = np.mean([cosine(word, weights @ regions) for word, weights in zip(words, alpha)])
    o2w = np.mean([cosine(one, weights @ words) for one, weights in zip(objects, beta)])
    gate = float(model.gate)
    if model.config.gate == "pair" and model.config.direction == "joint":
        logit = model.gate_logit + model.gate_region @ regions.mean(0) + model.gate_word @ words.mean(0)
        gate = float(logit.sigmoid())
    joint = gate * w2r + (1 - gate) * o2w
    if model.config.global_term:
        share = float(model.global_logit.sigmoid())
        joint = (1 - share) * joint + share * float(
            global_vector(model.global_image, regions) @ global_vector(model.global_caption, words)
        )
    return alpha.numpy(), beta.numpy(), (joint, w2r, o2w)


def scores_by_hand(checkpoint, split):
    """joint, w2r, o2w, each [N, C]."""
    n, c = len(split.ids), len(split.captions)
    found = [[by_hand(checkpoint, split, i, j)[2] for j in range(c)] for i in range(n)]
    return np.array(found).transpose(2, 0, 1)


def close(scores, expected):
    for name, matrix in zip(("joint", "w2r", "o2w"), expected):
        np.testing.assert_allclose(getattr(scores, name), matrix, atol=2e-6, err_msg=name)


def all_of(scores):
    return np.stack([scores.joint, scores.w2r, scores.o2w])


CASES = {
    "objects of their own": ({}, {}),
    "objects are the regions": ({}, {"m": None}),
    "one projection": ({"tie_projections": True}, {"m": None}),
    "one projection, objects of their own": ({"tie_projections": True}, {}),
    "no boxes": ({"place": False}, {"boxes": False}),
    "two layers": ({"lstm_layers": 2}, {}),
    "words feed the LSTM what they see": ({"reading": "inputs"}, {"n": 3}),
    "W2R alone": ({"direction": "w2r"}, {}),
    "O2W alone": ({"direction": "o2w"}, {}),
    "a plain product": ({"bilinear": False}, {}),
    "a gate for each pair": ({"gate": "pair"}, {}),
    "a gate for each pair, in reading (b)": ({"gate": "pair", "reading": "inputs"}, {"n": 3}),
    "the global vectors score too": ({"global_term": True, "global_size": 3}, {}),
    "a GRU of one direction": ({"encoder": "gru"}, {}),
    "one region and one object": ({}, {"k": 1, "m": 1}),
    "one word": ({}, {"lengths": (1, 1)}),
    "one image and one caption": ({}, {"n": 1, "lengths": (4,)}),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_agree_with_plain_loops(case):
    settings, sizes = CASES[case]
    checkpoint, split = make_checkpoint(**settings), make_split(**sizes)
    close(score_split(checkpoint, split, progress=False), scores_by_hand(checkpoint, split))


def test_every_length_from_one_to_forty():
    lengths = np.random.default_rng(1).permutation(40) + 1
    checkpoint, split = make_checkpoint(), make_split(n=3, lengths=lengths)
    close(score_split(checkpoint, split, progress=False), scores_by_hand(checkpoint, split))


class Watched(BSSAN):
    """Notes how many images and captions each call scores, and how many of them are encoded."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls, self.images, self.captions = [], 0, 0

    def score(self, images, captions, **options):
        self.calls.append((len(images.regions), len(captions.words)))
        return super().score(images, captions, **options)

    def encode_images(self, regions, *others, **named):
        self.images += len(regions)
        return super().encode_images(regions, *others, **named)

    def encode_captions(self, tokens, lengths):
        self.captions += len(tokens)
        return super().encode_captions(tokens, lengths)


def test_memory_budgets_change_the_work_and_not_the_scores():
    split = make_split(lengths=tuple(1 + (7 * row) % 37 for row in range(43)))
    expected, calls, encoded = None, [], []
    for budget in BUDGETS:
        checkpoint = make_checkpoint(kind=Watched)
        scores = score_split(checkpoint, split, memory=budget, progress=False)
        expected = all_of(scores) if expected is None else expected
        np.testing.assert_allclose(all_of(scores), expected, atol=1e-6)
        assert sum(images * captions for images, captions in checkpoint.model.calls) == 7 * 43
        calls.append(checkpoint.model.calls)
        encoded.append((checkpoint.model.images, checkpoint.model.captions, isinstance(scores.joint, np.memmap)))
    assert calls[0] == [(7, 43)] and len(calls[1]) > 1 and set(calls[-1]) == {(1, 1)}
    # images are encoded once; captions again for each part of the images, once these are more than half the budget
    assert encoded[0] == (7, 43, False) and encoded[-1] == (7, 7 * 43, True)


def test_bfloat16_products_move_scores_little_and_ranks_hardly():
    checkpoint, split = make_checkpoint(), make_split(n=31, lengths=(2, 5, 3) * 20)
    exact = score_split(checkpoint, split, progress=False)
    near = score_split(checkpoint, split, precision="bfloat16", progress=False)
    assert 0 < np.abs(all_of(near) - all_of(exact)).max() < 0.01
    with pytest.raises(ConfigError, match="precision: expected float32, bfloat16 or auto, got 'float8'"):
        score_split(checkpoint, split, precision="float8", progress=False)


@pytest.mark.parametrize("memory", ["1GiB", "20KB"])
def test_the_gate_that_is_reported_is_the_mean_over_pairs(memory):
    split = make_split()
    checkpoint = make_checkpoint(gate="pair")
    scores = score_split(checkpoint, split, memory, progress=False)
    pairs = [(i, c) for i in range(7) for c in range(11)]
    gates = [one.gate for one in attend(checkpoint, split, pairs)]
    assert scores.gate == pytest.approx(np.mean(gates), abs=1e-6) and np.std(gates) > 0.01
    one = score_split(make_checkpoint(), split, memory, progress=False)
    assert one.gate == pytest.approx(1 / (1 + np.exp(-0.6)))


@pytest.mark.parametrize("settings", [{"global_term": True}, {"gate": "pair"}, {"bilinear": False, "encoder": "bigru"}])
def test_search_finds_what_the_whole_score_ranks_first(settings, tmp_path):
    """The index keeps codes alone, so they must carry all that a score is made of; float16 moves it a little."""
    pytest.importorskip("faiss")
    from bssan_lib.search.index import build_index
    from bssan_lib.search.searcher import Searcher
    from bssan_lib.search.source import split_gallery

    model, split = make_checkpoint(**settings, global_size=3).model, make_split(n=17)
    split = PreparedSplit(**{**vars(split), "folder": tmp_path})
    np.save(tmp_path / "test_ims.npy", split.regions)  # an index notes when its features were written
    save_checkpoint(tmp_path / "model", model, VOCABULARY, None, {})
    checkpoint = load_checkpoint(tmp_path / "model")
    index = build_index(tmp_path / "index", checkpoint, split_gallery(checkpoint, split), progress=False)
    joint = score_split(checkpoint, split, progress=False).joint
    for caption in (0, 4, 10):
        found = Searcher(index, checkpoint).find_images(split.captions[caption], top=5, shortlist=17)
        assert [one.row for one in found] == np.argsort(-joint[:, caption])[:5].tolist()
        np.testing.assert_allclose([one.score for one in found], np.sort(joint[:, caption])[::-1][:5], atol=2e-3)


def test_chosen_rows_are_a_part_of_the_whole():
    checkpoint, split = make_checkpoint(), make_split()
    words = Words(split.captions, VOCABULARY)
    images, captions = np.array([5, 0, 3]), np.array([4, 10, 2, 0, 7])
    whole = all_of(score_split(checkpoint, split, progress=False))
    part = score_model(checkpoint.model, split, words, images=images, captions=captions, progress=False)
    np.testing.assert_allclose(all_of(part), whole[:, images][:, :, captions], atol=1e-6)


def test_a_permuted_gallery_permutes_scores():
    checkpoint, split = make_checkpoint(), make_split()
    rng = np.random.default_rng(3)
    images, captions = rng.permutation(7), rng.permutation(11)
    mixed = PreparedSplit(
        **{
            **vars(split),
            "captions": [split.captions[c] for c in captions],
            "ids": [split.ids[i] for i in images],
            **{name: getattr(split, name)[images] for name in ("regions", "objects", "boxes", "object_boxes")},
        }
    )
    expected = all_of(score_split(checkpoint, split, progress=False))[:, images][:, :, captions]
    np.testing.assert_allclose(all_of(score_split(checkpoint, mixed, progress=False)), expected, atol=1e-6)


@pytest.mark.parametrize("reading", ["states", "inputs"])
def test_more_padding_changes_no_score(reading):
    model = make_checkpoint(reading=reading).model
    regions, objects = torch.randn(3, 5, D), torch.randn(3, 2, D)
    tokens, lengths = torch.tensor([[4, 9, 3, 1], [6, 0, 0, 0], [2, 5, 0, 0]]), torch.tensor([4, 1, 2])
    with torch.no_grad():
        images = model.encode_images(regions, objects)
        short = model.score(images, model.encode_captions(tokens, lengths))
        padded = torch.nn.functional.pad(tokens, (0, 19))
        long = model.score(images, model.encode_captions(padded, lengths))
    for name in ("joint", "w2r", "o2w"):
        torch.testing.assert_close(getattr(short, name), getattr(long, name), atol=1e-6, rtol=0)


def test_features_from_a_file_that_may_only_be_read(tmp_path):
    split = make_split(kind=np.float16)
    mapped = {}
    for name in ("regions", "objects", "boxes"):
        np.save(tmp_path / f"{name}.npy", getattr(split, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    checkpoint, mapped = make_checkpoint(), PreparedSplit(**{**vars(split), **mapped})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_split(checkpoint, mapped, progress=False)
        attention = attend(checkpoint, mapped, [(2, 3)])[0]
    assert isinstance(mapped.regions, np.memmap) and mapped.regions.dtype == np.float16
    close(scores, scores_by_hand(checkpoint, split))
    assert attention.score == pytest.approx(scores.joint[2, 3], abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_attention_shown_is_the_attention_that_scored(case):
    settings, sizes = CASES[case]
    checkpoint, split = make_checkpoint(**settings), make_split(**sizes)
    scores = score_split(checkpoint, split, progress=False)
    pairs = [(i, c) for c in range(len(split.captions)) for i in range(len(split.ids)) if (i + c) % 3 == 0]
    for (i, c), one in zip(pairs, attend(checkpoint, split, pairs), strict=True):
        alpha, beta, (joint, w2r, o2w) = by_hand(checkpoint, split, i, c)
        assert one.words == tokenize(split.captions[c])
        np.testing.assert_allclose(one.w2r, alpha, atol=2e-6)
        np.testing.assert_allclose(one.o2w, beta, atol=2e-6)
        np.testing.assert_allclose(one.w2r.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(one.o2w.sum(1), 1, atol=1e-5)
        found = (one.score, one.score_w2r, one.score_o2w)
        assert found == pytest.approx((joint, w2r, o2w), abs=2e-6)
        assert found == pytest.approx((scores.joint[i, c], scores.w2r[i, c], scores.o2w[i, c]), abs=1e-6)
        fixed = {"w2r": 1, "o2w": 0}.get(settings.get("direction"))
        if settings.get("gate") == "pair":
            assert one.gate == pytest.approx((joint - o2w) / (w2r - o2w), abs=1e-3)
        else:
            assert one.gate == pytest.approx(1 / (1 + np.exp(-0.6)) if fixed is None else fixed)


def test_pairs_come_back_in_their_order():
    checkpoint, split = make_checkpoint(), make_split()
    pairs = [(3, 4), (0, 2), (3, 1), (0, 2), (6, 4)]
    together = attend(checkpoint, split, iter(pairs))
    for (i, c), one in zip(pairs, together, strict=True):
        alone = attend_arrays(
            checkpoint, split.regions[i], split.objects[i], split.boxes[i], split.object_boxes[i], split.captions[c]
        )
        assert one.words == alone.words and one.score == pytest.approx(alone.score, abs=1e-6)
        np.testing.assert_allclose(one.w2r, alone.w2r, atol=1e-6)
        np.testing.assert_allclose(one.o2w, alone.o2w, atol=1e-6)
    assert attend(checkpoint, split, []) == []


def test_a_caption_without_words_is_scored():
    checkpoint, split = make_checkpoint(), make_split()
    one = attend_arrays(checkpoint, split.regions[0], None, None, None, "!? \U0001f41f")
    assert one.words == ["<unk>"] and one.w2r.shape == (1, 5) and np.isfinite(one.score)


def test_features_of_another_size_are_refused():
    checkpoint, split = make_checkpoint(), make_split()
    other = PreparedSplit(**{**vars(split), "regions": split.regions[:, :, :10]})
    message = "'test' have 10 numbers per region, expected 11 as in training"
    with pytest.raises(CheckpointError, match=message):
        score_split(checkpoint, other, progress=False)
    with pytest.raises(CheckpointError, match=message):
        attend(checkpoint, other, [(0, 0)])


def test_blocks_of_captions_by_hand():
    lengths = np.array([3, 1, 2, 2, 5])
    blocks = scoring._caption_blocks(lengths, 6)
    # sorted 1 2 2 3 5: three captions of at most 2 words fill 6; a fourth of 3 words would make 12
    assert [block.tolist() for block in blocks] == [[1, 2, 3], [0], [4]]
    assert [block.tolist() for block in scoring._caption_blocks(lengths, 1)] == [[1], [2], [3], [0], [4]]
    assert [block.tolist() for block in scoring._caption_blocks(np.full(40, 2), 10**6)] == [list(range(40))]
    assert [block.tolist() for block in scoring._caption_blocks(np.array([1, 1, 1, 2, 2, 2]), 4)] == [
        [0, 1, 2],
        [3, 4],
        [5],
    ]
    assert [block.tolist() for block in scoring._caption_blocks(np.array([3, 5]), 1)] == [[0], [1]]


def test_precision_of_products(monkeypatch):
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(scoring, "fast_bfloat16", lambda fast=fast: fast)
        assert scoring.product_type("auto") == expected
    assert scoring.product_type("bfloat16") == torch.bfloat16
    with pytest.raises(ConfigError, match="expected float32, bfloat16 or auto, got 'half'"):
        scoring.product_type("half")


def test_scores_lie_in_memory_up_to_a_quarter_of_the_budget():
    """Three matrices of 5 x 7 numbers of 4 bytes are 420 bytes: a budget of 1,680."""
    for budget, kind in ((1680, np.ndarray), (1679, np.memmap)):
        matrix = scoring._matrix(5, 7, budget)
        assert type(matrix) is kind and matrix.dtype == np.float32 and matrix.shape == (5, 7)
        matrix[4, 6] = 0.5
        assert matrix[4, 6] == 0.5
