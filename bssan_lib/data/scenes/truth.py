"""What a caption means and of which scenes it is true. Both are exact, since the scenes are known.

A meaning lists things of some kinds (each a different one), relations between them, and exact numbers of things
of some kind. It is true of a scene if some choice of the scene's things fulfils it.

Definitions:
  "a red star"           at least one; there may be other things ("partial mention")
  "two red squares"      exactly two; "three shapes" exactly three things in the picture
  "left of", "above"     the boxes' centres differ by MARGIN or more on that axis; the other axis does not matter
  "in front of/behind"   their pixels overlap, and this one is drawn later/earlier
  "between"              the centre lies near the middle of the line that joins the two other centres
Generated scenes contain no borderline cases (`is_clear`).

Letters: N scenes; each has up to PLACES things.
"""

import math
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from bssan_lib.data.scenes.drawing import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, shape_masks, thing_box

PLACES = 4  # the most things in a scene
MARGIN = 28  # pixels between centres from which "left of" and similar relations hold
NEAR = 14  # pixels up to which a generated scene's centres are level
ATTRIBUTES = ("shape", "colour", "size")
CODES = {word: code for code, word in enumerate((*SHAPES, *COLOURS, *SIZES))}
OPPOSITE = {"left": "right", "above": "below", "front": "behind"}
RELATIONS = ("left", "right", "above", "below", "front", "behind", "between")


@dataclass(frozen=True)
class Kind:
    """A description: None leaves an attribute open. Kind() is any thing at all."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether the thing is of this kind."""
        return all(getattr(self, name) in (None, getattr(thing, name)) for name in ATTRIBUTES)


def kind_of(thing: Thing, detail: str = "shape colour size") -> Kind:
    """The kind of a thing as far as the named attributes go, "shape colour" for instance."""
    return Kind(**{name: getattr(thing, name) for name in detail.split()})


def excludes(a: Kind, b: Kind) -> bool:
    """Whether nothing can be of both kinds."""
    return any(
        None not in (mine := getattr(a, name), other := getattr(b, name)) and mine != other for name in ATTRIBUTES
    )


@dataclass(frozen=True)
class Meaning:
    """things: the kinds that exist, each a thing of its own; relations: (name, i, j) or ("between", i, j, k),
    indices into things ("left", 0, 1: thing 0 is left of thing 1); counts: (kind, exactly how many)."""

    things: tuple[Kind, ...] = ()
    relations: tuple[tuple, ...] = ()
    counts: tuple[tuple[Kind, int], ...] = ()


@dataclass(frozen=True)
class Facts:
    """Many scenes as tables. attributes: name -> int8 [N, PLACES], CODES of words, -1 for no thing;
    relations: name -> bool [N, PLACES, PLACES], "between" [N, PLACES, PLACES, PLACES]."""

    attributes: dict[str, np.ndarray]
    relations: dict[str, np.ndarray]

    def matches(self, kind: Kind) -> np.ndarray:
        """bool [N, PLACES]: the things of this kind."""
        found = self.attributes["shape"] >= 0
        for name in ATTRIBUTES:
            if getattr(kind, name) is not None:
                found = found & (self.attributes[name] == CODES[getattr(kind, name)])
        return found


def overlap(a: Thing, b: Thing) -> int:
    """Pixels that both cover (by half or more), whichever is in front."""
    ax1, ay1, ax2, ay2 = thing_box(a)
    bx1, by1, bx2, by2 = thing_box(b)
    x1, y1, x2, y2 = max(ax1, bx1), max(ay1, by1), min(ax2, bx2), min(ay2, by2)
    if x1 >= x2 or y1 >= y2:
        return 0
    mask_a = shape_masks(a.shape, a.side)[0][y1 - ay1 : y2 - ay1, x1 - ax1 : x2 - ax1]
    mask_b = shape_masks(b.shape, b.side)[0][y1 - by1 : y2 - by1, x1 - bx1 : x2 - bx1]
    return int(np.count_nonzero((mask_a >= 128) & (mask_b >= 128)))


def visible_shares(scene: Scene) -> list[float]:
    """For every thing the share of its pixels that no later thing covers, 0 to 1."""
    owner = np.full((SIDE, SIDE), -1)
    areas = []
    for index, thing in enumerate(scene.things):
        x1, y1, x2, y2 = thing_box(thing)
        mask = shape_masks(thing.shape, thing.side)[0] >= 128
        owner[y1:y2, x1:x2][mask] = index
        areas.append(int(np.count_nonzero(mask)))
    return [int(np.count_nonzero(owner == index)) / area for index, area in enumerate(areas)]


def middle_distance(a: Thing, b: Thing, c: Thing) -> tuple[float, float]:
    """Where a's centre lies from the line b to c: (place along it, 0 at b and 1 at c; pixels beside it)."""
    vx, vy, wx, wy = c.x - b.x, c.y - b.y, a.x - b.x, a.y - b.y
    length = vx * vx + vy * vy
    if length == 0:
        return 0.0, float(SIDE)
    return (wx * vx + wy * vy) / length, abs(wx * vy - wy * vx) / math.sqrt(length)


