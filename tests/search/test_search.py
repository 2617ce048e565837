"""Search in two stages: what a shortlist loses by hand, the index folder whole or not at all, and the commands.

Letters: N images, C captions, K regions, M objects, D feature size, d joint size, e global size.
"""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("faiss")

from PIL import Image

from bssan_lib.commands.cli import main
from bssan_lib.config import DataConfig, ModelConfig
from bssan_lib.data import Vocabulary, open_prepared, prepare
from bssan_lib.data.batches import Words
from bssan_lib.errors import BssanError, CheckpointError, ConfigError, DataError
from bssan_lib.evaluation.retrieval import retrieval_metrics
from bssan_lib.evaluation.scoring import score_model, score_split
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import load_checkpoint, save_checkpoint
from bssan_lib.search import index as search_index
from bssan_lib.search.index import build_index, open_index
from bssan_lib.search.searcher import Searcher, measure_curve, shortlist_curve, shortlist_ranks, shortlist_sizes
from bssan_lib.search.shortlist import VectorSearch, inverted_lists
from bssan_lib.search.source import picture_gallery, picture_names, split_gallery

VOCABULARY = Vocabulary(["<pad>", "<unk>", "a", "red", "blue", "circle", "square", "of", "large", "the", "ring"])


def random_model(folder, dimension, backbone=None, seed=5, place=True, **settings):
    """A checkpoint with random weights everywhere, also where training starts from zeros."""
    torch.manual_seed(seed)
    settings = {"joint_size": 13, "word_size": 7, "global_size": 11} | settings
    model = BSSAN(ModelConfig(**settings), len(VOCABULARY), dimension, place)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
        model.gate_logit.fill_(0.6)
    save_checkpoint(folder, model, VOCABULARY, backbone, {})
    return load_checkpoint(folder)


def random_features(folder, n, k=3, d=5, captions=2):
    """A split "test" in the field's format: random features, `captions` random captions an image."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    np.save(folder / "test_ims.npy", rng.normal(size=(n, k, d)).astype(np.float32))
    lines = [" ".join(rng.choice(VOCABULARY.words[2:], rng.integers(1, 8))) for _ in range(n * captions)]
    (folder / "test_caps.txt").write_text("\n".join(lines) + "\n")
    return open_prepared(folder, "test")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The built-in pictures, few, prepared with the real backbone; the split "test" of them."""
    place = tmp_path_factory.mktemp("scenes") / "prepared"
    data = DataConfig(source="scenes", images=30, prepared=str(place))
    return open_prepared(prepare(data, ["test"], progress=False), "test")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, scenes):
    return random_model(tmp_path_factory.mktemp("model"), 1280, scenes.meta["backbone"])


@pytest.fixture(scope="module")
def index(tmp_path_factory, scenes, checkpoint):
    return build_index(
        tmp_path_factory.mktemp("index") / "gallery", checkpoint, split_gallery(checkpoint, scenes), progress=False
    )


def copy_of(index, tmp_path):
    return Path(shutil.copytree(index, tmp_path / "copy"))


# -- what a shortlist loses


def test_ranks_of_a_shortlist_by_hand():
    joint = np.array([[0.9, 0.5, 0.7, 0.1]])  # the right one is candidate 2, second best
    products = np.array([[0.1, 0.8, 0.6, 0.3]])  # order of the first stage: 1, 2, 3, 0
    right = np.array([[False, False, True, False]])
    # alone: 1. With 1: not there. With {1, 2} and {1, 2, 3}: best. With all: candidate 0 comes before it.
    assert shortlist_ranks(joint, products, right, [1, 2, 3, 4]).ravel().tolist() == [5, 1, 1, 2]


def test_ties_count_against_the_model_in_both_stages():
    right = np.array([[True, False, False]])
    flat = np.zeros((1, 3))
    assert shortlist_ranks(flat, flat, right, [1, 2, 3]).ravel().tolist() == [4, 4, 3]
    assert shortlist_ranks(flat, np.array([[1.0, 0.5, 0.5]]), right, [1, 2, 3]).ravel().tolist() == [1, 2, 3]


def test_the_best_right_one_inside_the_shortlist_counts():
    joint = np.array([[0.9, 0.2, 0.5]])
    right = np.array([[True, True, False]])
    products = np.array([[0.1, 0.8, 0.7]])  # the better right one comes last
    assert shortlist_ranks(joint, products, right, [1, 2, 3]).ravel().tolist() == [1, 2, 1]


