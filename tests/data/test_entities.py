import zipfile

import numpy as np
import pytest

from bssan_lib.data.entities import entities_phrases, parse_boxes, parse_sentence
from bssan_lib.errors import DataError

SENTENCE = "[/EN#7/people A small child] rides [/EN#8/vehicles/scene a red cart] near [/EN#0/notvisual it] ."
XML = """<annotation><size><width>200</width><height>100</height></size>
<object><name>7</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>110</ymax></bndbox></object>
<object><name>8</name><name>7</name>
<bndbox><xmin>0</xmin><ymin>50</ymin><xmax>100</xmax><ymax>75</ymax></bndbox></object>
<object><name>8</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax></bndbox></object>
<object><name>9</name><nobndbox>1</nobndbox></object></annotation>"""


def archive(tmp_path, as_zip=True, top="", sentences=SENTENCE + "\n", xml=XML):
    files = {f"{top}Sentences/11.txt": sentences, f"{top}Annotations/11.xml": xml}
    if as_zip:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            for name, text in files.items():
                file.writestr(name, text)
        return tmp_path / "a.zip"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_sentence_by_hand():
    words, spans = parse_sentence(SENTENCE)
    assert words == ["a", "small", "child", "rides", "a", "red", "cart", "near", "it"]
    assert spans == [("7", "people", (0, 1, 2)), ("8", "vehicles/scene", (4, 5, 6)), ("0", "notvisual", (8,))]


def test_a_phrase_that_ends_inside_a_word_marks_that_word():
    words, spans = parse_sentence("[/EN#3/people The clown]'s nose")
    assert words == ["the", "clown's", "nose"] and spans == [("3", "people", (0, 1))]


def test_a_phrase_of_punctuation_alone_is_none():
    assert parse_sentence("wait [/EN#3/other !!!] here") == (["wait", "here"], [])


def test_boxes_by_hand():
    # clipped at the lower border; one box of two chains; one without area and one without a box left out
    wide = (0.0, 0.5, 0.5, 0.75)
    assert parse_boxes(XML, "x") == {"7": [(0.1, 0.1, 0.3, 1.0), wide], "8": [wide]}


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<annotation>",
        "<annotation/>",
        XML.replace("200", "0"),
        XML.replace("<xmin>20", "<xmin>twenty"),
        XML.replace("<width>200", "<width>nan"),
        '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>',
    ],
)
def test_damaged_or_hostile_xml_is_refused_by_name(xml):
    with pytest.raises(DataError, match="11.xml"):
        parse_boxes(xml, "11.xml")


@pytest.mark.parametrize("as_zip, top", [(True, ""), (False, ""), (True, "entities/data/"), (False, "deep/")])
def test_phrases_are_matched_by_words_and_misses_are_counted(tmp_path, as_zip, top):
    ids = ["99.jpg", "11_abc.jpg"]
    captions = ["nothing known", "another wording", "a SMALL child rides a red cart, near it!"]
    phrases, notes = entities_phrases(archive(tmp_path, as_zip, top), ids, captions, np.array([0, 1, 1]))
    assert [(p.caption, p.words, p.type) for p in phrases] == [
        (2, (0, 1, 2), "people"),
        (2, (4, 5, 6), "vehicles/scene"),
    ]
    assert phrases[1].boxes == ((0.0, 0.5, 0.5, 0.75),)
    assert notes["captions"] == 3 and notes["captions_matched"] == 1 and notes["images_without_file"] == 1
    assert notes["phrases"] == 3 and notes["phrases_with_boxes"] == 2


@pytest.mark.parametrize("name", ["../x.txt", "Sentences/../../x.txt", "/etc/x.txt", "..\\x.txt", "C:/x.txt"])
def test_a_zip_that_points_outside_is_refused(tmp_path, name):
    place = archive(tmp_path)
    with zipfile.ZipFile(place, "a") as file:
        file.writestr(name, "x")
    with pytest.raises(DataError, match="outside the archive"):
        entities_phrases(place, ["11.jpg"], ["a"], np.array([0]))


def test_a_missing_wrong_or_cut_archive_is_named(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    whole = archive(tmp_path).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "x")
    for name in ["gone.zip", "text.zip", "cut.zip", "empty", "other.zip"]:
        with pytest.raises(DataError, match=name):
            entities_phrases(tmp_path / name, ["11.jpg"], ["a"], np.array([0]))


def test_a_damaged_member_and_a_bomb_are_named(tmp_path):
    place = archive(tmp_path, xml=XML + "garbage")
    with pytest.raises(DataError, match="a.zip: Annotations/11.xml"):
        entities_phrases(place, ["11.jpg"], ["a"], np.array([0]))
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("Sentences/11.txt", "x" * 5_000_000)
        file.writestr("Annotations/11.xml", XML)
    with pytest.raises(DataError, match="too many"):
        entities_phrases(place, ["11.jpg"], ["a"], np.array([0]))
    data = bytearray(archive(tmp_path).read_bytes())
    data[data.index(b"A small child")] ^= 1  # its CRC no longer fits
    place.write_bytes(data)
    with pytest.raises(DataError, match="Sentences/11.txt"):
        entities_phrases(place, ["11.jpg"], ["a"], np.array([0]))
