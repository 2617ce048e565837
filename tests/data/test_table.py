"""Lists of images and captions beside pictures: each layout in circulation, and your own table."""

import json

import numpy as np
import pytest
from PIL import Image

from bssan_lib.config import Config, DataConfig
from bssan_lib.data import detect_source, open_prepared, prepare
from bssan_lib.data.flickr8k import OFFICIAL, flickr8k_source
from bssan_lib.data.table import OWN_SPLIT, table_source
from bssan_lib.errors import DataError
from bssan_lib.reading import read_lines
from bssan_lib.series.check_data import check_folder

NAMES = [f"{number}.jpg" for number in range(11)]


def pictures(folder, names=NAMES, place=""):
    for number, name in enumerate(names):
        path = folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (7, 5), (20 * number % 256, 3, 250 - 7 * number)).save(path)
    return folder


def read_as(folder):
    """The line of check-data, and the captions of each image, by split."""
    assert detect_source(folder) == "table"
    raws = table_source(folder)
    for raw in raws.values():
        assert all((raw.image_folder / name).is_file() for name in raw.ids)
    found = check_folder(folder, Config())
    assert {name: split.images for name, split in found.splits.items()} == {n: len(r.ids) for n, r in raws.items()}
    captions = {
        name: {image: [raw.captions[c] for c in np.flatnonzero(raw.cap2im == i)] for i, image in enumerate(raw.ids)}
        for name, raw in raws.items()
    }
    return dict(found.lines)["read as"], captions


def all_captions(captions):
    return {image: some for images in captions.values() for image, some in images.items()}


def test_flickr30k_as_distributed(tmp_path):
    pictures(tmp_path, place="flickr30k-images")
    rows = [f"{name}#{number}\t{name} shows , {number} ." for name in NAMES for number in range(2)]
    (tmp_path / "results_20130124.token").write_text("\n".join(rows) + "\n")
    said, captions = read_as(tmp_path)
    assert said == f"Flickr30K as distributed (results_20130124.token); split: {OWN_SPLIT}"
    assert {name: len(some) for name, some in captions.items()} == {"train": 7, "dev": 2, "test": 2}
    assert all_captions(captions)["7.jpg"] == ["7.jpg shows , 0 .", "7.jpg shows , 1 ."]


@pytest.mark.parametrize("nested", ["", "flickr30k_images"])
def test_kaggle_flickr30k_with_its_row_without_a_bar(tmp_path, nested):
    pictures(tmp_path, place="/".join(filter(None, [nested, "flickr30k_images"])))
    rows = [f"{name}| {number}| A dog , {number} ." for name in NAMES for number in range(2)]
    rows[3] = '1.jpg| 1   A dog runs across the "grass" .'
    (tmp_path / nested / "results.csv").write_text("image_name| comment_number| comment\n" + "\n".join(rows))
    said, captions = read_as(tmp_path)
    assert said.startswith("Kaggle Flickr30K (results.csv); split: own split")
    assert all_captions(captions)["1.jpg"] == ["A dog , 0 .", 'A dog runs across the "grass" .']


def test_hugging_faces_flickr30k(tmp_path):
    pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], "flickr30k-images")
    quoted = json.dumps(['One "dog", two', "a cat"]).replace('"', '""')
    rows = [f'"{quoted}","[0, 1]",{split},{n}.jpg,{n}' for n, split in ((1, "train"), (2, "val"), (3, "test"))]
    (tmp_path / "flickr_annotations_30k.csv").write_text("raw,sentids,split,filename,img_id\n" + "\n".join(rows))
    said, captions = read_as(tmp_path)
    assert said == "Hugging Face Flickr30K (flickr_annotations_30k.csv); split: as the files give it"
    each = ['One "dog", two', "a cat"]
    assert captions == {"train": {"1.jpg": each}, "dev": {"2.jpg": each}, "test": {"3.jpg": each}}


