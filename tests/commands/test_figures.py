"""bssan figure and bssan gallery, on photographs that anyone may use, with the model in the box."""

import json
import re
import shlex
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="needs scikit-image, which comes with bssan[test]")
from skimage import data

from bssan_lib.commands import figures, options
from bssan_lib.commands.cli import main
from bssan_lib.commands.gallery import draw
from bssan_lib.errors import ConfigError, RunError
from bssan_lib.evaluation.photograph import load_pretrained, score_photographs
from bssan_lib.series import figure_gallery as gallery
from bssan_lib.viz import attention_note, checkpoint_note, note_text

CAPTION = 'a $5 cup_of "coffee" 日本語 🐕 قهوة on a table'
WORDS = ["a", "5", "cup", "of", "coffee", "日本語", "قهوة", "on", "a", "table"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Rachel Michetti's cup of coffee (CC0), under a name that is no mathematics."""
    path = tmp_path_factory.mktemp("photographs") / "coffee $1_x.png"
    Image.fromarray(data.coffee()).save(path)
    return path


def page_inches(pdf: bytes) -> float:
    left, _, right, _ = map(float, re.search(rb"/MediaBox \[ ?([\d. ]+?) ?\]", pdf).group(1).split())
    return (right - left) / 72


def read_note(path) -> dict:
    return dict(line.split(": ", 1) for line in path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    "kind, width, inches, extra",
    [
        ("attention", "one", 3.25, []),
        ("attention", "two", 6.75, ["--style", "spotlight", "--words", "content"]),
        ("alignment", "two", 6.75, []),
        ("boxes", "5.5", 5.5, ["--words", "cup of", "--words", "table", "-k", "3"]),
        ("objects", "one", 3.25, []),
        ("links", "two", 6.75, ["-k", "7"]),
    ],
)
def test_each_kind_is_a_page_of_its_width_with_embedded_fonts_and_a_note(photo, tmp_path, kind, width, inches, extra):
    out = tmp_path / "new" / "fig.pdf"
    arguments = ["figure", kind, "--image", str(photo), "--caption", CAPTION, "--width", width, "--out", str(out)]
    assert main([*arguments, *extra]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["fig.pdf", "fig.txt"]
    pdf = out.read_bytes()
    assert page_inches(pdf) == pytest.approx(inches, abs=0.01)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert (b"/Subtype /Image" in pdf) == (kind != "alignment")  # matrices are vectors
    note, learned = read_note(out.with_suffix(".txt")), load_pretrained().model.learned()
    assert note["image"] == photo.name and note["caption"] == CAPTION
    assert note["checkpoint"].startswith("flickr8k, epoch ") and "not given" not in note.values()
    assert note["temperature"] == f"inverse, W2R {learned['temperature_w']:.3g}, O2W {learned['temperature_o']:.3g}"
    assert note["gate"].startswith(f"{learned['gate']:.3f}") and -1 <= float(note["score"]) <= 1
    joint = learned["gate"] * float(note["score W2R"]) + (1 - learned["gate"]) * float(note["score O2W"])
    assert float(note["score"]) == pytest.approx(joint, abs=2e-4)
    assert note["words not in the vocabulary"] == ", ".join(
        word for word in WORDS if word not in load_pretrained().vocabulary.words
    )


def test_without_an_ending_all_three_formats_are_made(photo, tmp_path):
    arguments = ["--image", str(photo), "--caption", CAPTION, "--width", "one", "--out", str(tmp_path / "fig")]
    assert main(["figure", "alignment", *arguments]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fig.pdf", "fig.png", "fig.svg", "fig.txt"]
    ElementTree.parse(tmp_path / "fig.svg")
    with Image.open(tmp_path / "fig.png") as png:
        assert png.width == 975


@pytest.mark.parametrize(
    "change, said",
    [
        ({"--image": "absent.jpg"}, "absent.jpg: there is no such picture"),
        ({"--caption": "?! 🐕"}, "expected at least one word"),
        ({"--out": "fig.docx"}, "expected .pdf, .svg, .png, or no suffix for all three, got .docx"),
        ({"--out": "in the way/fig.pdf"}, "is not a folder that can be written to"),
        ({"--out": "."}, "expected a file, got a folder"),
        ({"--width": "three"}, 'expected "one"'),
        ({"--width": "0.2"}, "1 to 40 inches"),
        ({"-k": "0"}, "expected 1 or more"),
        (
            {"--words": "coffee table"},
            "expected consecutive words of the caption, which are: a cup of coffee on a table",
        ),
        ({"--checkpoint": "absent"}, "absent: no checkpoint here"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_leaves_nothing(photo, tmp_path, monkeypatch, capsys, change, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in the way").write_text("a file")
    given = {"--image": str(photo), "--caption": "a cup of coffee on a table", "--out": "new/fig.pdf", **change}
    assert main(["figure", "boxes", *(part for pair in given.items() for part in pair)]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in the way"]


def test_a_phrase_is_found_as_its_words_stand_in_the_caption():
    assert figures.find_phrase("A dog, a brown Dog!", "brown dog") == ("brown dog", [3, 4])
    assert figures.find_phrase("a dog on a log", "A") == ("a", [0])
    for absent in ("dog a", "", "cat"):
        with pytest.raises(ConfigError, match="expected consecutive words of the caption"):
            figures.find_phrase("a dog on a log", absent)


def test_boxes_show_the_mean_over_the_words_of_a_phrase(photo):
    photograph = options.open_extractor(None).extract(photo)
    attention = photograph.attend("a cup of coffee on a table")
    figure, direction = figures.draw("boxes", photograph, attention, "", 3.25, [("of coffee", [2, 3])], 2)
    mean = (attention.w2r[2] + attention.w2r[3]) / 2
    printed = [one.get_text() for one in figure.axes[0].texts]
    assert printed == [f"{weight:.2f}".lstrip("0") for weight in sorted(mean)[::-1][:2]] and "mean" in direction


def test_many_captions_score_as_each_alone_does(photo):
    photograph = options.open_extractor(None).extract(photo)
    captions = ["a table", "a cup of coffee on a table with a spoon and a plate", "coffee", "dogs run", "a b c d e"]
    scores = score_photographs([photograph, photograph], captions, chunk=2)
    alone = [photograph.attend(caption) for caption in captions]
    for name, wanted in (("joint", "score"), ("w2r", "score_w2r"), ("o2w", "score_o2w")):
        assert scores[name].shape == (2, 5)
        np.testing.assert_allclose(scores[name], [[getattr(one, wanted) for one in alone]] * 2, atol=1e-5)


def test_notes_name_the_run_and_not_where_it_lies(tmp_path):
    learned = {"temperature_w": 5.5, "temperature_o": 7.25, "gate": 0.4375}
    checkpoint = SimpleNamespace(
        model=SimpleNamespace(learned=lambda: learned),
        info={"epoch": 3, "seed": 11},
        folder=tmp_path / "scenes" / "checkpoints" / "best",
        vocabulary=SimpleNamespace(unknown=lambda words: [w for w in words if w == "zyzzyva"]),
    )
    assert checkpoint_note(checkpoint) == {
        "checkpoint": "scenes, epoch 3",
        "temperature": "inverse, W2R 5.5, O2W 7.25",
        "gate": "0.438, the share of W2R",
        "seed": 11,
    }
    attention = SimpleNamespace(words=["a", "zyzzyva", "zyzzyva"], score=0.25, score_w2r=0.5, score_o2w=-0.125)
    note = attention_note(checkpoint, attention, "a.jpg", "a zyzzyva", "O2W")
    assert note["words not in the vocabulary"] == "zyzzyva" and note["score O2W"] == "-0.1250"
    assert str(tmp_path) not in note_text(note) and "not given" not in note_text(note)
    assert note_text({"data": "scenes"}) == "data: scenes\n"  # nothing of a picture is missing where none is shown


def test_recalls_of_one_result_show_its_parts_and_of_several_each(tmp_path, capsys):
    way = {"R@1": 11.0, "R@5": 23.0, "R@10": 31.0}
    metrics = {
        "dataset": "made up",
        "split": "dev",
        "protocol": "full",
        "n_images": 7,
        "n_captions": 35,
        "i2t": way,
        "t2i": way,
        "ci95": {"i2t": {"R@1": [10.0, 13.0]}},
        "directions": {"w2r": {"i2t": way, "t2i": way}},
    }
    (tmp_path / "m.json").write_text(json.dumps(metrics))
    out = tmp_path / "fig.pdf"
    assert main(["figure", "recalls", str(tmp_path / "m.json"), "--out", str(out), "--width", "one"]) == 0
    assert page_inches(out.read_bytes()) == pytest.approx(3.25, abs=0.01) and b"/Subtype /Image" not in out.read_bytes()
    assert "made up dev, protocol full, 7 images, 35 captions" in out.with_suffix(".txt").read_text()
    named = [f"one={tmp_path / 'm.json'}", f"two={tmp_path / 'm.json'}"]
    assert main(["figure", "recalls", *named, "--out", str(tmp_path / "both.svg")]) == 0
    (tmp_path / "m.json").write_text('{"dataset": "made up"}')
    assert main(["figure", "recalls", str(tmp_path / "m.json"), "--out", str(out)]) == 2
    assert "expected a metrics file of bssan evaluate" in capsys.readouterr().err


def test_the_gallery_shows_each_figure_with_its_command_and_its_credit(tmp_path, monkeypatch):
    few = {name: gallery.COMMANDS[name] for name in ("photo_boxes", "photo_found", "recalls_flickr8k")}
    monkeypatch.setattr(gallery, "COMMANDS", few)
    written = gallery.publish_photographs(tmp_path / "shown", draw)
    page = written[-1].read_text(encoding="utf-8")
    assert all(path.is_file() for path in written)
    for name, (arguments, _) in few.items():
        assert f"({name}.png)" in page and f"--out figures/{name}" in page and shlex.join(arguments) in page
    assert page.count("Rachel Michetti") == 2  # in the table, and where all are searched
    assert (
        page.count("Eileen Collins") == 3 and page.count("Lav Varshney") == 2 and "word_panels" not in page
    )  # what is not there is not shown
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / "shown" / link).is_file(), link


def test_without_scikit_image_the_gallery_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(RunError, match=r"scikit-image.*pip install scikit-image"):
        gallery.publish_photographs(tmp_path / "shown", draw)
    assert not (tmp_path / "shown").exists()
