"""The built-in source: scenes drawn from a seed, with captions of which the truth and the boxes of words are known.

Four splits. train, dev, test: 80, 10 and 10% of the images, five captions each. pairs: images 2i and 2i + 1
are one scene with one thing changed, each with one full caption that is true of it and false of the other.
Every scene depends on (seed, split, index) alone: with more images the earlier ones stay the same.

Letters: N images, C captions.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bssan_lib.data.progress import tqdm
from bssan_lib.data.raw import Phrase, RawSplit
from bssan_lib.data.scenes.dice import Dice, SteadyDice
from bssan_lib.data.scenes.drawing import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIDE,
    SIZES,
    Background,
    Scene,
    Thing,
    draw_scene,
    thing_box,
)
from bssan_lib.data.scenes.grammar import Caption, listing, noun_phrase, relation_pieces, write_caption, write_captions
from bssan_lib.data.scenes.truth import PLACES, Meaning, gather_facts, holds, is_clear, kind_of, overlap, true_of
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.files import atomic_write, write_json
from bssan_lib.reading import read_json

RECIPE = 1  # raise it whenever the same seed would draw other pictures
CHANGES = ("colour", "size", "shape", "relation", "binding", "count")
PALE = (
    (250, 246, 236),
    (236, 242, 250),
    (240, 248, 238),
    (250, 238, 238),
    (244, 240, 250),
    (248, 248, 248),
    (250, 246, 224),
    (232, 244, 244),
)


def random_background(dice: Dice) -> Background:
    """One of the kinds, in two pale colours."""
    kind = dice.pick(BACKGROUNDS)
    light = dice.pick(PALE)
    deeper = 38 if kind == "gradient" else 22
    dark = tuple(part - deeper + dice.below(12) for part in light)
    return Background(kind, light, dark, dice.between(12, 30), dice.below(4), dice.below(1000))


def random_thing(dice: Dice, earlier: Sequence[Thing] = (), sizes: tuple[str, ...] = tuple(SIZES)) -> Thing:
    """A thing without a place yet (x = y = 0). Some repeat an earlier one's shape or colour."""
    shape, colour, size = dice.pick(tuple(SHAPES)), dice.pick(tuple(COLOURS)), dice.pick(sizes)
    if earlier and dice.chance(40):
        model, what = dice.pick(earlier), dice.below(3)
        shape = model.shape if what != 0 else shape
        colour = model.colour if what != 1 else colour
    return Thing(shape, colour, size, 0, 0, dice.between(*SIZES[size]))


def _covers_centre(thing):
    x1, y1, x2, y2 = thing_box(thing)
    return x1 <= SIDE // 2 < x2 and y1 <= SIDE // 2 < y2


def place_things(dice: Dice, things: list[Thing], background: Background, overlaps: bool = True) -> Scene | None:
    """The things at different places, so that the scene is clear; None when they do not fit.

    The picture's centre is mostly left free, so that a model that always points there is mostly wrong.
    """
    placed: list[Thing] = []
    for thing in things:
        on_top = overlaps and bool(placed) and dice.chance(30)
        in_middle = len(placed) > 1 and dice.chance(35)
        for _ in range(80):
            half = thing.side // 2 + 3
            thing = replace(thing, x=dice.between(half, SIDE - half), y=dice.between(half, SIDE - half))
            if in_middle and not on_top:  # between two others
                a, b = placed[-2:]
                thing = replace(
                    thing, x=(a.x + b.x) // 2 + dice.between(-8, 8), y=(a.y + b.y) // 2 + dice.between(-8, 8)
                )
            if _covers_centre(thing) and not dice.chance(20):
                continue
            scene = Scene((*placed, thing), background)
            if is_clear(scene) and any(overlap(other, thing) > 0 for other in placed) == on_top:
                placed.append(thing)
                break
        else:
            return None
    return Scene(tuple(placed), background)


def random_scene(dice: Dice, number: int | None = None) -> Scene:
    """A clear scene of so many things (1 to 4 when None)."""
    number = number or dice.pick((1, 2, 2, 2, 3, 3, 3, 4, 4))
    while True:
        sizes = tuple(SIZES) if number < 4 else ("small", "small", "medium")
        things: list[Thing] = []
        for _ in range(number):
            things.append(random_thing(dice, things, sizes))
        scene = place_things(dice, things, random_background(dice))
        if scene:
            return scene