def test_curve_by_hand():
    # Three images with two captions each; image 2 is confused with image 0 by the model, by the vectors in caption 5 alone.
    cap2im = np.array([0, 0, 1, 1, 2, 2])
    joint = np.array([[0.9, 0.8, 0.1, 0.2, 0.7, 0.6], [0.3, 0.2, 0.9, 0.8, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.5, 0.4]])
    products = np.array(
        [[0.9, 0.8, 0.1, 0.2, 0.1, 0.9], [0.3, 0.2, 0.9, 0.8, 0.2, 0.1], [0.1, 0.1, 0.2, 0.1, 0.8, 0.2]]
    )
    curve = shortlist_curve(joint, products, cap2im)
    text = curve["t2i"]
    assert text["sizes"] == [1, 2, 3] and text["gallery"] == 3
    # caption 4: vectors put image 2 first, the model image 0 (0.7 > 0.5), which is in at size 3 only.
    assert text["R@1"] == pytest.approx([500 / 6, 500 / 6, 400 / 6])
    assert text["exact"] == pytest.approx({"R@1": 400 / 6, "R@5": 100.0, "R@10": 100.0})
    assert text["one_in_twenty"]["shortlist"] == 1
    assert text["one_in_twenty"]["below_exact"] == pytest.approx(-100 / 6)
    image = curve["i2t"]
    assert image["gallery"] == 6 and image["sizes"] == [1, 2, 5, 6]
    # image 0: caption 5 ties with its own caption 0 in the first stage, so that one alone comes in at size 1.
    assert image["R@1"] == pytest.approx([200 / 3, 100, 100, 100])


def test_whole_gallery_is_the_ordinary_evaluation():
    rng = np.random.default_rng(3)
    cap2im = np.r_[np.arange(23), rng.integers(0, 23, 30)]
    joint, products = rng.normal(size=(2, 23, 53)).round(1)  # with ties
    curve, whole = shortlist_curve(joint, products, cap2im), retrieval_metrics(joint, cap2im)
    for way in ("i2t", "t2i"):
        assert curve[way]["exact"] == pytest.approx({name: whole[way][name] for name in ("R@1", "R@5", "R@10")})
        assert curve[way]["sizes"][-1] == curve[way]["gallery"]
    perfect = shortlist_curve(joint, joint, cap2im)
    for way in ("i2t", "t2i"):  # a first stage that ranks as the model does loses nothing of R@1 at any size
        assert perfect[way]["R@1"] == pytest.approx([perfect[way]["exact"]["R@1"]] * len(perfect[way]["sizes"]))


