"""The built-in scenes: pixels that never change, true captions, boxes that fit, pairs one thing apart."""

import hashlib
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from bssan_lib.data.scenes.dice import Dice
from bssan_lib.data.scenes.drawing import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIDE,
    SIZES,
    Background,
    box_fractions,
    shape_masks,
)
from bssan_lib.data.scenes.grammar import COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, write_captions
from bssan_lib.data.scenes.source import (
    CHANGES,
    Scene,
    Thing,
    changed_scene,
    draw_scene,
    make_pair,
    make_scenes,
    scenes_source,
    split_sizes,
    thing_box,
)
from bssan_lib.data.scenes.truth import (
    Kind,
    Meaning,
    bindings,
    excludes,
    gather_facts,
    holds,
    is_clear,
    middle_distance,
    true_of,
    visible_shares,
)
from bssan_lib.data.vocabulary import tokenize
from bssan_lib.errors import ConfigError, DataError

PLAIN = Background("plain", (250, 250, 250), (230, 230, 230))


def thing(words, x, y, side=50):
    size, colour, shape = words.split()
    return Thing(shape, colour, size, x, y, side)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.fixture(scope="module")
def made():
    return list(make_scenes("train", 61, seed=7))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return folder, scenes_source(folder, images=97, seed=3, progress=False)


# --- drawing


def test_pixels_and_captions_are_the_same_everywhere():
    made = [made for split in ("train", "pairs") for made in make_scenes(split, 12, seed=1)]
    pixels = b"".join(draw_scene(scene).tobytes() for scene, _ in made)
    captions = "\n".join(caption.text for _, written in made for caption in written).encode()
    assert (digest(pixels), digest(captions)) == ("6caf7b692c6ae502", "535b7c5eaf2e51e2")


def test_every_kind_of_background_is_pale_and_the_same_everywhere():
    pixels = b""
    for kind in BACKGROUNDS:
        picture = draw_scene(Scene((), Background(kind, (250, 246, 236), (220, 215, 205), 13, 2, 5)))
        assert picture.mode == "RGB" and picture.size == (SIDE, SIDE)
        assert np.asarray(picture).min() >= 205
        pixels += picture.tobytes()
    assert digest(pixels) == "040faacc30e7a8ff"
    with pytest.raises(ValueError, match="zigzag"):
        draw_scene(Scene((), Background("zigzag", (250, 250, 250), (230, 230, 230))))


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_hold_every_pixel_of_a_thing_and_no_more(shape):
    for side in (48, 71, 104):
        one = Thing(shape, "blue", "small", 101, 107, side)
        changed = (np.asarray(draw_scene(Scene((one,), PLAIN))) != 250).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert thing_box(one) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert box_fractions(one) == tuple(edge / 224 for edge in thing_box(one))


def test_sizes_never_meet_and_every_box_holds_a_cell_centre():
    for shape in SHAPES:
        for first, last in SIZES.values():
            for side in (first, last):
                height, width = shape_masks(shape, side)[0].shape
                assert max(height, width) == side and min(height, width) >= 40
    extents = sorted(SIZES.values())
    assert all(low[1] * 1.25 < high[0] for low, high in zip(extents, extents[1:]))


