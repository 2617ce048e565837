import json

import pytest

from bssan_lib.data.vocabulary import Vocabulary, tokenize, words_of
from bssan_lib.errors import CheckpointError


@pytest.mark.parametrize(
    "text, words",
    [
        ("A red  Square, left of two Rings.", ["a", "red", "square", "left", "of", "two", "rings"]),
        ("the man's T-shirt – it's so-so -", ["the", "man's", "t-shirt", "it's", "so-so"]),
        ("the man’s ‘hat’", ["the", "man's", "hat"]),
        ('costs $5 & 30% "off"\tnow', ["costs", "5", "30", "off", "now"]),
        ("snake_case", ["snake", "case"]),
        ("Ein Mädchen läuft über die Straße", ["ein", "mädchen", "läuft", "über", "die", "straße"]),
        ("कुत्ता दौड़ता है।", ["क\u0941त\u094dत\u093e", "द\u094cड\u093cत\u093e", "ह\u0948"]),
        ("Собака бежит", ["собака", "бежит"]),
        ("二匹の犬。走る", ["二匹の犬", "走る"]),
        ("ＦＵＬＬ ｗｉｄｔｈ ﬁsh", ["full", "width", "fish"]),
        ("a dog 🐕‍🦺❤️ runs", ["a", "dog", "runs"]),
        ("🐕 ... !", ["<unk>"]),
        ("", ["<unk>"]),
    ],
)
def test_tokenize_by_hand(text, words):
    assert tokenize(text) == words


def test_composed_and_decomposed_letters_are_one_word():
    assert tokenize("caf\u00e9") == tokenize("cafe\u0301") == ["caf\u00e9"]


def test_words_are_stable_when_joined_again_and_none_is_lost():
    text = " ".join(f"Word{i}, o'clock-{i}!" for i in range(101))
    assert tokenize(" ".join(tokenize(text))) == tokenize(text)
    assert len(tokenize(text)) == 202


def test_words_of_a_prefix_are_the_first_words():
    text = "A child 's toy, a so-called 'top'"
    for end in [0, *(i for i, letter in enumerate(text) if letter == " ")]:
        assert words_of(text[:end]) == words_of(text)[: len(words_of(text[:end]))]


def test_vocabulary_is_sorted_by_count_then_alphabet_and_drops_the_rare():
    captions = ["b a a", "c b a", "c d"]
    vocabulary = Vocabulary.from_captions(captions, min_count=2)
    assert vocabulary.words == ["<pad>", "<unk>", "a", "b", "c"]
    assert len(vocabulary) == 5
    assert vocabulary.encode(["a", "zebra", "c", "d"]) == [2, 1, 4, 1]
    assert vocabulary.unknown(["a", "zebra", "<unk>", "c"]) == ["zebra", "<unk>"]


def test_vocabulary_does_not_depend_on_the_order_of_captions():
    captions = ["x y z", "y z", "z x", "q q"]
    assert Vocabulary.from_captions(captions, 1).sha256 == Vocabulary.from_captions(captions[::-1], 1).sha256
    assert Vocabulary.from_captions(captions, 1).sha256 != Vocabulary.from_captions(captions, 3).sha256


def test_vocabulary_refuses_doubles_and_a_wrong_beginning():
    with pytest.raises(ValueError):
        Vocabulary(["<pad>", "<unk>", "a", "a"])
    with pytest.raises(ValueError):
        Vocabulary(["<unk>", "<pad>", "a"])


def test_vocabulary_saves_and_loads(tmp_path):
    vocabulary = Vocabulary(["<pad>", "<unk>", "straße", "犬"])
    vocabulary.save(tmp_path / "vocabulary.json")
    again = Vocabulary.load(tmp_path / "vocabulary.json")
    assert again.words == vocabulary.words and again.sha256 == vocabulary.sha256


def test_vocabulary_load_errors_name_the_file(tmp_path):
    path = tmp_path / "vocabulary.json"
    with pytest.raises(CheckpointError, match="vocabulary.json"):
        Vocabulary.load(path)
    for damaged in ["", "[1]", '{"words": 3}', '{"words": ["a"], "sha256": ""}']:
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match="vocabulary.json"):
            Vocabulary.load(path)
    Vocabulary(["<pad>", "<unk>", "a"]).save(path)
    stored = json.loads(path.read_text())
    stored["words"].append("b")
    path.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="changed"):
        Vocabulary.load(path)


def test_equal_counts_are_sorted_by_the_alphabet_and_four_are_enough():
    captions = ["b a c", "b a c", "c b a", "c a b c", "d d d", "c"]
    assert Vocabulary.from_captions(captions).words == ["<pad>", "<unk>", "c", "a", "b"]


def test_the_file_of_a_vocabulary_is_one_word_a_line_in_its_own_script(tmp_path):
    Vocabulary(["<pad>", "<unk>", "犬"]).save(tmp_path / "v.json")
    lines = (tmp_path / "v.json").read_text(encoding="utf-8").splitlines()
    assert lines[:5] == ["{", '"words": [', '"<pad>",', '"<unk>",', '"犬"']


def test_wrong_checksums_are_shown(tmp_path):
    path = tmp_path / "v.json"
    words = ["<pad>", "<unk>", "dog"]
    path.write_text(json.dumps({"words": words, "sha256": "0123456789abcdef"}))
    checksum = Vocabulary(words).sha256[:12]
    with pytest.raises(CheckpointError, match=f"have the checksum {checksum}, but it says 0123456789ab: the file was"):
        Vocabulary.load(path)
    with pytest.raises(ValueError, match="begins with <pad>, <unk>"):
        Vocabulary(["<unk>", "<pad>"])