def test_lists_of_blip_join_the_entries_of_an_image(tmp_path):
    pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], "flickr30k-images")
    entry = lambda number, caption: {"image": f"flickr30k-images/{number}.jpg", "caption": caption}  # noqa: E731
    lists = {"train": [entry(1, "a dog"), entry(1, "a cat")], "val": [entry(2, ["b", "c d"])], "test": [entry(3, "x")]}
    for split, entries in lists.items():
        (tmp_path / f"flickr30k_{split}.json").write_text(json.dumps(entries))
    said, captions = read_as(tmp_path)
    assert said.startswith("lists of BLIP or ALBEF (flickr30k_train.json, flickr30k_val.json, flickr30k_test.json)")
    assert captions["train"] == {"flickr30k-images/1.jpg": ["a dog", "a cat"]}
    assert captions["dev"] == {"flickr30k-images/2.jpg": ["b", "c d"]}
    assert captions["test"] == {"flickr30k-images/3.jpg": ["x"]}


def test_lists_of_clip_benchmark(tmp_path):
    pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], "images")
    for number, split in enumerate(["train", "val", "test"], start=1):
        text = f'image,caption\n{number}.jpg," A man , {number} ."\n{number}.jpg, two, three\n'
        (tmp_path / f"flickr30k_{split}_karpathy.txt").write_text(text)
    said, captions = read_as(tmp_path)
    assert said.startswith("lists of CLIP_benchmark (flickr30k_train_karpathy.txt, ")
    assert captions["dev"] == {"2.jpg": ["A man , 2 .", "two, three"]}


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_as_distributed_gets_karpathys_split_by_id(tmp_path, year):
    dev, test = (int(read_lines(OFFICIAL / f"coco_karpathy_{name}.txt")[5]) for name in ("val", "test"))
    ids = {"train": [9], "val": [dev, test, 1]}  # 1 is in neither list: restval
    (tmp_path / "annotations").mkdir()
    name = lambda part, image: f"{f'COCO_{part}2014_' if year == '2014' else ''}{image:012}.jpg"  # noqa: E731
    for part, images in ids.items():
        pictures(tmp_path, [name(part, image) for image in images], f"{part}{year}")
        stored = {
            "images": [{"id": image, "file_name": name(part, image)} for image in images],
            "annotations": [{"image_id": i, "id": 10 * i + n, "caption": f"dog {n}\n"} for n in (1, 0) for i in images],
        }
        (tmp_path / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(stored))
    said, captions = read_as(tmp_path)
    assert said.endswith("split: Karpathy's, by image id; restval is part of train")
    assert {split: list(some) for split, some in captions.items()} == {
        "train": [f"train{year}/{name('train', 9)}", f"val{year}/{name('val', 1)}"],
        "dev": [f"val{year}/{name('val', dev)}"],
        "test": [f"val{year}/{name('val', test)}"],
    }
    raw = table_source(tmp_path)["test"]
    assert raw.captions == ["dog 1", "dog 0"]
    assert raw.coco_ids is not None and raw.coco_ids.tolist() == [[test, 10 * test + 1], [test, 10 * test]]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_imagefolder_in_folders_of_splits(tmp_path, ending):
    for number, split in enumerate(["train", "validation", "test"]):
        pictures(tmp_path, [f"{number}.png"], split)
        row = json.dumps({"file_name": f"{number}.png", "text": ["a b", "c"] if number == 0 else "d, e"}) + "\n"
        row = row if ending == "jsonl" else f'file_name,text\n{number}.png,"d, e"\n'
        (tmp_path / split / f"metadata.{ending}").write_text(row)
    said, captions = read_as(tmp_path)
    assert said.startswith("Hugging Face imagefolder (") and said.endswith("split: as the files give it")
    assert captions["dev"] == {"validation/1.png": ["d, e"]}
    assert captions["train"] == {"train/0.png": ["a b", "c"] if ending == "jsonl" else ["d, e"]}


@pytest.mark.parametrize("name, sep", [("captions.csv", ","), ("my list.tsv", "\t"), ("captions.txt", ",")])
def test_a_table_of_ones_own_with_a_split(tmp_path, name, sep):
    pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], "images")
    rows = [("image", "caption", "split"), ("1.jpg", "NA", "train"), ("2.jpg", "12", "valid"), ("1.jpg", "b", "Train")]
    (tmp_path / name).write_text("\ufeff" + "\n".join(sep.join(row) for row in rows), encoding="utf-8")
    said, captions = read_as(tmp_path)
    assert said == f"your own table ({name}); split: as the files give it"
    assert captions == {"train": {"1.jpg": ["NA", "b"]}, "dev": {"2.jpg": ["12"]}}


