"""Inputs that are too large, too deep, of another type or of another kind than a file end at once, in a sentence."""

import json
import os
import warnings

import numpy as np
import pytest

from bssan_lib.data.images import open_image
from bssan_lib.errors import DataError
from bssan_lib.reading import LARGEST_FILE, LARGEST_JSON, LARGEST_YAML, LONGEST_LINE, open_array
from tests.hostile.conftest import evaluate, save_npy

WORDS = " ".join(["dog"] * 201)
LETTERS = "a" * 1_000_000
PICTURE = "table/images/1.png"


@pytest.mark.parametrize("caption, said", [(WORDS, "at most 200 words, got 201"), (LETTERS, "got 1,000,000")])
@pytest.mark.parametrize(
    "command",
    [
        ["attend", PICTURE],
        ["figure", "boxes", "--image", PICTURE, "--out", "f.pdf", "--caption"],
        ["find"],
        ["search", "index"],
    ],
)
def test_captions_without_end(refused, command, caption, said):
    refused([*command, caption, *(["table/images"] if command == ["find"] else [])], said)


@pytest.mark.parametrize(
    "line, said", [(WORDS, "at most 200 words, got 201"), (LETTERS, "at most 100,000 bytes, got 1,000,000")]
)
def test_captions_without_end_in_files(place, refused, line, said):
    (place / "captions.txt").write_text(f"a dog\n{line}\n")
    refused(["rank", PICTURE, "captions.txt"], "captions.txt", said)
    (place / "table" / "captions.csv").write_text(
        "image,caption\n" + "".join(f"{n}.png,{line if n == 0 else 'a dog'}\n" for n in range(12))
    )
    refused(["prepare", "--config", "table", "--data", "table", "-p", "data.prepared=p"], sizes_only=True)
    assert not list(place.glob("p/*.npy"))
    (place / "features" / "meta.json").unlink()
    lines = (place / "features" / "test_caps.txt").read_text().splitlines()
    (place / "features" / "test_caps.txt").write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    refused(evaluate(), "test_caps.txt", said, sizes_only=True)


@pytest.mark.parametrize("option", [["-p", "data.images=2000000"], ["-p", "evaluation.bootstrap=100001"]])
def test_settings_without_end(refused, option):
    refused(["train", "--config", "scenes", "--out", "new", *option], option[1].split("=")[0])


@pytest.mark.parametrize("count", [-1, 100_001])
@pytest.mark.parametrize("command", [evaluate(), ["compare", "run"]])
def test_samples_without_end(refused, command, count):
    refused([*command, "--bootstrap", count], "--bootstrap", "100,000 samples")


LARGE = {
    "run/metrics.json": (LARGEST_JSON, ["compare", "run"]),
    "run/checkpoints/best/config.json": (LARGEST_JSON, evaluate()),
    "run/checkpoints/best/vocabulary.json": (LARGEST_JSON, evaluate()),
    "features/meta.json": (LARGEST_JSON, evaluate()),
    "index/meta.json": (LARGEST_JSON, ["search", "index", "a dog"]),
    "table/captions.csv": (LARGEST_FILE, ["check-data", "table"]),
    "c.yaml": (LARGEST_YAML, ["train", "--config", "c.yaml", "--out", "new"]),
}


@pytest.mark.parametrize("name", LARGE)
def test_files_without_end(place, refused, name):
    most, command = LARGE[name]
    (place / name).touch()
    os.truncate(place / name, most + 1)  # takes no room on the disk
    refused_as_is(refused, place / name, command)


def refused_as_is(refused, path, command):
    """Without reading the large file into the snapshots."""
    content, path_type = type(path).read_bytes, type(path)
    path_type.read_bytes = lambda self: b"large" if self == path else content(self)
    try:
        refused(command, path.parent.name if path.name == "meta.json" else path.name)
    finally:
        path_type.read_bytes = content


YAML = {
    "laughs": "a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "nesting": "name: " + "[" * 500 + "]" * 500,
    "deepest nesting": "name: " + "{a: " * 20_000,
    "a list": "- 1\n- 2\n",
    "text": "scenes",
    "a date": "name: 2026-99-99",
    "a long number": "seed: " + "9" * 6000,
    "an object": "name: !!python/object/apply:os.system ['true']",
    "a key that is a list": "? [1, 2]\n: 3\n",
    "a section as a list": "training: [1]\n",
    "a list as a value": "training: {epochs: [1]}\n",
    "an old key": "model: {tune_stage: [1]}\n",
    "NaN": "training: {learning_rate: .nan}\n",
    "infinity": "training: {margin: .inf}\n",
    "half a character": 'name: "\\ud83d"\n',
    "a control character": "name: a\x07b\n",
}


