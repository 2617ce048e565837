"""Leaving out regions: what objects become by hand, nothing left out, the decisive regions left out.

Letters: N images, K regions, M objects, D feature size, P pairs, F shares removed.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bssan_lib.config import ModelConfig
from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.flickr8k import flickr8k_source
from bssan_lib.data.prepared import open_prepared
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.data.writing import write_split
from bssan_lib.errors import DataError
from bssan_lib.evaluation.faithfulness import (
    ORDERS,
    SHARES,
    deletion_curves,
    deletion_summary,
    kept_regions,
    remaining_objects,
    sample_pairs,
)
from bssan_lib.evaluation.metrics import evaluate_grounding
from bssan_lib.evaluation.photograph import FeatureExtractor, load_pretrained
from bssan_lib.evaluation.scoring import attend, score_split
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import Checkpoint
from tests.evaluation.test_grounding import QUARTERS
from tests.evaluation.test_grounding_checks import N, made_up
from tests.small_backbone import SmallBackbone


def test_objects_by_hand():
    regions = np.array([[1.0, 0], [3, 0], [5, 2], [7, 4]])
    objects = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.25, 0, 1, 0.5]])  # all; one; half of one and another
    features, left = remaining_objects(regions, QUARTERS, objects, np.ones(4, bool))
    assert left.all() and features == pytest.approx(np.array([[4, 1.5], [1, 0], [7 / 3, 0]]))
    features, left = remaining_objects(regions, QUARTERS, objects, np.array([False, True, True, True]))
    assert left.tolist() == [True, False, True]
    assert features == pytest.approx(np.array([[5, 2], [0, 0], [3, 0]]))


def test_with_nothing_removed_objects_are_those_of_the_backbone():
    backbone = SmallBackbone(1 / 255)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8))
    regions = backbone.extract([picture])
    made, left = remaining_objects(regions[0], backbone.boxes, backbone.object_boxes, np.ones(9, bool))
    assert left.all() and made == pytest.approx(backbone.pool_objects(regions)[0], abs=1e-6)


def test_what_is_removed():
    order = np.array([3, 0, 4, 1, 2])
    assert kept_regions(order, 0).all()
    assert kept_regions(order, 0.4).tolist() == [False, True, True, False, True]
    assert kept_regions(order, 0.99).tolist() == [False, False, True, False, False]  # one always stays


def test_pairs_are_drawn_once_from_each_picture(tmp_path):
    _, split = made_up(tmp_path)
    pairs = sample_pairs(split, 5, seed=1)
    assert len({image for image, _ in pairs}) == 5 and all(split.cap2im[caption] == image for image, caption in pairs)
    assert len(sample_pairs(split, 100)) == N and sample_pairs(split, 5, seed=1) == pairs


def with_objects(split):
    """The same with four windows of two by two as objects, pooled from the regions."""
    corners = np.array([[x, y, x + 2, y + 2] for y in range(2) for x in range(2)]) / 3
    pooled = [remaining_objects(regions, split.boxes[0], corners, np.ones(9, bool))[0] for regions in split.regions]
    return replace(split, objects=np.stack(pooled), object_boxes=np.tile(corners.astype(np.float32), (N, 1, 1)))


@pytest.mark.parametrize("change", [lambda split: split, with_objects])
def test_scores_of_the_kept_regions_are_those_of_a_smaller_picture(tmp_path, change):
    checkpoint, split = made_up(tmp_path)
    split = change(split)
    pairs = sample_pairs(split, N)
    curves = deletion_curves(checkpoint, split, pairs, progress=False)
    scores = score_split(checkpoint, split, progress=False).joint
    images, captions = np.array(pairs).T
    own = scores[images, captions]
    others = [np.delete(scores[image, captions], place).mean() for place, image in enumerate(images)]
    assert list(curves) == list(ORDERS)
    for rows in curves.values():
        assert rows["own"].shape == (N, len(SHARES))
        assert rows["own"][:, 0] == pytest.approx(own, abs=1e-5)
        assert rows["others"][:, 0] == pytest.approx(others, abs=1e-5)
    # the same by hand: a split of the regions that are left, scored like any other
    step = SHARES.index(0.5)
    image, caption = pairs[2]
    attention = attend(checkpoint, split, [(image, caption)])[0].w2r.mean(0)
    kept = kept_regions(np.argsort(-attention, kind="stable"), 0.5)
    rest = replace(split, regions=split.regions[:, kept], boxes=split.boxes[:, kept])
    if split.objects is not None:
        made = [remaining_objects(regions, split.boxes[0], split.object_boxes[0], kept) for regions in split.regions]
        left = made[0][1]
        objects = np.stack([objects[left] for objects, _ in made])
        rest = replace(rest, objects=objects, object_boxes=split.object_boxes[:, left])
    score = attend(checkpoint, rest, [(image, caption)])[0].score
    assert curves["most"]["own"][2, step] == pytest.approx(score, abs=1e-5)


def test_removing_the_region_of_the_word_costs_most(tmp_path):
    """Words whose vectors are regions' own: one region of each picture is the caption, the others are noise."""
    checkpoint, split = made_up(tmp_path)
    words = ["<pad>", "<unk>", *(f"thing{n}" for n in range(N))]
    torch.manual_seed(1)
    config = ModelConfig(joint_size=13, word_size=11, place=False)
    model = BSSAN(config, len(words), split.sizes["dimension"], False).eval()
    checkpoint = Checkpoint(model, Vocabulary(words), None, {}, None)
    captions = [f"thing{n // 2}" for n in range(2 * N)]
    split = replace(split, captions=captions)
    words = Words(captions[::2], checkpoint.vocabulary)
    with torch.no_grad():
        states = model.encode_captions(*words.batch(np.arange(N))).words[:, 0].numpy()  # [N, d]
        model.log_temperature_w.fill_(np.log(30.0))
        weight, bias = model.regions.project.weight.numpy(), model.regions.project.bias.numpy()
    regions = split.regions.copy()
    regions[:, 4] = (states * 5 - bias) @ np.linalg.pinv(weight).T  # the middle region has the code of the word
    split = replace(split, regions=regions)
    pairs = [(n, 2 * n) for n in range(N)]
    heaviest = [one.w2r[0].argmax() for one in attend(checkpoint, split, pairs)]
    assert heaviest == [4] * N
    found = deletion_summary(deletion_curves(checkpoint, split, pairs, progress=False), bootstrap=101)
    assert found["most"]["fall"] > found["random"]["fall"] > found["least"]["fall"]
    assert found["most minus random"]["fall_ci95"][0] > 0