def test_sizes_hold_the_twentieth_and_the_whole():
    assert shortlist_sizes(3) == [1, 2, 3]
    assert shortlist_sizes(1000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert shortlist_sizes(1500) == [1, 2, 5, 10, 20, 50, 75, 100, 200, 500, 1000, 1500]


def test_curve_refuses_what_does_not_fit():
    good = np.zeros((2, 3))
    with pytest.raises(DataError, match=r"\[2, 3\], got \[3, 2\]"):
        shortlist_curve(good, good.T, np.array([0, 1, 1]))
    with pytest.raises(DataError, match="image row 1 has no caption"):
        shortlist_curve(good, good, np.array([0, 0, 0]))
    with pytest.raises(DataError, match="got NaN or infinity"):
        shortlist_curve(good, good + np.nan, np.array([0, 1, 1]))


# -- the first stage


def test_lists_hold_every_vector_once_and_searched_whole_find_what_all_products_find():
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(997, 7)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert inverted_lists(vectors, limit=997) is None
    centres, of = inverted_lists(vectors, limit=996)
    assert centres.shape == (126, 7) and of.shape == (997,)  # 4 sqrt(997) = 126.3
    assert (of == (vectors @ centres.T).argmax(1)).all()
    exact, lists = VectorSearch(vectors), VectorSearch(vectors, (centres, of))
    for query in vectors[:5]:
        best = np.argsort(-(vectors @ query))
        assert exact.candidates(query, 13).tolist() == best[:13].tolist()
        # 4 x 300 > 997: every list is searched
        assert set(lists.candidates(query, 300)) == set(best[:300])
        few = lists.candidates(query, 13)
        assert len(few) == 13 and len(set(few)) == 13 and few[0] == best[0]
        for stage in (exact, lists):
            assert sorted(stage.candidates(query, 5000)) == list(range(997))


def test_an_index_with_lists_finds_through_them(tmp_path):
    split = random_features(tmp_path / "data", 401)
    checkpoint = random_model(tmp_path / "model", 5, place=False)
    folder = build_index(
        tmp_path / "index", checkpoint, split_gallery(checkpoint, split), flat_limit=100, progress=False
    )
    searcher = Searcher(folder)
    assert set(searcher.index.lists) == {"image", "caption"}
    assert len(searcher.index.lists["image"][0]) == 80  # 4 sqrt(401)
    plain = build_index(tmp_path / "plain", checkpoint, split_gallery(checkpoint, split), progress=False)
    assert not open_index(plain).lists
    assert searcher.find_images("a red ring", 7, 400) == [
        replace(one, text=one.text) for one in Searcher(plain).find_images("a red ring", 7, 400)
    ]


# -- end to end


@pytest.mark.parametrize("settings", [{}, {"tie_projections": True}, {"direction": "o2w"}])
def test_a_shortlist_of_the_whole_gallery_is_brute_force(tmp_path, scenes, settings):
    checkpoint = random_model(tmp_path / "model", 1280, scenes.meta["backbone"], **settings)
    searcher = Searcher(build_index(tmp_path / "i", checkpoint, split_gallery(checkpoint, scenes), progress=False))
    whole = score_split(checkpoint, scenes, progress=False).joint  # [N, C]
    n, c = whole.shape
    for row in (0, 3, c - 1):
        found = searcher.find_images(scenes.captions[row], n, n)
        assert sorted(one.row for one in found) == list(range(n))
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        # codes are kept in float16
        assert [one.score for one in found] == pytest.approx(whole[[one.row for one in found], row].tolist(), abs=2e-3)
        assert found[0].score == pytest.approx(whole[:, row].max(), abs=2e-3)
        best = found[0]
        assert best.text.endswith(scenes.ids[best.row]) and Path(best.text).is_file()
    with torch.inference_mode():
        query = split_gallery(checkpoint, scenes).encode(1, 2)
    found = searcher.find_captions(query, c, c)
    # the picture's own codes are not rounded, so this is the score itself
    assert [one.score for one in found] == pytest.approx(whole[1, [one.row for one in found]].tolist(), abs=1e-5)
    assert [one.text for one in found] == [scenes.captions[one.row] for one in found]


def test_second_stage_sorts_what_the_first_finds(index, scenes, checkpoint):
    searcher = Searcher(index)
    text = scenes.captions[2]
    query, vector = searcher.encode_text(text)
    wanted = np.argsort(-(searcher.index.vectors["image"] @ vector))[:2]
    found = searcher.find_images(text, 2, 2)
    assert {one.row for one in found} == set(wanted.tolist())
    scores = searcher.score_images(query, wanted)
    assert [one.row for one in found] == wanted[np.argsort(-scores)].tolist()


def test_codes_are_mapped_and_nothing_there_needs_trust(index):
    opened = open_index(index)
    assert isinstance(opened.codes, np.memmap) and not opened.codes.flags.writeable
    assert {path.suffix for path in index.iterdir()} == {".npy", ".json"}
    for path in index.glob("*.npy"):
        np.load(path, allow_pickle=False)


def test_curve_of_a_model_on_a_split(checkpoint, scenes, index):
    curve = measure_curve(checkpoint, scenes, progress=False)
    opened = open_index(index)
    joint = score_model(checkpoint.model, scenes, Words(scenes.captions, VOCABULARY), progress=False).joint
    products = opened.vectors["image"] @ opened.vectors["caption"].T
    assert curve["t2i"] == shortlist_curve(joint, products, scenes.cap2im)["t2i"]
    assert (curve["dataset"], curve["split"]) == ("scenes", "test")


# -- whole or not at all


def test_a_build_that_was_stopped_goes_on_to_the_same_bytes(tmp_path):
    checkpoint = random_model(tmp_path / "model", 5, place=False)
    gallery = split_gallery(checkpoint, random_features(tmp_path / "data", 701))
    whole = build_index(tmp_path / "whole", checkpoint, gallery, progress=False)
    started = []

    def stopping(start, stop):
        if start == 640:
            raise KeyboardInterrupt
        return gallery.encode(start, stop)

    def watched(start, stop):
        started.append(start)
        return gallery.encode(start, stop)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build_index(out, checkpoint, replace(gallery, encode=stopping), progress=False)
    assert not out.exists() and (tmp_path / "out.partial").is_dir()
    with pytest.raises(DataError, match="it is incomplete"):
        open_index(out)
    build_index(out, checkpoint, replace(gallery, encode=watched), progress=False)
    assert started[0] == 512 and not (tmp_path / "out.partial").exists()  # noted every 16 blocks of 32
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_a_stopped_build_of_other_data_is_begun_anew(tmp_path):
    checkpoint = random_model(tmp_path / "model", 5, place=False)
    gallery = split_gallery(checkpoint, random_features(tmp_path / "data", 601))

    def stopping(start, stop):
        if start == 544:
            raise KeyboardInterrupt
        return gallery.encode(start, stop)

    started = []

    def watched(start, stop):
        started.append(start)
        return gallery.encode(start, stop)

    for change, first in (
        ({"key": "other"}, 0),
        ({"names": [f"x{n}" for n in gallery.names]}, 0),
        ({"names": gallery.names[:-1], "captions": [], "cap2im": np.zeros(0, int)}, 512),
    ):
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path / "out", checkpoint, replace(gallery, encode=stopping), progress=False)
        started.clear()
        build_index(tmp_path / "out", checkpoint, replace(gallery, encode=watched, **change), progress=False)
        assert started[0] == first
        shutil.rmtree(tmp_path / "out")


