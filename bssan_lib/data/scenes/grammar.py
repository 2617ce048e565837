"""Captions of scenes: first a meaning, then words for it, so that truth and the boxes of every word are known.

A caption consists of pieces (text, type, who): `type` is that of a Phrase or None for words that name nothing
("there is"), `who` the things it names: indices into the meaning's things, or a Kind for all things of that kind.
"""

from dataclasses import dataclass
from itertools import permutations

from bssan_lib.data.scenes.dice import Dice
from bssan_lib.data.scenes.drawing import Scene, box_fractions
from bssan_lib.data.scenes.truth import Kind, Meaning, bindings, excludes, gather_facts, kind_of
from bssan_lib.data.vocabulary import tokenize

# Singular and plural; the first is the usual word.
SHAPE_WORDS: dict[str | None, tuple[tuple[str, str], ...]] = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"), ("three-cornered shape", "three-cornered shapes")),
    "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
    "heart": (("heart", "hearts"), ("valentine", "valentines")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "crescent": (("crescent", "crescents"), ("moon", "moons")),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "hexagon": (("hexagon", "hexagons"), ("six-sided shape", "six-sided shapes")),
    "arrow": (("arrow", "arrows"), ("pointer", "pointers")),
    "flower": (("flower", "flowers"), ("blossom", "blossoms")),
    None: (("shape", "shapes"), ("thing", "things"), ("object", "objects"), ("figure", "figures")),
}
COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "black": ("black", "jet-black"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
}
NUMBER_WORDS = {2: ("two", "two", "two", "a pair of"), 3: ("three",), 4: ("four",)}
# Before a noun phrase: "A left of B". Then "B with A to its left".
RELATION_WORDS = {
    "left": (("left of", "to the left of", "on the left of"), ("to its left", "on its left")),
    "right": (("right of", "to the right of", "on the right of"), ("to its right", "on its right")),
    "above": (("above", "over", "higher than"), ("above it", "over it")),
    "below": (("below", "under", "lower than"), ("below it", "under it")),
    "front": (("in front of", "partly covering"), ("in front of it",)),
    "behind": (("behind", "partly hidden by"), ("behind it",)),
}
INTROS = ("", "", "", "", "there is", "there is", "the picture shows", "i can see", "we see")
# Which attributes of a thing a caption mentions, as often as listed here.
DETAILS = ("shape colour size",) * 8 + ("shape colour",) * 9 + ("shape size",) * 3 + ("colour size", "shape", "colour")
# Roughly the bits by which an attribute narrows the scenes; a caption needs ENOUGH_BITS.
BITS = {"shape": 3.5, "colour": 3.0, "size": 1.5}
ENOUGH_BITS = 5.2


@dataclass(frozen=True)
class Caption:
    """A caption with what it means. phrases: (indices into tokenize(text), type, boxes), as in raw.Phrase."""

    text: str
    meaning: Meaning
    phrases: tuple[tuple[tuple[int, ...], str, tuple[tuple[float, float, float, float], ...]], ...]


def noun_phrase(dice: Dice, kind: Kind, who, number: int = 1, article: str = "a") -> list[tuple]:
    """Pieces such as "a small red star", "two red squares"; `who` as in the pieces; article: "a" or "the"."""
    pieces: list[tuple] = []
    if kind.size:
        pieces.append((dice.word(SIZE_WORDS[kind.size]), "size", who))
    colour = kind.colour and (dice.word(COLOUR_WORDS[kind.colour]), "colour", who)
    noun = (dice.word(SHAPE_WORDS[kind.shape])[number > 1], "shape", who)
    if kind.colour and dice.chance(6):
        pieces += [noun, ("in", None, ()), (COLOUR_WORDS[kind.colour][0], "colour", who)]  # not "in golden"
    else:
        pieces += [colour, noun] if colour else [noun]
    if number > 1:
        return [(dice.pick(NUMBER_WORDS[number]), "count", who)] + pieces
    if article == "a" and pieces[0][0][0] in "aeiou":
        article = "an"
    return [(article, None, ())] + pieces


def listing(phrases: list[list[tuple]]) -> list[tuple]:
    """Pieces of "A", "A and B" or "A, B and C"."""
    pieces = list(phrases[0])
    for n, phrase in enumerate(phrases[1:], start=2):
        pieces += [("and" if n == len(phrases) else ",", None, ()), *phrase]
    return pieces


def _opened(dice, pieces, plural=False):
    intro = dice.pick(INTROS)
    if plural:
        intro = intro.replace("there is", "there are")
    return [(intro, None, ())] * bool(intro) + pieces