def test_the_summary_by_hand():
    steps = len(SHARES) - 1
    ends = {"most": (0.4, 0.4), "least": (1.0, 0.9), "random": (0.9, 0.7), "another": (0.7, 0.7)}
    others = np.full((2, steps + 1), 0.1)
    rows = {
        order: {"own": np.array([[1.0, *[high] * steps], [0.8, *[low] * steps]]), "others": others}
        for order, (high, low) in ends.items()
    }
    found = deletion_summary(rows, bootstrap=97)
    assert found["pairs"] == 2 and found["removed"][:3] == [0, 5, 10]
    assert found["most"]["own"][:2] == pytest.approx([0.9, 0.4]) and found["most"]["lead"][1] == pytest.approx(0.3)
    assert [found[order]["fall"] for order in ORDERS] == pytest.approx([0.5, -0.05, 0.1, 0.2])
    assert found["most minus random"]["fall"] == pytest.approx(0.4)
    assert found["most minus random"]["fall_ci95"] == pytest.approx([0.3, 0.5])
    low, high = found["most"]["own_ci95"][0]
    assert low == pytest.approx(0.8) and high == pytest.approx(1.0)
    assert "own_ci95" not in deletion_summary(rows, bootstrap=0)["most"]


def test_what_cannot_be_removed(tmp_path):
    checkpoint, split = made_up(tmp_path)
    with pytest.raises(DataError, match="two or more pairs of different images, got 2 pairs of 1 images"):
        deletion_curves(checkpoint, split, [(0, 0), (0, 1)])
    with pytest.raises(DataError, match="needs boxes of regions and objects"):
        deletion_curves(checkpoint, replace(split, objects=split.regions), [(0, 0), (1, 2)])


def test_on_photographs_the_packaged_model_needs_what_it_attends_to(flickr8k, tmp_path):
    raw = flickr8k_source(flickr8k, ["dev"], None)["dev"]
    few, captions = 11, np.flatnonzero(raw.cap2im < 11)
    raw = replace(
        raw,
        ids=raw.ids[:few],
        captions=[raw.captions[c] for c in captions],
        cap2im=raw.cap2im[captions],
        phrases=[phrase for phrase in raw.phrases if phrase.caption < len(captions)],
    )
    checkpoint = load_pretrained()
    write_split(tmp_path / "prepared", raw, FeatureExtractor(checkpoint, "cpu").backbone, progress=False)
    split = open_prepared(tmp_path / "prepared", "dev")
    with torch.inference_mode():  # the model makes its objects itself, of the features that its last stage makes
        features, objects = checkpoint.model.tuned_features(**image_batch(split, np.array([3])))
    made, left = remaining_objects(
        features[0].numpy(), split.boxes[3], split.object_boxes[3], np.ones(len(features[0]), bool)
    )
    assert left.all() and made == pytest.approx(objects[0].numpy(), abs=1e-4)
    pairs = sample_pairs(split, few)
    found = deletion_summary(deletion_curves(checkpoint, split, pairs, progress=False), bootstrap=101)
    for order in ("least", "random", "another"):
        assert found[f"most minus {order}"]["fall_ci95"][0] > 0
    assert found["most"]["own"][0] > 2 * found["most"]["own"][-1] > 0
    pointing = evaluate_grounding(checkpoint, split, bootstrap=0, progress=False)
    assert pointing["combined"]["mass_in_box"] > pointing["w2r"]["mass_in_box"] > pointing["baselines"]["uniform_mass"]