def test_colours_are_far_apart():
    colours = np.array(list(COLOURS.values()), dtype=float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert len(colours) == 8 and distance[np.triu_indices(8, 1)].min() > 80


def test_later_things_cover_earlier_ones():
    back, front = thing("large red square", 100, 100, 100), thing("small blue square", 100, 100, 50)
    assert visible_shares(Scene((back, front))) == [0.75, 1.0]
    assert visible_shares(Scene((front, back))) == [0.0, 1.0]
    assert draw_scene(Scene((back, front))).getpixel((100, 100)) == COLOURS["blue"]


# --- truth, by hand


RED, BLUE, STAR = Kind(colour="red"), Kind(colour="blue"), Kind(shape="star")


def says(name, *kinds):
    return Meaning(kinds, ((name, *range(len(kinds))),))


def test_left_and_above_need_a_clear_margin_of_centres():
    for gap, clear in ((27, False), (28, True), (90, True)):
        across = Scene((thing("small red star", 60, 100), thing("small blue ring", 60 + gap, 101)))
        assert holds(says("left", RED, BLUE), across) == holds(says("right", BLUE, RED), across) == clear
        assert not holds(says("left", BLUE, RED), across) and not holds(says("above", RED, BLUE), across)
        down = Scene((thing("small red star", 60, 60), thing("small blue ring", 61, 60 + gap)))
        assert holds(says("above", RED, BLUE), down) == holds(says("below", BLUE, RED), down) == clear
        assert not holds(says("below", RED, BLUE), down) and not holds(says("left", RED, BLUE), down)


def test_front_and_behind_need_pixels_in_common_and_go_by_the_order_of_drawing():
    red, blue = thing("large red square", 80, 80, 100), thing("small blue square", 120, 120)
    assert holds(says("front", BLUE, RED), Scene((red, blue)))
    assert holds(says("behind", RED, BLUE), Scene((red, blue)))
    assert not holds(says("front", RED, BLUE), Scene((red, blue)))
    assert holds(says("front", RED, BLUE), Scene((blue, red)))
    apart = Scene((red, thing("small blue square", 180, 180)))
    assert not holds(says("front", BLUE, RED), apart) and not holds(says("behind", RED, BLUE), apart)
    inside = Scene((thing("large red ring", 100, 100, 100), thing("small blue square", 100, 100, 30)))
    assert not holds(says("front", BLUE, RED), inside)  # their boxes overlap, their pixels do not


def test_between_is_near_the_middle_of_the_line():
    red, star = thing("small red ring", 40, 60), thing("small black star", 180, 60)
    places = {(110, 60): True, (110, 89): True, (110, 100): False, (60, 60): False, (200, 60): False}
    for (x, y), true in places.items():
        scene = Scene((red, star, thing("small blue heart", x, y)))
        assert holds(says("between", BLUE, RED, STAR), scene) == true
        assert holds(says("between", BLUE, STAR, RED), scene) == true
        assert not holds(says("between", RED, BLUE, STAR), scene)
    assert middle_distance(thing("small red ring", 50, 90), red, star) == (10 / 140, 30.0)


def test_counts_are_exact_and_a_mention_is_at_least_one():
    squares = [thing("small red square", 40 + 60 * n, 60) for n in range(3)]
    for n in (1, 2, 3):
        scene = Scene((*squares[:n], thing("large red star", 100, 150, 100)))
        assert holds(Meaning((Kind("square", "red"),)), scene)
        for said in (1, 2, 3, 4):
            assert holds(Meaning(counts=((Kind("square", "red"), said),)), scene) == (said == n)
            assert holds(Meaning(counts=((Kind(), said),)), scene) == (said == n + 1)
            assert holds(Meaning(counts=((RED, said),)), scene) == (said == n + 1)


def test_every_mention_is_a_thing_of_its_own():
    one = Scene((thing("small red star", 40, 60),))
    assert not holds(Meaning((RED, STAR)), one)
    assert holds(Meaning((RED, STAR)), Scene((*one.things, thing("small red ring", 120, 60))))
    assert holds(Meaning(), one)


def test_bindings_hold_all_things_that_a_word_can_mean():
    stars = thing("small red star", 40, 60), thing("small red star", 100, 60)
    scene = Scene((*stars, thing("small blue ring", 160, 60)))
    assert bindings(Meaning((RED, BLUE)), scene) == [{0, 1}, {2}]
    assert bindings(says("left", STAR, RED), scene) == [{0}, {1}]
    assert bindings(says("left", RED, Kind()), scene) == [{0, 1}, {1, 2}]
    assert bindings(Meaning((Kind("heart"),)), scene) == [set()]


def naive_truth(meaning, scene):
    def related(name, *who):
        a, b = who[0], who[1]
        if name == "between":
            along, beside = middle_distance(*(scene.things[i] for i in who))
            return 0.25 <= along <= 0.75 and beside <= 30
        if name in ("front", "behind"):
            painted = []
            for i in (a, b):
                mask = np.zeros((SIDE, SIDE), dtype=bool)
                x1, y1, x2, y2 = thing_box(scene.things[i])
                mask[y1:y2, x1:x2] = shape_masks(scene.things[i].shape, scene.things[i].side)[0] >= 128
                painted.append(mask)
            return bool((painted[0] & painted[1]).any()) and (a > b) == (name == "front")
        a, b = scene.things[a], scene.things[b]
        return {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[name] >= 28

    if any(sum(kind.fits(one) for one in scene.things) != number for kind, number in meaning.counts):
        return False
    return any(
        all(kind.fits(scene.things[i]) for kind, i in zip(meaning.things, who))
        and all(related(name, *(who[i] for i in those)) for name, *those in meaning.relations)
        for who in permutations(range(len(scene.things)), len(meaning.things))
    )


def test_truth_of_many_scenes_at_once_agrees_with_one_at_a_time(made):
    scenes = [scene for scene, _ in made][:23]
    meanings = [caption.meaning for _, written in made[:23] for caption in written]
    loose = [
        Meaning(tuple(Kind(colour=kind.colour) for kind in meaning.things), meaning.relations) for meaning in meanings
    ]
    facts = gather_facts(scenes)
    for meaning in meanings + loose:
        assert true_of(meaning, facts).tolist() == [naive_truth(meaning, scene) for scene in scenes]


# --- captions


def test_scenes_are_clear_and_varied(made):
    assert all(is_clear(scene) for scene, _ in made)
    assert min(min(visible_shares(scene)) for scene, _ in made) >= 0.75
    things = [one for scene, _ in made for one in scene.things]
    assert {len(scene.things) for scene, _ in made} == {1, 2, 3, 4}
    assert {one.shape for one in things} == set(SHAPES) and {one.colour for one in things} == set(COLOURS)
    assert {scene.background.kind for scene, _ in made} == set(BACKGROUNDS)
    assert any(min(visible_shares(scene)) < 1 for scene, _ in made)


def test_five_different_captions_each_true_of_its_scene(made):
    for scene, written in made:
        assert len({tuple(tokenize(caption.text)) for caption in written}) == 5
        assert all(holds(caption.meaning, scene) for caption in written)
    meanings = [caption.meaning for _, written in made for caption in written]
    relations = {name for meaning in meanings for name, *_ in meaning.relations}
    assert relations == {"left", "right", "above", "below", "front", "behind", "between"}
    assert any(number > 1 for meaning in meanings for _, number in meaning.counts)


def test_articles_fit_the_next_word(made):
    for _, written in made:
        for caption in written:
            words = tokenize(caption.text)
            for word, after in zip(words, words[1:]):
                assert word not in ("a", "an") or (word == "an") == (after[0] in "aeiou"), caption.text


MEANS = {word: ("colour", name) for name, words in COLOUR_WORDS.items() for word in words}
MEANS |= {word: ("size", name) for name, words in SIZE_WORDS.items() for word in words}
MEANS |= {form: ("shape", name) for name, words in SHAPE_WORDS.items() for word in words for form in word}


def test_phrases_point_at_the_right_words_and_at_things_that_are_so(made):
    for scene, written in made:
        boxes = {box_fractions(one): one for one in scene.things}
        for caption in written:
            words, named = tokenize(caption.text), set()
            for indices, kind, where in caption.phrases:
                assert list(indices) == sorted(set(indices)) and indices[-1] < len(words) and len(where) >= 1
                named |= set(indices)
                said = " ".join(words[i] for i in indices)
                if kind in ("shape", "colour", "size"):
                    attribute, name = MEANS[said]
                    assert attribute == kind
                    assert all(name in (None, getattr(boxes[box], kind)) for box in where), caption.text
                elif kind == "relation":
                    assert len(where) >= 2
                else:
                    numbers = {"two": 2, "a pair of": 2, "three": 3, "four": 4}
                    assert kind == "count" and len(where) == numbers.get(said, 1)
            silent = {words[i] for i in range(len(words)) if i not in named}
            assert not silent & {word for said in MEANS for word in tokenize(said)}, caption.text


def test_words_of_a_scene_drawn_by_hand():
    scene = Scene((thing("small red star", 40, 60), thing("large blue ring", 150, 150, 100)))
    for seed in range(5):
        for caption in write_captions(Dice(seed), scene):
            for indices, kind, where in caption.phrases:
                said = " ".join(tokenize(caption.text)[i] for i in indices)
                if said in ("red", "crimson", "star", "small", "tiny"):
                    assert where == (box_fractions(scene.things[0]),)
                if kind == "relation":
                    assert where == tuple(box_fractions(one) for one in scene.things)


def test_the_picture_centre_is_seldom_the_answer_and_boxes_are_small(source):
    phrases = [phrase for split in source[1].values() for phrase in split.phrases]
    for kind in ("shape", "colour", "size", "relation", "count"):
        boxes = [phrase.boxes for phrase in phrases if phrase.type == kind]
        centre = [any(x1 <= 0.5 < x2 and y1 <= 0.5 < y2 for x1, y1, x2, y2 in where) for where in boxes]
        assert len(boxes) > 30 and np.mean(centre) < 0.3
    areas = [(x2 - x1) * (y2 - y1) for phrase in phrases for x1, y1, x2, y2 in phrase.boxes]
    assert np.mean(areas) < 0.15


# --- pairs


@pytest.mark.parametrize("change", CHANGES)
def test_pairs_differ_in_one_thing_alone(change):
    for seed in range(13):
        (one, [mine]), (other, [yours]) = make_pair(Dice(seed), change)
        assert naive_truth(mine.meaning, one) and naive_truth(yours.meaning, other)
        assert not naive_truth(mine.meaning, other) and not naive_truth(yours.meaning, one)
        assert is_clear(one) and is_clear(other) and one.background == other.background
        texts = tokenize(mine.text), tokenize(yours.text)
        bags = Counter(texts[0]), Counter(texts[1])
        if change == "count":
            assert set(one.things) < set(other.things) or set(other.things) < set(one.things)
            assert abs(len(one.things) - len(other.things)) == 1
        else:
            changed = {
                name
                for a, b in zip(one.things, other.things)
                for name in ("shape", "colour", "size")
                if getattr(a, name) != getattr(b, name)
            }
            assert changed == {"relation": set(), "binding": {"colour"}}.get(change, {change})
            moved = sum((a.x, a.y) != (b.x, b.y) for a, b in zip(one.things, other.things))
            assert moved == (2 if change == "relation" else 0)
        if change in ("relation", "binding"):
            bags = [bag - Counter({"a": 9, "an": 9}) for bag in bags]
            assert bags[0] == bags[1] and texts[0] != texts[1]


def test_a_scene_that_does_not_lend_itself_to_a_change_says_so():
    same = Scene((thing("small red star", 60, 60), thing("small red ring", 160, 160)))
    assert changed_scene(Dice(1), same, "binding") is None
    swapped = changed_scene(Dice(1), same, "relation")
    assert [(one.shape, one.x) for one in swapped.things] == [("star", 160), ("ring", 60)]


# --- the source


def test_splits_hold_together(source):
    folder, splits = source
    sizes = {name: len(split.ids) for name, split in splits.items()}
    assert sizes == {"train": 79, "dev": 9, "test": 9, "pairs": 12}
    for name, split in splits.items():
        assert split.name == name and split.image_folder == folder / "images"
        assert len(split.captions) == len(split.cap2im) == len(split.ids) * (1 if name == "pairs" else 5)
        assert split.satisfies.shape == (len(split.captions), len(split.ids))
        assert split.satisfies.dtype == bool
        assert split.satisfies[np.arange(len(split.cap2im)), split.cap2im].all()
        assert all(0 <= phrase.caption < len(split.captions) for phrase in split.phrases)
        for file in split.ids:
            with Image.open(folder / "images" / file) as picture:
                assert picture.size == (224, 224) and picture.mode == "RGB" and picture.format == "PNG"
    pairs = splits["pairs"]
    assert pairs.notes == {"kinds": list(CHANGES)} and pairs.cap2im.tolist() == list(range(12))
    assert not any(pairs.satisfies[i, i ^ 1] for i in range(12))
    assert sorted(file.name for file in (folder / "images").iterdir()) == sorted(
        ["scenes.json"] + [file for split in splits.values() for file in split.ids]
    )


def test_no_scene_is_in_two_splits_and_more_images_leave_the_earlier_ones(made):
    splits = ("train", "dev", "test", "pairs")
    seen = [scene for split in splits for scene, _ in make_scenes(split, 24, seed=7)]
    assert len({scene.things for scene in seen}) == 96
    assert list(make_scenes("train", 24, seed=7)) == made[:24]
    assert next(make_scenes("train", 1, seed=8)) != made[0]


def test_only_what_is_missing_or_broken_is_drawn_again(source):
    folder, splits = source
    pictures = [folder / "images" / file for file in splits["dev"].ids]
    whole = [picture.read_bytes() for picture in pictures]
    pictures[0].unlink()
    pictures[1].write_bytes(whole[1][:-7])
    pictures[2].write_bytes(b"")
    kept = pictures[3].stat().st_mtime_ns
    again = scenes_source(folder, images=97, seed=3, progress=False)
    assert [picture.read_bytes() for picture in pictures] == whole
    assert pictures[3].stat().st_mtime_ns == kept
    assert all(again[name].captions == splits[name].captions for name in splits)


def test_a_folder_of_another_drawing_is_refused_and_left_alone(source, tmp_path):
    folder, splits = source
    with pytest.raises(DataError, match="contains scenes drawn with .*'seed': 3.*delete"):
        scenes_source(folder, images=97, seed=4, progress=False)
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(DataError, match="cannot be used"):
        scenes_source(tmp_path, images=20, seed=1, progress=False)


def test_too_few_images_are_refused():
    assert split_sizes(3000) == {"train": 2400, "dev": 300, "test": 300, "pairs": 400}
    assert split_sizes(23) == {"train": 19, "dev": 2, "test": 2, "pairs": 2}
    with pytest.raises(ConfigError, match="19.*20 or more"):
        split_sizes(19)


def test_kinds_exclude_each_other_where_both_say_something():
    assert excludes(Kind("star", "red"), Kind("star", "blue"))
    assert not excludes(Kind("star"), Kind(colour="red")) and not excludes(Kind(), Kind("star"))
