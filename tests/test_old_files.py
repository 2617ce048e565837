"""Files of version 0.1 still open: stored under tests/old, made from drawn pictures at the smallest sizes.

prepared   the built-in scenes at 32 pixels, splits dev and test, with EfficientNet-Lite0
features   the same scenes with the backbone of tests/small_backbone.py; run and index are made from them
run        a training of two epochs, its metrics and ranks
index      for search, of the test split
scores.npy [2, 10] of the run's model on the test split
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bssan_lib.config import DataConfig
from bssan_lib.data import open_prepared, prepare, verify_checksums
from bssan_lib.evaluation.metrics import evaluate, json_values
from bssan_lib.evaluation.records import read_record
from bssan_lib.evaluation.scoring import score_split
from bssan_lib.models.checkpoint import load_checkpoint
from bssan_lib.runs import open_run
from bssan_lib.search.index import build_index, open_index
from bssan_lib.search.searcher import Searcher
from bssan_lib.search.source import split_gallery

OLD = Path(__file__).parent / "old"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the stored files, moved from where they were made."""
    place = shutil.copytree(OLD, tmp_path / "old")
    settings = place / "run" / "config.yaml"
    text = settings.read_text(encoding="utf-8")
    assert "/tmp/old/features" in text
    settings.write_text(text.replace("/tmp/old", place.as_posix()), encoding="utf-8")
    return place


def test_a_checkpoint_scores_as_it_did(old):
    checkpoint = load_checkpoint(old / "run")
    assert checkpoint.info["epoch"] in (1, 2) and checkpoint.model.config.joint_size == 8
    scores = score_split(checkpoint, open_prepared(old / "features", "test"), progress=False).joint
    np.testing.assert_allclose(scores, np.load(old / "scores.npy"), atol=2e-6)


def test_a_prepared_folder_is_used_without_extracting_anything_again(old):
    place = old / "prepared"
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    data = DataConfig(source="scenes", images=20, image_size=32, windows=[1], prepared=str(place))
    assert prepare(data, ["dev", "test"], progress=False) == place
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    split = open_prepared(place, "test")
    assert split.sizes == dict(images=2, captions=10, regions=1, objects=1, dimension=1280)
    assert split.image(1).size == (224, 224) and len(split.phrases) > 10
    assert verify_checksums(place) == 18


def test_a_run_opens_with_its_settings_metrics_and_ranks(old):
    run = open_run(old / "run")
    try:
        assert (run.config.name, run.config.training.epochs, run.config.model.tune) == ("old", 2, "none")
        assert run.prepared == old / "features"
        record = read_record(run.folder)
        assert record.seed == 1 and record.settings["model.joint_size"] == 8 and len(record.ranks[0].t2i) == 10
        split = open_prepared(run.prepared, "test")
        metrics = json_values(evaluate(load_checkpoint(run.folder), split, bootstrap=20, progress=False))
        for key in ("i2t", "t2i", "rsum", "ci95", "directions", "grounding"):
            assert metrics[key] == record.metrics[key], key
    finally:
        run.close()


def test_an_index_is_searched_by_its_checkpoint(old):
    index, checkpoint = open_index(old / "index"), load_checkpoint(old / "run")
    assert index.names == ["test_00000.png", "test_00001.png"] and len(index.captions) == 10
    found = Searcher(old / "index", checkpoint).find_images(index.captions[0], top=2, shortlist=2)
    scores = np.load(old / "scores.npy")[:, 0]
    assert [match.row for match in found] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([match.score for match in found], np.sort(scores)[::-1], atol=2e-3)
    split = open_prepared(old / "features", "test")
    again = open_index(build_index(old / "again", checkpoint, split_gallery(checkpoint, split), progress=False))
    assert (
        np.array_equal(index.codes, again.codes) and index.meta["checkpoint_sha256"] == again.meta["checkpoint_sha256"]
    )


def test_stored_files_name_no_machine_and_are_small():
    paths = [path for path in OLD.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) < 300_000
    for path in paths:
        assert not re.search(rb"/[w]ork/|/home/|/Users/", path.read_bytes()), path
