"""bssan check-data: what it says of whole, damaged and missing data, its exit code, and its arithmetic by hand."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bssan_lib.commands.cli import main
from bssan_lib.config import Config, load_config
from bssan_lib.data import write_split
from bssan_lib.data.karpathy import karpathy_source
from bssan_lib.runs import repository_root
from bssan_lib.series import cost
from bssan_lib.series.check_data import check_folder, word_facts
from bssan_lib.series.cost import FeatureSizes, Measured, duration, evaluation_seconds, random_split, training_memory
from tests.data.test_karpathy import coco, entities, flickr, make
from tests.small_backbone import SmallBackbone

SMALL = [
    "data.image_size=32",
    "data.min_word_count=2",
    "model.joint_size=7",
    "model.word_size=5",
    "model.global_size=0",
    "training.batch_size=3",
    "training.epochs=2",
    "training.single_epochs=1",
    "evaluation.protocol=full",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "MEASURE_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)


def check(capsys, folder, *parameters, config=None):
    """Exit code, what was printed as {name: text}, and the error's text."""
    settings = [part for setting in (*SMALL, *parameters) for part in ("-p", setting)]
    code = main(["check-data", str(folder), *(["--config", str(config)] if config else []), *settings])
    said = capsys.readouterr()
    return code, {line[:19].strip(): line[19:].strip() for line in said.out.splitlines()}, said.err


def precomp(folder, splits=(("train", 7, 1), ("dev", 5, 5), ("test", 5, 5)), size=11):
    folder.mkdir()
    for seed, (name, images, repeats) in enumerate(splits):
        features = np.random.default_rng(seed).random((images, 3, size), np.float32)
        np.save(folder / f"{name}_ims.npy", features.repeat(repeats, axis=0))
        (folder / f"{name}_caps.txt").write_text("a dog runs\n" * (5 * images - 1) + "the horse\n")
    return folder


def test_photographs_beside_karpathys_file(tmp_path, capsys):
    folder = make(tmp_path / "flickr30k", flickr(), "flickr30k-images")
    entities(folder)
    before = sorted(folder.rglob("*"))
    code, said, error = check(capsys, folder)
    assert code == 0 and error == "" and said["missing"] == "nothing"
    assert said["format"] == "karpathy" and said["settings"] == "flickr30k"
    assert said["split train"] == "3 images, 10 captions, 2 to 5 per image"
    assert said["split dev"] == "1 images, 1 captions, 1 per image" and said["split test"].startswith(
        "1 images, 2 captions, 2"
    )
    # A b-caption such as "A b runs, number 0.": a, runs, number, and 0, 1, 2 come twice or more, so do b and e, and a again
    assert said["words"].startswith("8 of 10 occur at least 2 times in training") and said["words"].endswith(
        "5.0 per caption"
    )
    assert said["images"] == "5 of 5 opened are readable; 5 exist"
    assert said["boxes"] == f"Flickr30K Entities in {folder}"
    # 5 pictures of 1 region and 2 windows, 1280 numbers of 2 bytes
    assert "1 regions and 2 objects of 1280 numbers" in said["disk"] and said["disk"].startswith("38 kB")
    assert "2 epochs x 3 steps x" in said["training, about"] and "5 images x" in said["features, about"]
    assert said["next"] == f"bssan reproduce --config flickr30k --data {folder}"
    assert sorted(folder.rglob("*")) == before and sorted(tmp_path.iterdir()) == [folder]  # nothing was written


def test_coco_is_recognised_with_its_restval_and_ids(tmp_path, capsys):
    code, said, _ = check(capsys, make(tmp_path / "coco", coco(), "", "dataset_coco.json"))
    assert code == 0 and said["settings"] == "coco"
    assert said["restval"] == "1 images, part of train" and "--eccv" in said["COCO's ids"]


def test_everything_that_is_missing_is_named_at_once(tmp_path, capsys):
    folder = make(tmp_path / "coco", [image for image in coco() if image["split"] != "val"], "", "dataset_coco.json")
    (folder / "train2014" / "a.jpg").unlink()
    (folder / "val2014" / "d.jpg").write_bytes(b"no picture")
    code, said, error = check(capsys, folder, "evaluation.protocol=5k")
    assert code == 2 and "missing" not in said
    assert f"split train: 1 of 3 image files: {folder / 'train2014' / 'a.jpg'}" in error
    assert "d.jpg: not a picture" in error and "split dev: not found" in error
    assert "5k needs 5000 images" in error and error.count("\n  - ") == 4


