"""Words that start from what they mean elsewhere: vectors learned on much text, as first rows of a model's word table.

    e_w = [c g_w ; random]     g_w the vector of a word, c one number, so that both parts are equally large

(GloVe, Pennington et al., EMNLP 2014.) A word that four captions hold cannot be learned from them alone, and 30,000 captions
are few. Training moves these rows like any others. Whether the paper began from such vectors is not known to us.

`glove` is in the package: 100 numbers for each of 60,000 English words, from Wikipedia and newspapers, so no caption of
any test set was seen. Any file of lines "word number number ..." does as well, such as GloVe's own of 300 numbers.

Letters: V words of a vocabulary, n numbers of a vector, d_w numbers of a row in the word table.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bssan_lib.data.vocabulary import Vocabulary
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.reading import check_file

IN_THE_PACKAGE = Path(__file__).parent.parent / "pretrained" / "glove"
NUMBERS = 100  # of a vector in the package


def packaged_vectors() -> tuple[list[str], np.ndarray]:
    """The package's GloVe words, the commonest first, and their vectors [60,000, 100] float32."""
    from safetensors.numpy import load_file

    stored = load_file(IN_THE_PACKAGE / "vectors.safetensors")
    words = (IN_THE_PACKAGE / "words.txt").read_text(encoding="utf-8").split()
    return words, stored["vectors"].astype(np.float32) * stored["scales"][:, None]


def find_vectors(source: str | Path, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of some words: [V, n] float32, rows of zeros where a word has none, and which have one, [V] bool.

    source: "glove", or a text file as GloVe and word2vec have it, perhaps with a first line "rows numbers", perhaps .gz.
    Raises DataError, with the line, for a file that is none, and for one that knows none of the words.
    """
    places = {word: row for row, word in enumerate(words)}
    rows: Iterator[tuple[str, np.ndarray]]
    if str(source) == "glove":
        have, vectors = packaged_vectors()
        rows = ((word, vector) for word, vector in zip(have, vectors, strict=True) if word in places)
    else:
        rows = _lines(Path(source), places)
    found, known = None, np.zeros(len(words), bool)
    for word, vector in rows:
        if found is None:
            found = np.zeros((len(words), len(vector)), np.float32)
        found[places[word]], known[places[word]] = vector, True
    if found is None:
        raise DataError(
            f"{source}: has a vector for none of the {len(words)} words; is it of another language, or not lower case?"
        )
    return found, known


def _lines(path: Path, places: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The words of a text file that are asked for, with their vectors."""
    numbers = -1  # of a vector, known from the first line on
    try:
        check_file(path)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                # From the right, since a "word" of the largest files may have spaces in it
                word, *rest = line.rstrip().rsplit(" ", numbers)
                if number == 1 and len(rest) == 1:
                    continue  # word2vec's own first line: how many rows of how many numbers
                numbers = len(rest) if numbers < 0 else numbers
                if len(rest) != numbers or not numbers:
                    raise DataError(
                        f"{path}, line {number}: expected a word and {numbers or 'some'} numbers, divided by spaces, "
                        f"got {len(rest)} after {word[:30]!r}"
                    )
                if word in places:
                    try:
                        yield word, np.array(rest, np.float32)
                    except ValueError as error:
                        raise DataError(
                            f"{path}, line {number}: {word[:30]!r} is followed by something else than numbers ({error})"
                        ) from None
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path}: word vectors cannot be read ({error}); expected 'glove' or a text file, perhaps .gz"
        ) from None


def start_words(table: nn.Embedding, vocabulary: Vocabulary, source: str | Path | None) -> int:
    """Puts vectors into the first numbers of the rows of a word table [V, d_w]. Returns how many words have one.

    source: as for `find_vectors`; None: nothing happens.
    Scaled by one number, so that they vary as much as the random numbers in their place. Raises ConfigError where rows
    are shorter than vectors, DataError as `find_vectors`.
    """
    if source is None or len(vocabulary) == 2:  # so few captions that none of their words is known
        return 0
    vectors, known = find_vectors(source, vocabulary.words)
    width = vectors.shape[1]
    if width > table.embedding_dim:
        raise ConfigError(
            f"training.word_vectors: {source} has {width} numbers a word; model.word_size must be at least so "
            f"many, got {table.embedding_dim}."
        )
    rows = torch.from_numpy(vectors[known])
    with torch.no_grad():
        part = table.weight[:, :width]
        part[torch.from_numpy(known)] = (rows * (part[2:].std() / rows.std())).to(part)
    return int(known.sum())
