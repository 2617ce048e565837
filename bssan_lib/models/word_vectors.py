"""Initial word vectors that were learned on other texts.

    e_w = [c g_w ; random]     g_w the vector of a word, c a factor that gives both parts the same spread

(GloVe, Pennington et al., EMNLP 2014.) Most words are rare in 30,000 captions, too rare to learn their vectors from
scratch. Training changes these rows like all others. We do not know whether the paper used such vectors.

`glove` is part of the package: 100 numbers for each of 60,000 English words, learned on Wikipedia and newspapers, so
without captions of any test set. Any file with lines "word number number ..." can be used, such as GloVe's with 300.

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

GLOVE_FOLDER = Path(__file__).parent.parent / "pretrained" / "glove"
GLOVE_SIZE = 100  # numbers of a packaged vector


def packaged_vectors() -> tuple[list[str], np.ndarray]:
    """The packaged GloVe words, most frequent first, and their vectors [60,000, 100] float32."""
    from safetensors.numpy import load_file

    stored = load_file(GLOVE_FOLDER / "vectors.safetensors")
    words = (GLOVE_FOLDER / "words.txt").read_text(encoding="utf-8").split()
    return words, stored["vectors"].astype(np.float32) * stored["scales"][:, None]


def find_vectors(source: str | Path, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of words: [V, n] float32, with zeros for words without a vector; and which words have one, [V] bool.

    source: "glove", or a text file in the format of GloVe or word2vec (first line "rows numbers"), plain or .gz.
    Raises DataError, with the line, for a file of another format or without any of the words.
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
            f"{source}: none of the {len(words)} words has a vector there. Is the file in another language, or "
            "not in lower case?"
        )
    return found, known


def _lines(path: Path, places: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The words of a text file that are keys of `places`, with their vectors."""
    numbers = -1  # of a vector; known after the first line
    try:
        check_file(path)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                # From the right, because some files contain words with spaces
                word, *rest = line.rstrip().rsplit(" ", numbers)
                if number == 1 and len(rest) == 1:
                    continue  # the first line of word2vec: rows and numbers
                numbers = len(rest) if numbers < 0 else numbers
                if len(rest) != numbers or not numbers:
                    raise DataError(
                        f"{path}, line {number}: expected a word and {numbers or 'some'} numbers, separated by spaces, "
                        f"got {len(rest)} after {word[:30]!r}"
                    )
                if word in places:
                    try:
                        yield word, np.array(rest, np.float32)
                    except ValueError as error:
                        raise DataError(
                            f"{path}, line {number}: {word[:30]!r} is followed by text that is not a number ({error})"
                        ) from None
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path}: word vectors cannot be read ({error}); expected 'glove' or a text file, plain or .gz"
        ) from None


def init_word_vectors(table: nn.Embedding, vocabulary: Vocabulary, source: str | Path | None) -> int:
    """Writes vectors into the first columns of a word table [V, d_w]. Returns the number of words with a vector.

    source: as for `find_vectors`; None: the table stays as it is. One factor scales all vectors, so that they have the
    spread of the random numbers they replace. Raises ConfigError if rows are shorter than vectors, DataError as
    `find_vectors`.
    """
    if source is None or len(vocabulary) == 2:  # only <pad> and <unk>
        return 0
    vectors, known = find_vectors(source, vocabulary.words)
    width = vectors.shape[1]
    if width > table.embedding_dim:
        raise ConfigError(
            f"training.word_vectors: {source} has {width} numbers per word, so model.word_size must be at least "
            f"{width}; got {table.embedding_dim}."
        )
    rows = torch.from_numpy(vectors[known])
    with torch.no_grad():
        part = table.weight[:, :width]
        part[torch.from_numpy(known)] = (rows * (part[2:].std() / rows.std())).to(part)
    return int(known.sum())
