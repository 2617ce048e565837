"""ECCV Caption on COCO's real test ids: the package's own numbers against rankings whose measures are known by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bssan_lib.commands.cli import main
from bssan_lib.config import ModelConfig
from bssan_lib.data import Vocabulary, open_prepared
from bssan_lib.errors import ConfigError, DataError
from bssan_lib.evaluation.eccv import eccv_metrics, eccv_rows, import_eccv, read_coco_ids
from bssan_lib.models.bssan import BSSAN
from bssan_lib.models.checkpoint import save_checkpoint
from bssan_lib.runs import repository_root


def truths():
    """ids [C, 2], cap2im [C], and right answers by id from the files inside the package."""
    package = pytest.importorskip("eccv_caption", reason="pip install 'bssan[eccv]' to run this test")
    place = Path(package.__file__).parent / "data"
    read = {
        name: {
            int(key): [int(one) for one in value]
            for key, value in json.loads((place / f"{name}.json").read_text()).items()
        }
        for name in (
            f"{source}_{way}"
            for source in ("original", "eccv", "cxc")
            for way in ("image_to_caption", "caption_to_image")
        )
    }
    own = read["original_caption_to_image"]
    captions = sorted(own, key=lambda caption: (own[caption][0], caption))
    ids = np.array([(own[caption][0], caption) for caption in captions])
    # Two of the right captions are sixth captions of their image, which the list of 25,000 leaves out.
    sixth = sorted({c for right in read["eccv_image_to_caption"].values() for c in right} - set(captions))
    return ids, np.unique(ids[:, 0], return_inverse=True)[1], read, sixth


def naive(order, right):
    """R@1, mAP@R and R-Precision of one ranking, straight from the definition."""
    hits = [answer in right for answer in order[: len(right)]]
    precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(right))]
    return hits[0], sum(p for p, hit in zip(precisions, hits) if hit) / len(right), sum(hits) / len(right)


def test_against_the_definition():
    ids, cap2im, read, _ = truths()
    images, captions = np.unique(ids[:, 0]), ids[:, 1]
    scores = np.random.default_rng(5).random((len(images), len(captions)), np.float32)
    row = {image: i for i, image in enumerate(images.tolist())}
    column = {caption: c for c, caption in enumerate(captions.tolist())}
    for image, right in list(read["eccv_image_to_caption"].items())[::2]:  # half of the right pairs score well
        known = [column[caption] for caption in right if caption in column]
        scores[row[image], known] += 0.5
    found = eccv_metrics(scores, cap2im, ids)
    for way, name, queries in (("i2t", "image_to_caption", row), ("t2i", "caption_to_image", column)):
        table, answers = (scores, captions) if way == "i2t" else (scores.T, images)
        rows = []
        for query, right in read[f"eccv_{name}"].items():
            line = table[queries[query]]
            best = np.argpartition(-line, 100)[:100]
            rows.append(naive(answers[best[np.argsort(-line[best])]].tolist(), set(right)))
        expected = 100 * np.array(rows, float).mean(0)
        assert np.allclose([found["eccv"][way][key] for key in ("R@1", "mAP@R", "R-Precision")], expected)
        assert 1 < expected[0] < 99 and 1 < expected[1] < 99
        place = column if way == "i2t" else row
        ranks = np.array(
            [
                1 + (table[queries[query]] > max(table[queries[query], place[one]] for one in right)).sum()
                for query, right in read[f"cxc_{name}"].items()
            ]
        )
        assert found["cxc"][way] == pytest.approx({f"R@{k}": 100 * np.mean(ranks <= k) for k in (1, 5, 10)})
    rows = dict(eccv_rows(found))
    assert rows["ECCV Caption, image to text"].endswith(f"R-Precision {found['eccv']['i2t']['R-Precision']:.1f}")


def test_perfect_scores_get_everything():
    ids, cap2im, read, sixth = truths()
    owners = {
        caption: image
        for image, right in read["eccv_image_to_caption"].items()
        for caption in right
        if caption in sixth
    }
    ids = np.concatenate([ids, [(owners[caption], caption) for caption in sixth]])
    images = np.unique(ids[:, 0])
    cap2im = np.searchsorted(images, ids[:, 0])
    row = {image: i for i, image in enumerate(images.tolist())}
    column = {caption: c for c, caption in enumerate(ids[:, 1].tolist())}
    scores = np.zeros((len(images), len(ids)), np.float16)
    for image, right in read["eccv_image_to_caption"].items():
        scores[row[image], [column[caption] for caption in right]] = 2
    for image, right in read["cxc_image_to_caption"].items():
        known = [column[caption] for caption in right]
        scores[row[image], known] = np.maximum(scores[row[image], known], 1)
    found = eccv_metrics(scores, cap2im, ids)
    assert found["eccv"]["i2t"] == {"R@1": 100, "mAP@R": 100, "R-Precision": 100}
    assert found["cxc"]["i2t"]["R@10"] > 99


def test_from_a_shell_on_features_with_ids_beside(tmp_path):
    """5,000 images and 25,000 captions with COCO's real ids, scored by a tiny model of random weights."""
    ids, _, read, _ = truths()
    words, rng = ["a", "dog", "runs"], np.random.default_rng(3)
    model = BSSAN(ModelConfig(joint_size=2, word_size=2, global_size=0, tie_projections=True), 5, 3, False)
    save_checkpoint(tmp_path / "checkpoint", model, Vocabulary(["<pad>", "<unk>", *words]), None, {})
    np.save(tmp_path / "testall_ims.npy", rng.random((5000, 2, 3)).astype(np.float16))
    (tmp_path / "testall_caps.txt").write_text("".join(f"{word}\n" for word in rng.choice(words, 25000)))
    np.save(tmp_path / "testall_coco_ids.npy", ids)
    assert (
        main(
            [
                "evaluate",
                "--checkpoint",
                str(tmp_path / "checkpoint"),
                "--data",
                str(tmp_path),
                "--split",
                "testall",
                "--protocol",
                "5k",
                "--bootstrap",
                "0",
                "--eccv",
                "--out",
                str(tmp_path / "m.json"),
            ]
        )
        == 0
    )
    found = json.loads((tmp_path / "m.json").read_text())
    assert set(found["eccv"]["t2i"]) == {"R@1", "mAP@R", "R-Precision"} and set(found["cxc"]["i2t"]) == {
        "R@1",
        "R@5",
        "R@10",
    }
    assert all(0 <= value <= 100 for name in ("eccv", "cxc") for way in found[name].values() for value in way.values())
    # There are only three different captions, so an image's right ones drown among 8,000 that score the same.
    assert found["eccv"]["i2t"]["mAP@R"] < 5 and found["n_captions"] == 25000


