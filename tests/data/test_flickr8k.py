import numpy as np
import pytest
from PIL import Image

from bssan_lib.data.flickr8k import flickr8k_source
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.errors import DataError

ROWS = [
    ("b.jpg", "a red cart"),
    ("a.jpg", "two blue rings"),
    ("a.jpg", "rings, blue"),
    ("b.jpg", "the cart"),
    ("c.jpg", "one star"),
]


def make(folder, rows=ROWS, splits=None, images="Flicker8k_Dataset", inner="Flickr8k_text", table=False):
    """A small Flickr8k folder with pictures a, b and c."""
    text = folder / inner
    text.mkdir(parents=True, exist_ok=True)
    (folder / images).mkdir()
    for name in "abc":
        Image.new("RGB", (5, 3), "red").save(folder / images / f"{name}.jpg")
    if table:
        (text / "captions.txt").write_text("image,caption\n" + "".join(f'{i},"{c}"\n' for i, c in rows))
    else:
        (text / "Flickr8k.token.txt").write_text("".join(f"{i}#{n}\t{c}\n" for n, (i, c) in enumerate(rows)))
    for split, ids in (splits or {"train": ["a.jpg", "b.jpg"], "test": ["c.jpg"]}).items():
        (text / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in ids))
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"images": "Images", "inner": "."},
        {"images": "images"},
        {"images": "Flickr8k_Dataset"},
        {"table": True},
        {"table": True, "inner": ".", "images": "Images"},
    ],
)
def test_every_layout_gives_the_same_splits_in_image_order(tmp_path, layout):
    splits = flickr8k_source(make(tmp_path, **layout))
    assert list(splits) == ["train", "test"]
    train = splits["train"]
    assert train.ids == ["a.jpg", "b.jpg"]
    assert train.captions == ["two blue rings", "rings, blue", "a red cart", "the cart"]
    assert train.cap2im.tolist() == [0, 0, 1, 1] and train.cap2im.dtype == np.int64
    assert train.phrases is None and (train.image_folder / "a.jpg").is_file()
    assert splits["test"].captions == ["one star"] and splits["test"].cap2im.tolist() == [0]


def test_a_folder_with_nothing_but_a_test_split(tmp_path):
    folder = make(tmp_path, splits={"test": ["b.jpg"]})
    splits = flickr8k_source(folder)
    assert list(splits) == ["test"] and splits["test"].captions == ["a red cart", "the cart"]
    assert splits["test"].notes == {"captions_of_images_in_no_split_or_another": 3}
    with pytest.raises(DataError, match="no split 'dev'.*test"):
        flickr8k_source(folder, ["dev"])


def test_odd_captions_are_kept_whole(tmp_path):
    odd = ['costs $5 & "nine"\tand a tab', "犬が走る 🐕", " ".join(f"word{i}" for i in range(200)), "..."]
    rows = [("a.jpg", caption) for caption in odd]
    assert flickr8k_source(make(tmp_path, rows, {"test": ["a.jpg"]}))["test"].captions == odd
    assert len(tokenize(odd[2])) == 200


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
    folder = make(tmp_path)
    for path in (folder / "Flickr8k_text").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    train = flickr8k_source(folder)["train"]
    assert train.ids == ["a.jpg", "b.jpg"] and train.captions[3] == "the cart"


def test_quotes_commas_and_lines_in_a_csv(tmp_path):
    folder = make(tmp_path, splits={"test": ["a.jpg"]}, table=True)
    (folder / "Flickr8k_text" / "captions.txt").write_text(
        'image,caption\na.jpg,"a ""red"" cart, and"\na.jpg,"two\nlines"\na.jpg,red, blue and green\n\n'
    )
    captions = flickr8k_source(folder)["test"].captions
    assert captions == ['a "red" cart, and', "two lines", "red, blue and green"]


def test_the_official_files_slip_is_left_out(tmp_path):
    rows = [*ROWS, ("2258277193_586949ec62.jpg.1", "no such picture")]
    assert len(flickr8k_source(make(tmp_path, rows))["train"].captions) == 4


