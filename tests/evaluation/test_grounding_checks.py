"""What attention is compared with: a prior by hand, phrases of other pictures, an untrained model, real boxes.

Letters: N images, C captions, K regions, M objects, T words, P phrases, D feature size.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bssan_lib.config import ModelConfig
from bssan_lib.data.prepared import PreparedSplit, open_prepared
from bssan_lib.data.raw import Phrase
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.data.writing import write_split
from bssan_lib.evaluation.grounding import MAPS, measure_phrases
from bssan_lib.evaluation.grounding_checks import (
    add_attention,
    add_checks,
    prior_maps,
    prior_of,
    shuffled_phrases,
    untrained_copy,
)
from bssan_lib.evaluation.metrics import evaluate_grounding
from bssan_lib.evaluation.scoring import attend
from bssan_lib.evaluation.tables import format_grounding, maps_table, pointing_table
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import Checkpoint
from tests.evaluation.test_grounding import QUARTERS, grid
from tests.small_backbone import SmallBackbone

LEFT, RIGHT, UPPER_LEFT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5)


def test_the_prior_by_hand():
    phrases = [
        Phrase(0, (0,), "people", (LEFT,)),
        Phrase(1, (0,), "people", (UPPER_LEFT,)),
        Phrase(2, (0,), "people/scene", (LEFT, RIGHT)),
        Phrase(3, (0,), "scene", ()),
        Phrase(3, (0,), "scene", (UPPER_LEFT, UPPER_LEFT)),
    ]  # the same box twice is one box
    maps = prior_maps(phrases, QUARTERS)
    assert maps["people"] == pytest.approx(np.array([3, 1, 2, 1]) / 7)  # upper left: in all three
    assert maps["scene"] == pytest.approx(np.array([2, 1, 1, 1]) / 5)
    assert maps[""] == pytest.approx(np.array([4, 1, 2, 1]) / 8)
    assert prior_of(maps, "people/scene") == pytest.approx((maps["people"] + maps["scene"]) / 2)
    assert prior_of(maps, "animals/people") == pytest.approx(maps["people"])
    assert prior_of(maps, "animals") == pytest.approx(maps[""])
    assert prior_maps([], QUARTERS) == {}


def test_a_larger_region_has_more_of_the_prior():
    regions = np.array([[0.0, 0.0, 0.75, 1.0], [0.75, 0.0, 1.0, 1.0]])
    assert prior_maps([Phrase(0, (0,), "scene", ((0.0, 0.0, 1.0, 1.0),))], regions)[""] == pytest.approx([0.75, 0.25])


def test_shuffled_phrases_are_of_the_same_type_and_of_another_picture():
    rng = np.random.default_rng(7)
    images = np.sort(rng.integers(0, 13, 101))
    phrases = [Phrase(n, (0,), str(rng.choice(["people", "animals", "scene"])), (LEFT,)) for n in range(101)]
    phrases[50] = Phrase(50, (0,), "instruments", (LEFT,))  # the only one of its type
    chosen = shuffled_phrases(phrases, images, seed=3)
    for place, (phrase, other) in enumerate(zip(phrases, chosen, strict=True)):
        assert images[other.caption] != images[place]
        assert other.type == phrase.type or phrase.type == "instruments"
    assert shuffled_phrases(phrases, images, seed=3) == chosen != shuffled_phrases(phrases, images, seed=4)
    assert shuffled_phrases(phrases[:5], [2] * 5) is None


WORDS = ["<pad>", "<unk>", "red", "star", "blue", "ring", "above"]
N, K, D = 7, 9, 11


def made_up(folder):
    """A checkpoint, and a split whose regions are a grid of three by three and whose objects are the regions."""
    torch.manual_seed(0)
    model = BSSAN(ModelConfig(joint_size=13, word_size=11), len(WORDS), dimension=D, place=True).eval()
    rng = np.random.default_rng(3)
    captions = [" ".join(rng.choice(WORDS[2:], 3)) for _ in range(2 * N)]
    phrases = [
        Phrase(c, (t,), str(rng.choice(["shape", "colour"])), (tuple(np.sort(rng.random((2, 2)), 0).ravel()),))
        for c in range(2 * N)
        for t in (0, 2)
    ]
    split = PreparedSplit(
        folder=folder,
        name="test",
        regions=rng.normal(size=(N, K, D)).astype(np.float32),
        objects=None,
        boxes=np.tile(grid(3, 3), (N, 1, 1)),
        object_boxes=None,
        captions=captions,
        cap2im=np.repeat(np.arange(N), 2),
        ids=[f"{row}.png" for row in range(N)],
        phrases=phrases,
        satisfies=None,
        meta={"source": "scenes", "splits": {"test": {}}},
    )
    return Checkpoint(model, Vocabulary(WORDS), None, {}, None), split


def measured_of(checkpoint, split):
    captions = range(2 * N)
    attentions = zip(captions, attend(checkpoint, split, [(int(split.cap2im[c]), c) for c in captions]))
    return measure_phrases(attentions, split.phrases, split.boxes, split.object_boxes, split.cap2im)


def test_its_own_words_give_its_own_numbers(tmp_path):
    checkpoint, split = made_up(tmp_path)
    measured = measured_of(checkpoint, split)
    add_attention(measured, "same", checkpoint, split, measured.phrases, progress=False)
    for part in ("w2r", "combined"):
        for measure in ("pointing_game", "mass_in_box", "area_under_curve"):
            assert measured.values[f"same_{part}", measure] == pytest.approx(measured.values[part, measure], abs=1e-5)
        assert np.array(measured.curves[f"same_{part}"]) == pytest.approx(np.array(measured.curves[part]), abs=1e-4)


def test_an_untrained_model_is_another_one_and_the_same_each_time(tmp_path):
    checkpoint, split = made_up(tmp_path)
    state = torch.random.get_rng_state()
    one, same, other = untrained_copy(checkpoint, 5), untrained_copy(checkpoint, 5), untrained_copy(checkpoint, 6)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's randomness moves
    weights = [each.model.embed.weight for each in (one, same, other, checkpoint)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert one.vocabulary is checkpoint.vocabulary and not one.model.training


def test_without_a_training_split_there_is_no_prior(tmp_path):
    checkpoint, split = made_up(tmp_path)
    measured = measured_of(checkpoint, split)
    before = {key: list(value) for key, value in measured.values.items()}
    add_checks(measured, checkpoint, split, progress=False)
    parts = {part for part, _ in measured.values}
    assert parts >= {"shuffled_w2r", "shuffled_combined", "untrained_w2r", "untrained_combined"}
    assert "prior" not in parts
    assert {key: measured.values[key] for key in before} == before
    assert all(len(value) == len(measured.phrases) for value in measured.values.values())


def test_tables_hold_what_was_measured(tmp_path):
    checkpoint, split = made_up(tmp_path)
    found = evaluate_grounding(checkpoint, split, bootstrap=23, progress=False, checks=True)
    plainly = evaluate_grounding(checkpoint, split, bootstrap=23, progress=False)
    for part in (*MAPS, "o2w", "baselines"):
        assert found[part] == plainly[part]  # checks change nothing else
    table = maps_table({"grounding": found})
    low, high = found["ci95"]["w2r"]["pointing_game"]
    assert table.loc["w2r", "pointing"] == f"{found['w2r']['pointing_game']:.1f} ({low:.1f} to {high:.1f})"
    assert table.loc["even attention", "curve"] == 50 and "shuffled w2r" in table.index
    by_type = pointing_table({"grounding": found}, "mass_in_box")
    assert by_type.loc["colour", "combined"] == found["by_type"]["colour"]["combined"]["mass_in_box"]
    assert by_type.loc["overall", "phrases"] == 28
    assert "untrained w2r" in by_type.columns and "o2w" not in by_type.columns
    text = format_grounding({"grounding": found})
    assert "Pointing game by type" in text and "nan" not in text.lower()


def test_real_boxes_make_a_prior_and_even_attention_gets_the_baselines(flickr8k, tmp_path):
    """Real photographs, captions and boxes; the features are mean colours, so what is tested is not the model."""
    from bssan_lib.data.flickr8k import flickr8k_source

    raws = flickr8k_source(flickr8k, ["dev"], None)
    raw = raws["dev"]
    few, some = 23, np.flatnonzero(raw.cap2im < 23)
    assert some.tolist() == list(range(len(some)))
    phrases = [phrase for phrase in raw.phrases if phrase.caption < len(some)]
    for name in ("train", "dev"):
        part = replace(
            raw,
            name=name,
            ids=raw.ids[:few],
            captions=raw.captions[: len(some)],
            cap2im=raw.cap2im[: len(some)],
            phrases=phrases,
        )
        write_split(tmp_path / "prepared", part, SmallBackbone(1 / 255), progress=False)
    split = open_prepared(tmp_path / "prepared", "dev")
    vocabulary = Vocabulary.from_captions(split.captions, 1)
    torch.manual_seed(0)
    model = BSSAN(ModelConfig(joint_size=13, word_size=11), len(vocabulary), dimension=3, place=True).eval()
    with torch.no_grad():
        model.log_temperature_w.fill_(-20.0)  # a softmax so soft that attention is even
    found = evaluate_grounding(Checkpoint(model, vocabulary, None, {}, None), split, 0, progress=False, checks=True)
    assert found["n_phrases"] > 100 and found["by_type"]["people"]["n"] > 30
    assert not any("/" in kind for kind in found["by_type"])
    w2r, base = found["w2r"], found["baselines"]
    assert w2r["pointing_game"] == pytest.approx(base["uniform_pointing_game"])
    assert w2r["mass_in_box"] == pytest.approx(base["uniform_mass"], abs=1e-3)
    assert w2r["area_under_curve"] == pytest.approx(50, abs=1e-3)
    # made of these very boxes, the prior must catch more of them than even attention does
    assert found["prior"]["mass_in_box"] > base["uniform_mass"]
    assert 50 < found["prior"]["area_under_curve"] < base["true_box_area_under_curve"] < 100
