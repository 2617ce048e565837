"""Flickr30K Entities: boxes that people drew for the phrases of captions (Plummer et al., ICCV 2015).

A sentence reads `[/EN#18/people A child] in [/EN#19/clothing a dress]`: a phrase of chain 18, type people. In
the XML of the same image every <object> with <name>18</name> and a <bndbox> is one of its boxes, in the
original picture's pixels. Sentences are matched to captions by their words, since their order and
punctuation may differ.
"""

import re
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from bssan_lib.data.raw import Phrase
from bssan_lib.data.vocabulary import tokenize, words_of
from bssan_lib.errors import DataError

_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]*)\]")
_LARGEST = 4_000_000  # bytes; the largest real file has 11,000, so a larger one is an attack
Box = tuple[float, float, float, float]
Spans = list[tuple[str, str, tuple[int, ...]]]  # of one sentence: (chain, type, word indices)


def entities_phrases(place: Path, ids: list[str], captions: list[str], cap2im: np.ndarray) -> tuple[list[Phrase], dict]:
    """The phrases with boxes of C captions, and counts of what was found and what was not.

    place: the zip, or a folder with Sentences/ and Annotations/. ids: N file names; cap2im [C]. An image
    without annotations is counted, since the set covers Flickr30K and not all of Flickr8k. DataError if `place`
    is missing, no such archive, holds a name that leaves its folder, or a damaged file.
    """
    archive = _Archive(Path(place))
    rows_of: list[list[int]] = [[] for _ in ids]
    for row, image in enumerate(cap2im):
        rows_of[image].append(row)
    phrases = []
    counts = Counter({"captions": len(captions), "captions_matched": 0, "images_without_file": 0})
    for name, rows in zip(ids, rows_of, strict=True):
        found = archive.read(name)
        if found is None:
            counts["images_without_file"] += 1
            continue
        (sentences_name, sentences), (xml_name, xml) = found
        boxes = parse_boxes(xml, xml_name)
        # Two sentences of the same words have the same phrases, so either can be used.
        spans = {tuple(words): found for words, found in map(parse_sentence, sentences.splitlines()) if words}
        for row in rows:
            known = spans.get(tuple(tokenize(captions[row])))
            if known is None:
                continue
            counts["captions_matched"] += 1
            for chain, kind, words in known:
                counts["phrases"] += 1
                if chain in boxes:
                    phrases.append(Phrase(row, words, kind, tuple(boxes[chain])))
    notes = {**counts, "phrases_with_boxes": len(phrases), "file": Path(place).name}
    return sorted(phrases, key=lambda phrase: (phrase.caption, phrase.words)), notes


def parse_sentence(sentence: str) -> tuple[list[str], Spans]:
    """The T words of a marked-up sentence, and its phrases as (chain, type, indices into those words)."""
    plain, ends, last = "", [], 0
    for match in _PHRASE.finditer(sentence):
        plain += sentence[last : match.start()]
        start = len(plain)
        plain += match[3]
        ends.append((match[1], match[2], start, len(plain)))
        last = match.end()
    plain += sentence[last:]
    spans = []
    for chain, kind, start, end in ends:
        # Counted on prefixes of the plain text, so that "[a man]'s hat" marks the word "man's".
        words = tuple(range(len(words_of(plain[:start])), len(words_of(plain[:end]))))
        if words:
            spans.append((chain, kind, words))
    return words_of(plain), spans


def parse_boxes(xml: str, name: str) -> dict[str, list[Box]]:
    """Chain -> its boxes as fractions of width and height, in [0, 1]. DataError naming `name` if damaged."""
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise DataError(f"{name}: declares XML entities, which annotations never contain; the file was not read")
    try:
        root = ElementTree.fromstring(xml)
        width, height = (float(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        if not (width > 0 and height > 0):
            raise ValueError(f"a size of {width:g} x {height:g}")
        boxes: dict[str, list[Box]] = {}
        for item in root.iter("object"):
            corners = item.find("bndbox")
            if corners is None:
                continue
            x1, y1, x2, y2 = (float(corners.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            x1, x2 = (min(max(x / width, 0.0), 1.0) for x in (x1, x2))
            y1, y2 = (min(max(y / height, 0.0), 1.0) for y in (y1, y2))
            if x1 < x2 and y1 < y2:
                for chain in item.findall("name"):
                    if chain.text and chain.text != "0":  # id 0 is no visual entity
                        boxes.setdefault(chain.text, []).append((x1, y1, x2, y2))
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{name}: not an annotation of Flickr30K Entities ({error})") from None
    return boxes


class _Archive:
    """Sentences/ and Annotations/ in a zip or a folder, at any depth; nothing is ever unpacked to disk."""

    def __init__(self, place: Path):
        self.place, self.zip = place, None
        if place.is_dir():
            names = [str(path.relative_to(place)) for path in place.glob("**/*.txt")]
            names += [str(path.relative_to(place)) for path in place.glob("**/*.xml")]
        elif place.is_file():
            try:
                self.zip = zipfile.ZipFile(place)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"{place}: not a zip file ({error}); use the archive of Flickr30K Entities") from None
            names = self.zip.namelist()
        else:
            raise DataError(
                f"{place}: no such file or folder; expected the zip of Flickr30K Entities or a "
                "folder with Sentences/ and Annotations/"
            )
        self.names: dict[tuple[str, str], str] = {}
        for name in names:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if ".." in parts or name.startswith(("/", "\\")) or (parts and ":" in parts[0]):
                raise DataError(f"{place}: its member {name!r} points outside the archive; the archive was not read")
            if len(parts) >= 2:
                self.names[(parts[-2].lower(), parts[-1])] = name
        if not any(folder == "sentences" for folder, _ in self.names):
            raise DataError(f"{place}: contains no Sentences/*.txt; expected the archive of Flickr30K Entities")

    def read(self, image: str) -> tuple[tuple[str, str], tuple[str, str]] | None:
        """((name, text) of the sentences, (name, text) of the annotation); None if either is missing."""
        stem = image.rsplit(".", 1)[0]
        for key in (stem, stem.split("_")[0]):  # Flickr8k's names carry a hash that Flickr30K's lack
            sentences = self.names.get(("sentences", f"{key}.txt"))
            annotation = self.names.get(("annotations", f"{key}.xml"))
            if sentences and annotation:
                return self._text(sentences), self._text(annotation)
        return None

    def _text(self, name: str) -> tuple[str, str]:
        shown = f"{self.place}: {name}" if self.zip else str(self.place / name)
        try:
            size = self.zip.getinfo(name).file_size if self.zip else (self.place / name).stat().st_size
            if size > _LARGEST:
                raise DataError(f"{shown}: {size:,} bytes, too many for an annotation; the file was not read")
            data = self.zip.read(name) if self.zip else (self.place / name).read_bytes()
            return shown, data.decode("utf-8")
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, UnicodeDecodeError, EOFError) as error:
            raise DataError(f"{shown}: cannot be read ({error})") from None