def test_many_missing_pictures_are_counted(tmp_path):
    folder = make(tmp_path / "f", flickr())
    for name in "abe":
        (folder / "images" / f"{name}.jpg").unlink()
    images = flickr() + [{**flickr()[0], "filename": f"x{n}.jpg"} for n in range(4)]
    for n, image in enumerate(images[5:]):
        image["sentences"] = [{"raw": "more", "sentid": 90 + n}]
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    Image.new("RGB", (3, 3)).save(folder / "images" / "a.jpg")
    (missing,) = check_folder(folder, load_config(repository_root() / "configs" / "flickr30k.yaml")).missing
    assert missing.startswith("split train: 6 of 7 image files: ") and missing.endswith("x0.jpg and 3 more")


def test_a_damaged_file_is_reported_and_not_raised(tmp_path, capsys):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "dataset_flickr30k.json").write_text('{"images": [')
    code, said, error = check(capsys, folder)
    assert code == 2 and "damaged JSON" in error and said["cost"].startswith("not computed")


def test_flickr8k_with_and_without_all_pictures(tmp_path, capsys):
    folder = tmp_path / "f8k"
    (folder / "Images").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (5, 3)).save(folder / "Images" / f"{name}.jpg")
    (folder / "captions.txt").write_text(
        "image,caption\n" + "".join(f"{name}.jpg,a {name} runs\n" for name in "aabbbc")
    )
    for split, name in (("train", "a"), ("dev", "b"), ("test", "c")):
        (folder / f"Flickr_8k.{split}Images.txt").write_text(f"{name}.jpg\n")
    code, said, error = check(capsys, folder, "data.grid=null")
    assert code == 0 and said["split dev"] == "1 images, 3 captions, 3 per image" and said["boxes"].startswith("none")
    (folder / "Images" / "b.jpg").unlink()
    code, said, error = check(capsys, folder, "data.grid=null")
    assert (
        code == 2
        and "split dev: 1 of 1 image files: b.jpg" in error
        and said["split dev"] == "1 images, captions not read"
    )


def test_features_in_the_fields_format(tmp_path, capsys):
    folder = precomp(tmp_path / "f30k_precomp")
    before = sorted(folder.iterdir())
    code, said, error = check(capsys, folder)
    assert (code, error) == (0, "") and said["settings"] == "flickr30k-precomp" and said["format"] == "precomp"
    assert said["split train"] == "7 images, 35 captions, 5 per image" and said["split dev"].startswith(
        "5 images, 25 captions"
    )
    assert said["train_ims.npy"].startswith("[7, 3, 11] float32, 0.00 GB")
    assert said["test_ims.npy"].startswith("[25, 3, 11] float32, each image five times")
    assert said["words"].startswith("3 of 5") and "disk" not in said and "features, about" not in said
    assert (
        "2 epochs x 11 steps x" in said["training, about"]
        and "test: 5 images x 25 captions" in said["evaluation, about"]
    )
    assert "ids.txt" in said["not found"] and sorted(folder.iterdir()) == before


def test_coco_precomp_is_known_by_testall(tmp_path, capsys):
    folder = precomp(tmp_path / "data", (("train", 7, 1), ("dev", 5, 5), ("test", 5, 5), ("testall", 6, 1)))
    code, said, error = check(capsys, folder, "evaluation.protocol=1k-5fold")
    assert code == 2 and said["settings"] == "coco-precomp" and "needs 5000 images, but this split has 6" in error


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda f: (f / "dev_ims.npy").unlink(), ["dev_ims.npy: no features beside dev_caps.txt", "split dev"]),
        (lambda f: (f / "dev_caps.txt").unlink(), ["dev_caps.txt: no captions beside dev_ims.npy"]),
        (lambda f: (f / "train_caps.txt").write_text("a dog\n" * 36), ["7 images, but train_caps.txt has 36 captions"]),
        (lambda f: np.save(f / "dev_ims.npy", np.full((5, 3, 11), np.nan, np.float32)), ["dev_ims.npy, row 0: NaN"]),
        (
            lambda f: np.save(f / "dev_ims.npy", np.ones((5, 3, 13), np.float32)),
            ["13 numbers per region, other splits have 11"],
        ),
        (lambda f: np.save(f / "dev_ims.npy", np.ones((5, 33), np.float32)), ["expected 3 axes"]),
        (lambda f: (f / "dev_ims.npy").write_bytes((f / "dev_ims.npy").read_bytes()[:200]), ["not a whole .npy file"]),
    ],
)
def test_damaged_features_are_named(tmp_path, capsys, damage, said):
    folder = precomp(tmp_path / "f30k_precomp")
    damage(folder)
    code, _, error = check(capsys, folder)
    assert code == 2 and all(text in error for text in said), error


