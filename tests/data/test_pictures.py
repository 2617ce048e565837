"""Pictures elsewhere, pictures that cannot be opened, pictures in two splits: the errors, and what the records say."""

import json

import numpy as np
import pytest
from PIL import Image

from bssan_lib.commands.cli import _parser, main
from bssan_lib.commands.options import settings_of
from bssan_lib.config import Config, DataConfig
from bssan_lib.data import open_prepared, prepare, read_meta
from bssan_lib.data.flickr8k import flickr8k_source
from bssan_lib.data.karpathy import karpathy_source
from bssan_lib.data.pictures import check_pictures, look_at, without_bad
from bssan_lib.data.raw import Phrase, RawSplit, Reading
from bssan_lib.data.table import table_source
from bssan_lib.errors import DataError
from bssan_lib.evaluation.metrics import data_remarks, measure_retrieval
from bssan_lib.runs import open_run
from bssan_lib.series.check_data import check_folder
from bssan_lib.series.report import metrics_rows
from tests.data.test_karpathy import flickr, make
from tests.data.test_table import NAMES, pictures


def table(folder, names=NAMES, splits=("train", "train", "train", "train", "dev", "test")):
    """captions.csv with two captions an image, and the pictures beside it."""
    folder.mkdir(exist_ok=True)
    rows = [
        f"{name},{name[:-4]} number {n},{split}\n" for name, split in zip(names, splits, strict=False) for n in range(2)
    ]
    (folder / "captions.csv").write_text("image,caption,split\n" + "".join(rows))
    return pictures(folder, names[: len(splits)])


def settings(folder, **more):
    return DataConfig(source="table", folder=str(folder), image_size=64, min_word_count=1, **more)


def pictures_of(data):
    """Split -> names in the prepared folder of some settings."""
    folder = prepare(data, progress=False)
    return folder, {name: open_prepared(folder, name).ids for name in ("train", "dev", "test")}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pictures_lie_in_another_folder(tmp_path):
    table(tmp_path / "own")
    (tmp_path / "own" / "captions.csv").rename(tmp_path / "captions.csv")
    (tmp_path / "lists").mkdir()
    (tmp_path / "captions.csv").rename(tmp_path / "lists" / "captions.csv")
    with pytest.raises(DataError, match="--images DIR .data.image_folder. names another folder"):
        table_source(tmp_path / "lists")
    found = table_source(tmp_path / "lists", options=Reading(images=tmp_path / "own"))
    assert found["dev"].image_folder / found["dev"].ids[0] == tmp_path / "own" / "4.jpg"
    data = settings(tmp_path / "lists", image_folder=str(tmp_path / "own"))
    _, names = pictures_of(data)
    assert names == {"train": NAMES[:4], "dev": ["4.jpg"], "test": ["5.jpg"]}
    said = dict(check_folder(tmp_path / "lists", Config(data=data)).lines)
    assert said["images"] == "6 of 6 can be opened"
    with pytest.raises(DataError, match="nowhere: no such folder; --images"):
        prepare(settings(tmp_path / "lists", image_folder="nowhere"))


def test_pictures_of_the_other_sources_lie_in_another_folder(tmp_path):
    made = make(tmp_path / "karpathy", flickr())
    (made / "images").rename(tmp_path / "photos")
    with pytest.raises(DataError, match="no pictures"):
        karpathy_source(made)
    found = karpathy_source(made, options=Reading(images=tmp_path / "photos"))
    assert {raw.image_folder for raw in found.values()} == {tmp_path / "photos"}
    (tmp_path / "f8k").mkdir()
    (tmp_path / "f8k" / "Flickr8k.token.txt").write_text("a.jpg#0\ta dog\n")
    (tmp_path / "f8k" / "Flickr_8k.devImages.txt").write_text("a.jpg\n")
    found = flickr8k_source(tmp_path / "f8k", options=Reading(images=tmp_path / "photos"))
    assert found["dev"].image_folder == tmp_path / "photos"