def test_captions_of_many_images_that_are_elsewhere_are_left_out(tmp_path):
    rows = [*ROWS, *((f"{i}.jpg", "elsewhere") for i in range(11))]
    notes = flickr8k_source(make(tmp_path, rows))["test"].notes
    assert notes["captions_of_images_in_no_split_or_another"] == 15


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(
    "rows, message",
    [
        ([*ROWS, ("d.jpg", "unknown")], "line {6}: a caption for d.jpg"),
        ([*ROWS, ("a.jpg", "  ")], "line {6}: the caption of a.jpg is empty"),
        (ROWS[:-1], "no caption for c.jpg"),
        ([], "contains no caption"),
    ],
)
def test_wrong_captions_are_named(tmp_path, rows, message, table):
    message = message.replace("{6}", "7" if table else "6")
    with pytest.raises(DataError, match=message):
        flickr8k_source(make(tmp_path, rows, table=table))


@pytest.mark.parametrize("row", ["no tab at all", "a.jpg\tno number", "a.jpg#x\tno number", "#0\tno name"])
def test_a_malformed_row_is_named(tmp_path, row):
    folder = make(tmp_path)
    with open(folder / "Flickr8k_text" / "Flickr8k.token.txt", "a") as file:
        file.write(row + "\n")
    with pytest.raises(DataError, match="token.txt, line 6"):
        flickr8k_source(folder)


@pytest.mark.parametrize(
    "text, line",
    [
        ("a.jpg,a caption\n", 1),
        ("", 1),
        ("image,caption\njust words\n", 2),
        ('image,caption\na.jpg,fine\na.jpg,"open\n', 3),
    ],
)
def test_a_malformed_table_is_named(tmp_path, text, line):
    folder = make(tmp_path, table=True)
    (folder / "Flickr8k_text" / "captions.txt").write_text(text)
    with pytest.raises(DataError, match=f"captions.txt, line {line}"):
        flickr8k_source(folder)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        flickr8k_source(tmp_path / "nowhere")
    folder = make(tmp_path)
    text = folder / "Flickr8k_text"
    (folder / "Flicker8k_Dataset" / "b.jpg").unlink()
    with pytest.raises(DataError, match="trainImages.txt, line 2: no picture .*b.jpg"):
        flickr8k_source(folder)
    (text / "Flickr8k.token.txt").unlink()
    with pytest.raises(DataError, match="no captions"):
        flickr8k_source(folder)
    for path in text.glob("Flickr_8k.*"):
        path.unlink()
    with pytest.raises(DataError, match="no split file"):
        flickr8k_source(folder)


@pytest.mark.parametrize(
    "ids, message",
    [
        (["a.jpg", "a.jpg"], "line 2: a.jpg was already named in line 1"),
        (["../a.jpg"], "line 1: expected the name of a picture"),
        ([], "contains no name of a picture"),
    ],
)
def test_a_wrong_split_file_is_named(tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        flickr8k_source(make(tmp_path, splits={"test": ids}))


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    folder = make(tmp_path)
    with open(folder / "Flickr8k_text" / "Flickr8k.token.txt", "ab") as file:
        file.write(b"a.jpg#5\tcaf\xe9\n")
    with pytest.raises(DataError, match="line 6: not UTF-8"):
        flickr8k_source(folder)


def test_entities_asked_for_but_missing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="gone.zip"):
        flickr8k_source(make(tmp_path), entities=tmp_path / "gone.zip")


def test_entities_beside_the_pictures_are_found(tmp_path):
    folder = make(tmp_path)
    for name, text in {
        "Sentences/c.txt": "[/EN#4/other one star]\n",
        "Annotations/c.xml": (
            "<a><size><width>4</width><height>4</height></size><object><name>4</name><bndbox><xmin>1</xmin>"
            "<ymin>0</ymin><xmax>2</xmax><ymax>4</ymax></bndbox></object></a>"
        ),
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    test = flickr8k_source(folder)["test"]
    assert len(test.phrases) == 1 and test.phrases[0].boxes == ((0.25, 0.0, 0.5, 1.0),)
    assert flickr8k_source(folder)["train"].notes["entities"]["images_without_file"] == 2


def test_the_real_folder(flickr8k):
    dev = flickr8k_source(flickr8k, ["dev"])["dev"]
    assert len(dev.ids) == 1000 and len(dev.captions) == 5000
    assert np.bincount(dev.cap2im).tolist() == [5] * 1000
    if dev.phrases is None:
        return
    assert dev.notes["entities"]["captions_matched"] > 4750 and len(dev.phrases) > 12_000
    for phrase in dev.phrases:
        assert 0 <= min(phrase.words) and max(phrase.words) < len(tokenize(dev.captions[phrase.caption]))
        assert all(0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 for x1, y1, x2, y2 in phrase.boxes)