def _relate(tables, n, things):
    for (i, a), (j, b) in combinations(enumerate(things), 2):
        for name, difference in (("left", b.x - a.x), ("above", b.y - a.y)):
            if abs(difference) >= MARGIN:
                first, second = (i, j) if difference > 0 else (j, i)
                tables[name][n, first, second] = tables[OPPOSITE[name]][n, second, first] = True
        if overlap(a, b):
            tables["behind"][n, i, j] = tables["front"][n, j, i] = True
    for i, j, k in permutations(range(len(things)), 3):
        along, beside = middle_distance(things[i], things[j], things[k])
        tables["between"][n, i, j, k] = 0.25 <= along <= 0.75 and beside <= 30


def gather_facts(scenes: list[Scene]) -> Facts:
    """Tables of N scenes; things in a scene's own order, from back to front."""
    attributes = {name: np.full((len(scenes), PLACES), -1, dtype=np.int8) for name in ATTRIBUTES}
    relations = {
        name: np.zeros((len(scenes),) + (PLACES,) * (3 if name == "between" else 2), dtype=bool) for name in RELATIONS
    }
    for n, scene in enumerate(scenes):
        if len(scene.things) > PLACES:
            raise ValueError(f"scene {n} has {len(scene.things)} things, at most {PLACES} are allowed")
        for name, table in attributes.items():
            table[n, : len(scene.things)] = [CODES[getattr(thing, name)] for thing in scene.things]
        _relate(relations, n, scene.things)
    return Facts(attributes, relations)


def _fulfilments(meaning, facts):
    """Yields (places, bool [N]) for every choice of different places for the meaning's things."""
    matches = [facts.matches(kind) for kind in meaning.things]
    for places in permutations(range(PLACES), len(matches)):
        good = np.ones(len(facts.attributes["shape"]), dtype=bool)
        for match, place in zip(matches, places, strict=True):
            good &= match[:, place]
        for name, *who in meaning.relations:
            good &= facts.relations[name][(slice(None), *(places[i] for i in who))]
        yield places, good


def true_of(meaning: Meaning, facts: Facts) -> np.ndarray:
    """bool [N]: the scenes that the meaning is true of."""
    true = np.ones(len(facts.attributes["shape"]), dtype=bool)
    for kind, number in meaning.counts:
        true &= facts.matches(kind).sum(axis=1) == number
    for kind in set(meaning.things):
        true &= facts.matches(kind).any(axis=1)
    rows = np.flatnonzero(true)  # few are left: only these need the choices of things
    few = Facts(
        {name: table[rows] for name, table in facts.attributes.items()},
        {name: table[rows] for name, table in facts.relations.items()},
    )
    true[rows] = np.any([good for _, good in _fulfilments(meaning, few)], axis=0)
    return true


def holds(meaning: Meaning, scene: Scene) -> bool:
    """Whether the meaning is true of this scene."""
    return bool(true_of(meaning, gather_facts([scene]))[0])


def bindings(meaning: Meaning, scene: Scene) -> list[set[int]]:
    """For each of the meaning's things, the scene's things that it can be while the rest holds as well."""
    found: list[set[int]] = [set() for _ in meaning.things]
    for places, good in _fulfilments(meaning, gather_facts([scene])):
        if good[0]:
            for members, place in zip(found, places, strict=True):
                members.add(place)
    return found


def is_clear(scene: Scene, least_visible: float = 0.75) -> bool:
    """Whether nothing in this scene is ambiguous: things inside the frame, every relation clearly true or clearly
    false, overlaps absent (with a gap) or large, every thing visible to at least this share."""
    for thing in scene.things:
        x1, y1, x2, y2 = thing_box(thing)
        if min(x1, y1) < 3 or max(x2, y2) > SIDE - 3:
            return False
    covered = False
    for a, b in combinations(scene.things, 2):
        if NEAR < abs(a.x - b.x) < MARGIN or NEAR < abs(a.y - b.y) < MARGIN:
            return False
        ax1, ay1, ax2, ay2 = thing_box(a)
        bx1, by1, bx2, by2 = thing_box(b)
        if max(ax1, bx1) < min(ax2, bx2) + 4 and max(ay1, by1) < min(ay2, by2) + 4:
            smaller = min(a.side, b.side) ** 2
            if overlap(a, b) * 12 < smaller:
                return False
            covered = True
    for i, j, k in permutations(range(len(scene.things)), 3):
        along, beside = middle_distance(scene.things[i], scene.things[j], scene.things[k])
        if 0.1 < along < 0.9 and beside < 45 and not (0.3 <= along <= 0.7 and beside <= 26) and j < k:
            return False
    return not covered or min(visible_shares(scene)) >= least_visible