def _bits(meaning):
    kinds = [(kind, -1.3) for kind in meaning.things] + [(kind, 1.0) for kind, _ in meaning.counts]
    attributes = sum(bits for kind, _ in kinds for name, bits in BITS.items() if getattr(kind, name))
    return attributes + sum(extra for _, extra in kinds) + 1.2 * len(meaning.relations)


def _apart(kinds):
    return all(excludes(a, b) for a, b in permutations(kinds, 2))


def draft_list(dice: Dice, scene: Scene, everything: bool = False):
    """ "a large red star and a ring": all things with all attributes, or one or two with some."""
    things = dice.mixed(scene.things)
    if not everything:
        things = things[: dice.between(1, 2)]
    kinds = [kind_of(thing) if everything else kind_of(thing, dice.pick(DETAILS)) for thing in things]
    if not _apart(kinds):
        return None
    phrases = [noun_phrase(dice, kind, (i,)) for i, kind in enumerate(kinds)]
    return Meaning(tuple(kinds)), _opened(dice, listing(phrases))


def relation_pieces(dice: Dice, name: str, first: list[tuple], second: list[tuple]) -> list[tuple]:
    """Pieces for thing 0 in this relation to thing 1; first, second: their noun phrases."""
    before, after = RELATION_WORDS[name]
    frame = dice.below(6)
    if frame == 0:
        return second + [("with", None, ())] + first + [(dice.pick(after), "relation", (0, 1))]
    relation = (dice.pick(before), "relation", (0, 1))
    if frame == 1 and relation[0].split()[-1] not in ("than", "by", "covering"):
        return [relation] + second + [("is", None, ())] + first
    if frame in (2, 3):
        return first + [("is", None, ()), relation] + second
    return (first if first[0][0] == "the" else _opened(dice, first)) + [relation] + second


def _natural_relations(scene):
    """(name, i, j) that hold and are natural to mention: depth where things overlap, else the axis of the larger distance."""
    table = gather_facts([scene]).relations
    found = []
    for i, j in permutations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        dx, dy = abs(a.x - b.x), abs(a.y - b.y)
        names = ["front", "behind"] * 3 + ["left", "right"] * (dx * 5 >= dy * 4)
        names += ["above", "below"] * (dy * 5 >= dx * 4)
        found += [(name, i, j) for name in names if table[name][0, i, j]]
    return found


def draft_relation(dice: Dice, scene: Scene):
    """ "a red star to the left of a ring", sometimes with a third thing."""
    relations = _natural_relations(scene)
    if not relations:
        return None
    name, i, j = dice.pick(relations)
    things = [scene.things[i], scene.things[j]]
    if len(scene.things) > 2 and dice.chance(20):
        things.append(dice.pick([thing for n, thing in enumerate(scene.things) if n not in (i, j)]))
    kinds = [kind_of(thing, dice.pick(DETAILS)) for thing in things]
    if not _apart(kinds):
        return None
    article = dice.pick(("a", "a", "a", "the"))
    first, second = (noun_phrase(dice, kind, (i,), article=article) for i, kind in enumerate(kinds[:2]))
    pieces = relation_pieces(dice, name, first, second)
    if len(kinds) == 3:
        pieces += [(",", None, ()), ("and", None, ())] + noun_phrase(dice, kinds[2], (2,))
    return Meaning(tuple(kinds), ((name, 0, 1),)), pieces


def draft_between(dice: Dice, scene: Scene):
    """ "a red star between a ring and a blue heart"."""
    table = gather_facts([scene]).relations["between"][0]
    triples = [who for who in permutations(range(len(scene.things)), 3) if table[who]]
    if not triples:
        return None
    kinds = [kind_of(scene.things[i], dice.pick(DETAILS)) for i in dice.pick(triples)]
    if not _apart(kinds):
        return None
    middle, *outer = (noun_phrase(dice, kind, (i,)) for i, kind in enumerate(kinds))
    ends = [("between", "relation", (0, 1, 2)), *listing(outer)]
    frame = dice.below(4)
    if frame == 0:
        pieces = ends + [("is", None, ())] + middle
    else:
        pieces = middle + [("is", None, ())] * (frame == 1) + ends
    return Meaning(tuple(kinds), (("between", 0, 1, 2),)), pieces