def test_features_prepared_here(tmp_path, capsys):
    for raw in karpathy_source(make(tmp_path / "raw", flickr())).values():
        write_split(tmp_path / "prepared", raw, SmallBackbone(), progress=False, meta={"source": "flickr30k"})
    code, said, _ = check(capsys, tmp_path / "prepared")
    assert code == 0 and said["format"] == "prepared" and said["settings"] == "flickr30k"
    assert said["train_ims.npy"] == "[3, 9, 3] float16, of flickr30k by colours"
    (tmp_path / "prepared" / "dev_ims.npy").write_bytes(b"")
    code, _, error = check(capsys, tmp_path / "prepared")
    assert code == 2 and "dev_ims.npy has 0 bytes" in error


def test_prepared_splits_cost_nothing(tmp_path, capsys):
    folder = make(tmp_path / "raw", flickr())
    for name, raw in karpathy_source(folder).items():
        if name != "test":
            write_split(tmp_path / "kept", raw, SmallBackbone(), progress=False)
    _, said, _ = check(capsys, folder, "data.prepared=kept")
    assert said["disk"].endswith("done already: dev, train") and "1 images x" in said["features, about"]


def test_settings_and_folders_that_do_not_fit_are_refused(tmp_path, capsys):
    folder = precomp(tmp_path / "f")
    code, _, error = check(capsys, folder, config="configs/scenes.yaml")
    assert code == 2 and "scenes" in error
    code, _, error = check(capsys, folder, "training.epoch=2")
    assert code == 2 and "training.epochs" in error
    (tmp_path / "empty").mkdir()
    code, _, error = check(capsys, tmp_path / "empty")
    assert code == 2 and "dataset_coco.json" in error and "{split}_ims.npy" in error
    raw = make(tmp_path / "raw", flickr())
    code, _, error = check(capsys, raw, config="configs/precomp.yaml")
    assert code == 2 and "the settings have precomp, the folder has karpathy" in error


def test_arithmetic_by_hand():
    assert FeatureSizes(49, 13, 1280).bytes(123_287) == 19_568_112_640 == 123_287 * 62 * 1280 * 2
    assert FeatureSizes(7, 5, 11).bytes(3, views=2) == 3 * (7 * 3 + 5) * 11 * 2
    config = Config()
    config.training.batch_size, config.model.joint_size = 2, 3
    # 16 a parameter; 4 bytes of 2 images x 12 vectors x (11 + 2 x 3); 2 captions x 5 words x 3 x 128; 4 bytes x 2 x 2 x 5 x 12
    expected = 16 * 13 + 4 * 2 * 12 * 17 + 2 * 5 * 3 * 128 + 148 * 2**20 + int(2.65 * 4 * 2 * 2 * 5 * 12)
    assert training_memory(config, FeatureSizes(7, 5, 11), 13, 5.0) == expected
    assert evaluation_seconds(Measured("x", 1.0, 0.5, 0.25, 0.125, 1), 3, 7) == 3 * 0.5 + 7 * 0.25 + 21 * 0.125
    assert [duration(s) for s in (0.0012, 0.085, 1.84, 42, 720, 12_345)] == [
        "1.2 ms",
        "85 ms",
        "1.8 s",
        "42 s",
        "12 min",
        "3.4 h",
    ]
    assert word_facts(["a dog", "a cat sits"], 2) == (1, 4, 2.5)


def test_a_random_split_has_the_sizes_of_a_run():
    split = random_split(FeatureSizes(7, 5, 11), ["a dog"] * 3)
    assert split.sizes == {"images": 3, "captions": 3, "regions": 7, "objects": 5, "dimension": 11}
    assert split.boxes.shape == (3, 7, 4) and split.object_boxes.shape == (3, 5, 4)
    bare = random_split(FeatureSizes(7, 0, 11, has_boxes=False), ["a dog"])
    assert bare.objects is bare.boxes is bare.object_boxes is None


def test_a_missing_folder_gives_an_exit_code_and_a_message(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(repository_root())}
    done = subprocess.run(
        [sys.executable, "-m", "bssan_lib", "check-data", tmp_path / "nowhere"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "no such folder" in done.stderr and "Traceback" not in done.stderr


def test_the_real_folder(flickr8k, capsys):
    found = check_folder(flickr8k, load_config(repository_root() / "configs" / "flickr8k.yaml"))
    assert found.missing == [] and len(found.pictures) == 8
    assert (found.splits["dev"].images, len(found.splits["dev"].captions)) == (1000, 5000)