def test_bad_pictures_are_named_together_and_left_out_when_asked(tmp_path):
    names = [f"{number}.jpg" for number in range(17)]
    folder = table(tmp_path / "own", names, ["train"] * 14 + ["dev", "test", "test"])
    for name in (*names[2:13], "16.jpg"):
        (folder / name).write_bytes(b"no picture")
    (folder / "1.jpg").unlink()
    with pytest.raises(DataError, match="captions.csv, line 4: no picture .*1.jpg") as error:
        table_source(folder)
    assert "--skip-bad (data.skip_bad)" in str(error.value)
    with pytest.raises(DataError, match="13 pictures cannot be used") as error:
        prepare(settings(folder), progress=False)
    lines = str(error.value).splitlines()
    assert len(lines) == 13 and lines[1].endswith("1.jpg: there is no such picture")
    assert lines[2].endswith("2.jpg: not a picture in one of JPEG, PNG, WEBP, GIF, BMP, TIFF")
    assert "captions.csv, line 6: " in lines[2] and "10.jpg" in lines[10] and lines[11] == "  and 3 more"
    assert not list(tmp_path.rglob("*_ims.npy*"))  # nothing long had started
    prepared, found = pictures_of(settings(folder, skip_bad=True))
    assert found == {"train": ["0.jpg", "13.jpg"], "dev": ["14.jpg"], "test": ["15.jpg"]}
    notes = read_meta(prepared)["splits"]["train"]["notes"]["left_out"]
    assert list(notes) == names[1:13] and notes["1.jpg"] is None and notes["2.jpg"][0] == len(b"no picture")
    assert open_prepared(prepared, "train").captions == [f"{image} number {n}" for image in (0, 13) for n in (0, 1)]
    assert data_remarks(open_prepared(prepared, "test")) == {"pictures_left_out": 1}
    checked = check_folder(folder, Config(data=settings(folder, skip_bad=True)))
    assert dict(checked.lines)["left out"].startswith("13 images") and checked.missing == []
    checked = check_folder(folder, Config(data=settings(folder)))
    assert checked.missing[0].startswith("split train: 1 of 14 image files: ") and len(checked.missing) == 12
    assert checked.missing[-1] == "and 2 more images"
    Image.new("RGB", (7, 5), "blue").save(folder / "2.jpg")  # whole now
    assert pictures_of(settings(folder, skip_bad=True))[1]["train"] == ["0.jpg", "2.jpg", "13.jpg"]


