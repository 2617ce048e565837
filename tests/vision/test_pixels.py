"""Training from pixels: cells of a picture put together again, random parts, and the whole backbone tuned.

Letters: B images, K regions, S pixels along a side.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bssan_lib.config import Config, ModelConfig, TrainingConfig, config_from_dict, override
from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.prepared import open_prepared
from bssan_lib.data.raw import RawSplit
from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.data.writing import write_split
from bssan_lib.errors import ConfigError
from bssan_lib.evaluation.faithfulness import deletion_curves
from bssan_lib.evaluation.photograph import FeatureExtractor
from bssan_lib.evaluation.scoring import attend, score_model
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import load_checkpoint
from bssan_lib.training.optimization import stage_factor
from bssan_lib.training.trainer import Trainer
from bssan_lib.vision.augment import apply_views, can_mirror, draw_views
from bssan_lib.vision.backbone import from_patches, load_backbone, to_patches
from bssan_lib.vision.whole import WholeBackbone, tuned_backbone

CAPTIONS = ["a dog", "a cat on the left", "a red ball", "two men", "a Right turn"]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Five random pictures of 64 x 64 pixels, so 2 x 2 cells, with a caption each."""
    folder = tmp_path_factory.mktemp("pixels")
    (folder / "pictures").mkdir()
    random = np.random.default_rng(4)
    for i in range(5):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "pictures" / f"{i}.png")
    raw = RawSplit("train", [f"{i}.png" for i in range(5)], folder / "pictures", CAPTIONS, np.arange(5))
    backbone = load_backbone(image_size=64, device="cpu", windows=(1, 2), features="pixels")
    write_split(folder / "out", raw, backbone, progress=False)
    return open_prepared(folder / "out", "train")


def make_trainer(split, folder: Path, tune="all", **settings) -> Trainer:
    vocabulary = Vocabulary.from_captions(CAPTIONS, 1)
    torch.manual_seed(1)
    model = BSSAN(ModelConfig(joint_size=13, word_size=7, global_size=0, tune=tune), len(vocabulary), 3072, True)
    training = TrainingConfig(**dict(epochs=2, batch_size=2, warmup_steps=1, save_steps=1) | settings)
    return Trainer(model, vocabulary, split, split, training, folder, 1, split.meta["backbone"], progress=False)


def test_a_region_is_its_own_pixels():
    pixels = torch.arange(2 * 3 * 96 * 96).view(2, 3, 96, 96)
    patches = to_patches(pixels)
    assert patches.shape == (2, 9, 3072)
    # the cell in row 1, column 2 of the grid
    torch.testing.assert_close(patches[1, 5], pixels[1, :, 32:64, 64:96].flatten())
    torch.testing.assert_close(from_patches(patches), pixels)


def test_pixels_are_kept_as_they_are(split):
    assert split.regions.dtype == np.uint8 and split.regions.shape == (5, 4, 3072)
    assert split.objects is None and split.sizes["objects"] == 5 and split.boxes.shape == (5, 4, 4)
    picture = from_patches(torch.from_numpy(np.array(split.regions[3:4])))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(picture, np.asarray(split.image(3)))
    assert image_batch(split, np.array([3, 0]))["regions"].dtype == torch.uint8


def test_the_backbone_in_the_model_makes_the_features_of_the_frozen_one(split):
    frozen = load_backbone(image_size=64, device="cpu", windows=(1, 2))
    expected = frozen.extract([split.image(row) for row in range(5)])
    with torch.inference_mode():
        found = WholeBackbone("all").eval()(torch.from_numpy(np.array(split.regions)))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_what_is_tuned():
    whole, last = WholeBackbone("all"), WholeBackbone("stage")
    assert all(part.requires_grad for part in whole.parameters())
    tuned = {name.split(".")[1] for name, part in last.named_parameters() if part.requires_grad}
    assert tuned == {"_blocks", "_conv_head"}
    assert (
        0.1
        < sum(p.numel() for p in last.parameters() if p.requires_grad) / sum(p.numel() for p in last.parameters())
        < 0.5
    )
    assert tuned_backbone("none", 1280) is None
    with pytest.raises(ConfigError, match="model.tune to stage or all"):
        tuned_backbone("none", 3072)
    with pytest.raises(ConfigError, match="data.features: pixels"):
        tuned_backbone("all", 1280)
    with pytest.raises(ConfigError, match="efficientnet_lite0"):
        load_backbone("efficientnet_lite2", features="pixels")