def test_an_index_is_never_written_over(tmp_path, index, checkpoint, scenes):
    kept = copy_of(index, tmp_path)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    with pytest.raises(DataError, match="exists already"):
        build_index(kept, checkpoint, split_gallery(checkpoint, scenes), progress=False)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert not (tmp_path / "copy.partial").exists()


def test_codes_that_are_no_numbers_are_refused(tmp_path):
    split = random_features(tmp_path / "data", 41)
    checkpoint = random_model(tmp_path / "model", 5, place=False)
    gallery = split_gallery(checkpoint, split)

    def broken(start, stop):
        codes = gallery.encode(start, stop)
        codes.regions[0, 0, 0] = float("nan")
        return codes

    with pytest.raises(DataError, match="NaN or infinite"), torch.inference_mode():
        build_index(tmp_path / "out", checkpoint, replace(gallery, encode=broken), progress=False)
    assert not (tmp_path / "out").exists()


# -- damaged


def rewrite(path, change):
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def with_file(folder, name, array):
    """Puts another array in, and its size and checksum into meta.json, as somebody would who means harm."""
    np.save(folder / name, array)
    data = (folder / name).read_bytes()
    sums = {} if name == "image_codes.npy" else {"sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder / "meta.json", lambda meta: meta["files"].update({name: {"bytes": len(data), **sums}}))


DAMAGE = {
    "no meta": lambda f: (f / "meta.json").unlink(),
    "meta cut short": lambda f: (f / "meta.json").write_text('{"format": "bssan-ind'),
    "meta a list": lambda f: (f / "meta.json").write_text("[1, 2]"),
    "other version": lambda f: rewrite(f / "meta.json", lambda m: m.update(format="bssan-index-9")),
    "no sizes": lambda f: rewrite(f / "meta.json", lambda m: m.pop("vectors")),
    "sizes no numbers": lambda f: rewrite(f / "meta.json", lambda m: m.update(images="many")),
    "another size": lambda f: rewrite(f / "meta.json", lambda m: m.update(images=2)),
    "file elsewhere": lambda f: rewrite(f / "meta.json", lambda m: m["files"].update({"../x": {"bytes": 1}})),
    "codes missing": lambda f: (f / "image_codes.npy").unlink(),
    "codes cut short": lambda f: os.truncate(f / "image_codes.npy", 1000),
    "vectors changed": lambda f: (f / "image_vectors.npy").write_bytes(
        (f / "image_vectors.npy").read_bytes()[:-1] + b"\x7f"
    ),
    "vectors no numbers": lambda f: with_file(f, "image_vectors.npy", np.load(f / "image_vectors.npy") * np.nan),
    "texts fewer": lambda f: with_text(f, {"images": ["a"], "captions": []}),
    "texts no texts": lambda f: with_text(f, {"images": 7, "captions": {}}),
    "captions of no image": lambda f: with_file(f, "cap2im.npy", np.load(f / "cap2im.npy") + 1000),
    "pickled": lambda f: with_file(f, "cap2im.npy", np.array([{}, {}], dtype=object)),
    "lists beyond": lambda f: (
        with_file(f, "image_centres.npy", np.zeros((2, 11), np.float32)),
        with_file(f, "image_lists.npy", np.full(len(np.load(f / "image_vectors.npy")), 2)),
    ),
}


def with_text(folder, value):
    data = json.dumps(value).encode()
    (folder / "texts.json").write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder / "meta.json", lambda meta: meta["files"].update({"texts.json": entry}))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_refused_in_a_sentence(tmp_path, index, damage):
    folder = copy_of(index, tmp_path)
    DAMAGE[damage](folder)
    with pytest.raises(DataError) as caught:
        open_index(folder)
    assert str(folder) in str(caught.value) and "index" in str(caught.value)