def test_what_does_not_fit_is_named():
    ids, cap2im, _, _ = truths()
    kept = cap2im > 0
    with pytest.raises(DataError, match="complete test split of Karpathy"):
        eccv_metrics(np.zeros((4999, kept.sum()), np.float16), cap2im[kept] - 1, ids[kept])
    wrong = ids.copy()
    wrong[1, 0] = wrong[7, 0]
    with pytest.raises(DataError, match=f"caption row 0: image {ids[0, 0]}|caption row 1: image {wrong[1, 0]}"):
        eccv_metrics(np.zeros((5000, 25000), np.float16), cap2im, wrong)
    wrong = ids.copy()
    wrong[9, 1] = wrong[2, 1]
    with pytest.raises(DataError, match=f"caption {ids[2, 1]} is in 2 rows"):
        eccv_metrics(np.zeros((5000, 25000), np.float16), cap2im, wrong)


def folder_of_features(folder):
    np.save(folder / "test_ims.npy", np.ones((3, 2, 5), np.float32))
    (folder / "test_caps.txt").write_text("a dog\n" * 6)
    return folder


def test_ids_are_read_and_checked(tmp_path):
    folder = folder_of_features(tmp_path)
    split = open_prepared(folder, "test")
    with pytest.raises(DataError, match=r"test_coco_ids.npy: no such file.*\[6, 2\]"):
        read_coco_ids(split)
    np.save(folder / "test_coco_ids.npy", np.arange(10).reshape(5, 2))
    with pytest.raises(DataError, match=r"expected the shape \[6, 2\], got \[5, 2\]"):
        read_coco_ids(split)
    np.save(folder / "test_coco_ids.npy", np.arange(12).reshape(6, 2))
    assert read_coco_ids(split)[4].tolist() == [8, 9]


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "eccv_caption", None)  # what Python itself uses to say: not to be imported
    with pytest.raises(ConfigError, match=r"bssan\[eccv\]"):
        import_eccv()
    (tmp_path / "eccv_caption.py").write_text("raise ImportError('not here')")
    checkpoint = repository_root() / "bssan_lib" / "pretrained" / "flickr8k"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{repository_root()}"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bssan_lib",
            "evaluate",
            "--checkpoint",
            checkpoint,
            "--data",
            folder_of_features(tmp_path),
            "--split",
            "test",
            "--eccv",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "bssan[eccv]" in done.stderr and "Traceback" not in done.stderr
