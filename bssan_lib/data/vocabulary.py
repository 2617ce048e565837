"""Captions to words, words to ids. The vocabulary is built from the training captions alone.

Letters: T words of a caption, V words of the vocabulary.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bssan_lib.errors import CheckpointError, DataError
from bssan_lib.files import write_text
from bssan_lib.reading import read_json

PAD, UNKNOWN = "<pad>", "<unk>"
MOST_WORDS, MOST_LETTERS = 200, 4000  # of a caption, because time and memory grow with it; data sets stay far below

# Python's \w leaves out marks such as the vowel signs of Indic scripts, which would cut those words in two.
_MARKS = "".join(chr(c) for c in range(0x300, 0xFE00) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_STEM = rf"[^\W_](?:[^\W_]|[{_MARKS}])*"
# An apostrophe, a hyphen or a zero-width joiner belongs to a word only between two of its letters.
_WORD = re.compile(rf"{_STEM}(?:['\-\u200c\u200d]{_STEM})*")
_SAME = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u2010": "-"})


def words_of(text: str) -> list[str]:
    """The words of a text, lower case; may be empty. Of a prefix of a text: its first words."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower().translate(_SAME))


def tokenize(text: str) -> list[str]:
    """The T >= 1 words of a caption: NFKC, lower case, any script, with inner apostrophes and hyphens.

    Punctuation and emoji are dropped; a caption of nothing else is the one word "<unk>". A script written
    without spaces comes back as one word between punctuation marks: cut it into words beforehand.
    """
    return words_of(text) or [UNKNOWN]


def check_caption(caption: str, where: str = "caption", least: int = 1) -> None:
    """Raises DataError, whose message begins with `where`, unless a caption has `least` to MOST_WORDS words."""
    if len(caption) > MOST_LETTERS:
        raise DataError(
            f"{where}: expected at most {MOST_LETTERS:,} characters, got {len(caption):,}; shorten the caption"
        )
    count = len(words_of(caption))
    if count < least:
        raise DataError(f"{where}: expected at least one word, got none in {caption[:60]!r}")
    if count > MOST_WORDS:
        raise DataError(f"{where}: expected at most {MOST_WORDS} words, got {count}; shorten the caption")


class Vocabulary:
    """V words and their ids; id 0 is padding and id 1 every word that training did not show often enough."""

    def __init__(self, words: list[str]):
        """words: V different strings, the first two "<pad>" and "<unk>". ValueError otherwise."""
        if words[:2] != [PAD, UNKNOWN] or len(set(words)) != len(words):
            raise ValueError(f"a vocabulary begins with {PAD}, {UNKNOWN} and holds every word once")
        self.words = list(words)
        self.sha256 = hashlib.sha256("\n".join(words).encode()).hexdigest()
        self._ids = {word: i for i, word in enumerate(words)}

    @classmethod
    def from_captions(cls, captions: Iterable[str], min_count: int = 4) -> "Vocabulary":
        """Every word seen at least `min_count` times, the most frequent first, equals by the alphabet.

        Give it training captions only: a word known from dev or test would be knowledge of the answer.
        """
        counts = Counter(word for caption in captions for word in words_of(caption))
        kept = [word for word, n in counts.items() if n >= min_count]
        return cls([PAD, UNKNOWN, *sorted(kept, key=lambda word: (-counts[word], word))])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: list[str]) -> list[int]:
        """Ids [T] of T tokens, 1 for a word that is not in the vocabulary."""
        return [self._ids.get(token, 1) for token in tokens]

    def unknown(self, tokens: list[str]) -> list[str]:
        """The tokens that the vocabulary does not hold, in order, each as often as it comes."""
        return [token for token in tokens if token not in self._ids or token in (PAD, UNKNOWN)]

    def save(self, path: Path | str) -> None:
        """Writes {"words": [...], "sha256": ...} as JSON, whole or not at all."""
        text = json.dumps({"words": self.words, "sha256": self.sha256}, ensure_ascii=False, indent=0)
        write_text(path, text)

    @classmethod
    def load(cls, path: Path | str) -> "Vocabulary":
        """Reads what `save` wrote. CheckpointError if it is missing, damaged or its checksum differs."""
        try:
            stored = read_json(path)
            vocabulary = cls(stored["words"])
            expected = stored["sha256"]
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no vocabulary there; a checkpoint holds vocabulary.json") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a vocabulary ({error}); take the one saved with the model") from None
        if vocabulary.sha256 != expected:
            raise CheckpointError(
                f"{path}: its words have the checksum {vocabulary.sha256[:12]}, but it "
                f"says {str(expected)[:12]}: the file was changed after it was saved"
            )
        return vocabulary