def draft_total(dice: Dice, scene: Scene):
    """ "three shapes, one of them a red star", "three things: a red star, a ring and a blue heart"."""
    number = len(scene.things)
    if number == 1:
        kind = kind_of(scene.things[0], dice.pick(("shape colour size", "shape colour")))
        alone, noun = dice.pick((("nothing but", ""), ("only", ""), ("a single", "shape"), ("just one", "thing")))
        lead = [(alone, "count", (0,))] + ([(noun, "shape", (0,)), (":", None, ())] if noun else [])
        return Meaning((kind,), (), ((Kind(), 1),)), lead + noun_phrase(dice, kind, (0,))
    things = dice.mixed(scene.things)[: number if dice.chance(35) else 1]
    kinds = [kind_of(thing, dice.pick(DETAILS)) for thing in things]
    if not _apart(kinds):
        return None
    phrases = listing([noun_phrase(dice, kind, (i,)) for i, kind in enumerate(kinds)])
    link = ":" if len(things) == number else dice.pick((", one of them", "and one of them is", "including"))
    pieces = noun_phrase(dice, Kind(), Kind(), number) + [(link, None, ())] + phrases
    return Meaning(tuple(kinds), (), ((Kind(), number),)), _opened(dice, pieces, plural=True)


def draft_count(dice: Dice, scene: Scene):
    """ "two red squares and a ring", "two circles, one red and one blue"."""
    options = []
    for detail in ("shape", "colour", "shape colour", "shape size"):
        for kind in dict.fromkeys(kind_of(thing, detail) for thing in scene.things):
            members = [thing for thing in scene.things if kind.fits(thing)]
            if len(members) > 1:
                options.append((kind, members))
    if not options:
        return None
    kind, members = dice.pick(options)
    counts = ((kind, len(members)),)
    pieces = _opened(dice, noun_phrase(dice, kind, kind, len(members)), plural=True)
    colours = [thing.colour for thing in members]
    if kind.colour is None and len(members) == 2 and colours[0] != colours[1] and dice.chance(60):
        kinds = tuple(Kind(kind.shape, colour, kind.size) for colour in colours)
        each: list[list[tuple]] = [
            [("one", None, ()), (dice.word(COLOUR_WORDS[colour]), "colour", (i,))] for i, colour in enumerate(colours)
        ]
        return Meaning(kinds, (), counts), pieces + [(",", None, ())] + listing(each)
    others = [thing for thing in scene.things if not kind.fits(thing)]
    if not others:
        return Meaning((), (), counts), pieces
    other = kind_of(dice.pick(others), dice.pick(DETAILS))
    if not excludes(kind, other):
        return None
    pieces += [(dice.pick(("and", "with")), None, ())] + noun_phrase(dice, other, (0,))
    return Meaning((other,), (), counts), pieces


def write_caption(dice: Dice, scene: Scene, meaning: Meaning, pieces: list[tuple]) -> Caption:
    """Words and phrases of the pieces. A word's boxes: all things it can be with the caption still true."""
    text = " ".join(piece[0] for piece in pieces).replace(" ,", ",").replace(" :", ":")
    if dice.chance(50):
        text = text[0].upper() + text[1:]
    if dice.chance(50):
        text += "."
    members, phrases, start = bindings(meaning, scene), [], 0
    for words, kind_of_phrase, who in pieces:
        stop = start + len(tokenize(words) if any(map(str.isalnum, words)) else [])
        if kind_of_phrase:
            if isinstance(who, Kind):
                named = {n for n, thing in enumerate(scene.things) if who.fits(thing)}
            else:
                named = set().union(*(members[i] for i in who))
            boxes = tuple(box_fractions(scene.things[n]) for n in sorted(named))
            phrases.append((tuple(range(start, stop)), kind_of_phrase, boxes))
        start = stop
    return Caption(text, meaning, tuple(phrases))


def write_captions(dice: Dice, scene: Scene, number: int = 5) -> list[Caption]:
    """So many different captions, each true of the scene: all in full, relations, counts, partial mention."""

    def draft_full(dice, scene):
        return draft_list(dice, scene, everything=True)

    if len(scene.things) == 1:
        plan = [draft_full, draft_list, draft_total, draft_list, draft_total]
    else:
        plan = [
            draft_full,
            draft_relation,
            dice.pick((draft_between, draft_relation)),
            dice.pick((draft_count, draft_count, draft_total)),
            dice.pick((draft_list, draft_relation)),
        ]
    # Keyed by the words, so that a capital letter or a full stop makes no other caption.
    written: dict[tuple[str, ...], Caption] = {}
    while len(written) < number:
        # Where a style does not fit the scene, the others are tried.
        styles = [plan[len(written) % len(plan)], draft_relation, draft_list, draft_total, draft_full]
        for style in (style for style in styles for _ in range(12)):
            draft = style(dice, scene)
            if draft and _bits(draft[0]) >= ENOUGH_BITS:
                caption = write_caption(dice, scene, *draft)
                words = tuple(tokenize(caption.text))
                if words not in written:
                    written[words] = caption
                    break
        else:
            raise RuntimeError(f"no {number} different captions for {scene}")
    return dice.mixed(list(written.values()))