# --- pairs: one scene twice, with one thing changed


def _other(dice, words, word):
    return dice.pick([other for other in words if other != word])


def changed_scene(dice: Dice, scene: Scene, change: str) -> Scene | None:
    """The scene with one change, one of CHANGES; None where it is not possible. Things keep their order.

    colour, size, shape: of one thing. relation: two things of one size change places. binding: two things of
    unlike shape and colour exchange colours. count: the last thing, like the one before it, is removed.
    """
    things = list(scene.things)
    n = dice.below(len(things))
    if change == "colour":
        things[n] = replace(things[n], colour=_other(dice, COLOURS, things[n].colour))
    elif change == "shape":
        things[n] = replace(things[n], shape=_other(dice, SHAPES, things[n].shape))
    elif change == "size":
        size = _other(dice, SIZES, things[n].size)
        things[n] = replace(things[n], size=size, side=dice.between(*SIZES[size]))
    elif change == "relation":
        a, b = things
        things = [replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y)]
    elif change == "binding":
        a, b = things
        if a.colour == b.colour or a.shape == b.shape:
            return None
        things = [replace(a, colour=b.colour), replace(b, colour=a.colour)]
    else:
        things = things[:-1]
    changed = Scene(tuple(things), scene.background)
    return changed if is_clear(changed) else None


def _pair_start(dice, change):
    """A scene in which the change is possible."""
    if change == "count":  # two to four of a kind, the last to be removed, and perhaps something else
        first = random_thing(dice, sizes=("small", "medium"))
        number = dice.between(3, PLACES)
        alike = [replace(first, side=dice.between(*SIZES[first.size])) for _ in range(number)]
        other = [random_thing(dice, sizes=("small",))] if len(alike) < PLACES and dice.chance(60) else []
        return place_things(dice, other + alike, random_background(dice), overlaps=False)
    if change in ("relation", "binding"):
        sizes = (dice.pick(tuple(SIZES)),) if change == "relation" else tuple(SIZES)
        things = [random_thing(dice, sizes=sizes) for _ in range(2)]
        return place_things(dice, things, random_background(dice), overlaps=False)
    return random_scene(dice, dice.pick((1, 2, 2, 3)))


def _full_draft(dice, scene, change):
    """Meaning and pieces that name everything in the scene; equal dice give equal words."""
    kinds = [kind_of(thing) for thing in scene.things]
    if change == "relation":
        a, b = scene.things
        across = abs(a.x - b.x) >= abs(a.y - b.y)
        name = dice.pick(("left", "right") if across else ("above", "below"))
        a_first = (a.x < b.x if across else a.y < b.y) == (name in ("left", "above"))
        phrases = [noun_phrase(dice, kind, (i if a_first else 1 - i,)) for i, kind in enumerate(kinds)]
        if not a_first:
            kinds, phrases = kinds[::-1], phrases[::-1]
        return Meaning(tuple(kinds), ((name, 0, 1),)), relation_pieces(dice, name, *phrases)
    if change == "count":
        many = kind_of(scene.things[-1], "shape colour")
        number = sum(many.fits(thing) for thing in scene.things)
        pieces = noun_phrase(dice, many, many, number)
        if number == len(scene.things):
            return Meaning((), (), ((many, number),)), pieces
        pieces = listing([pieces, noun_phrase(dice, kinds[0], (0,))])
        return Meaning((kinds[0],), (), ((many, number),)), pieces
    order = dice.mixed(range(len(kinds)))
    kinds = [kinds[i] for i in order]
    return Meaning(tuple(kinds)), listing([noun_phrase(dice, kind, (i,)) for i, kind in enumerate(kinds)])


def make_pair(dice: Dice, change: str) -> list[tuple[Scene, list[Caption]]]:
    """Two scenes that differ in one thing and a full caption of each: true of its own, false of the other."""
    while True:
        first = _pair_start(dice, change)
        second = first and changed_scene(dice, first, change)
        if not second:
            continue
        scenes, wording = [first, second], dice.below(10**9)
        drafts = [_full_draft(SteadyDice(wording), scene, change) for scene in scenes]
        truth = [[holds(meaning, scene) for scene in scenes] for meaning, _ in drafts]
        if truth == [[True, False], [False, True]]:
            made = [
                (scene, [write_caption(SteadyDice(wording), scene, *draft)])
                for scene, draft in zip(scenes, drafts, strict=True)
            ]
            return made if dice.chance(50) else made[::-1]