def test_a_split_without_a_whole_picture_is_refused(tmp_path):
    folder = table(tmp_path / "own")
    (folder / "4.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="split dev: none of its 1 pictures can be opened; .*4.jpg: the file is empty"):
        prepare(settings(folder, skip_bad=True), progress=False)


def test_what_belongs_to_a_bad_picture_goes_with_it(tmp_path):
    pictures(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "b.jpg").unlink()
    phrases = [Phrase(0, (0,), "x", ((0, 0, 1, 1),)), Phrase(2, (1,), "y", ((0, 0, 1, 1),)), Phrase(3, (0,), "z", ())]
    raw = RawSplit(
        "dev",
        ["a.jpg", "b.jpg", "c.jpg"],
        tmp_path,
        ["a0", "c0", "b0", "c1", "a1"],
        np.array([0, 2, 1, 2, 0]),
        phrases,
        np.arange(15).reshape(5, 3) % 2 == 0,
        coco_ids=np.arange(10).reshape(5, 2),
        where=["1", "2", "3"],
    )
    kept = without_bad(raw, look_at([tmp_path / name for name in raw.ids], progress=False))
    assert kept.ids == ["a.jpg", "c.jpg"] and kept.captions == ["a0", "c0", "c1", "a1"] and kept.where == ["1", "3"]
    assert kept.cap2im.tolist() == [0, 1, 1, 0] and [(one.caption, one.type) for one in kept.phrases] == [
        (0, "x"),
        (2, "z"),
    ]
    assert kept.coco_ids.tolist() == [[0, 1], [2, 3], [6, 7], [8, 9]]
    assert kept.satisfies.tolist() == [[True, True], [False, False], [False, False], [True, True]]
    assert kept.notes == {"left_out": {"b.jpg": None}}


def test_a_picture_of_two_splits_is_refused_by_its_pixels(tmp_path):
    folder = table(tmp_path / "own", [f"{number}.png" for number in range(6)])
    Image.open(folder / "1.png").save(folder / "4.png", compress_level=0, dpi=(72, 72))  # other bytes, the same pixels
    assert (folder / "1.png").read_bytes() != (folder / "4.png").read_bytes()
    with pytest.raises(DataError, match="1 pictures are in train and in another split") as error:
        prepare(settings(folder), progress=False)
    where = str(folder / "captions.csv")
    assert f"{where}, line 4 (train, 1.png) and {where}, line 10 (dev, 4.png)" in str(error.value)
    assert "--allow-overlap (data.allow_overlap)" in str(error.value)
    (said,) = check_folder(folder, Config(data=settings(folder))).missing
    assert said in str(error.value)
    data = settings(folder, allow_overlap=True)
    prepared, _ = pictures_of(data)
    notes = {name: entry["notes"].get("overlap") for name, entry in read_meta(prepared)["splits"].items()}
    assert notes == {"train": {"dev": 1}, "dev": {"train": 1}, "test": None}
    assert data_remarks(open_prepared(prepared, "dev")) == {"pictures_in_train": 1}
    assert data_remarks(open_prepared(prepared, "test")) == {}
    metrics = measure_retrieval(np.eye(1, 2), open_prepared(prepared, "dev"), "full", bootstrap=0, seed=0)
    assert metrics["pictures_in_train"] == 1 and "pictures_left_out" not in metrics
    assert dict(metrics_rows(metrics))["overlap"].startswith("1 of these pictures")
    assert dict(check_folder(folder, Config(data=data)).lines)["overlap"].startswith("1 images")


def test_the_same_name_in_two_splits_is_refused_in_each_source(tmp_path):
    folder = table(tmp_path / "own", ["1.jpg", "2.jpg", "1.jpg"], ["train", "dev", "test"])
    with pytest.raises(
        DataError, match="line 6: 1.jpg is in test, but in train in .*captions.csv, line 2.*allow_overlap"
    ):
        prepare(settings(folder), progress=False)
    _, found = pictures_of(settings(folder, allow_overlap=True))
    assert found == {"train": ["1.jpg"], "dev": ["2.jpg"], "test": ["1.jpg"]}
    images = [*flickr(), {**flickr()[0], "split": "val"}]
    made = make(tmp_path / "karpathy", images)
    with pytest.raises(DataError, match=r"images\[5\]: .* was already named by images\[0\].*--allow-overlap"):
        karpathy_source(made)
    raws = karpathy_source(made, options=Reading(overlap=True))
    with pytest.raises(DataError, match=r"images\[0\] \(train, .*images\[5\] \(dev, "):
        check_pictures(raws, progress=False)
    Image.new("RGB", (5, 3)).save(tmp_path / "own" / "3.jpg")
    (folder / "Flickr8k.token.txt").write_text("1.jpg#0\ta dog\n")
    for split in ("train", "dev"):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("1.jpg\n")
    (tmp_path / "own" / "images").mkdir()
    (folder / "1.jpg").rename(folder / "images" / "1.jpg")
    with pytest.raises(DataError, match="trainImages.txt, line 1 .train, 1.jpg. and .*devImages.txt, line 1"):
        check_pictures(flickr8k_source(folder), progress=False)


def test_a_split_that_is_prepared_later_must_not_repeat_an_earlier_one(tmp_path):
    folder = table(tmp_path / "own")
    (folder / "5.jpg").write_bytes((folder / "0.jpg").read_bytes())
    prepare(settings(folder), ["train"], progress=False)
    with pytest.raises(DataError, match=r"split train, image 0 \(train, 0.jpg\) and .*line 12 \(test, 5.jpg\)"):
        prepare(settings(folder), ["test"], progress=False)


def test_pictures_are_not_opened_twice(tmp_path):
    pictures(tmp_path, ["a.png", "b.png"])
    paths, known = [tmp_path / "a.png", tmp_path / "b.png"], {}
    first = look_at(paths, known, progress=False)
    size, time, _ = known[str(paths[1])]
    known[str(paths[1])] = [size, time, "kept"]
    assert [look.digest for look in look_at(paths, known, progress=False)] == [first[0].digest, "kept"]
    Image.new("RGB", (11, 13)).save(paths[1])
    assert look_at(paths, known, progress=False)[1].digest not in ("kept", first[1].digest)


def test_the_options_of_the_commands_are_settings(tmp_path, capsys):
    folder = table(tmp_path / "own")
    (folder / "5.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "3.jpg").write_bytes(b"")
    (tmp_path / "lists").mkdir()
    (folder / "captions.csv").rename(tmp_path / "lists" / "captions.csv")
    given = ["--config", "table", "--data", "lists", "--images", "own", "--skip-bad", "--allow-overlap"]
    small = ["-p", "data.image_size=64", "-p", "data.grid=null", "-p", "data.windows=[2]", "-p", "data.prepared=out"]
    assert main(["prepare", *given, *small, "--layout", "own"]) == 0
    made = json.loads((tmp_path / "out" / "meta.json").read_text())
    stored = {key: made["made_from"][key] for key in ("layout", "image_folder", "skip_bad", "allow_overlap")}
    assert stored == {"layout": "own", "image_folder": str(folder), "skip_bad": True, "allow_overlap": True}
    assert main(["prepare", *given, *small, "--layout", "of mine"]) == 2
    assert "data.layout" in capsys.readouterr().err


def test_folders_with_a_colon_or_a_hash_in_their_names(tmp_path):
    folder, photos = tmp_path / "lists #1: mine", tmp_path / "photos: my #2"
    table(photos)
    folder.mkdir()
    (photos / "captions.csv").rename(folder / "captions.csv")
    options = _parser().parse_args(["prepare", "--config", "table", "--images", str(photos), "--layout", "own"])
    run = open_run(tmp_path / "run", "table", folder, settings_of(options))
    assert (run.config.data.folder, run.config.data.image_folder) == (str(folder), str(photos))
    run.close()