def test_parts_by_hand():
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    patches = to_patches(pixels)
    views = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0.5, 0.25, 1, 0.75, 0]], dtype=torch.float32)
    found = from_patches(apply_views(patches, views))
    torch.testing.assert_close(found[0], pixels[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], pixels[1].flip(2), atol=1e-3, rtol=0)
    part = pixels[2:, :, 16:48, 32:]
    expected = torch.nn.functional.interpolate(part, (64, 64), mode="bilinear", align_corners=False)[0]
    # the same bilinear weights but at the part's own border, which the whole picture continues
    torch.testing.assert_close(found[2][:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-2, rtol=0)


def test_parts_are_large_inside_and_a_function_of_their_seed():
    views = draw_views(1009, (1, 7))
    left, top, right, bottom, mirrored = views.T
    area = (right - left) * (bottom - top)
    assert views[:, :4].min() >= 0 and views[:, :4].max() <= 1 + 1e-6
    assert 0.55 < area.min() < 0.7 and area.max() > 0.98 and 0.45 < mirrored.mean() < 0.55
    np.testing.assert_array_equal(views, draw_views(1009, (1, 7)))
    assert not np.array_equal(views, draw_views(1009, (1, 8))) and not np.array_equal(views, draw_views(1009, (2, 7)))


def test_captions_with_a_side_are_not_mirrored():
    assert can_mirror(CAPTIONS).tolist() == [True, False, True, True, False]
    assert can_mirror(["a bright leftover"]).tolist() == [True]


def test_the_backbone_waits_and_then_warms_up():
    training = TrainingConfig(stage_start=3, warmup_steps=4)
    assert [stage_factor(step, training) for step in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert stage_factor(0, TrainingConfig()) == 1


def test_it_trains_waits_stops_and_goes_on(split, tmp_path):
    through = make_trainer(split, tmp_path / "through", stage_start=2)
    before = {name: part.detach().clone() for name, part in through.model.named_parameters()}
    order = np.array([0, 1])
    through.train_step(order, 1), through.train_step(order, 1)
    stage = [name for name in before if name.startswith("stage.")]
    assert all(torch.equal(before[name], part) for name, part in through.model.named_parameters() if name in stage)
    through.train_step(order, 1)
    assert not any(
        torch.equal(before[name], part)
        for name, part in through.model.named_parameters()
        if name.endswith("_conv_stem.weight")
    )

    whole = make_trainer(split, tmp_path / "whole", stage_start=1)
    whole.run()
    half = make_trainer(split, tmp_path / "half", stage_start=1)
    step = half.train_step

    def stop_at_the_fourth(rows, epoch):
        if half.step == 3:
            raise KeyboardInterrupt
        return step(rows, epoch)

    half.train_step = stop_at_the_fourth
    with pytest.raises(KeyboardInterrupt):
        half.run()
    again = make_trainer(split, tmp_path / "half", stage_start=1)
    again.run()
    expected = whole.model.state_dict()
    assert all(torch.equal(part, expected[name]) for name, part in again.model.state_dict().items())


@pytest.mark.parametrize("tune", ["stage", "all"])
def test_a_checkpoint_holds_the_backbone_and_attends_to_a_picture(split, tmp_path, tune):
    make_trainer(split, tmp_path, tune, epochs=1).run()
    checkpoint = load_checkpoint(tmp_path)
    prepared = attend(checkpoint, split, [(3, 2)])[0]
    found = FeatureExtractor(checkpoint, "cpu").extract(split.image(3)).attend(CAPTIONS[2])
    assert prepared.w2r.shape == (3, 4) and prepared.o2w.shape == (5, 3)
    np.testing.assert_allclose(found.w2r, prepared.w2r, atol=1e-5)
    scores = score_model(checkpoint.model, split, Words(CAPTIONS, checkpoint.vocabulary), progress=False)
    assert scores.joint[3, 2] == pytest.approx(prepared.score, abs=1e-5)
    curves = deletion_curves(checkpoint, split, [(0, 0), (3, 3)], progress=False)
    assert np.isfinite(curves["most"]["own"]).all()


def test_the_key_of_an_earlier_version_still_counts():
    assert config_from_dict({"model": {"tune_stage": True}}, Config).model.tune == "stage"
    assert config_from_dict({"tune_stage": False}, ModelConfig).tune == "none"
    assert override(Config(), {"model.tune_stage": "true"}).model.tune == "stage"