# --- the source


def split_sizes(images: int) -> dict[str, int]:
    """Images of each split: 10% dev, 10% test, the rest train, and further two images for every 15 as pairs.

    ConfigError below 20, where a split would be empty.
    """
    if images < 20:
        raise ConfigError(f"data.images is {images}, but the built-in scenes need 20 or more for four splits")
    tenth = images // 10
    return {"train": images - 2 * tenth, "dev": tenth, "test": tenth, "pairs": images // 15 * 2}


def make_scenes(split: str, number: int, seed: int) -> Iterator[tuple[Scene, list[Caption]]]:
    """So many scenes of a split one after the other, each with its captions; nothing is drawn."""
    if split == "pairs":
        for i in range(number // 2):
            yield from make_pair(Dice(f"{seed}/pairs/{i}"), CHANGES[i % len(CHANGES)])
        return
    for index in range(number):
        dice = Dice(f"{seed}/{split}/{index}")
        scene = random_scene(dice)
        yield scene, write_captions(dice, scene)


def _is_whole(path):
    """Whether a file ends as a PNG does; one that is cut short or empty does not."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read() == b"\0\0\0\0IEND\xaeB`\x82"
    except OSError:
        return False


def _draw_into(path, scene):
    if not _is_whole(path):
        with atomic_write(path, sync=False) as partial:  # a picture that a power cut left empty is drawn again
            draw_scene(scene).save(partial, format="PNG")


def _note_scenes(folder, seed):
    """Notes which scenes a folder contains: pictures of another seed have the same names."""
    stamp, wanted = folder / "scenes.json", {"seed": seed, "recipe": RECIPE}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if stamp.exists():
            found = read_json(stamp)
            if found != wanted:
                raise DataError(
                    f"{folder} contains scenes drawn with {found}, expected {wanted}: "
                    f"choose another folder or delete this one"
                )
            return
        write_json(stamp, wanted)
    except (OSError, ValueError) as problem:
        raise DataError(f"{folder} cannot be used for the drawn pictures: {problem}") from problem


def scenes_source(folder: Path, images: int = 3000, seed: int = 1, progress: bool = True) -> dict[str, RawSplit]:
    """Splits train, dev, test and pairs, their pictures drawn under folder/images where they are missing.

    satisfies [C, N]: every image of the split that a caption is true of. notes["kinds"] (pairs only): what
    each pair changes. DataError where the folder contains other scenes or cannot be written.
    """
    sizes = split_sizes(images)
    _note_scenes(Path(folder) / "images", seed)
    bar = tqdm(total=sum(sizes.values()), desc="scenes", unit="picture", disable=not progress)
    splits = {}
    with bar:
        for name, number in sizes.items():
            made = make_scenes(name, number, seed)
            splits[name] = _one_split(Path(folder) / "images", name, made, number, bar)
    return splits


def _one_split(folder, name, made, number, bar):
    ids = [f"{name}_{row:05d}.png" for row in range(number)]
    scenes: list[Scene] = []
    captions: list[str] = []
    cap2im: list[int] = []
    phrases: list[Phrase] = []
    meanings: list[Meaning] = []
    for row, (scene, written) in enumerate(made):
        try:
            _draw_into(folder / ids[row], scene)
        except OSError as problem:
            raise DataError(f"{folder / ids[row]} cannot be written: {problem}") from problem
        for caption in written:
            phrases += [Phrase(len(captions), *phrase) for phrase in caption.phrases]
            captions.append(caption.text)
            meanings.append(caption.meaning)
            cap2im.append(row)
        scenes.append(scene)
        bar.update()
    facts = gather_facts(scenes)
    satisfies = np.array([true_of(meaning, facts) for meaning in meanings])
    notes = {"kinds": [CHANGES[i % len(CHANGES)] for i in range(number // 2)]} if name == "pairs" else {}
    return RawSplit(name, ids, folder, captions, np.array(cap2im, dtype=np.int64), phrases, satisfies, notes)
