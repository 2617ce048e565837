"""Folders that several layouts fit: what is asked, and how the choice is forced."""

import json
from typing import get_args

import pytest

from bssan_lib.commands.cli import main
from bssan_lib.config import Config, DataConfig, DataLayout, Lists
from bssan_lib.data import detect_source, fitting_layouts, prepare, raw_splits
from bssan_lib.data.detect import KINDS
from bssan_lib.data.layouts import LAYOUTS
from bssan_lib.data.raw import Reading
from bssan_lib.errors import DataError
from bssan_lib.series.check_data import check_folder
from tests.data.test_table import NAMES, pictures

OWN = "image,caption\n" + "".join(f"{name},mine {name}\n" for name in NAMES)


@pytest.fixture
def two(tmp_path):
    """A folder with Flickr30K as distributed and a table of one's own."""
    folder = pictures(tmp_path / "two")
    (folder / "results_20130124.token").write_text("".join(f"{name}#0\ttheirs {name}\n" for name in NAMES))
    (folder / "captions.csv").write_text(OWN)
    return folder


def test_the_settings_know_every_layout():
    assert get_args(Lists) == tuple(layout.key for layout in LAYOUTS)
    assert get_args(get_args(DataLayout)[0]) == KINDS


def test_two_layouts_ask_for_a_choice_and_each_can_be_forced(two):
    with pytest.raises(DataError) as error:
        detect_source(two)
    said = str(error.value)
    assert "two: several layouts fit:\n  flickr30k " in said and "\n  own " in said and "captions.csv" in said
    assert "--layout NAME or -p data.layout=NAME, such as -p data.layout=own" in said
    for source in ("table", "flickr8k"):
        with pytest.raises(DataError, match="several layouts fit"):
            prepare(DataConfig(source=source, folder=str(two)))
    for layout, name in (("own", "your own table"), ("flickr30k", "Flickr30K as distributed")):
        assert detect_source(two, layout) == "table"
        config = Config(data=DataConfig(source="table", folder=str(two), layout=layout))
        found = check_folder(two, config)
        assert dict(found.lines)["read as"].startswith(name) and not found.missing
        assert (found.splits["dev"].captions[0].split()[0] == "mine") == (layout == "own")


def test_check_data_takes_the_choice(two, capsys):
    assert main(["check-data", str(two)]) == 2
    assert "several layouts fit" in capsys.readouterr().err
    small = ["-p", "data.image_size=64", "-p", "data.grid=null", "-p", "data.windows=[2]", "-p", "model.joint_size=7"]
    assert main(["check-data", str(two), "--layout", "own", *small]) == 0
    assert "your own table (captions.csv)" in capsys.readouterr().out


def test_a_layout_that_does_not_fit_is_refused(two):
    for layout in ("coco", "karpathy", "flickr8k", "features"):
        with pytest.raises(DataError, match=f"no files of the layout {layout}"):
            detect_source(two, layout)
    with pytest.raises(DataError, match="layout 'mine': expected one of features, flickr8k, karpathy, flickr30k"):
        detect_source(two, "mine")


def test_the_source_of_the_settings_is_a_choice_too(tmp_path):
    folder = pictures(tmp_path / "both")
    (folder / "captions.csv").write_text(OWN)
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": "a dog"}]}
        for name, split in zip(NAMES, ["train", "val", "test"], strict=False)
    ]
    (folder / "dataset_mine.json").write_text(json.dumps({"images": entries}))
    assert list(fitting_layouts(folder)) == ["karpathy", "own"]
    with pytest.raises(DataError, match="several layouts fit"):
        detect_source(folder)
    assert detect_source(folder, source="table") == "table" and detect_source(folder, source="karpathy") == "karpathy"
    assert detect_source(folder, "karpathy", "table") == "karpathy"
    with pytest.raises(DataError, match="the source is table, but this is a karpathy folder"):
        prepare(DataConfig(source="table", folder=str(folder), layout="karpathy"))


def test_one_file_is_one_layout(tmp_path):
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\n1.jpg| 0| a dog\n")
    (tmp_path / "notes.csv").write_text("image,caption\n1.jpg,a dog\n")  # not called captions: no layout beside another
    assert list(fitting_layouts(tmp_path)) == ["flickr30k-kaggle"]
    assert detect_source(tmp_path) == "table"
    (tmp_path / "Flickr_8k.devImages.txt").write_text("1.jpg\n")
    (tmp_path / "captions.txt").write_text("image,caption\n1.jpg,a dog\n")
    assert list(fitting_layouts(tmp_path)) == ["flickr8k", "flickr30k-kaggle"]
    assert raw_splits("flickr8k", tmp_path) == ["dev"]


def test_files_that_cannot_be_told_do_not_hinder_another_choice(two):
    (two / "captions.tsv").write_text(OWN.replace(",", "\t"))
    with pytest.raises(DataError, match="several layouts fit"):
        detect_source(two)
    assert detect_source(two, "flickr30k") == "table"
    assert set(raw_splits("table", two, Reading(layout="flickr30k"))) == {"train", "dev", "test"}
    with pytest.raises(DataError, match="captions.csv, captions.tsv may each hold the captions"):
        detect_source(two, "own")