def test_settings_of_other_types(place, refused):
    for text in YAML.values():
        (place / "c.yaml").write_text(text)
        refused(["train", "--config", "c.yaml", "--out", "new"])


JSON = ["", "null", "7", '"text"', "[]", "[[1]]", "{}", "[" * 100_000, '{"a": "\\ud83d"}', "\x00", "9" * 6000]


@pytest.mark.parametrize("name", [name for name in LARGE if name.endswith(".json")])
def test_json_of_other_types(place, refused, name):
    for text in JSON:
        (place / name).write_text(text)
        refused(LARGE[name][1])


@pytest.mark.parametrize(
    "name", ["dataset_x.json", "captions.jsonl", "x_train.json", "annotations/captions_val2014.json"]
)
def test_captions_of_other_types(place, refused, name):
    (place / "table" / "captions.csv").unlink()
    (place / "table" / name).parent.mkdir(exist_ok=True)
    for text in [*JSON, "{" * 100_000]:
        (place / "table" / name).write_text(text)
        refused(["check-data", "table"])


@pytest.mark.parametrize("key", ["images", "captions", "vectors", "files", "joint_size", "checkpoint", "image_folder"])
def test_an_index_of_other_types(place, refused, key):
    meta = json.loads((place / "index" / "meta.json").read_text())
    for value in [[], {}, -1, 1e300, True]:
        (place / "index" / "meta.json").write_text(json.dumps(meta | {key: value}))
        refused(["search", "index", "a dog", "--shortlist", "10"])


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 10**12},
        {"dimension": "7"},
        {"dimension": 1e9},
        {"place": []},
        {"backbone": [1]},
        {"backbone": "x"},
        {"info": [1]},
        {"model": {"joint_size": 65536, "word_size": 65536, "lstm_layers": 16}},
    ],
)
def test_checkpoints_of_other_sizes(place, refused, change):
    path = place / "run" / "checkpoints" / "best" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(evaluate(), "run/checkpoints/best")


HEADERS = {
    "no header": b"\x93NUMPY\x01\x00",
    "half a header": b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran",
    "other text": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
    "code": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('true') \n",
    "another version": b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
    "a header without end": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 50,
    "objects": b"\x93NUMPY\x01\x00\x40\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2, 2)}".ljust(64),
    "negative": b"\x93NUMPY\x01\x00\x40\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 2, 2)}".ljust(64),
    "large": b"\x93NUMPY\x01\x00\x50\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 2)}".ljust(80),
    "beyond": b"\x93NUMPY\x01\x00\x80\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999999999999, 2, 2)}".ljust(128),
    "axes as text": b"\x93NUMPY\x01\x00\x40\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': '22'}".ljust(64),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_arrays_with_damaged_headers(tmp_path, kind):
    (tmp_path / "a.npy").write_bytes(HEADERS[kind] + b"\0" * 32)
    with warnings.catch_warnings(), pytest.raises(DataError, match="a.npy"):
        warnings.simplefilter("ignore")
        open_array(tmp_path / "a.npy", 3, "f", "[images, regions, dimension]")


def test_arrays_of_other_types(place, refused):
    save_npy("features/test_cap2im.npy", np.full(10, 2.0))
    refused(evaluate(), "test_cap2im.npy")


@pytest.mark.parametrize(
    "name, command",
    [
        ("run/metrics.json", ["compare", "run"]),
        ("c.yaml", ["train", "--config", "c.yaml", "--out", "new"]),
        ("captions.txt", ["rank", PICTURE, "captions.txt"]),
        ("table/captions.csv", ["check-data", "table"]),
        ("features/test_ims.npy", evaluate()),
        ("features/test_caps.txt", evaluate()),
        ("features/meta.json", evaluate()),
        ("run/checkpoints/best/model.safetensors", evaluate()),
        ("run/checkpoints/best/config.json", evaluate()),
        ("index/meta.json", ["search", "index", "a dog"]),
        ("index/image_codes.npy", ["search", "index", "a dog"]),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_no_file_where_one_is_expected(place, refused, name, command, kind):
    (place / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place / name)
    elif kind == "folder":
        (place / name).mkdir()
    else:
        (place / name).symlink_to("/dev/zero")
    refused(command)


def test_pictures_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for kind in ("/dev/zero", "/dev/null", tmp_path, tmp_path / "pipe"):
        (tmp_path / "p.jpg").symlink_to(kind)
        with pytest.raises(DataError, match="p.jpg"):
            open_image(tmp_path / "p.jpg")
        (tmp_path / "p.jpg").unlink()


def test_lines_have_an_end(place, refused):
    (place / "table" / "captions.csv").write_text("image,caption\n0.png," + "a " * LONGEST_LINE + "\n")
    refused(["check-data", "table"], "captions.csv, line 2", "expected at most 100,000 bytes")
