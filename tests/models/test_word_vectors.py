"""Words that start from vectors of much text: the package's own, files, scaling, and what cannot be read."""

import gzip

import numpy as np
import pytest
import torch
from torch import nn

from bssan_lib.config import Config, load_config, override
from bssan_lib.data import Vocabulary
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.models.word_vectors import find_vectors, init_word_vectors, packaged_vectors
from bssan_lib.runs import absolute_paths

VOCABULARY = Vocabulary(["<pad>", "<unk>", "dog", "qzxv", "puppy", "bridge", "snowboarder"])
LINES = "dog 1 0 -2\nthe 0.5 0.5 0.5\npuppy 2 0 -4\n. . . 3 3 3\n"


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_packages_vectors_are_gloves():
    words, vectors = packaged_vectors()
    assert vectors.shape == (60000, 100) and len(set(words)) == 60000 and words[:3] == ["the", "of", "to"]
    # the first numbers of "dog" as GloVe 6B has them; eight bits keep two digits
    np.testing.assert_allclose(
        vectors[words.index("dog"), :5], [0.30817, 0.30938, 0.52803, -0.92543, -0.73671], atol=0.01
    )


def test_what_is_alike_lies_close():
    found, known = find_vectors("glove", VOCABULARY.words)
    assert known.tolist() == [False, False, True, False, True, True, True] and found.shape == (7, 100)
    assert not found[~known].any()
    assert cosine(found[2], found[4]) > 0.7 > 0.4 > cosine(found[2], found[5])


@pytest.mark.parametrize("head", ["", "4 3\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_as_glove_and_word2vec_write_them(tmp_path, head, packed):
    path = tmp_path / ("v.txt.gz" if packed else "v.txt")
    with (gzip.open if packed else open)(path, "wt") as file:
        file.write(head + LINES)
    found, known = find_vectors(path, VOCABULARY.words)
    assert known.nonzero()[0].tolist() == [2, 4]
    np.testing.assert_array_equal(found[[2, 4]], [[1, 0, -2], [2, 0, -4]])


def test_a_word_table_starts_from_them(tmp_path):
    (tmp_path / "v.txt").write_text(LINES)
    torch.manual_seed(3)
    table = nn.Embedding(7, 5, padding_idx=0)
    nn.init.uniform_(table.weight, -0.1, 0.1)
    before = table.weight.detach().clone()
    assert init_word_vectors(table, VOCABULARY, tmp_path / "v.txt") == 2
    after, moved = table.weight.detach(), [2, 4]
    assert torch.equal(after[:, 3:], before[:, 3:])  # the rest of a row stays random
    assert torch.equal(after[[0, 1, 3, 5, 6]], before[[0, 1, 3, 5, 6]])
    scale = before[2:, :3].std() / torch.tensor([1.0, 0, -2, 2, 0, -4]).std()
    torch.testing.assert_close(after[moved, :3], scale * torch.tensor([[1.0, 0, -2], [2, 0, -4]]))
    assert table.weight.requires_grad
    assert init_word_vectors(table, VOCABULARY, None) == 0 and torch.equal(table.weight, after)
    with pytest.raises(ConfigError, match="3 numbers per word, so model.word_size must be at least 3; got 2"):
        init_word_vectors(nn.Embedding(7, 2), VOCABULARY, tmp_path / "v.txt")


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "dog 1 2 3\npuppy 4 5\n",
            "v.txt, line 2: expected a word and 3 numbers, separated by spaces, got 2 after 'puppy'",
        ),
        ("dog 1 2 3\npuppy 4 five 6\n", "v.txt, line 2: 'puppy' is followed by text that is not a number"),
        ("dog\n", "v.txt, line 1: expected a word and some numbers"),
        ("hund 1 2 3\n", "none of the 7 words has a vector there"),
        ("", "none of the 7 words has a vector there"),
    ],
)
def test_files_that_hold_no_vectors(tmp_path, text, said):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        find_vectors(tmp_path / "v.txt", VOCABULARY.words)


def test_no_file_and_no_gzip(tmp_path):
    (tmp_path / "v.gz").write_bytes(b"plain")
    for name in ("nowhere.txt", "v.gz"):
        with pytest.raises(DataError, match=f"{name}: word vectors cannot be read .* expected 'glove' or a text file"):
            find_vectors(tmp_path / name, VOCABULARY.words)


def test_a_file_is_found_again_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "v.txt").write_text(LINES)
    monkeypatch.chdir(tmp_path)
    asked = {"training.word_vectors": "v.txt", "data.source": "precomp", "data.folder": "."}
    assert absolute_paths(override(Config(), asked)).training.word_vectors == str(tmp_path / "v.txt")
    asked["training.word_vectors"] = "glove"
    assert absolute_paths(override(Config(), asked)).training.word_vectors == "glove"


def test_a_run_starts_from_them(tmp_path):
    from bssan_lib.runs import open_run, repository_root
    from bssan_lib.training.launch import make_trainer, prepare_run

    settings = {
        "data.prepared": str(tmp_path / "prepared"),
        "data.image_size": 32,
        "data.images": 20,
        "model.joint_size": 7,
        "model.word_size": 103,
        "training.word_vectors": "glove",
        "training.dev_images": 2,
    }
    config = repository_root() / "configs" / "scenes-small.yaml"
    run = open_run(tmp_path / "run", config, None, settings)
    prepare_run(run)
    trainer = make_trainer(run, progress=False)
    found, known = find_vectors("glove", trainer.vocabulary.words)
    rows = trainer.model.embed.weight[:, :100].detach().numpy()
    assert known.sum() > 10
    np.testing.assert_allclose([cosine(a, b) for a, b in zip(rows[known], found[known])], 1, atol=1e-5)
    run.close()
    assert load_config(config).training.word_vectors is None


def test_a_vocabulary_without_words_has_nothing_to_start():
    table = torch.nn.Embedding(2, 5)  # shorter than any vector, which does not matter here
    before = table.weight.detach().clone()
    assert init_word_vectors(table, Vocabulary(["<pad>", "<unk>"]), "glove") == 0 and torch.equal(table.weight, before)
