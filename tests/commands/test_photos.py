"""Anyone's photograph from the command line: the model in the box, freely licensed pictures, and what users get wrong."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from skimage import data

from bssan_lib.commands.cli import main
from bssan_lib.commands.photos import position_of

CAPTIONS = ["a cup of coffee on a table", "a dog runs on the beach", "a cat looks at the camera"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photographs that anyone may use: the cat Chelsea (CC0) and the astronaut Eileen Collins (NASA)."""
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(data.chelsea()).save(folder / "chelsea.png")
    Image.fromarray(data.astronaut()).save(folder / "astronaut $1.jpg")
    return folder


def test_attend_says_where_words_look_and_draws_it(folder, tmp_path, capsys):
    out = tmp_path / "figure.pdf"
    assert main(["attend", str(folder / "chelsea.png"), "a zyzzyva cat on $5 grass", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[2:8]] == ["a", "zyzzyva", "cat", "on", "5", "grass"]
    assert "not in the vocabulary, treated as <unk>: zyzzyva" in said
    gate, w2r, o2w = (
        float(re.search(rf"{name}", said).group(1)) for name in (r"([\d.]+) x W2R", "W2R (.+?) ", "O2W (.+)")
    )
    assert float(said.split()[1]) == pytest.approx(gate * w2r + (1 - gate) * o2w, abs=0.01)
    assert out.read_bytes().startswith(b"%PDF") and "a zyzzyva cat on $5 grass" in out.with_suffix(".txt").read_text()


def test_function_words_can_be_left_out_and_colours_kept(folder, tmp_path, monkeypatch):
    from bssan_lib import viz

    drawn, draw = [], viz.word_panels
    monkeypatch.setattr(viz, "word_panels", lambda *given, **named: drawn.append(named) or draw(*given, **named))
    arguments = [str(folder / "chelsea.png"), "a cat on the grass", "--style", "spotlight", "--words", "content"]
    assert main(["attend", *arguments, "--out", str(tmp_path / "figure.png")]) == 0
    assert (drawn[0]["only"], drawn[0]["style"]) == ([1, 4], "spotlight")


def test_rank_puts_the_cat_first(folder, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS) + "\n\n")
    assert main(["rank", str(folder / "chelsea.png"), str(tmp_path / "captions.txt")]) == 0
    lines = [line.split(None, 4) for line in capsys.readouterr().out.splitlines()[1:4]]
    assert lines[0][4] == "a cat looks at the camera" and {line[4] for line in lines} == set(CAPTIONS)
    assert sorted((float(line[1]) for line in lines), reverse=True) == [float(line[1]) for line in lines]


def test_what_was_found_is_drawn_with_the_attention_that_decided(folder, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    arguments = ["rank", str(folder / "chelsea.png"), str(tmp_path / "captions.txt"), "--top", "1"]
    assert main([*arguments, "--out", str(tmp_path / "ranked.pdf"), "--width", "one"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("  1")]) == 1
    assert main(["find", "a $cat_", str(folder), "--out", str(tmp_path / "found.svg")]) == 0
    assert (tmp_path / "ranked.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "found.svg").stat().st_size > 9999
    assert "image: chelsea.png, astronaut $1.jpg" in (tmp_path / "found.txt").read_text()
    assert "caption: a cat looks at the camera" in (tmp_path / "ranked.txt").read_text()


def test_captions_may_come_from_standard_input(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("a cat\n\n"))
    assert main(["rank", str(folder / "chelsea.png"), "-"]) == 0
    assert "  a cat" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, said",
    [
        (b"a cat\n?!\n", "line 2: expected at least one word"),
        (b"\n", "one caption per line, got none"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_captions_that_cannot_be_read_are_named(folder, tmp_path, capsys, content, said):
    (tmp_path / "captions.txt").write_bytes(content)
    assert main(["rank", str(folder / "chelsea.png"), str(tmp_path / "captions.txt")]) == 2
    assert "captions.txt" in (error := capsys.readouterr().err) and said in error


def test_attend_writes_into_a_folder_or_where_one_stands(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["attend", str(folder / "chelsea.png"), "a cat"]) == 0
    (tmp_path / "there").mkdir()
    assert main(["attend", str(folder / "chelsea.png"), "a cat", "--out", "there"]) == 0
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert written == [
        "attention_chelsea.png",
        "attention_chelsea.txt",
        "there/attention_chelsea.png",
        "there/attention_chelsea.txt",
    ]


def test_find_ranks_a_folder_and_names_what_it_cannot_read(folder, tmp_path, capsys):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert main(["find", "a cat", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert [line.split(None, 4)[4] for line in said.out.splitlines()[1:3]] == ["chelsea.png", "astronaut $1.jpg"]
    assert "skipped:" in said.err and "broken.jpg" in said.err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["attend", "absent.jpg", "a cat"], "absent.jpg: there is no such picture"),
        (["attend", "absent.jpg", "!?"], "expected at least one word"),
        (["attend", "absent.jpg", "a cat", "--out", "figure.doc"], "expected .pdf, .svg, .png, or no suffix"),
        (["rank", "absent.jpg", "absent.txt"], "absent.txt: no such file"),
        (["find", "a cat", "absent"], "absent: expected a folder that can be read"),
        (["find", "a cat", "."], "no images found"),
        (["attend", "absent.jpg", "a cat", "--checkpoint", "absent"], "absent: no checkpoint here"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_places_in_words():
    boxes = np.array([[0, 0, 0.2, 0.2], [0.8, 0.8, 1, 1], [0.4, 0, 0.6, 0.2]])
    assert [position_of(weights, boxes) for weights in np.eye(3)] == ["top left", "bottom right", "top centre"]
    assert (
        position_of(np.array([0.1, 0.2, 0.7]), np.array([[0, 0, 1, 0.3], [0, 0, 0.3, 1], [0.4, 0.4, 0.7, 0.5]]))
        == "centre"
    )
