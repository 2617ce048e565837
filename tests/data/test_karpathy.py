"""Karpathy's JSON beside pictures: every layout in circulation, every key that is read, every way it can be wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bssan_lib.config import DataConfig
from bssan_lib.data import detect_source, open_prepared, prepare, raw_splits, write_split
from bssan_lib.data.karpathy import karpathy_file, karpathy_source
from bssan_lib.data.prepared import prepared_folder
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.errors import DataError
from bssan_lib.runs import repository_root
from tests.small_backbone import SmallBackbone

SPLITS = [("a", "train", 2), ("b", "restval", 3), ("c", "val", 1), ("d", "test", 2), ("e", "train", 5)]


def sentences(name, count, first):
    texts = [f"A {name} runs, number {row}." for row in range(count)]
    return [
        {"tokens": tokenize(text), "raw": text, "imgid": 0, "sentid": first + row} for row, text in enumerate(texts)
    ]


def flickr(count=5):
    """Entries as in dataset_flickr30k.json, without restval."""
    images, sentid = [], 0
    for number, (name, split, captions) in enumerate(SPLITS[:count]):
        made = sentences(name, captions, sentid)
        sentid += captions
        images.append(
            {
                "sentids": [one["sentid"] for one in made],
                "imgid": number,
                "sentences": made,
                "split": "train" if split == "restval" else split,
                "filename": f"{name}.jpg",
            }
        )
    return images


def coco():
    """Entries as in dataset_coco.json: filepath, cocoid, restval."""
    images = flickr()
    for number, (image, (_, split, _)) in enumerate(zip(images, SPLITS)):
        image |= {
            "filepath": "train2014" if split == "train" else "val2014",
            "split": split,
            "cocoid": 391895 + 7 * number,
        }
    return images


def make(folder, images, pictures="images", name="dataset_flickr30k.json", flat=False, beside=""):
    (folder / beside).mkdir(parents=True, exist_ok=True)
    (folder / beside / name).write_text(json.dumps({"images": images, "dataset": name[8:-5]}))
    for number, image in enumerate(images):
        place = folder / pictures / ("" if flat else image.get("filepath", ""))
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 3), (37 * number % 256, 9, 90)).save(place / image["filename"])
    return folder


@pytest.mark.parametrize(
    "pictures",
    [
        "",
        "images",
        "Images",
        "flickr30k-images",
        "flickr30k_images",
        "Flicker8k_Dataset",
        "flickr30k-images/flickr30k-images",
    ],
)
@pytest.mark.parametrize("name", ["dataset_flickr8k.json", "dataset_flickr30k.json"])
def test_flickr_in_every_layout(tmp_path, pictures, name):
    splits = karpathy_source(make(tmp_path, flickr(), pictures, name))
    assert list(splits) == ["train", "dev", "test"]
    train = splits["train"]
    assert train.ids == ["a.jpg", "b.jpg", "e.jpg"] and train.cap2im.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert train.cap2im.dtype == np.int64 and train.captions[2] == "A b runs, number 0."
    assert splits["dev"].captions == ["A c runs, number 0."] and splits["test"].ids == ["d.jpg"]
    assert (train.image_folder / "e.jpg").is_file() and train.coco_ids is None and train.phrases is None


@pytest.mark.parametrize("pictures, flat", [("", False), ("images", False), ("images", True), ("", True)])
@pytest.mark.parametrize("beside", ["", "karpathy", "annotations"])
def test_coco_with_its_folders_and_without(tmp_path, pictures, flat, beside):
    folder = make(tmp_path, coco(), pictures, "dataset_coco.json", flat, beside)
    splits = karpathy_source(folder)
    train = splits["train"]
    assert train.ids == (
        ["a.jpg", "b.jpg", "e.jpg"] if flat else ["train2014/a.jpg", "val2014/b.jpg", "train2014/e.jpg"]
    )
    assert all((train.image_folder / name).is_file() for name in train.ids)
    assert train.notes == {"file": "dataset_coco.json", "restval_images": 1}
    assert train.coco_ids[:4].tolist() == [[391895, 0], [391895, 1], [391902, 2], [391902, 3]]
    assert splits["dev"].coco_ids.tolist() == [[391909, 5]] and splits["test"].coco_ids.tolist() == [
        [391916, 6],
        [391916, 7],
    ]


def test_caption_ids_may_stand_in_the_images_list_alone(tmp_path):
    images = coco()
    for image in images:
        for sentence in image["sentences"]:
            del sentence["sentid"]
    assert karpathy_source(make(tmp_path, images), ["test"])["test"].coco_ids.tolist() == [[391916, 6], [391916, 7]]


def test_only_the_pictures_of_wanted_splits_are_needed(tmp_path):
    folder = make(tmp_path, coco(), "", "dataset_coco.json")
    for path in (folder / "train2014").iterdir():
        path.unlink()
    assert list(karpathy_source(folder, ["test", "dev"])) == ["test", "dev"]
    with pytest.raises(DataError, match=r"images\[0\]: there is no picture .*train2014/a.jpg; 2 of 3 of split train"):
        karpathy_source(folder)


def test_tokens_serve_where_the_text_is_missing_and_odd_text_is_kept(tmp_path):
    images = flickr()
    images[3]["sentences"][0] = {"tokens": ["two", "dogs"], "sentid": 90}
    images[3]["sentences"][1]["raw"] = " costs $5 \n 犬が走る 🐕 "
    assert karpathy_source(make(tmp_path, images))["test"].captions == ["two dogs", "costs $5   犬が走る 🐕"]


def test_of_three_files_the_one_with_pictures_counts(tmp_path):
    folder = make(tmp_path, flickr())
    other = [{**image, "filename": f"other_{image['filename']}"} for image in flickr()]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": other}))
    assert karpathy_file(folder).name == "dataset_flickr30k.json"
    (folder / "dataset_coco.json").write_text((folder / "dataset_flickr30k.json").read_text())
    with pytest.raises(DataError, match="several of them; keep only the file"):
        karpathy_source(folder)


def change(**what):
    return lambda images: images[3].update(what)


def first_sentence(value):
    return lambda images: images[3]["sentences"].__setitem__(0, value)


@pytest.mark.parametrize(
    "damage, said",
    [
        (
            change(split="validation"),
            r"images\[3\] \(d.jpg\): expected a split of train, restval, val, valid, dev, test, got 'validation'",
        ),
        (change(split=None), r"images\[3\] \(d.jpg\): expected a split"),
        (change(sentences=[]), r"images\[3\] \(d.jpg\): no sentences"),
        (change(sentences="a dog"), r"images\[3\] \(d.jpg\): no sentences"),
        (first_sentence({"raw": " ", "tokens": []}), r"images\[3\] \(d.jpg\), sentences\[0\]: empty"),
        (first_sentence({"tokens": [3]}), r"sentences\[0\]: empty"),
        (first_sentence("a dog"), r"sentences\[0\]: empty"),
        (change(filename="../d.jpg"), r"images\[3\]: expected the name of a picture"),
        (change(filename="x\\d.jpg"), r"images\[3\]: expected the name of a picture"),
        (change(filename=7), r"images\[3\]: expected the name of a picture"),
        (change(filepath="../.."), r"images\[3\] \(d.jpg\): expected a folder such as val2014"),
        (change(filepath="/etc"), r"expected a folder such as val2014"),
        (change(filepath="C:/x"), r"expected a folder such as val2014"),
        (change(filename="a.jpg", filepath="train2014"), r"images\[3\]: a.jpg was already named by images\[0\]"),
        (change(cocoid=391895), r"images\[3\]: cocoid 391895 was already named by images\[0\]"),
        (
            lambda images: images[3]["sentences"][0].update(sentid=1),
            r"images\[3\]: sentid 1 was already named by images\[0\]",
        ),
        (lambda images: images.__setitem__(3, ["d.jpg"]), r"images\[3\]: expected an object"),
        (lambda images: images.clear(), 'a list "images" that names at least one'),
    ],
)
def test_what_is_wrong_is_named_by_entry(tmp_path, damage, said):
    images = coco()
    folder = make(tmp_path, images, "", "dataset_coco.json")
    damage(images)
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
    with pytest.raises(DataError, match=said) as caught:
        karpathy_source(folder)
    assert "dataset_coco.json" in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        (b'{"images": [\n{"filename": ', "line 2, column"),
        (b"", "line 1"),
        (b"[]", 'a list "images"'),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"images": {}}', 'a list "images"'),
        (b"null", 'a list "images"'),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path, text, said):
    (tmp_path / "dataset_flickr30k.json").write_bytes(text)
    with pytest.raises(DataError, match=f"dataset_flickr30k.json.*{said}"):
        karpathy_source(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no dataset_flickr8k.json or"):
        karpathy_source(tmp_path)
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": flickr()}))
    with pytest.raises(DataError, match="no pictures; expected a.jpg there or in one of images/"):
        karpathy_source(tmp_path)
    folder = make(tmp_path, flickr())
    with pytest.raises(DataError, match="no split 'val'; there are train, dev, test"):
        karpathy_source(folder, ["val"])
    (folder / "images" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"images\[1\]: there is no picture .*b.jpg; 1 of 3 of split train are missing"):
        karpathy_source(folder)


def entities(folder):
    for name, text in {
        "Sentences/d.txt": "[/EN#4/animals A d] runs , number 0 .\nA d runs , number 1 .\n",
        "Annotations/d.xml": (
            "<a><size><width>4</width><height>4</height></size><object><name>4</name><bndbox><xmin>1</xmin>"
            "<ymin>0</ymin><xmax>2</xmax><ymax>4</ymax></bndbox></object></a>"
        ),
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("place", ["", "annotations", "flickr30k_entities"])
def test_entities_beside_the_pictures_are_used(tmp_path, place):
    folder = make(tmp_path, flickr(), "flickr30k-images")
    entities(folder / place)
    splits = karpathy_source(folder)
    (phrase,) = splits["test"].phrases
    assert (phrase.caption, phrase.words, phrase.type, phrase.boxes) == (0, (0, 1), "animals", ((0.25, 0.0, 0.5, 1.0),))
    assert splits["test"].notes["entities"]["captions_matched"] == 2 and splits["train"].phrases == []


def test_a_folder_is_recognised_and_its_source_can_be_wrong(tmp_path):
    folder = make(tmp_path, flickr())
    assert detect_source(folder) == "karpathy" and raw_splits("karpathy", folder) == ["train", "dev", "test"]
    with pytest.raises(DataError, match="set data.source to karpathy"):
        prepare(DataConfig(source="flickr8k", folder=str(folder)))
    assert prepared_folder(DataConfig(source="karpathy", folder=str(folder))).name.startswith("karpathy-")
    (folder / "Flickr8k.token.txt").write_text("a.jpg#0\ta dog\n")
    (folder / "dataset_flickr30k.json").unlink()
    with pytest.raises(DataError, match="dataset_coco.json"):
        prepare(DataConfig(source="karpathy", folder=str(folder)))


def test_coco_ids_are_kept_with_the_features_and_leave_with_them(tmp_path):
    test = karpathy_source(make(tmp_path / "coco", coco(), "", "dataset_coco.json"), ["test"])["test"]
    write_split(tmp_path / "prepared", test, SmallBackbone(), progress=False)
    assert np.load(tmp_path / "prepared" / "test_coco_ids.npy").tolist() == [[391916, 6], [391916, 7]]
    assert open_prepared(tmp_path / "prepared", "test").image(0).size == (5, 3)  # found under val2014/
    plain = karpathy_source(make(tmp_path / "flickr", flickr()), ["test"])["test"]
    write_split(tmp_path / "prepared", plain, SmallBackbone(), progress=False)
    assert not (tmp_path / "prepared" / "test_coco_ids.npy").exists()


def test_prepared_and_measured_from_a_shell(tmp_path):
    """`bssan prepare`, then `bssan evaluate` on the raw folder with the model that comes along: the real backbone."""
    folder = make(tmp_path / "coco", coco(), "", "dataset_coco.json")
    environment = {**os.environ, "PYTHONPATH": str(repository_root()), "OMP_NUM_THREADS": "1"}

    def bssan(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "bssan_lib", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    settings = tmp_path / "small.yaml"
    settings.write_text("data:\n  source: karpathy\n  image_size: 32\n  prepared: features\n")
    assert "train   images 3, captions 10" in bssan("prepare", "--config", settings, "--data", folder)
    dev = open_prepared(tmp_path / "features", "dev")
    assert dev.ids == ["val2014/c.jpg"] and dev.captions == ["A c runs, number 0."] and dev.meta["source"] == "coco"
    checkpoint = repository_root() / "bssan_lib" / "pretrained" / "flickr8k"
    bssan(
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--data",
        folder,
        "--split",
        "test",
        "--bootstrap",
        0,
        "--prepared",
        tmp_path / "other",
        "--out",
        "m.json",
    )
    found = json.loads((tmp_path / "m.json").read_text())
    assert (found["dataset"], found["split"], found["n_images"], found["n_captions"]) == ("coco", "test", 1, 2)
    assert found["i2t"]["R@1"] == found["t2i"]["R@1"] == 100