def test_a_split_of_ones_own_is_the_same_every_time_and_apart(tmp_path):
    pictures(tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{n},a\n{n},b\n" for n in NAMES))
    first, second = (
        {name: raw.ids for name, raw in table_source(tmp_path, splits).items()} for splits in (None, ["dev"])
    )
    assert sorted(sum(first.values(), [])) == sorted(NAMES) and second == {"dev": first["dev"]}
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{n},a\n" for n in NAMES[:7]))
    with pytest.raises(DataError, match="7 images; a split into train, dev and test needs 8"):
        table_source(tmp_path)


@pytest.mark.parametrize(
    "rows, message",
    [
        ("1.jpg,a,train\n1.jpg,b,dev", r"line 3: 1.jpg is in dev, but in train in .*line 2"),
        ("1.jpg,a,train\n2.jpg,b,", "line 3: no split, though other rows have one"),
        ("1.jpg,a,training", "line 2: unknown split 'training'"),
        ("1.jpg, ,train", "line 2: expected a caption"),
        ("../1.jpg,a,train", "line 2: expected the name of a picture"),
        ("1.jpg,a,train\n9.jpg,a,train", "line 3: no picture .*9.jpg"),
        ("1.jpg,a,b,c,train", "line 2: 5 fields, but 3 columns; put a caption"),
        ('1.jpg,"a"b,train', "line 2: not a table"),
        ("", "contains no row"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, rows, message):
    pictures(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "captions.csv").write_text(f"image,caption,split\n{rows}\n")
    with pytest.raises(DataError, match=message):
        table_source(tmp_path)


def test_a_folder_of_no_known_layout_shows_the_nearest(tmp_path):
    pictures(tmp_path, ["1.jpg"])
    with pytest.raises(DataError, match="Nearest: pictures such as 1.jpg without captions; add captions.csv"):
        detect_source(tmp_path)
    (tmp_path / "notes.csv").write_text("photo,words\n1.jpg,a dog\n")
    with pytest.raises(DataError, match="Nearest: notes.csv, which begins 'photo,words'"):
        detect_source(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("image,caption\n1.jpg,a dog\n")
    with pytest.raises(DataError, match="a.csv, b.csv may each hold the captions; keep one"):
        detect_source(tmp_path)


def test_kaggles_flickr8k_gets_the_official_split_by_name(tmp_path):
    names = {split: read_lines(OFFICIAL / f"Flickr_8k.{split}Images.txt") for split in ("train", "dev", "test")}
    assert {split: len(some) for split, some in names.items()} == {"train": 6000, "dev": 1000, "test": 1000}
    every = [name.strip() for some in names.values() for name in some] + ["in_no_split.jpg"]
    (tmp_path / "Images").mkdir()
    Image.new("RGB", (7, 5)).save(tmp_path / "Images" / every[0])
    for name in every[1:]:
        (tmp_path / "Images" / name).hardlink_to(tmp_path / "Images" / every[0])
    (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(f'{name},"a, b"\n' for name in every))
    assert detect_source(tmp_path) == "flickr8k"
    assert flickr8k_source(tmp_path)["dev"].captions == ["a, b"] * 1000
    said = dict(check_folder(tmp_path, Config()).lines)["read as"]
    assert said == "Flickr8k; split: official, by name; 1 images in no split, left out"


def test_forty_pictures_with_one_caption_each_are_prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.jpg" for number in range(40)]
    pictures(tmp_path / "own", names, "images")
    rows = "".join(f"{name},a picture of number {number % 4}\n" for number, name in enumerate(names))
    (tmp_path / "own" / "captions.csv").write_text("image,caption\n" + rows)
    data = DataConfig(source="table", folder=str(tmp_path / "own"), image_size=64, min_word_count=1)
    folder = prepare(data, progress=False)
    found = {name: open_prepared(folder, name) for name in ("train", "dev", "test")}
    assert {name: len(split.ids) for name, split in found.items()} == {"train": 32, "dev": 4, "test": 4}
    assert found["dev"].meta["source"] == f"table, {OWN_SPLIT}"
    assert found["dev"].captions == [f"a picture of number {int(name[:-4]) % 4}" for name in found["dev"].ids]