def test_a_folder_that_is_no_index(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="not an index"):
            open_index(folder)


def test_damaged_codes_are_noticed_when_they_score(tmp_path, index):
    folder = copy_of(index, tmp_path)
    codes = np.load(folder / "image_codes.npy")
    codes[1] = np.nan
    np.save(folder / "image_codes.npy", codes)
    with pytest.raises(BssanError, match="row 1 .*damaged"):
        Searcher(folder).find_images("a red ring", 1, 1000)


# -- the checkpoint


def test_another_checkpoint_is_refused_and_a_moved_one_can_be_named(tmp_path, index, checkpoint):
    moved = Path(shutil.copytree(checkpoint.folder, tmp_path / "moved"))
    expected = Searcher(index).find_images("a red ring", 3)
    assert Searcher(index, moved).find_images("a red ring", 3) == expected
    other = random_model(tmp_path / "other", 1280, checkpoint.backbone, seed=6)
    with pytest.raises(CheckpointError, match="another checkpoint"):
        Searcher(index, other)
    folder = copy_of(index, tmp_path)
    rewrite(folder / "meta.json", lambda meta: meta.update(checkpoint=str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match="--checkpoint"):
        Searcher(folder)


@pytest.mark.parametrize("settings", [{"global_size": 0}, {"reading": "inputs"}])
def test_a_model_without_global_vectors_is_refused(tmp_path, scenes, settings):
    checkpoint = random_model(tmp_path / "model", 1280, **settings)
    with pytest.raises(CheckpointError, match="no global vectors"):
        build_index(tmp_path / "out", checkpoint, split_gallery(checkpoint, scenes), progress=False)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


# -- queries


@pytest.mark.parametrize(
    "text",
    [
        "$x^2 \\frac{} red",
        "'; DROP TABLE images; --",
        "🐕 赤い 円 red",
        "red\x00blue",
        "\ud800 red",
        "../../etc/passwd",
        "%s%n {} red",
        "red\n\n\tblue",
        "zebra",
    ],
)
def test_any_text_is_searched_for(index, text):
    found = Searcher(index).find_images(text, 2)
    assert len(found) == 2 and found[0].score >= found[1].score


@pytest.mark.parametrize(
    "text, said", [("", "got none"), (" \t\n", "got none"), ("!?… 🐕", "got none"), ("red " * 201, "got 201")]
)
def test_a_text_without_words_or_without_end_is_refused(index, text, said):
    with pytest.raises(DataError, match=said):
        Searcher(index).find_images(text)


@pytest.mark.parametrize("top, shortlist", [(0, 10), (-1, 10), (11, 10)])
def test_counts_that_contradict_each_other(index, top, shortlist):
    with pytest.raises(ConfigError, match="--top <= --shortlist"):
        Searcher(index).find_images("red", top, shortlist)


# -- the commands


def test_commands_from_features_to_results(tmp_path, scenes, checkpoint, capsys):
    out = str(tmp_path / "gallery")
    folder = ["--checkpoint", str(checkpoint.folder), "--data", str(scenes.folder)]
    assert main(["index", *folder, "--out", out]) == 0  # the only split there
    assert f"{len(scenes.ids)} images, {len(scenes.captions)} captions" in capsys.readouterr().out
    assert main(["index", *folder, "--out", out]) == 2
    assert "expected a new folder" in capsys.readouterr().err

    assert main(["search", out, "a red zebra", "--top", "3"]) == 0
    done = capsys.readouterr()
    assert [line.split()[0] for line in done.out.splitlines()] == ["1", "2", "3"]
    assert done.out.count(".png") == 3 and "zebra" in done.err and "red" not in done.err

    picture = str(scenes.folder / scenes.meta["splits"]["test"]["image_folder"] / scenes.ids[0])
    assert main(["search", out, picture, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(any(line.endswith(text) for text in scenes.captions) for line in lines)

    assert main(["search", out, "no such.jpg or so"]) == 0  # several words are a text
    assert main(["search", out, str(tmp_path / "absent.jpg")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert main(["search", out, str(tmp_path / "broken.jpg")]) == 2
    assert "broken.jpg" in capsys.readouterr().err
    assert main(["search", str(tmp_path), "red"]) == 2
    assert "not an index" in capsys.readouterr().err


def test_a_plain_folder_of_pictures(tmp_path, checkpoint, capsys):
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("deeper/a \x1b[31m.jpg", "blue"), ("C.PNG", "green")):
        Image.new("RGB", (31, 29), colour).save(folder / name, format="png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    assert picture_names(folder) == ["C.PNG", "b.png", "deeper/a \x1b[31m.jpg"]
    out = tmp_path / "gallery"
    base = ["index", "--checkpoint", str(checkpoint.folder), "--data", str(folder), "--out", str(out)]
    assert main([*base, "--split", "test"]) == 2
    assert "without splits" in capsys.readouterr().err
    assert main(base) == 0
    assert "3 images, 0 captions" in capsys.readouterr().out
    assert main(["search", str(out), "a red square"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 3 and "\x1b" not in shown and str(folder / "b.png") in shown
    assert main(["search", str(out), str(folder / "b.png")]) == 2
    assert "has no captions" in capsys.readouterr().err
    # the codes are those of the picture's own regions
    index = open_index(out)
    with torch.inference_mode():
        codes = picture_gallery(checkpoint, folder).encode(1, 2)
    assert index.codes[1].astype(np.float32) == pytest.approx(
        torch.cat([codes.regions, codes.objects], 1)[0].numpy(), abs=2e-3
    )


def test_a_broken_picture_is_named_and_the_rest_is_kept(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(search_index, "BLOCK", 2)
    monkeypatch.setattr(search_index, "SAVE_EVERY", 1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(5):
        Image.new("RGB", (31, 29), (50 * n, 0, 0)).save(folder / f"{n}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:50])
    with pytest.raises(DataError, match="3.png"):
        build_index(tmp_path / "out", checkpoint, picture_gallery(checkpoint, folder), progress=False)
    assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "out.partial" / "note.json").read_text())["done"] == 2
    (folder / "3.png").unlink()
    opened = open_index(build_index(tmp_path / "out", checkpoint, picture_gallery(checkpoint, folder), progress=False))
    assert opened.names == ["0.png", "1.png", "2.png", "4.png"] and len(opened.codes) == 4


def test_index_refuses_what_it_cannot_use(tmp_path, checkpoint, capsys):
    (tmp_path / "empty").mkdir()
    model = ["index", "--checkpoint", str(checkpoint.folder)]
    for arguments, said in (
        (["--data", str(tmp_path / "empty"), "--out", str(tmp_path / "o")], "or images; found none of them"),
        (["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "o")], "no such folder"),
        (["--data", str(tmp_path / "empty"), "--out", str(tmp_path / "no" / "o")], "does not exist"),
    ):
        assert main([*model, *arguments]) == 2
        assert said in capsys.readouterr().err
    assert main(["index", "--checkpoint", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "no checkpoint here" in capsys.readouterr().err


def test_without_faiss_a_sentence_names_the_extra(tmp_path, index, scenes, checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    assert main(["search", str(index), "red"]) == 2
    assert "bssan[search]" in capsys.readouterr().err
    data = ["--checkpoint", str(checkpoint.folder), "--data", str(scenes.folder), "--out", str(tmp_path / "o")]
    assert main(["index", *data]) == 2
    assert "bssan[search]" in capsys.readouterr().err and not list(tmp_path.iterdir())
    curve = measure_curve(checkpoint, scenes, progress=False)  # needs none: all products are at hand
    assert set(curve) >= {"t2i", "i2t"}


def test_search_curve_writes_numbers_and_figure(tmp_path, scenes, checkpoint, capsys):
    out = tmp_path / "curve.json"
    arguments = ["--checkpoint", str(checkpoint.folder), "--data", str(scenes.folder), "--split", "test"]
    assert main(["search-curve", *arguments, "--out", str(tmp_path / "curve.png")]) == 2
    assert "ends in .json" in capsys.readouterr().err
    assert main(["search-curve", *arguments, "--out", str(out)]) == 0
    assert "lost" in capsys.readouterr().out
    assert json.loads(out.read_text())["t2i"]["gallery"] == len(scenes.ids)
    assert {path.name for path in tmp_path.iterdir()} == {f"curve.{end}" for end in ("json", "pdf", "svg", "png")}


def test_benchmark_of_a_gallery(tmp_path, scenes, monkeypatch):
    """A few hundred images: the drawn ones are unlike, queries find their own images, and the numbers are written."""
    sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
    import gallery as benchmark

    data = DataConfig(source="scenes", images=30, prepared=str(scenes.folder))
    prepare(data, ["train", "test"], progress=False)
    train = open_prepared(scenes.folder, "train")
    checkpoint = random_model(tmp_path / "model", 1280, scenes.meta["backbone"])
    drawn = benchmark.drawn_gallery(checkpoint, train, scenes, 300)
    with torch.inference_mode():
        codes = torch.cat([drawn.encode(0, 32).regions, drawn.encode(32, 64).regions])
    assert codes.norm(dim=-1).numpy() == pytest.approx(np.ones(codes.shape[:2]), abs=1e-5)
    assert len(torch.unique(codes[:, 0], dim=0)) == 64
    rows = benchmark.run(
        str(tmp_path / "model"), str(scenes.folder), tmp_path / "growth", (100, 300), 5, 20, str(tmp_path)
    )
    assert [row["images"] for row in rows] == [100, 300]
    assert rows[1]["disk_mib"] > 2.5 * rows[0]["disk_mib"]
    assert all(row["vectors_mib"] < row["own_memory_mib"] < row["peak_rss_mib"] for row in rows)
    assert 0 < rows[1]["lists"]["share_of_exact_shortlist"] <= 1 and rows[1]["cold"]["stage_2"]["p50"] > 0
    assert rows[1]["storage"]["codes"]["bytes_an_image"] < rows[1]["storage"]["features"]["bytes_an_image"]
    assert json.loads((tmp_path / "growth.json").read_text())["rows"] == rows
    assert {path.name for path in tmp_path.iterdir()} == {
        "model",
        *(f"growth.{end}" for end in ("json", "pdf", "svg", "png")),
    }


def test_tables_of_the_document_say_what_was_measured():
    docs = Path(__file__).parent.parent.parent / "docs"
    lines = (docs / "large_galleries.md").read_text(encoding="utf-8").splitlines()
    for row in json.loads((docs / "gallery_growth.json").read_text())["rows"]:
        times, found = [line for line in lines if line.startswith(f"| {row['images']:,} |")]
        for stage in ("stage_1", "stage_2", "whole"):
            assert "{p50:.1f} / {p95:.1f}".format(**row["ms"][stage]) in times
        for size in ("disk_mib", "own_memory_mib", "peak_rss_mib"):
            assert f"| {row[size]:,.0f} MiB" in times
        assert f"| {row['R@1']:.1f} | {row['in_shortlist']:.1f}% |" in found
        if "exact" in row:
            assert "{exact:.1f} / {shortlist:.1f} / {one_in_twenty:.1f}".format(**row["exact"]) in found
    curve = json.loads((docs / "shortlist_scenes.json").read_text())
    for way, name in (("t2i", "text to image"), ("i2t", "image to text")):
        at, exact = curve[way]["one_in_twenty"], curve[way]["exact"]
        said = f"| {name} | {at['shortlist']} of {curve[way]['gallery']:,} | {at['R@1']:.2f} | {exact['R@1']:.2f} | {at['below_exact']:.2f} |"
        assert said in lines
